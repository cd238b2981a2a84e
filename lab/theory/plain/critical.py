"""The critical line: weight and bias variances at which gradients neither grow nor shrink from layer to layer.

A plain network is critical where chi = s D(q) is 1 at a fixed point q = s V(q) + b (Poole et al. 2016; Schoenholz et
al. 2017). Eliminating s gives b = q - V(q) / D(q): the line is parametrized by q, and a root in q is to be found.
The point is useful only if the variance reaches it, that is, if the fixed point is stable: dq'/dq = V'(q) / D(q) <= 1
(Roberts, Yaida and Hanin 2022, "The Principles of Deep Learning Theory"). docs/theory.md has the results by activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from lab import schema
from lab.theory.kernels.kernels import Kernel, kernel
from lab.typing import Array

TOLERANCE = 1e-3  # a rate within this of 1 counts as 1: it takes 1000 layers to change a squared norm by a factor of e

LARGEST_GATED_SLOPE = 0.95
"""Largest dq'/dq of a critical point of a gated stack: beyond lies an unstable one, which finite width may reach."""

MARGIN = 1.03  # from the smallest bias_var with a critical point, which is half-stable, to the one recommended
CANDIDATES = np.concatenate([[0.0], np.geomspace(1e-8, 1e8, 641)])  # q between which roots are searched


@lru_cache(maxsize=1024)
def critical_weight_var(activation: schema.Activation, bias_var: float = 0.0, maps: int = 1) -> float:
    """The critical weight_var of a plain network of this activation; ConfigError if there is none at this bias_var.

    `maps`: linear maps from one activation to the next; 2 in a stack of ffn blocks.
    """
    line = CriticalLine(kernel(activation), maps)
    q = line.solve(bias_var)
    if math.isnan(q):
        raise schema.ConfigError(_refusal(activation, bias_var, line))
    return line.weight_var(q)


def critical_line(activation: schema.Activation, bias_vars: Array) -> Array:
    """`critical_weight_var` at each bias_var, NaN where there is none: the shape of `bias_vars`."""
    line = CriticalLine(kernel(activation))
    roots = map(line.solve, np.ravel(bias_vars).tolist())
    return np.reshape([math.nan if math.isnan(q) else line.weight_var(q) for q in roots], np.shape(bias_vars))


class CriticalLine:
    """The critical line of one activation, with the variance q at the fixed point as its parameter.

    With several maps from one activation to the next q' = s^maps V(q) + b (1 + s + ...), and chi = s^maps D(q).
    """

    def __init__(self, activation: Kernel, maps: int = 1) -> None:
        self.kernel, self.maps = activation, maps
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 at q = 0 of a product: NaN, no point
            self.bias_vars = self._bias_var(CANDIDATES)
        self.starts_at_zero = bool(abs(self.bias_vars[0]) < 1e-100 and activation.slope_moment(0.0) > 1e-100)
        self.is_homogeneous = bool(np.all(np.abs(self.bias_vars) <= 1e-9 * CANDIDATES + 1e-100))

    def weight_var(self, q: float) -> float:
        """s with s^maps D(q) = 1."""
        return math.exp(-math.log(float(self.kernel.slope_moment(q))) / self.maps)

    def solve(self, bias_var: float) -> float:
        """The smallest q of a critical point that inputs of variance 1 reach; NaN without one."""
        if self.is_homogeneous:  # every q is a fixed point
            return 1.0 if bias_var == 0 else math.nan
        roots, excess = [], self.bias_vars - bias_var
        if self.starts_at_zero and bias_var == 0:
            roots, excess[0] = [0.0], math.nan
        for index in np.flatnonzero(excess[:-1] * excess[1:] < 0):
            ends = CANDIDATES[index : index + 2].tolist()
            roots.append(bisect(lambda q: float(self._bias_var(np.asarray(q))) - bias_var, *ends))
        return next((q for q in roots if self._is_reached(q, bias_var)), math.nan)

    def next_bias_var(self, bias_var: float) -> float:
        """`MARGIN` times the smallest bias_var above the given one that has a critical point; NaN if there is none."""
        if self.is_homogeneous:
            return math.nan
        low = max(bias_var, 1e-4)
        ladder = np.geomspace(low, max(1e3, 10 * low), 60).tolist()
        high = next((step for step in ladder if not math.isnan(self.solve(step))), math.nan)
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if math.isnan(self.solve(middle)) else (low, middle)
        return float(f"{MARGIN * high:.3g}")

    def _is_reached(self, q: float, bias_var: float) -> bool:
        """Return whether the variance moves from the first layer's to q without stopping before."""
        slope = self.kernel.second_moment_derivative(q) / self.kernel.slope_moment(q)
        if self.kernel.is_gated and q > 0 and slope > LARGEST_GATED_SLOPE:
            return False
        weight_var = self.weight_var(q)
        product, added = weight_var**self.maps, bias_var * _geometric_sum(weight_var, self.maps)
        first = product + added
        between = np.linspace(q, first, 101)[1:]
        step = product * self.kernel.second_moment(between) + added - between
        slack = 1e-5 * between  # a slower reversal does not count: it takes 1e5 layers to change q by a factor of e
        return bool(np.all(step <= slack) if first > q else np.all(step >= -slack))

    def _bias_var(self, q: Array) -> Array:
        D = self.kernel.slope_moment(q)
        return np.asarray((q - self.kernel.second_moment(q) / D) / _geometric_sum(D ** (-1 / self.maps), self.maps))


def _geometric_sum(ratio: Any, terms: int) -> Any:
    """1 + ratio + ... + ratio^(terms - 1)."""
    return sum(ratio**power for power in range(terms))


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """The root of f between two points where its signs differ; if rounding makes them equal, the better point."""
    from scipy.optimize import brentq

    at_low, at_high = f(low), f(high)
    if at_low * at_high >= 0:
        return low if abs(at_low) <= abs(at_high) else high
    return float(brentq(f, low, high, xtol=1e-300, rtol=1e-14))


def _refusal(activation: schema.Activation, bias_var: float, line: CriticalLine) -> str:
    subject = f"init=critical: activation={activation.name}"
    enough = line.next_bias_var(bias_var)
    if line.kernel.is_gated and math.isnan(enough):
        return (
            f"{subject} is a product of two maps, whose variance vanishes or explodes doubly exponentially, with no"
            " stable critical point between; choose norm=rms with init=lecun_normal, or another activation."
        )
    if line.is_homogeneous:
        return (
            f"{subject} has chi = 1 at weight_var={line.weight_var(1.0):.5g}, where init.bias_var={bias_var:g} makes"
            " the variance grow without bound; choose init.bias_var=0."
        )
    if math.isnan(enough):
        return f"{subject} has no weight_var with chi = 1 at any init.bias_var; choose init=he_normal, or tanh or relu."
    return (
        f"{subject} has no weight_var with chi = 1 at a variance that is stable and reached with"
        f" init.bias_var={bias_var:g}; choose init.bias_var={enough:g} or more, or init=he_normal."
    )
