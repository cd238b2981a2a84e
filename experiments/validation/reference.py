"""References independent of lab.theory and the lab's activations: torch's activations integrated by plain quadrature,
maps iterated with them, and finite networks without matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lab.typing import Array

if TYPE_CHECKING:
    from torch import Tensor

GATES = {"glu": "sigmoid", "bilinear": "identity", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}
LOWER, UPPER = 1 / 8, 1 / 3
"""torch.nn.RReLU's slopes."""
SIGMAS = 3.0
"""Standard deviations of a mean over replicas that a row allows."""


def function(name: str) -> Callable[[Tensor], Tensor]:
    """Return torch's activation of that name, at its default options; rrelu at its mean slope."""
    import torch
    import torch.nn.functional as F

    special: dict[str, Callable[[Tensor], Tensor]] = {
        "prelu": lambda z: F.leaky_relu(z, 0.25),
        "rrelu": lambda z: F.leaky_relu(z, (LOWER + UPPER) / 2),
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "swish": F.silu,
        "erf": torch.erf,
        "identity": lambda z: z,
    }
    return special[name] if name in special else getattr(F, name)


class Moments(NamedTuple):
    """For z ~ N(0, q): E phi^2, E phi'^2, E phi, and the fourth moments E phi^4, E phi'^4."""

    V: float
    D: float
    mean: float
    V4: float
    D4: float


