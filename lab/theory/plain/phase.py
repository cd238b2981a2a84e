"""The order-to-chaos map of an activation, for a whole grid of (weight_var, bias_var) at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lab import schema
from lab.theory.kernels.kernels import Kernel, kernel
from lab.theory.plain.signal import GRID
from lab.typing import Array

ROUNDING = 1e-12  # a layer that changes q by less than this fraction leaves it unchanged


@dataclass(frozen=True)
class PhaseMap:
    """Arrays (len(bias_vars), len(weight_vars)) as in `DepthScales`; `slope` is dq'/dq at a finite q_star, else NaN."""

    weight_vars: Array
    bias_vars: Array
    q_star: Array
    chi: Array
    slope: Array

    @property
    def xi_grad(self) -> Array:
        return _length(self.chi)

    @property
    def xi_q(self) -> Array:
        return _length(self.slope)


def phase_map(activation: schema.Activation, weight_vars: Array, bias_vars: Array) -> PhaseMap:
    """The limits that inputs of variance 1 reach: weight_vars (M,) and bias_vars (N,) give maps (N, M)."""
    phi = kernel(activation)
    first = weight_vars + bias_vars[:, None]  # (N, M), the first layer's variance
    step = weight_vars * phi.second_moment(first) + bias_vars[:, None] - first
    table = phi.second_moment(GRID)
    rows = [_row(table, weight_vars, float(b), *row) for b, *row in zip(bias_vars, first, step, strict=True)]
    q_star = _polish(phi, np.stack(rows), weight_vars, bias_vars[:, None])
    inside = np.where(np.isinf(q_star), 1e12, q_star)  # beyond it D has reached its limit
    chi, slope = weight_vars * phi.slope_moment(inside), weight_vars * phi.second_moment_derivative(inside)
    if phi.is_gated:
        chi = np.where(np.isinf(q_star), math.inf, chi)
    return PhaseMap(weight_vars, bias_vars, q_star, chi, np.where(np.isinf(q_star), math.nan, slope))


def _row(table: Array, weight_vars: Array, bias_var: float, first: Array, step: Array) -> Array:
    """q_star (M,), interpolated on `GRID`, where the variance moves monotonically from `first` by `step`, (M,) each."""
    steps = weight_vars[:, None] * table + bias_var - GRID  # (M, T)
    steps[np.abs(steps) <= ROUNDING * GRID] = 0.0
    rises, column, row = step > 0, np.arange(len(GRID)), np.arange(len(first))
    is_above = column >= np.searchsorted(GRID, first)[:, None]  # (M, T)
    stops = np.where(rises[:, None], is_above & (steps <= 0), ~is_above & (steps >= 0))
    stop = np.where(rises, stops.argmax(1) - 1, len(GRID) - 1 - stops[:, ::-1].argmax(1))
    stop = np.clip(stop, 0, len(GRID) - 2)  # q_star lies between this grid point and the next
    low, high = steps[row, stop], steps[row, stop + 1]
    share = np.clip(low / np.where(low == high, 1.0, low - high), 0.0, 1.0)
    q_star = np.where(stops.any(1), GRID[stop] + share * (GRID[stop + 1] - GRID[stop]), np.where(rises, math.inf, 0.0))
    return np.where(np.abs(step) <= ROUNDING * first, first, q_star)


def _polish(phi: Kernel, q: Array, weight_vars: Array, bias_vars: Array) -> Array:
    """Newton's method on s V(q) + b - q, with an interpolated slope, limited to one step of the grid."""
    polished = q.copy()
    finite = np.isfinite(q) & (q > 0)
    points, ratio = q[finite], GRID[1] / GRID[0]
    s, b = (np.broadcast_to(x, q.shape)[finite] for x in (weight_vars, bias_vars))
    low, high, slopes = points / ratio, points * ratio, phi.second_moment_derivative(GRID)
    for _ in range(3):
        step = s * phi.second_moment(points) + b - points
        slope = s * np.interp(np.log(points), np.log(GRID), slopes) - 1
        moved = points - step / np.where(slope == 0, math.inf, slope)
        points = np.where(np.abs(step) <= ROUNDING * points, points, np.clip(moved, low, high))
    polished[finite] = points
    return polished


def _length(rate: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(1 / np.abs(np.log(np.abs(rate))))
