"""Drawing weights and biases: (fan_in, fan_out) matrices in float64, from one replica's generator."""

from __future__ import annotations

import math

import numpy as np

from lab import schema
from lab.theory import critical_weight_var_of
from lab.typing import Array


def draw(config: schema.Config, fan_in: int, fan_out: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """One map's weights (fan_in, fan_out) and biases (fan_out,).

    Biases are 0 except for torch_default, gaussian and critical, and where `model.bias` is false nobody uses them.

    Raises:
        ConfigError: init=critical where theory knows no critical point.
    """
    init = config.init
    shape, gain = (fan_in, fan_out), init.gain
    biases = np.zeros(fan_out)
    match init.name:
        case "xavier_uniform":  # Glorot and Bengio 2010, eq. 16
            weights = _uniform(rng, shape, gain * math.sqrt(6 / (fan_in + fan_out)))
        case "xavier_normal":  # the same variance, eq. 12
            weights = rng.normal(0, gain * math.sqrt(2 / (fan_in + fan_out)), shape)
        case "he_uniform":  # He et al. 2015, eq. 10
            weights = _uniform(rng, shape, gain * math.sqrt(6 / fan_in))
        case "he_normal":
            weights = rng.normal(0, gain * math.sqrt(2 / fan_in), shape)
        case "lecun_normal":  # LeCun et al. 1998, section 4.6
            weights = rng.normal(0, gain * math.sqrt(1 / fan_in), shape)
        case "orthogonal":
            weights = gain * _orthogonal(rng, shape)
        case "torch_default":  # torch.nn.Linear.reset_parameters
            weights = _uniform(rng, shape, gain / math.sqrt(fan_in))
            biases = _uniform(rng, (fan_out,), 1 / math.sqrt(fan_in))
        case _:
            weight_var, bias_var = _gaussian_variances(config)
            weights = rng.normal(0, gain * math.sqrt(weight_var / fan_in), shape)
            biases = rng.normal(0, math.sqrt(bias_var), fan_out)
    return weights, biases


def _gaussian_variances(config: schema.Config) -> tuple[float, float]:
    if isinstance(config.init, schema.Gaussian):
        return config.init.weight_var, config.init.bias_var
    assert isinstance(config.init, schema.Critical)
    return critical_weight_var_of(config), config.init.bias_var


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Array:
    return rng.uniform(-bound, bound, shape)


def _orthogonal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Orthonormal columns, or rows if those are fewer, uniform over all such matrices (Mezzadri 2007, section 5)."""
    rows, columns = max(shape), min(shape)
    q, r = np.linalg.qr(rng.normal(size=(rows, columns)))
    q = q * np.sign(np.diag(r))
    return q if shape == (rows, columns) else q.T
