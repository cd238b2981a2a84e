"""Scatter of gradients and variances of single networks of finite width around mean-field theory.

Derived in docs/theory.md, "Finite width". To first order in 1/n, with x the deviation of ln q from mean-field theory
and p the share of s V in q':

    x' = f(x) + xi,             f = ln(s V + b),    Var xi = p^2 (E phi^4 / V^2 - 1) / n
    ln rate = h(x) + epsilon,   h = ln(s D),        Var epsilon = (3 E phi'^4 / D^2 - 1) / n
                                                    Cov = p (E phi^2 phi'^2 / (V D) - 1) / n

Only `BATCH_ERROR` and `WIDTH_ERROR` are fitted to simulations, and `LARGEST_BEND` and `ROUNDING` are allowances. It
describes one example; the mean over a batch scatters less, so that a band from it is conservative. With norms or skips
the variances of forward and backward steps are added without their correlation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lab import schema
from lab.theory.deep.maps import is_plain, maps, norm_place, units
from lab.theory.deep.prediction import Prediction
from lab.theory.kernels.kernels import kernel
from lab.theory.width import paths
from lab.typing import Array

BATCH_ERROR, WIDTH_ERROR = 2.0, 5.0
"""Error 2 / batch + 5 / width per layer of ln of the rate of delta^2 with batch norm: fitted to simulations of width
512 and batches of 32 to 128, where it was up to 0.017."""

LARGEST_BEND = 0.2
"""Largest curvature of the maps times variance of ln q for which the scatter is taken to first order: a variance then
changes by a fifth, as much as the neglected scatter of `_coupling`. Above it, paths are simulated."""

LEAST, LEAST_SCATTERED = 1e-280, 1e-70  # lower bounds of variances, the second where squares of squares are needed
LEAST_GROWTH = 0.1  # least part of a layer's gradient that `_coupling` leaves: a bound for widths of 1 and 2
ROUNDING = 1e-3  # allowance for the eps of a norm and float32 in ln of a mean square that the norm sets to 1


class Noise(NamedTuple):
    """Scatter of single replicas, (depth,) each, of ln of (delta_l / delta_last)^2 and of the mean square z.

    `delta`, `q`: variances. `mean`: shift of one example's mean by finite width; NaN where only its range is known.
    `shift`: (lowest, highest) deviation of the mean from mean-field theory, of one example or many.
    """

    delta: Array
    delta_mean: Array
    delta_shift: tuple[Array, Array]
    q: Array
    q_mean: Array
    q_shift: tuple[Array, Array]


def noise(config: schema.Config, prediction: Prediction) -> Noise:
    """Scatter of single replicas at the configured width."""
    return (_plain_noise if is_plain(config) else _bounded_noise)(config, prediction)


def step_variance(activation: schema.Activation, q: float = 1.0) -> float:
    """v = 3 E phi'^4 / (E phi'^2)^2 - 1: n times the variance of ln delta^2 that a layer of n units adds."""
    phi = kernel(activation)
    return float(3 * phi.fourth_moments(q)[1] / phi.slope_moment(q) ** 2 - 1)


def _plain_noise(config: schema.Config, prediction: Prediction) -> Noise:
    depth, small = len(prediction.q), 1e-3
    ln_q = np.log(np.maximum(prediction.q, LEAST))
    low, here, high = (_terms(config, np.exp(ln_q + side * small)) for side in (-1, 0, 1))
    f1, h1 = (high.next_q - low.next_q) / (2 * small), (high.rate - low.rate) / (2 * small)
    f2 = (high.next_q - 2 * here.next_q + low.next_q) / small**2
    h2 = (high.rate - 2 * here.rate + low.rate) / small**2

    mean, variance = np.zeros(depth), np.zeros(depth)  # of x
    for layer in range(depth - 1):
        mean[layer + 1] = f1[layer] * mean[layer] + f2[layer] * variance[layer] / 2 - here.xi[layer] / 2
        variance[layer + 1] = f1[layer] ** 2 * variance[layer] + here.xi[layer]
    coupling = _from_here_up(_coupling(config, prediction.q)[:-1])
    sampling = 2 / units(config)
    if np.max((np.abs(f2) + np.abs(h2)) * variance) > LARGEST_BEND:
        moments = paths.moments(lambda q: _terms(config, q), prediction.q, LEAST)
        delta, delta_mean = moments.delta_variance, moments.delta_mean - 2 * prediction.log_delta + coupling
        delta_log_mean = moments.delta_log_mean - 2 * prediction.log_delta + coupling
        q, q_mean, q_log_mean = moments.q_variance + sampling, moments.q_mean - sampling / 2, moments.q_log_mean
    else:
        reach = np.zeros(depth)  # d ln delta^2 / dx: a step of x acts on the rates of all layers from here up
        for layer in range(depth - 2, -1, -1):
            reach[layer] = h1[layer] + f1[layer] * reach[layer + 1]
        above = np.append(reach[1:], 0.0)
        own = here.epsilon + 2 * above * here.covariance + above**2 * here.xi
        delta = reach**2 * variance + _from_here_up(own[:-1])
        delta_mean = _from_here_up((h1 * mean + h2 * variance / 2 - here.epsilon / 2)[:-1]) + coupling
        q, q_mean = variance + sampling, mean - sampling / 2
        delta_log_mean, q_log_mean = delta_mean + delta / 2, q_mean + q / 2  # means of log-normal numbers
    beyond = _from_here_up(here.epsilon[:-1] ** 2)  # ln of a sum of squares is Gaussian to first order only
    delta_shift, q_shift = _range(delta_mean, delta_log_mean, beyond), _range(q_mean, q_log_mean)
    return Noise(delta, delta_mean, delta_shift, q, q_mean, q_shift)


def _range(shift: Array, other: Array, beyond: Array | float = 0.0) -> tuple[Array, Array]:
    """Range of the shift: none, that of one example's logarithm, or `other`, that of the mean of many examples."""
    return np.minimum(np.minimum(shift, other), 0.0) - beyond, np.maximum(np.maximum(shift, other), 0.0) + beyond


