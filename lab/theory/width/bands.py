"""Finite width: how measured gradients and variances scatter around mean-field theory, as prediction bands.

A layer of n units passes on a sum of n random terms, so that ln of a squared gradient takes a step of mean -v / (2 n)
and variance v / n a layer. For relu and its kin, whose gradient does not know the size of the pre-activations,
v = 3 E phi'^4 / (E phi'^2)^2 - 1: 5 for relu, 6 (1 + a^4) / (1 + a^2)^2 - 1 for slope a, 2 for the identity (Hanin
2018, "Which Neural Net Architectures Give Rise to Exploding and Vanishing Gradients?", section 1, has the form; Hanin
and Nica 2020, "Products of Many Large Random Matrices", section 1, the log-normal law). Elsewhere the variance q of a
layer scatters too, relaxes with dq'/dq, and takes D(q) with it. To first order in 1/n all of this is linear in small
steps of ln q and ln delta^2, whose variances add up: with x the deviation of ln q,

    x' = f(x) + xi,             f = ln(s V + b),    Var xi = p^2 (E phi^4 / V^2 - 1) / n
    ln rate = h(x) + epsilon,   h = ln(s D),        Var epsilon = (3 E phi'^4 / D^2 - 1) / n
                                                    Cov = p (E phi^2 phi'^2 / (V D) - 1) / n

where p is the share of s V in q'. Where the maps bend too much for that, `lab.theory.width.paths` follows them.

Forward and backward pass share weights: W^T delta has a component along the input x of W that is not random but
x (W x . delta) / |x|^2. It moves the mean by 1/n as well (`_coupling`); relu and its kin are spared.

This is the scatter of one example whose gradient is independent of its activations. Examples of a batch share weights
but not the direction of their gradients, so that their mean scatters less: the band is on the safe side. With norms or
skips the variances of forward and backward steps are added without their correlation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lab import schema
from lab.theory.deep.criticality import solved
from lab.theory.deep.maps import LinearMap, hidden_units, maps
from lab.theory.deep.prediction import Prediction
from lab.theory.deep.propagation import RANGE, NoTheory
from lab.theory.kernels.kernels import Kernel, kernel
from lab.theory.width import paths
from lab.typing import Array

SIGMAS = 3.0
"""Half the width of a band, in standard deviations of a mean over replicas."""

BATCH_ERROR, WIDTH_ERROR = 2.0, 5.0
"""Batch norm: ln of the rate of delta^2 is right to 2 / batch + 5 / width a layer; in simulations of width 512 and
batches of 32 to 128 it was off by up to 0.017."""

LARGEST_BEND = 0.2
"""Curvature of the maps times the variance of ln q, up to which the scatter is taken to first order: the change of a
variance by a fifth, as much as what is left out of it, the scatter of `_coupling`. Beyond it paths are followed."""

LEAST, LEAST_SCATTERED = 1e-280, 1e-70
"""Variances below are taken for these, the second where squares of squares are needed: near 0 every activation is a
power of its argument, whose relative scatter does not know the variance."""

LEAST_GROWTH = 0.1
"""What `_coupling` may leave of a layer's gradient: a bound for widths of 1 and 2, where 1/width is no small number."""

LOG_CHI_SQUARE = math.pi**2 / 2
"""Variance of the logarithm of a squared Gaussian number."""

ROUNDING = 1e-3
"""What the eps of a norm and float32 may do to ln of a mean square that the norm sets to 1."""


class Band(NamedTuple):
    """Lower and upper end, (depth,) each, for a geometric mean over replicas."""

    lower: Array
    upper: Array


class Bands(NamedTuple):
    """Bands for delta_rms over the last layer's, and for pre_rms."""

    delta_rms: Band
    pre_rms: Band


class Noise(NamedTuple):
    """Scatter of single replicas, (depth,) each.

    Attributes:
        delta, q: variance of ln of (delta_l / delta_last)^2 and of the mean square pre-activation.
        delta_mean, q_mean: what width adds to the mean of one example's; NaN where only its range is known.
        delta_shift, q_shift: (lowest, highest) deviation of the mean from mean-field theory, of one example or many.
    """

    delta: Array
    delta_mean: Array
    delta_shift: tuple[Array, Array]
    q: Array
    q_mean: Array
    q_shift: tuple[Array, Array]


