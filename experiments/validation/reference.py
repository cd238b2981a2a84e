"""What rows compare theory with: torch's own activations integrated by plain quadrature, maps iterated with them, and
finite networks without matrices. Nothing here uses lab.theory or the lab's activations.
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
"""How many standard deviations of a mean over replicas a row allows."""


def function(name: str) -> Callable[[Tensor], Tensor]:
    """torch's activation of that name, at its default options; rrelu at its mean slope."""
    import torch
    import torch.nn.functional as F

    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": F.relu,
        "leaky_relu": lambda z: F.leaky_relu(z, 0.01),
        "prelu": lambda z: F.leaky_relu(z, 0.25),
        "rrelu": lambda z: F.leaky_relu(z, (LOWER + UPPER) / 2),
        "elu": F.elu,
        "selu": F.selu,
        "gelu": F.gelu,
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "swish": F.silu,
        "silu": F.silu,
        "softplus": F.softplus,
        "erf": torch.erf,
        "identity": lambda z: z,
    }
    return functions[name]


class Moments(NamedTuple):
    """For z ~ N(0, q): E phi^2, E phi'^2, E phi, and the fourth moments E phi^4, E phi'^4."""

    V: float
    D: float
    mean: float
    V4: float
    D4: float


@cache
def moments(name: str, q: float) -> Moments:
    """The moments of an activation; of a gated one the square it passes on and the gradient of value and gate."""
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

    with np.errstate(over="ignore"):  # a fourth moment that nobody needs
        return Moments(mean(values**2), mean(slopes**2), mean(values), mean(values**4), mean(slopes**4))


def _random_slopes(q: float) -> Moments:
    """rrelu in training: half of the units have slope 1, the others a slope uniform between the bounds."""

    def uniform(power: int) -> float:
        return (UPPER ** (power + 1) - LOWER ** (power + 1)) / (power + 1) / (UPPER - LOWER)

    second, fourth = (1 + uniform(2)) / 2, (1 + uniform(4)) / 2
    return Moments(q * second, second, (1 - uniform(1)) * math.sqrt(q / 2 / math.pi), 3 * q * q * fourth, fourth)


@lru_cache(maxsize=1)
def _half_line() -> tuple[Array, Array]:
    """Gauss-Legendre on 80 panels of u in (0, 12), times the normal density: kinks at 0 lie between panels."""
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(0, 12, 81)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    u = (middle[:, None] + half[:, None] * x).ravel()
    return u, (half[:, None] * w).ravel() * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)


# --- maps -----------------------------------------------------------------------------------------------------------


def variances(name: str, weight_var: float, bias_var: float, first_q: float, depth: int) -> Array:
    """q of each layer, q' = s V(q) + b."""
    q = [first_q]
    for _ in range(depth - 1):
        q.append(weight_var * moments(name, q[-1]).V + bias_var)
    return np.array(q)


def log_rates(name: str, weight_var: float, q: Array) -> Array:
    """ln s D(q) of each layer."""
    return np.log([weight_var * moments(name, float(x)).D for x in q])


def fixed_point(name: str, weight_var: float, bias_var: float) -> float:
    """Where the variance goes from 1, after 5000 layers."""
    q = 1.0
    for _ in range(5000):
        following = weight_var * moments(name, q).V + bias_var
        if following == q:
            break
        q = following
    return q


def slope(name: str, weight_var: float, q: float) -> float:
    """dq'/dq by central differences, right to about 1e-8."""
    h = 1e-4 * q
    return weight_var * (moments(name, q + h).V - moments(name, q - h).V) / (2 * h)


def pair(name: str, q: float, c: float, of_slopes: bool = False) -> float:
    """E phi(z1) phi(z2), or of the slopes, for variance q and correlation c; smooth activations only."""
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
    """The next layer's correlation under relu (Cho and Saul 2009, section 2)."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


# --- finite networks ------------------------------------------------------------------------------------------------


def step_variance(name: str, q: float = 1.0) -> float:
    """3 E phi'^4 / (E phi'^2)^2 - 1: n times what a layer adds to the variance of ln of a squared gradient."""
    at = moments(name, q)
    return 3 * at.D4 / at.D**2 - 1


def forward_variance(name: str, q: float = 1.0) -> float:
    """E phi^4 / (E phi^2)^2 - 1: n times what a layer adds to the variance of ln of a mean square activation."""
    at = moments(name, q)
    return at.V4 / at.V**2 - 1


def rate_tolerance(step: float, width: int, layers: int, replicas: int) -> float:
    """For the mean of ln of a rate over layers and replicas: the bias v / 2n, and three standard deviations."""
    return step / (2 * width) + SIGMAS * math.sqrt(step / (width * layers * replicas))


Statistic = Callable[[Array], Array]
"""From the Gram matrices z_i . z_j / n of a layer, (..., 2, 2), a number each."""


def sigmas_of_looks(looks: int) -> float:
    """How many standard deviations each of several independent numbers may be off, so that all together err as rarely
    as one number beyond SIGMAS (Bonferroni)."""
    from scipy.stats import norm

    return float(norm.isf(norm.sf(SIGMAS) / looks))


def gram_chain(
    name: str, weight_var: float, bias_var: float, gram: Array, depth: int, width: int, statistic: Statistic
) -> tuple[Array, Array]:
    """Mean and standard deviation of a statistic over finite networks, (depth,) each, without their matrices.

    With Gaussian weights and biases the pre-activations of two examples are, given the layer below, independent over
    the units and jointly normal, with the covariance s X X^T / n + b of the layer's inputs X. That is a Markov chain of
    2 x 2 matrices, and no approximation: 400 of them are drawn.
    """
    import torch

    chains, rng = 400, np.random.default_rng(17)
    phi = function(GATES.get(name, name))
    parts = 2 if name in GATES else 1
    covariance = np.broadcast_to(gram, (chains, 2, 2))
    found = np.empty((depth, chains))
    for layer in range(depth):
        root = np.linalg.cholesky(
            covariance + 1e-14 * np.eye(2) * np.trace(covariance, axis1=1, axis2=2)[:, None, None]
        )
        z = root @ rng.standard_normal((parts, chains, 2, width))  # (parts, chains, 2, width)
        found[layer] = statistic((z @ z.swapaxes(-1, -2)).mean(0) / width)
        a = phi(torch.from_numpy(z[-1])).numpy()
        a = z[0] * a if parts == 2 else a
        covariance = weight_var * a @ a.swapaxes(-1, -2) / width + bias_var
    return found.mean(1), found.std(1)


def chain_tolerance(mean: Array, deviation: Array, center: Array, replicas: int) -> tuple[Array, Array]:
    """Below and above a mean-field prediction: the finite networks' bias, and three standard deviations of a mean."""
    bias, chains = mean - center, 400
    error = SIGMAS * deviation * math.sqrt(1 / replicas + 1 / chains)
    return np.maximum(-bias, 0) + error, np.maximum(bias, 0) + error