def _terms(config: schema.Config, q: Array) -> paths.Terms:
    """Both maps of a plain network of either block at variances q (points,), and the variances of their steps."""
    phi, sizes = kernel(config.activation), maps(config, config.model.width)
    up, down, fan_out = sizes.up, sizes.down, units(config)

    def next_q(second_moment: Array) -> Array:
        after = second_moment if down is None else down.weight_var * second_moment + down.bias_var
        return up.weight_var * after + up.bias_var

    usual, following = np.maximum(q, LEAST_SCATTERED), next_q(phi.second_moment(q))
    second, slope = phi.second_moment(usual), phi.slope_moment(usual)
    fourth, slope_fourth, mixed = phi.fourth_moments(usual)
    share = 1 - next_q(np.zeros_like(q)) / following
    second_map, passed = 0.0, up.weight_var
    if down is not None:
        second_map, passed = 2 / config.model.width, passed * down.weight_var * down.fan_out / down.fan_in
    rate = np.log(passed * up.fan_out / up.fan_in * phi.slope_moment(q))
    xi = share**2 * ((fourth / second**2 - 1) / fan_out + second_map)
    epsilon = (3 * slope_fourth / slope**2 - 1) / fan_out + second_map
    return paths.Terms(np.log(following), rate, xi, epsilon, share * (mixed / (second * slope) - 1) / fan_out)