def bands(config: schema.Config, prediction: Prediction, replicas: int | None = None, sigmas: float = SIGMAS) -> Bands:
    """Where the geometric mean over replicas (`config.replicas` unless given) of a measurement is expected.

    Raises:
        NoTheory: finite width may carry the variance of single replicas beyond what the network's arithmetic holds.
    """
    scatter = noise(config, prediction)
    _check_range(config, prediction, scatter)
    count = config.replicas if replicas is None else replicas

    def band(log_center: Array, variance: Array, shift: tuple[Array, Array]) -> Band:
        reach = sigmas * np.sqrt(variance / count)
        lowest, highest = shift
        with np.errstate(over="ignore"):  # an end at infinity: where scatter feeds on itself nothing is excluded
            return Band(np.exp(log_center + (lowest - reach) / 2), np.exp(log_center + (highest + reach) / 2))

    with np.errstate(divide="ignore"):
        log_pre = np.log(prediction.q) / 2
    return Bands(
        delta_rms=band(prediction.log_delta, scatter.delta, scatter.delta_shift),
        pre_rms=band(log_pre, scatter.q, scatter.q_shift),
    )


def _check_range(config: schema.Config, prediction: Prediction, scatter: Noise) -> None:
    least, most = RANGE[config.dtype]
    with np.errstate(divide="ignore"):
        log_q = np.log(prediction.q)
    reach = SIGMAS * np.sqrt(scatter.q)
    lost = np.flatnonzero(~((log_q - reach > math.log(least)) & (log_q + reach < math.log(most))))
    if len(lost) and np.any(reach[lost] > 1):
        raise NoTheory(
            f"model.width={config.model.width}: from layer {lost[0]} on replicas of this width scatter so much that the"
            f" variance of some passes what dtype={config.dtype} holds, and theory does not say of which; choose a"
            " larger width, fewer layers or a norm."
        )


def noise(config: schema.Config, prediction: Prediction) -> Noise:
    """Scatter of single replicas at the configured width."""
    if isinstance(config.init, schema.Critical):
        config = solved(config)
    if config.norm.name == "none" and config.residual.name == "none":
        return _plain_noise(config, prediction)
    return _bounded_noise(config, prediction)


def step_variance(activation: schema.Activation, q: float = 1.0) -> float:
    """v = 3 E phi'^4 / (E phi'^2)^2 - 1: n times the variance of ln delta^2 that a layer of n units adds."""
    phi = kernel(activation)
    return float(3 * phi.fourth_moments(q)[1] / phi.slope_moment(q) ** 2 - 1)


def probability_dead(width: int, depth: int) -> float:
    """That one input is dead at the end of `depth` relu layers without biases: 1 - (1 - 2^-width)^depth.

    A unit is 0 with probability 1/2, independently of the others, as long as anything comes in. For one input and
    symmetric weights; Lu et al. 2019, "Dying ReLU and Initialization", section 3, have the bounds for data sets.
    """
    return -math.expm1(depth * math.log1p(-(0.5**width))) if width > 0 else 1.0


class _Steps(NamedTuple):
    """First-order terms of each layer, (depth,): slopes and curvatures of f and h in ln q, and the variances."""

    f1: Array
    f2: Array
    h1: Array
    h2: Array
    xi: Array
    epsilon: Array
    covariance: Array


def _plain_noise(config: schema.Config, prediction: Prediction) -> Noise:
    steps, depth = _steps(config, prediction.q), len(prediction.q)
    mean, variance = np.zeros(depth), np.zeros(depth)  # of x
    for layer in range(depth - 1):
        f1, f2, xi = steps.f1[layer], steps.f2[layer], steps.xi[layer]
        mean[layer + 1] = f1 * mean[layer] + f2 * variance[layer] / 2 - xi / 2
        variance[layer + 1] = f1**2 * variance[layer] + xi
    coupling = _from_here_up(_coupling(config, prediction.q)[:-1])
    beyond = _from_here_up(steps.epsilon[:-1] ** 2)  # ln of a sum of squares is Gaussian to first order only
    sampling = 2 / _units(config)
    if np.max((np.abs(steps.f2) + np.abs(steps.h2)) * variance) > LARGEST_BEND:
        found = paths.moments(lambda q: _terms(config, q), prediction.q, LEAST)
        delta_mean, delta_log_mean = (
            mean - 2 * prediction.log_delta + coupling for mean in (found.delta_mean, found.delta_log_mean)
        )
        return Noise(
            delta=found.delta_variance,
            delta_mean=delta_mean,
            delta_shift=_between(delta_mean, delta_log_mean, beyond),
            q=found.q_variance + sampling,
            q_mean=found.q_mean - sampling / 2,
            q_shift=_between(found.q_mean - sampling / 2, found.q_log_mean),
        )
    # How a step of x in one layer acts on the rates of all layers from it up to the last.
    reach = np.zeros(depth)
    for layer in range(depth - 2, -1, -1):
        reach[layer] = steps.h1[layer] + steps.f1[layer] * reach[layer + 1]
    above = np.append(reach[1:], 0.0)
    own = steps.epsilon + 2 * above * steps.covariance + above**2 * steps.xi
    rate_shift = steps.h1 * mean + steps.h2 * variance / 2 - steps.epsilon / 2
    delta = reach**2 * variance + _from_here_up(own[:-1])
    delta_mean, q_mean, q = _from_here_up(rate_shift[:-1]) + coupling, mean - sampling / 2, variance + sampling
    return Noise(
        delta=delta,
        delta_mean=delta_mean,
        delta_shift=_between(delta_mean, delta_mean + delta / 2, beyond),  # the mean of a log-normal number
        q=q,
        q_mean=q_mean,
        q_shift=_between(q_mean, q_mean + q / 2),
    )