@cache
def moments(name: str, q: float) -> Moments:
    """Return an activation's moments; for a gated one, the mean square of its output and of its gradient."""
    if name in GATES:
        gate = moments(GATES[name], q)
        return Moments(q * gate.V, gate.V + q * gate.D, 0.0, math.nan, math.nan)
    if name == "rrelu":
        return _random_slopes(q)
    import torch

    u, weights = _half_line()
    z = torch.from_numpy(math.sqrt(q) * np.concatenate([-u, u])).requires_grad_()
    a = function(name)(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    values, slopes, both = a.detach().numpy(), slope.numpy(), np.concatenate([weights, weights])

    def mean(x: Array) -> float:
        return float(x @ both)

    with np.errstate(over="ignore"):  # of a fourth moment at a large q, which is not used
        return Moments(mean(values**2), mean(slopes**2), mean(values), mean(values**4), mean(slopes**4))


def _random_slopes(q: float) -> Moments:
    """Return rrelu's moments in training: half of the units have slope 1, the others one uniform in [LOWER, UPPER]."""

    def uniform(power: int) -> float:
        return (UPPER ** (power + 1) - LOWER ** (power + 1)) / (power + 1) / (UPPER - LOWER)

    second, fourth = (1 + uniform(2)) / 2, (1 + uniform(4)) / 2
    return Moments(q * second, second, (1 - uniform(1)) * math.sqrt(q / 2 / math.pi), 3 * q * q * fourth, fourth)


@lru_cache(maxsize=1)
def _half_line() -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and weights on 80 panels of u in (0, 12), with the normal density.

    A kink at 0 lies between panels.
    """
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(0, 12, 81)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    u = (middle[:, None] + half[:, None] * x).ravel()
    return u, (half[:, None] * w).ravel() * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)


def variances(name: str, weight_var: float, bias_var: float, first_q: float, depth: int) -> Array:
    """Return q of each layer, q' = s V(q) + b."""
    q = [first_q]
    for _ in range(depth - 1):
        q.append(weight_var * moments(name, q[-1]).V + bias_var)
    return np.array(q)


def log_rates(name: str, weight_var: float, q: Array) -> Array:
    """Return ln s D(q) of each layer."""
    return np.log([weight_var * moments(name, float(x)).D for x in q])


def fixed_point(name: str, weight_var: float, bias_var: float) -> float:
    """Return the variance after 5000 layers, from 1."""
    return float(variances(name, weight_var, bias_var, 1.0, 5001)[-1])


def slope(name: str, weight_var: float, q: float) -> float:
    """Return dq'/dq by central differences, accurate to about 1e-8."""
    h = 1e-4 * q
    return weight_var * (moments(name, q + h).V - moments(name, q - h).V) / (2 * h)


def pair(name: str, q: float, c: float, of_slopes: bool = False) -> float:
    """Return E phi(z1) phi(z2), or of the slopes, for variance q and correlation c; smooth activations only."""
    import torch

    x, w = np.polynomial.hermite_e.hermegauss(80)
    z1 = np.broadcast_to(math.sqrt(q) * x[:, None], (80, 80))
    z2 = math.sqrt(q) * (c * x[:, None] + math.sqrt(max(0.0, 1 - c * c)) * x)
    values = []
    for z in (z1, z2):
        leaf = torch.from_numpy(np.array(z)).requires_grad_()
        a = function(name)(leaf)
        (derivative,) = torch.autograd.grad(a.sum(), leaf)
        values.append(derivative.numpy() if of_slopes else a.detach().numpy())
    return float(w @ (values[0] * values[1]) @ w) / (2 * math.pi)


def relu_correlation(c: float) -> float:
    """Return the next layer's correlation under relu (Cho and Saul 2009, "Kernel Methods for Deep Learning")."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


Statistic = Callable[[Array], Array]
"""A number from each Gram matrix z_i . z_j / n of a layer: (..., 2, 2) -> (...)."""

CHAINS = 400
"""Finite networks drawn by `gram_chain`."""


def simultaneous_sigmas(count: int) -> float:
    """Return the standard deviations allowed for each of `count` independent numbers.

    All of them together err as rarely as one number beyond SIGMAS (Bonferroni).
    """
    from scipy.stats import norm

    return float(norm.isf(norm.sf(SIGMAS) / count))


def gram_chain(
    name: str, weight_var: float, bias_var: float, gram: Array, depth: int, width: int, statistic: Statistic
) -> Array:
    """Draw a statistic of finite networks without their matrices, (depth, CHAINS).

    With Gaussian weights and biases the pre-activations of two examples are, conditional on the layer below,
    independent over the units and jointly normal, with the covariance s X X^T / n + b of the layer's inputs X. So the
    Gram matrices form a Markov chain; nothing is approximated.
    """
    import torch

    rng = np.random.default_rng(17)
    phi = function(GATES.get(name, name))
    parts = 2 if name in GATES else 1
    covariance = np.broadcast_to(gram, (CHAINS, 2, 2))
    values = np.empty((depth, CHAINS))
    for layer in range(depth):
        jitter = 1e-14 * np.eye(2) * np.trace(covariance, axis1=1, axis2=2)[:, None, None]
        root = np.linalg.cholesky(covariance + jitter)
        z = root @ rng.standard_normal((parts, CHAINS, 2, width))  # (parts, CHAINS, 2, width)
        values[layer] = statistic((z @ z.swapaxes(-1, -2)).mean(0) / width)
        a = phi(torch.from_numpy(z[-1])).numpy()
        a = z[0] * a if parts == 2 else a
        covariance = weight_var * a @ a.swapaxes(-1, -2) / width + bias_var
    return values


def sampled_tolerance(samples: Array, center: Array, replicas: int) -> tuple[Array, Array]:
    """Return the allowed deviation below and above a mean-field prediction, from samples of finite networks (..., S).

    It is their bias, and three standard deviations of the difference between two means, over replicas and samples.
    """
    bias = samples.mean(-1) - center
    error = SIGMAS * samples.std(-1) * math.sqrt(1 / replicas + 1 / samples.shape[-1])
    return allow_bias(bias, error)


def allow_bias(bias: Array | float, error: Array | float) -> tuple[Array, Array]:
    """Return the allowed deviation below and above, with a bias allowed on its own side only."""
    return np.asarray(np.maximum(-bias, 0) + error), np.asarray(np.maximum(bias, 0) + error)
