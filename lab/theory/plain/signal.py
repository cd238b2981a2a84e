"""Signal propagation in plain networks: variance, correlation and gradient from layer to layer.

Mean field (Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz
et al. 2017, "Deep Information Propagation"): z = W x + b with W ~ N(0, s / fan_in) and b ~ N(0, bias_var),
x = phi(z of the layer below). Assumptions: wide layers, so that every z is Gaussian over the units; independent
weights in the backward pass. The correlation is that of two examples.

    variance      q' = s V(q) + b
    correlation   c' = (s E phi(z1) phi(z2) + b) / q'
    gradient      E delta_l^2 = s D(q_l) E delta_(l+1)^2

The variance map increases with q, so that from any start the variance moves monotonically to the next fixed point,
and without one grows without bound. Where bias_var is 0 and phi(0) = 0, q = 0 is a fixed point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab import schema
from lab.theory.kernels.kernels import Kernel, kernel
from lab.theory.plain.critical import TOLERANCE, bisect
from lab.typing import Array

LARGEST_VARIANCE, LEAST_VARIANCE = 1e300, 1e-200
"""A variance above the first counts as infinite, one below the second as 0."""

GRID = np.geomspace(1e-10, 1e8, 1441)  # q between which fixed points are searched
ROUNDING = 1e-9  # rates and correlations closer than this are equal

STANDSTILL, WIDE = 1e-5, 4
"""Where a layer changes q by less than this fraction, over a stretch of this many grid points (12% of q), fixed points
count as one, half-stable: rounding its weight_var and bias_var to six digits splits it or removes it."""

TRAINABLE = 6.0  # networks train up to a depth of about 6 xi_c (an observation of Schoenholz et al. 2017)


@dataclass(frozen=True)
class DepthScales:
    """Limits of a plain network in depth, and the number of layers to reach them; NaN where there is none.

    Attributes:
        q_star, c_star: variance of the pre-activations, which may be 0 or infinity, and correlation of two examples.
        chi: ratio of E delta^2 from one layer to the one below.
        xi_q, xi_c, xi_grad: layers over which variance and correlation approach their limits and the squared gradient
            changes, each by a factor of e; infinity where that is slower than exponential.
        phase: vanishing, critical (chi within `critical.TOLERANCE` of 1) or exploding gradients.
        variance: settles, vanishes, grows (without bound), stays (every q is a fixed point) or balances (it starts on
            an unstable fixed point).
        trainable_depth: 6 xi_c, or 6 xi_grad if that is less.
    """

    q_star: float
    c_star: float
    chi: float
    xi_q: float
    xi_c: float
    xi_grad: float
    phase: str
    variance: str
    trainable_depth: float = math.nan


def depth_scales(
    activation: schema.Activation, weight_var: float, bias_var: float, first_q: float | None = None
) -> DepthScales:
    """The limits of depth; `first_q` is the first layer's variance, by default that of inputs of variance 1."""
    phi = kernel(activation)
    point = limit(activation, weight_var, bias_var, weight_var + bias_var if first_q is None else first_q)
    c_star, c_slope = _correlation_limit(phi, weight_var, bias_var, point.q)
    xi_q, xi_c, xi_grad = map(_length, (point.slope, c_slope, point.chi))
    at_rest = {"marginal": "stays", "unstable": "balances"}.get(point.stability, "settles")
    variance = {0.0: "vanishes", math.inf: "grows"}.get(point.q, at_rest)
    trainable_depth = TRAINABLE * float(np.fmin(xi_c, xi_grad))
    return DepthScales(point.q, c_star, point.chi, xi_q, xi_c, xi_grad, phase(point.chi), variance, trainable_depth)


def phase(chi: float) -> str:
    return "critical" if abs(chi - 1) <= TOLERANCE else "vanishing" if chi < 1 else "exploding"


def variance_map(
    activation: schema.Activation, weight_var: float, bias_var: float, depth: int, first_q: float | None = None
) -> Array:
    """q of each layer: (depth,); infinity once it exceeds `LARGEST_VARIANCE`. `first_q` as in `depth_scales`."""
    phi, q = kernel(activation), np.empty(depth)
    q[0] = weight_var + bias_var if first_q is None else first_q
    for layer in range(1, depth):
        with np.errstate(over="ignore"):
            following = weight_var * float(phi.second_moment(q[layer - 1])) + bias_var
        q[layer:] = following if following < LARGEST_VARIANCE else math.inf
        if following == q[layer - 1] or not math.isfinite(q[layer]):
            break  # a fixed point
    return q


def correlation_map(
    activation: schema.Activation, weight_var: float, bias_var: float, depth: int, first_q: float, first_c: float
) -> Array:
    """c of each layer for two examples of the same variance: (depth,); NaN once the variance is 0 or infinite."""
    phi, c = kernel(activation), np.empty(depth)
    q = variance_map(activation, weight_var, bias_var, depth, first_q)
    c[0] = first_c
    for layer in range(1, depth):
        below, here = float(q[layer - 1]), float(q[layer])
        c[layer:] = _next_correlation(phi, weight_var, bias_var, below, float(c[layer - 1])) if below else math.nan
        if not math.isfinite(here) or (here == below and c[layer] == c[layer - 1]):
            break
    c[~np.isfinite(q) | (q == 0)] = math.nan
    return c


def gradient_map(activation: schema.Activation, weight_var: float, q: Array) -> Array:
    """ln of E delta_l^2 over E delta^2 of the last layer, for layers of the given variances: (depth,) -> (depth,)."""
    with np.errstate(divide="ignore"):
        rates = np.log(weight_var * kernel(activation).slope_moment(q[:-1]))
    return np.append(np.cumsum(rates[::-1])[::-1], 0.0)


