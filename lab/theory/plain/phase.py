"""The order-to-chaos map of an activation: every point of (weight_var, bias_var) at once.

The same fixed points as `lab.theory.plain.signal` (Poole et al. 2016, section 2; Schoenholz et al. 2017, section 2),
found for a whole grid of variances by bracketing them between tabulated values of V and polishing with Newton's method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab import schema
from lab.theory.kernels.kernels import Kernel, kernel
from lab.typing import Array

TABLE = np.geomspace(1e-10, 1e8, 1441)
ROUNDING = 1e-12
"""A layer that changes q by less than this share keeps it."""


@dataclass(frozen=True)
class PhaseMap:
    """Arrays (len(bias_vars), len(weight_vars)); q_star is 0 or infinity where the variance vanishes or grows for ever.

    `slope` is dq'/dq at q_star, NaN where that is infinite.
    """

    weight_vars: Array
    bias_vars: Array
    q_star: Array
    chi: Array
    slope: Array

    @property
    def xi_grad(self) -> Array:
        """Layers over which the squared gradient changes by a factor of e."""
        return _length(self.chi)

    @property
    def xi_q(self) -> Array:
        """Layers over which the variance approaches q_star by a factor of e."""
        return _length(self.slope)


def phase_map(activation: schema.Activation, weight_vars: Array, bias_vars: Array) -> PhaseMap:
    """The limits that inputs of variance 1 reach: weight_vars (M,) and bias_vars (N,) give maps (N, M)."""
    phi = kernel(activation)
    first = weight_vars + bias_vars[:, None]  # (N, M), the first layer's variance
    step = weight_vars * phi.second_moment(first) + bias_vars[:, None] - first
    table = phi.second_moment(TABLE)
    rows = [_row(table, weight_vars, float(b), *row) for b, *row in zip(bias_vars, first, step, strict=True)]
    q_star = _polish(phi, np.stack(rows), weight_vars, bias_vars[:, None])
    inside = np.where(np.isinf(q_star), 1e12, q_star)  # beyond it D has reached its limit
    chi, slope = weight_vars * phi.slope_moment(inside), weight_vars * phi.second_moment_derivative(inside)
    if phi.is_gated:
        chi = np.where(np.isinf(q_star), math.inf, chi)
    return PhaseMap(weight_vars, bias_vars, q_star, chi, np.where(np.isinf(q_star), math.nan, slope))


def _row(table: Array, weight_vars: Array, bias_var: float, first: Array, step: Array) -> Array:
    """q_star (M,) between two points of the table, where what a layer adds to q changes its sign.

    The variance moves one way from `first`, where a layer adds `step` to it: (M,) each.
    """
    steps = weight_vars[:, None] * table + bias_var - TABLE  # (M, T)
    steps[np.abs(steps) <= ROUNDING * TABLE] = 0.0
    place = np.searchsorted(TABLE, first)[:, None]  # the first point of the table above
    column, row = np.arange(len(TABLE)), np.arange(len(first))
    stops_above = (column >= place) & (steps <= 0)
    stops_below = (column < place) & (steps >= 0)
    above, below = stops_above.argmax(1), len(TABLE) - 1 - stops_below[:, ::-1].argmax(1)
    upwards = np.where(stops_above.any(1), _between(steps, row, above - 1), math.inf)
    downwards = np.where(stops_below.any(1), _between(steps, row, below), 0.0)
    standing = np.abs(step) <= ROUNDING * first
    return np.where(standing, first, np.where(step > 0, upwards, downwards))


def _between(steps: Array, row: NDArray[np.int64], column: NDArray[np.int64]) -> Array:
    """The root of the straight line between a point of the table and the next."""
    column = np.clip(column, 0, len(TABLE) - 2)
    low, high = steps[row, column], steps[row, column + 1]
    share = np.clip(low / np.where(low == high, 1.0, low - high), 0.0, 1.0)
    return np.asarray(TABLE[column] + share * (TABLE[column + 1] - TABLE[column]))


def _polish(phi: Kernel, q: Array, weight_vars: Array, bias_vars: Array) -> Array:
    """Newton's method on s V(q) + b - q, with the slope from a table, kept within one step of the table."""
    polished = q.copy()
    finite = np.isfinite(q) & (q > 0)
    points, ratio = q[finite], TABLE[1] / TABLE[0]
    s, b = (np.broadcast_to(x, q.shape)[finite] for x in (weight_vars, bias_vars))
    low, high, slopes = points / ratio, points * ratio, phi.second_moment_derivative(TABLE)
    for _ in range(3):
        step = s * phi.second_moment(points) + b - points
        slope = s * np.interp(np.log(points), np.log(TABLE), slopes) - 1
        moved = points - step / np.where(slope == 0, math.inf, slope)
        points = np.where(np.abs(step) <= ROUNDING * points, points, np.clip(moved, low, high))
    polished[finite] = points
    return polished


def _length(rate: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(1 / np.abs(np.log(np.abs(rate))))
