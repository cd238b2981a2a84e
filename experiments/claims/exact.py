"""Formulas in 50-digit arithmetic, and the same formulas as torch computes them in float32 and float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lab.typing import Array

DIGITS = 50
"""Decimal digits of the reference; what it leaves out is below any rounding here by more than 30 decades."""
EQUAL = -40.0
"""log10 of what two equal expressions may differ by in 50 digits, ten of which rounding may eat."""
FORMATS = ("float32", "float64")
ROUNDINGS = 4.0
"""How many units of the last place an elementwise formula may be off: a handful of operations, half a unit each."""

Formula = Callable[[Any], Any]
"""Of mpmath numbers or of torch tensors."""


def hard_points(reach: float = 130.0, points: int = 4161) -> Array:
    """0, evenly spaced points (of 1/16), and sizes from 1e-30 to 1e4 on either side, all exact in float32: (Z,)."""
    sizes = np.concatenate([np.linspace(0, reach, points // 2 + 1), np.geomspace(1e-30, 1e4, 171)])
    return np.unique(np.concatenate([-sizes, sizes]).astype(np.float32)).astype(np.float64)


def exact(formula: Formula, points: Array) -> Array:
    """A formula of mpmath numbers at each point, rounded once, to float64: (Z,)."""
    import mpmath

    with mpmath.workdps(DIGITS):
        return np.array([float(formula(mpmath.mpf(float(point)))) for point in points])


def exact_slope(formula: Formula, points: Array) -> Array:
    """Its derivative, from differences of the formula itself in more digits still, so that no rule is trusted: (Z,)."""
    import mpmath

    return exact(lambda z: mpmath.diff(formula, z), points)


def in_format(formula: Formula, points: Array, name: str) -> Array:
    """A formula of tensors, computed in the format of that name, in the shape of the points."""
    import torch

    with torch.no_grad():
        return np.asarray(formula(torch.from_numpy(points).to(getattr(torch, name))).double().numpy())


def autograd_slope(formula: Formula, points: Array, name: str) -> Array:
    """What backpropagation makes of the formula, in the format of that name: (Z,) -> (Z,)."""
    import torch

    z = torch.from_numpy(points).to(getattr(torch, name)).requires_grad_()
    (slope,) = torch.autograd.grad(formula(z).sum(), z)
    return np.asarray(slope.double().numpy())


def roundings(values: Array, reference: Array, name: str, size: Array | None = None) -> float:
    """The largest error, in units of the last place of 1 or of the value if that is larger; infinite for a NaN.

    `size` stands for the value where a formula's last step multiplies by more than comes out of it: (Z,).
    """
    unit = np.finfo(name).eps * np.maximum(1.0, np.abs(reference if size is None else size))
    errors = np.abs(values - reference) / unit
    return float(np.max(np.where(np.isnan(errors), np.inf, errors)))


def largest(values: Array, points: Array) -> tuple[float, float]:
    """The largest value, NaNs left out, and the point where it is."""
    index = int(np.nanargmax(values))
    return float(values[index]), float(points[index])


def edge(holds: Callable[[Any], Any], yes: float, no: float, name: str) -> float:
    """The last number of the format, on the way from `yes` to `no`, up to which a condition of tensors holds.

    It is asked for 64 equal entries at once, so that the vectorized code answers that also answers in a network.
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
