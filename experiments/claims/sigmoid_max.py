"""Sections 3.1 and Q2: the largest slope of the sigmoid, and where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import ROUNDINGS
from experiments.claims.panels import label, panels
from lab.readings import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def measure(scale: Scale) -> Samples:
    """Where the second derivative is 0, the slope there, and the slope everywhere else."""
    import mpmath

    from lab.activations import FUNCTIONS

    z = np.unique(np.concatenate([exact.hard_points(), np.linspace(-1, 1, 2001)]))

    def second(x: Any) -> Any:
        return mpmath.diff(lambda y: by_hand.sigmoid(y, mpmath), x, 2)

    with mpmath.workdps(exact.DIGITS):
        top = mpmath.findroot(second, (-0.7, 1.1), solver="anderson", tol=1e-60)  # bracket unlike about its middle
        height = mpmath.diff(lambda y: by_hand.sigmoid(y, mpmath), top)
    return {
        "z": z,
        "slope": exact.in_format(FUNCTIONS["sigmoid"].derivative, z, "float64"),
        "square": exact.exact(lambda x: (by_hand.sigmoid(x, mpmath) - mpmath.mpf("0.5")) ** 2, z),
        "top": np.array([float(top), float(height)]),
    }


def judge(samples: Samples) -> Judgement:
    """The slope is 1/4 - (s - 1/2)^2, so no more than 1/4, which it is at 0 alone."""
    z, slope = samples["z"], samples["slope"]
    largest, _ = exact.largest(slope, z)
    error = exact.roundings(slope, 0.25 - samples["square"], "float64")
    top, height = (float(value) for value in samples["top"])
    numbers = (
        Number("where the second derivative is 0", top, predicted=0.0),
        Number("slope there", height, predicted=0.25),
        Number("largest slope in float64", largest, predicted=0.25),
        Number("distance of the slope from 1/4 - (s - 1/2)^2", error, units="units in the last place of 1"),
    )
    is_right = abs(top) < 1e-20 and abs(height - 0.25) < 1e-15 and bool(np.all((samples["square"] > 0) == (z != 0)))
    verdict = Verdict.HOLDS if is_right and error <= ROUNDINGS else Verdict.FAILS
    reason = (
        f"The slope equals 1/4 - (s - 1/2)^2 to {error:.2g} units in the last place of 1, so it cannot exceed 1/4; it"
        f" is {height:.4g} at z = {top:.2g}, where s = 1/2 and the second derivative changes sign."
    )
    return Judgement(verdict, reason, numbers)


def draw(figure: Figure, samples: Samples) -> None:
    """The slope against z, and against the value, where it is a parabola."""
    from lab.figures import COLOURS

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
    statement="The sigmoid's derivative is never above 0.25, and is 0.25 at z = 0.",
    limit="Exact; what follows for a network depends on the weights as well (sigmoid-bound).",
    source="Completing the square: s (1 - s) = 1/4 - (s - 1/2)^2",
    quantity="The slope on a grid, and the root of the second derivative in 50 digits",
    rule=f"Holds if the slope is 1/4 - (s - 1/2)^2 to {ROUNDINGS:g} units in the last place of 1 everywhere and its one"
    " maximum is 1/4 at 0.",
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