def _between(shift: Array, other: Array, beyond: Array | float = 0.0) -> tuple[Array, Array]:
    """Range of the shift: none, that of one example's logarithm, or the other one, of many examples' mean."""
    lowest, highest = np.minimum(np.minimum(shift, other), 0.0), np.maximum(np.maximum(shift, other), 0.0)
    return lowest - beyond, highest + beyond


def _steps(config: schema.Config, q: Array) -> _Steps:
    """The terms of a plain network of either block."""
    ln_q, small = np.log(np.maximum(q, LEAST)), 1e-3
    low, here, high = (_terms(config, np.exp(ln_q + side * small)) for side in (-1, 0, 1))
    return _Steps(
        f1=(high.next_q - low.next_q) / (2 * small),
        f2=(high.next_q - 2 * here.next_q + low.next_q) / small**2,
        h1=(high.rate - low.rate) / (2 * small),
        h2=(high.rate - 2 * here.rate + low.rate) / small**2,
        xi=here.xi,
        epsilon=here.epsilon,
        covariance=here.covariance,
    )


def _terms(config: schema.Config, q: Array) -> paths.Terms:
    """Both maps of a plain network of either block at variances q (points,), and the variances of their steps."""
    phi, sizes = kernel(config.activation), maps(config, config.model.width)
    units, usual = _units(config), np.maximum(q, LEAST_SCATTERED)
    second, slope = phi.second_moment(usual), phi.slope_moment(usual)
    fourth, slope_fourth, mixed = phi.fourth_moments(usual)
    next_q = _next_q(phi, sizes.up, sizes.down, q)
    share = 1 - _next_q(phi, sizes.up, sizes.down, q, second_moment=0.0) / next_q
    second_map, passed = 0.0, sizes.up.weight_var
    if sizes.down is not None:
        second_map, passed = (
            2 / config.model.width,
            passed * sizes.down.weight_var * sizes.down.fan_out / sizes.down.fan_in,
        )
    return paths.Terms(
        next_q=np.log(next_q),
        rate=np.log(passed * sizes.up.fan_out / sizes.up.fan_in * phi.slope_moment(q)),
        xi=share**2 * ((fourth / second**2 - 1) / units + second_map),
        epsilon=(3 * slope_fourth / slope**2 - 1) / units + second_map,
        covariance=share * (mixed / (second * slope) - 1) / units,
    )


def _coupling(config: schema.Config, q: Array) -> Array:
    """How much E ln delta^2 of a layer changes because the weights above it were used in the forward pass: (depth,).

    Of the n directions in which W^T delta lies, the one along x carries rho times its share, with
    rho = E (y phi')^2 / (E y^2 D) in the last layer, y = W x; and below, where delta itself has such a component,
    rho' - 1 = (E (y phi')^2 + (rho - 1) (E y phi phi')^2 / V) / (E y^2 D) - 1. Where dq'/dq > chi
    (softplus, or gelu on its way down) rho grows with the distance from the end, until that one direction carries most
    of the gradient, which then shrinks with dq'/dq and not with chi. Own derivation, for one map a layer.
    """
    phi, q = kernel(config.activation), np.maximum(q, LEAST_SCATTERED)
    if phi.is_gated or config.model.block == "ffn":
        return np.zeros_like(q)
    bias_var = maps(config, config.model.width).up.bias_var
    share = 1 - bias_var / q  # E y^2 over E z^2
    second, slope, mixed = phi.second_moment(q), phi.slope_moment(q), phi.fourth_moments(q)[2]
    own = share * (phi.moment(0, 2, 2, q) / (q * slope) - 1)
    inherited = share * phi.moment(1, 1, 1, q) ** 2 / (second * q * slope)
    excess, shift = 0.0, np.zeros_like(q)  # excess: rho - 1 of the layer above
    for layer in range(len(q) - 1, -1, -1):
        growth = 1 + excess * mixed[layer] / (second[layer] * slope[layer]) / config.model.width
        growth = max(float(growth), LEAST_GROWTH)
        shift[layer] = math.log(growth)
        excess = float((1 + own[layer] + inherited[layer] * excess) / growth - 1)
    return shift


