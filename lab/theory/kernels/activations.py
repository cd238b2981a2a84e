"""The activations and their derivatives in NumPy, accurate to rounding for arguments of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lab.typing import Array

Function = Callable[[Array], Array]


class Elementwise(NamedTuple):
    """A function and its derivative on arrays of any shape, both smooth except perhaps at 0."""

    function: Function
    derivative: Function


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""Klambauer et al. 2017, "Self-Normalizing Neural Networks"."""

GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715
"""The tanh approximation in Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"."""


def leaky(slope: float) -> Elementwise:
    """x above 0, slope * x below."""
    return Elementwise(lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1.0, slope))


def elu(alpha: float, scale: float = 1.0) -> Elementwise:
    """scale * x above 0, scale * alpha * (exp(x) - 1) below (Clevert et al. 2016)."""
    return Elementwise(
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
    )


def swish(beta: float) -> Elementwise:
    """x * sigmoid(beta * x) (Ramachandran et al. 2017)."""

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


def _special(name: str, x: Array) -> Array:
    from scipy import special  # half a second

    return np.asarray(getattr(special, name)(x))


def _normal_density(x: Array) -> Array:
    return np.exp(-0.5 * np.minimum(np.abs(x), 40.0) ** 2) / math.sqrt(2 * math.pi)  # exp(-800) is 0


def _gelu_tanh_derivative(x: Array) -> Array:
    y, near = _gelu_tanh_inner(x), np.clip(x, -40.0, 40.0)  # (1 + tanh(y)) / 2 = sigmoid(2 y)
    slope = 2 * GELU_SCALE * (1 + 3 * GELU_CUBIC * near**2)
    return np.asarray(_sigmoid(2 * y) * (1 + near * slope * _sigmoid(-2 * y)))


def _gelu_tanh_inner(x: Array) -> Array:
    near = np.clip(x, -40.0, 40.0)  # beyond, the sigmoid of it is exactly 0 or 1
    return np.asarray(GELU_SCALE * near * (1 + GELU_CUBIC * near * near))


ELEMENTWISE: dict[str, Elementwise] = {
    "sigmoid": Elementwise(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "tanh": Elementwise(np.tanh, _tanh_slope),
    "selu": elu(SELU_ALPHA, SELU_SCALE),
    "gelu": Elementwise(lambda x: x * _special("ndtr", x), lambda x: _special("ndtr", x) + x * _normal_density(x)),
    "gelu_tanh": Elementwise(lambda x: x * _sigmoid(2 * _gelu_tanh_inner(x)), _gelu_tanh_derivative),
    "silu": swish(1.0),
    "softplus": Elementwise(lambda x: np.logaddexp(0.0, x), _sigmoid),
    "erf": Elementwise(
        lambda x: _special("erf", x), lambda x: 2 / math.sqrt(math.pi) * np.exp(-(np.minimum(np.abs(x), 40.0) ** 2))
    ),
}
"""Activations chosen by name alone. An entry added here gets its kernels by quadrature."""
