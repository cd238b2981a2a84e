"""Formulas in 50-digit arithmetic, and the same formulas in torch's float32 and float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lab.typing import Array

DIGITS = 50
"""Decimal digits of the reference; its own error is 30 decades below every rounding measured here."""
EQUAL = -40.0
"""log10 of the tolerance for equal expressions in 50 digits, which leaves ten digits to rounding."""
FORMATS = ("float32", "float64")
ROUNDINGS = 4.0
"""Tolerance of an elementwise formula in units of the last place: a few operations of half a unit each."""

Formula = Callable[[Any], Any]
"""A function of mpmath numbers or of torch tensors."""


def hard_points(reach: float = 130.0, points: int = 4161) -> Array:
    """Return test points exact in float32: 0, evenly spaced ones (1/16), and +-1e-30 to +-1e4, (Z,)."""
    sizes = np.concatenate([np.linspace(0, reach, points // 2 + 1), np.geomspace(1e-30, 1e4, 171)])
    return np.unique(np.concatenate([-sizes, sizes]).astype(np.float32)).astype(np.float64)


def exact(formula: Formula, points: Array) -> Array:
    """Evaluate a formula of mpmath numbers at each point, rounded once to float64: (Z,)."""
    import mpmath

    with mpmath.workdps(DIGITS):
        return np.array([float(formula(mpmath.mpf(float(point)))) for point in points])


def exact_slope(formula: Formula, points: Array) -> Array:
    """Differentiate a formula numerically in extra digits, independently of any rule: (Z,)."""
    import mpmath

    return exact(lambda z: mpmath.diff(formula, z), points)


def in_format(formula: Formula, points: Array, name: str) -> Array:
    """Evaluate a formula of tensors in a float format; the shape is that of the points."""
    import torch

    with torch.no_grad():
        return np.asarray(formula(torch.from_numpy(points).to(getattr(torch, name))).double().numpy())


def autograd_slope(formula: Formula, points: Array, name: str) -> Array:
    """Return the derivative by backpropagation in a float format: (Z,) -> (Z,)."""
    import torch

    z = torch.from_numpy(points).to(getattr(torch, name)).requires_grad_()
    (slope,) = torch.autograd.grad(formula(z).sum(), z)
    return np.asarray(slope.double().numpy())


def roundings(values: Array, reference: Array, name: str, size: Array | None = None) -> float:
    """Return the largest error in units of the last place of max(1, |value|); infinite for a NaN.

    `size` (Z,) replaces the value where the formula's last step multiplies by a larger number.
    """
    unit = np.finfo(name).eps * np.maximum(1.0, np.abs(reference if size is None else size))
    errors = np.abs(values - reference) / unit
    return float(np.max(np.where(np.isnan(errors), np.inf, errors)))


def largest(values: Array, points: Array) -> tuple[float, float]:
    """Return the largest value, ignoring NaN, and its point."""
    index = int(np.nanargmax(values))
    return float(values[index]), float(points[index])


def edge(holds: Callable[[Any], Any], yes: float, no: float, name: str) -> float:
    """Bisect for the last number of the format, from `yes` towards `no`, at which a condition of tensors holds.

    The condition is evaluated on 64 equal entries, so that the same vectorized code runs as in a network.
    """
    import torch

    def at(value: float) -> bool:
        return bool(holds(torch.full((64,), value, dtype=getattr(torch, name))).all())

    round_to = np.dtype(name).type
    low, high = round_to(yes), round_to(no)
    if not at(float(low)) or at(float(high)):
        raise ValueError(f"The condition has to hold at {low:g} and not at {high:g}.")
    while (middle := round_to((low + high) / 2)) not in (low, high):
        low, high = (middle, high) if at(float(middle)) else (low, middle)
    return float(low)