def _next_q(phi: Kernel, up: LinearMap, down: LinearMap | None, q: Array, second_moment: float | None = None) -> Array:
    square = phi.second_moment(q) if second_moment is None else np.full_like(q, second_moment)
    if down is not None:
        square = down.weight_var * square + down.bias_var
    return up.weight_var * square + up.bias_var


def _bounded_noise(config: schema.Config, prediction: Prediction) -> Noise:
    """Norms and skips: what passes by the branch does not scatter, and meets the branch at a random angle."""
    phi, q, depth = kernel(config.activation), prediction.q, len(prediction.q)
    width, units, part = config.model.width, _units(config), prediction.branch_share
    fourth, slope_fourth, _ = phi.fourth_moments(q)
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # NaN, no band, where an activation has saturated to the last bit
        forward = (fourth / phi.second_moment(q) ** 2 - 1) / units
        backward = (3 * slope_fourth / phi.slope_moment(q) ** 2 - 1) / units
    if config.model.block == "ffn":
        forward, backward = forward + 2 / width, backward + 2 / width
    angle = 4 * part * (1 - part) / width
    step = part**2 * (forward + backward) + angle
    delta = np.append(_from_here_up(step[1:])[:-1] + backward[:-1], 0.0) if depth > 1 else np.zeros(1)
    error = _rate_error(config) * np.arange(depth - 1, -1, -1)
    shift = np.append(_from_here_up(step[1:])[:-1], 0.0) / 2 + error
    place = config.norm.place if isinstance(config.norm, schema.LayerNorm) else "none"
    if place == "none" and not phi.is_gated:
        share = _along_input(config, prediction)
        delta = delta + LOG_CHI_SQUARE * (share / (1 + share)) ** 2
        shift_up = shift + np.log1p(share)
    else:
        shift_up = shift
    scatter = np.full(depth, 2 / units)
    if place in ("none", "inner"):  # every branch below adds its scatter
        scatter = scatter + np.append(0.0, np.cumsum(part**2 * forward + angle)[:-1])
    if place == "inner":  # and the norm takes it out again, but for what its eps lets through
        scatter = scatter * (1 - q) ** 2
    unknown = np.full(depth, np.nan)
    return Noise(
        delta=delta,
        delta_mean=unknown,
        delta_shift=(-shift, shift_up),
        q=scatter,
        q_mean=unknown,
        q_shift=(-scatter / 2 - ROUNDING, scatter / 2 + ROUNDING),
    )


def _along_input(config: schema.Config, prediction: Prediction) -> Array:
    """delta^2 that comes in along the layer's own input, over all the rest, in skip networks without norms: (depth,).

    A skip hands its input x on, and with it the product g . x of gradient and input, which no layer changes
    (Euler, for relu and its kin; the others come close once their variance has grown). So this one part of g^2,
    1 / width of it at the top, grows towards the input as x^2 shrinks, and where activations of one sign pile up in x
    that is faster than the rest: for relu by 2.9 a layer, not 2. Own derivation.
    """
    up = maps(config, config.model.width).up
    square = np.log((prediction.q - up.bias_var) / up.weight_var)  # of the inputs
    outputs = np.append(square[1:], 2 * square[-1] - square[-2] if len(square) > 1 else square[-1])
    with np.errstate(divide="ignore"):  # a branch beside which the skip is nothing
        rest = _from_here_up(-np.log1p(-prediction.branch_share[1:]))  # a layer adds the branch's share to the skip's
    return np.asarray(np.exp(np.minimum(outputs[-1] - outputs - rest, 700.0)) / config.model.width)


def _rate_error(config: schema.Config) -> float:
    if config.norm.name != "batch":
        return 0.0
    return BATCH_ERROR / config.batch_size + WIDTH_ERROR / config.model.width


def _from_here_up(steps: Array) -> Array:
    """Sums of the steps from each layer to the last: (depth - 1,) -> (depth,)."""
    return np.append(np.cumsum(steps[::-1])[::-1], 0.0)


def _units(config: schema.Config) -> int:
    return hidden_units(config) if config.model.block == "ffn" else config.model.width