def _coupling(config: schema.Config, q: Array) -> Array:
    """Change of E ln delta^2 of each layer because the forward pass used the weights above it: (depth,).

    Of the n directions in which W^T delta lies, the one along x carries rho times its share, with
    rho = E (y phi')^2 / (E y^2 D) in the last layer, y = W x; and below, where delta itself has such a component,
    rho' - 1 = (E (y phi')^2 + (rho - 1) (E y phi phi')^2 / V) / (E y^2 D) - 1. Where dq'/dq > chi (softplus, or gelu on
    its way down) that direction finally carries most of the gradient. Own derivation, for one map per layer.
    """
    phi, q = kernel(config.activation), np.maximum(q, LEAST_SCATTERED)
    if phi.is_gated or config.model.block == "ffn":
        return np.zeros_like(q)
    share = 1 - maps(config, config.model.width).up.bias_var / q  # E y^2 over E z^2
    second, slope, mixed = phi.second_moment(q), phi.slope_moment(q), phi.fourth_moments(q)[2]
    own = share * (phi.moment(0, 2, 2, q) / (q * slope) - 1)
    inherited = share * phi.moment(1, 1, 1, q) ** 2 / (second * q * slope)
    excess, shift = 0.0, np.zeros_like(q)  # excess: rho - 1 of the layer above
    for layer in range(len(q) - 1, -1, -1):
        growth = 1 + excess * mixed[layer] / (second[layer] * slope[layer]) / config.model.width
        shift[layer] = math.log(growth := max(float(growth), LEAST_GROWTH))
        excess = float((1 + own[layer] + inherited[layer] * excess) / growth - 1)
    return shift


def _bounded_noise(config: schema.Config, prediction: Prediction) -> Noise:
    """Norms and skips: what passes by the branch does not scatter, and meets the branch at a random angle."""
    phi, q, depth = kernel(config.activation), prediction.q, len(prediction.q)
    width, fan_out, part = config.model.width, units(config), prediction.branch_share
    fourth, slope_fourth, _ = phi.fourth_moments(q)
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN, no band, where an activation is exactly saturated
        forward = (fourth / phi.second_moment(q) ** 2 - 1) / fan_out
        backward = (3 * slope_fourth / phi.slope_moment(q) ** 2 - 1) / fan_out
    if config.model.block == "ffn":
        forward, backward = forward + 2 / width, backward + 2 / width
    angle = 4 * part * (1 - part) / width
    below = np.append(_from_here_up((part**2 * (forward + backward) + angle)[1:])[:-1], 0.0)
    delta = below + np.append(backward[:-1], 0.0)
    rate_error = BATCH_ERROR / config.batch_size + WIDTH_ERROR / width if config.norm.name == "batch" else 0.0
    shift = below / 2 + rate_error * np.arange(depth - 1, -1, -1)
    shift_up, place = shift, norm_place(config)
    if place == "none" and not phi.is_gated:
        share = _along_input(config, prediction)
        delta = delta + math.pi**2 / 2 * (share / (1 + share)) ** 2  # pi^2 / 2: variance of ln of a squared Gaussian
        shift_up = shift + np.log1p(share)
    scatter = np.full(depth, 2 / fan_out)
    if place in ("none", "inner"):  # every branch below adds its scatter
        scatter = scatter + np.append(0.0, np.cumsum(part**2 * forward + angle)[:-1])
    if place == "inner":  # and the norm removes it again, up to its eps
        scatter = scatter * (1 - q) ** 2
    unknown, reach = np.full(depth, np.nan), scatter / 2 + ROUNDING
    return Noise(delta, unknown, (-shift, shift_up), scatter, unknown, (-reach, reach))


def _along_input(config: schema.Config, prediction: Prediction) -> Array:
    """Ratio of delta^2 along the layer's own input to all the rest, in skip networks without norms: (depth,).

    No layer changes the product g . x of gradient and input (by Euler's theorem for positively homogeneous activations;
    approximately for others once their variance is large). So this one part of g^2, 1 / width of it at the top, grows
    towards the input as x^2 shrinks: faster than the rest for relu, by 2.9 per layer, not 2. Own derivation.
    """
    up = maps(config, config.model.width).up
    square = np.log((prediction.q - up.bias_var) / up.weight_var)  # of the inputs
    outputs = np.append(square[1:], 2 * square[-1] - square[-2] if len(square) > 1 else square[-1])
    with np.errstate(divide="ignore"):  # a skip that is negligible beside its branch
        rest = _from_here_up(-np.log1p(-prediction.branch_share[1:]))  # a layer adds the branch's share to the skip's
    return np.asarray(np.exp(np.minimum(outputs[-1] - outputs - rest, 700.0)) / config.model.width)


def _from_here_up(steps: Array) -> Array:
    """Sums of the steps from each layer to the last: (depth - 1,) -> (depth,)."""
    return np.append(np.cumsum(steps[::-1])[::-1], 0.0)