def _next_correlation(phi: Kernel, weight_var: float, bias_var: float, q: float, c: float) -> float:
    return float((weight_var * phi.product(q, q, c) + bias_var) / (weight_var * phi.second_moment(q) + bias_var))


class FixedPoint(NamedTuple):
    """A fixed point of the variance, with dq'/dq and chi there: stable, unstable, half-stable or (every q) marginal."""

    q: float
    slope: float
    chi: float
    stability: str


def fixed_points(activation: schema.Activation, weight_var: float, bias_var: float) -> tuple[FixedPoint, ...]:
    """All fixed points of the variance map on `GRID`, and q = 0 if it is one, in ascending order."""
    phi = kernel(activation)
    step = weight_var * phi.second_moment(GRID) + bias_var - GRID  # what a layer adds to q
    if np.all(np.abs(step) <= 1e-10 * GRID):
        return (FixedPoint(math.nan, 1.0, float(weight_var * phi.slope_moment(1.0)), "marginal"),)

    def point(q: float, slope: float, stability: str) -> FixedPoint:
        return FixedPoint(q, slope, float(weight_var * phi.slope_moment(q)), stability)

    standstills = _standstills(phi, weight_var, np.abs(step) <= STANDSTILL * GRID)
    points = [point(q, 1.0, "half-stable") for _, _, q in standstills]
    for i in np.flatnonzero((step[:-1] * step[1:] < 0) | (step[:-1] == 0)):
        if not any(first <= GRID[i] <= last for first, last, _ in standstills):
            q = bisect(lambda q: float(weight_var * phi.second_moment(q)) + bias_var - q, *GRID[i : i + 2].tolist())
            slope = float(weight_var * phi.second_moment_derivative(q))
            points.append(point(q, slope, "stable" if abs(slope) <= 1 else "unstable"))
    if bias_var == 0 and float(phi.second_moment(0.0)) < LEAST_VARIANCE:
        # The slope at 0 may be exactly 1; the step of a very small q decides then.
        slope = float(weight_var * phi.second_moment_derivative(0.0))
        points.append(point(0.0, slope, "unstable" if step[0] > 0 else "stable"))
    return tuple(sorted(points))


def limit(activation: schema.Activation, weight_var: float, bias_var: float, first_q: float) -> FixedPoint:
    """Return the fixed point that the variance reaches from `first_q`; q is infinity if it grows without bound."""
    points = fixed_points(activation, weight_var, bias_var)
    if points and points[0].stability == "marginal":
        return points[0]._replace(q=first_q)
    phi = kernel(activation)
    added = float(weight_var * phi.second_moment(first_q)) + bias_var - first_q
    if abs(added) <= 1e-12 * first_q and points:
        return min(points, key=lambda point: abs(point.q - first_q))
    ahead = [point for point in points if (point.q > first_q) == (added > 0)]
    if ahead:
        return ahead[0] if added > 0 else ahead[-1]
    # Far out an activation is a straight line on either side, so that D has a limit; that of a product has none.
    chi = math.inf if phi.is_gated else float(weight_var * phi.slope_moment(1e12))
    return FixedPoint(math.inf, math.nan, chi, "none")


def _standstills(phi: Kernel, weight_var: float, is_still: NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """Wide stretches within `GRID` where q stands still: both ends, and the q with dq'/dq closest to 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_still, [False]]).astype(int)))
    stretches = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if start > 0 and stop < len(GRID) and stop - start >= WIDE:
            q = np.linspace(GRID[start], GRID[stop - 1], 201)
            closest = np.argmin(np.abs(weight_var * phi.second_moment_derivative(q) - 1))
            stretches.append((float(GRID[start - 1]), float(GRID[stop]), float(q[closest])))
    return stretches


def _length(rate: float) -> float:
    """1 / |ln rate|: infinity for 1 (to rounding), 0 for 0 and infinity."""
    rate = abs(rate)
    if rate == 0 or math.isinf(rate):
        return 0.0
    return math.inf if abs(rate - 1) < ROUNDING else 1 / abs(math.log(rate))  # NaN for NaN


def _correlation_limit(phi: Kernel, weight_var: float, bias_var: float, q: float) -> tuple[float, float]:
    """Return c* and dc'/dc at c*, for the variance at its limit q; NaN if no limit is preferred or q is infinite.

    E phi(z1) phi(z2) is a power series in c without negative coefficients (Daniely et al. 2016, "Toward Deeper
    Understanding of Neural Networks"): convex on [0, 1], with at most one fixed point besides 1, which attracts.
    """
    if math.isinf(q):
        at_one, at_two = phi.second_moment(np.array([1.0, 2.0]))
        if bias_var != 0 or abs(at_two - 2 * at_one) > ROUNDING:
            return math.nan, math.nan
        q = 1.0  # the correlation of a homogeneous function is independent of the variance
    elif q == 0:
        q = 1e-12

    def added(c: float) -> float:
        return _next_correlation(phi, weight_var, bias_var, q, c) - c

    def slope(c: float) -> float:
        return float(weight_var * q * phi.slope_product(q, q, c) / (weight_var * phi.second_moment(q) + bias_var))

    if abs(added(0.5)) < ROUNDING and abs(added(0.0)) < ROUNDING:
        return math.nan, 1.0  # a linear map preserves every correlation
    close = 1 - 1e-7
    if abs(added(1.0)) < ROUNDING and (slope(1.0) <= 1 + ROUNDING or added(close) >= 0):
        return 1.0, slope(1.0)
    c_star = 0.0 if abs(added(0.0)) < ROUNDING else bisect(added, 0.0, close)
    return c_star, slope(c_star)
