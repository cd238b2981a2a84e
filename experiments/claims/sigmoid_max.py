"""Sections 3.1 and Q2: the largest slope of the sigmoid and its location."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import ROUNDINGS
from experiments.claims.panels import label, panels
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_FROM = {name: math.log(2 / np.finfo(name).eps) for name in exact.FORMATS}
"""Where exp(-z) is half the spacing of numbers above 1: the value s rounds to 1, and s (1 - s) to 0."""
LOST_FROM = -math.log(np.finfo(np.float64).smallest_subnormal) + math.log(2)
"""Where exp(-|z|) is half the smallest number of float64: no formula keeps the slope above 0."""


def measure(scale: Scale) -> Samples:
    """Measure the root of the second derivative, the slope there, and the slope everywhere else."""
    import mpmath

    from lab.network.activations import FUNCTIONS

    z = np.unique(np.concatenate([exact.hard_points(), np.linspace(-1, 1, 2001)]))

    def second(x: Any) -> Any:
        return mpmath.diff(lambda y: by_hand.sigmoid(y, mpmath), x, 2)

    with mpmath.workdps(exact.DIGITS):
        top = mpmath.findroot(second, (-0.7, 1.1), solver="anderson", tol=1e-60)  # asymmetric bracket
        height = mpmath.diff(lambda y: by_hand.sigmoid(y, mpmath), top)
    return {
        "z": z,
        "slope": exact.in_format(FUNCTIONS["sigmoid"].derivative, z, "float64"),
        "square": exact.exact(lambda x: (by_hand.sigmoid(x, mpmath) - mpmath.mpf("0.5")) ** 2, z),
        "top": np.array([float(top), float(height)]),
    }


def judge(samples: Samples) -> Judgement:
    """Apply the rule: the slope is 1/4 - (s - 1/2)^2, at most 1/4 and only at 0; positive in floats."""
    z, slope = samples["z"], samples["slope"]
    largest, _ = exact.largest(slope, z)
    error = exact.roundings(slope, 0.25 - samples["square"], "float64")
    top, height = (float(value) for value in samples["top"])
    numbers: tuple[Number, ...] = (
        Number("where the second derivative is 0", top, predicted=0.0),
        Number("slope there", height, predicted=0.25),
        Number("largest slope in float64", largest, predicted=0.25),
        Number("distance of the slope from 1/4 - (s - 1/2)^2", error, units="units in the last place of 1"),
    )
    is_right = abs(top) < 1e-20 and abs(height - 0.25) < 1e-15 and bool(np.all((samples["square"] > 0) == (z != 0)))
    is_lost = slope <= 0
    reason = (
        f"The slope equals 1/4 - (s - 1/2)^2 to {error:.2g} units in the last place of 1, so it cannot exceed 1/4; it"
        f" is {height:.4g} at z = {top:.2g}, where s = 1/2 and the second derivative changes sign."
    )
    if not is_right or error > ROUNDINGS:
        return Judgement(Verdict.FAILS, reason, numbers)
    if not is_lost.any():
        return Judgement(Verdict.HOLDS, reason, numbers)
    lost, kept = float(np.abs(z[is_lost]).min()), float(np.abs(z[~is_lost]).max())
    reason += f" In float64 it is above 0 up to |z| = {kept:.4g} of the grid and exactly 0 from {lost:.4g} on."
    numbers = (
        *numbers,
        Number("largest |z| of the grid with a slope above 0, float64", kept),
        Number("smallest |z| of the grid with a slope of 0, float64", lost),
    )
    where = (
        f"exact arithmetic; in float64 the slope is exactly 0 for |z| > {LOST_FROM:.0f}, and computed as s (1 - s) for"
        f" z > {ONE_FROM['float64']:.0f} (float32: {ONE_FROM['float32']:.0f})"
    )
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the slope against z, and against the value, where it is a parabola."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    z, slope = samples["z"], samples["slope"]
    inside = np.abs(z) < 8
    axes[0].plot(z[inside], slope[inside], color=COLOURS[0], linewidth=2)
    value: Array = 0.5 + np.sign(z) * np.sqrt(samples["square"])
    axes[1].plot(value, slope, color=COLOURS[0], linewidth=2)
    for ax, where in zip(axes, (0.0, 0.5), strict=True):
        ax.plot(where, 0.25, "o", color=COLOURS[1], markersize=8)
        ax.annotate("0.25", (where, 0.25), (8, -2), textcoords="offset points", color=COLOURS[1], fontsize="large")
        ax.set_ylim(0, 0.28)
    label(axes[0], "z", "derivative", "against z")
    label(axes[1], "value s", "derivative", "against the value: a parabola")


MAX = Claim(
    id="sigmoid-max",
    section="3.1, Q2",
    statement="The sigmoid's derivative lies in (0, 0.25], and is 0.25 at z = 0.",
    limit="Exact for real numbers; in floating point 0 is reached. What follows for a network depends on the weights as"
    " well (sigmoid-bound).",
    source="Completing the square: s (1 - s) = 1/4 - (s - 1/2)^2",
    quantity="The slope on a grid in float64, and the root of the second derivative in 50 digits",
    rule=f"Holds if the slope is 1/4 - (s - 1/2)^2 to {ROUNDINGS:g} units in the last place of 1 everywhere, its one"
    " maximum is 1/4 at 0, and floats keep it above 0 for every z; with a condition if only the last fails; else it"
    " does not hold.",
    caption="The sigmoid's derivative against z, and against the sigmoid's value, where it is a parabola with its top"
    " at one half.",
    measure=measure,
    judge=judge,
    draw=draw,
    findings=(
        "The range (0, 0.25] of the derivative is that of real numbers: computed as s (1 - s) it is exactly 0 from"
        " z = 16.64 on in float32 and from 36.74 on in float64.",
    ),
)
