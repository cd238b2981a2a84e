"""The activations and their derivatives in NumPy, right to rounding for arguments of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from lab.typing import Array

Function = Callable[[Array], Array]


class Elementwise(NamedTuple):
    """A function and its derivative, both smooth but perhaps at 0."""

    function: Function
    derivative: Function


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""Klambauer et al. 2017, "Self-Normalizing Neural Networks", section 2."""

GATES: Mapping[str, str] = {
    "glu": "sigmoid",
    "bilinear": "identity",
    "reglu": "relu",
    "geglu": "gelu",
    "swiglu": "silu",
}
"""Gated activation -> the function of its gate. Shazeer 2020, "GLU Variants Improve Transformer", section 2."""


def leaky(slope: float) -> Elementwise:
    """x above 0, slope * x below."""
    return Elementwise(lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1.0, slope))


def elu(alpha: float, scale: float = 1.0) -> Elementwise:
    """scale * x above 0, scale * alpha * (exp(x) - 1) below. Clevert et al. 2016, eq. 15."""
    return Elementwise(
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
    )


def swish(beta: float) -> Elementwise:
    """x * sigmoid(beta * x). Ramachandran et al. 2017, section 4."""

    def derivative(x: Array) -> Array:
        bx = beta * x
        return np.asarray(_sigmoid(bx) * (1 + bx * _sigmoid(-bx)))

    return Elementwise(lambda x: x * _sigmoid(beta * x), derivative)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, e) / (1 + e))


def _tanh_slope(x: Array) -> Array:
    e = np.exp(-2 * np.abs(x))
    return np.asarray(4 * e / (1 + e) ** 2)


def _normal_density(x: Array) -> Array:
    return np.exp(-0.5 * np.minimum(np.abs(x), 40.0) ** 2) / math.sqrt(2 * math.pi)  # exp(-800) is 0


def _normal_distribution(x: Array) -> Array:
    from scipy.special import ndtr

    return np.asarray(ndtr(x))


def _erf(x: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(x))


GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715
"""Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2."""


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(x * _sigmoid(2 * _gelu_tanh_inner(x)))  # (1 + tanh(y)) / 2 = sigmoid(2 y)


def _gelu_tanh_derivative(x: Array) -> Array:
    y, near = _gelu_tanh_inner(x), np.clip(x, -40.0, 40.0)
    slope = 2 * GELU_SCALE * (1 + 3 * GELU_CUBIC * near**2)
    return np.asarray(_sigmoid(2 * y) * (1 + near * slope * _sigmoid(-2 * y)))


def _gelu_tanh_inner(x: Array) -> Array:
    near = np.clip(x, -40.0, 40.0)  # beyond, the sigmoid of it is exactly 0 or 1
    return np.asarray(GELU_SCALE * near * (1 + GELU_CUBIC * near * near))


ELEMENTWISE: dict[str, Elementwise] = {
    "sigmoid": Elementwise(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "tanh": Elementwise(np.tanh, _tanh_slope),
    "relu": leaky(0.0),
    "selu": elu(SELU_ALPHA, SELU_SCALE),
    "gelu": Elementwise(
        lambda x: x * _normal_distribution(x), lambda x: _normal_distribution(x) + x * _normal_density(x)
    ),
    "gelu_tanh": Elementwise(_gelu_tanh, _gelu_tanh_derivative),
    "silu": swish(1.0),
    "softplus": Elementwise(lambda x: np.logaddexp(0.0, x), _sigmoid),
    "erf": Elementwise(_erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-(np.minimum(np.abs(x), 40.0) ** 2))),
    "identity": Elementwise(lambda x: x, np.ones_like),
}
