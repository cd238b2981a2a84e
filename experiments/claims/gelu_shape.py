"""Sections 5.1 and Q1: GELU's dip, its curvature and its distance from ReLU, in 50 digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.claims import exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATED_MINIMUM, TWO_DIGITS = -0.17, 0.005
BOTTOM = -0.7517915246935645
"""The root of Phi(x) + x phi(x), to 16 digits (mpmath's findroot in 50)."""
SMALL = 2.0**-20


def measure(scale: Scale) -> Samples:
    """Measure slope and second derivative in 50 digits, the bottom of the dip, and steps of the slope across 0."""
    import mpmath

    z = exact.hard_points(reach=12, points=1537)

    def gelu(x: Any) -> Any:
        return x * mpmath.ncdf(x)

    with mpmath.workdps(exact.DIGITS):
        bottom = mpmath.findroot(lambda x: mpmath.diff(gelu, x), -0.7)
        bends = [mpmath.findroot(lambda x: mpmath.diff(gelu, x, 2), start) for start in (-1.4, 1.4)]
        step = mpmath.diff(gelu, mpmath.mpf(SMALL)) - mpmath.diff(gelu, mpmath.mpf(-SMALL))
        dip = gelu(bottom)
    return {
        "z": z,
        "value": exact.exact(gelu, z),
        "slope": exact.exact_slope(gelu, z),
        "second": exact.exact(lambda x: mpmath.diff(gelu, x, 2), z),
        "bottom": np.array([float(bottom), float(dip)]),
        "bends": np.array([float(bend) for bend in bends]),
        "step": np.array([float(step), 1.0]),  # GELU's, ReLU's
    }


def judge(samples: Samples) -> Judgement:
    """Apply the rule: sign changes of slope and second derivative, the minimum, and both ends."""
    z, value = samples["z"], samples["value"]
    where, dip = (float(part) for part in samples["bottom"])
    turns, bends = (_sign_changes(samples[name], np.abs(z) < 12) for name in ("slope", "second"))
    distance, apart = exact.largest(np.abs(value - np.maximum(z, 0)), z)
    step = float(samples["step"][0])
    numbers = (
        Number("where GELU is lowest", where, predicted=BOTTOM),
        Number("its lowest value", dip, predicted=STATED_MINIMUM),
        Number("sign changes of the slope", float(turns), predicted=1.0),
        Number("sign changes of the second derivative", float(bends), predicted=2.0),
        *(Number("where the second derivative changes sign", float(bend)) for bend in samples["bends"]),
        Number("largest distance from ReLU", distance),
        Number("where it is", apart),
        Number("change of slope from -1e-6 to 1e-6 (ReLU: 1)", step, predicted=4 * SMALL / math.sqrt(2 * math.pi)),
        Number("value at -1e4", float(value[0]), predicted=0.0),
        Number("value at 1e4", float(value[-1]), predicted=1e4),
    )
    reason = (
        f"The slope changes sign once, at {where:.4f}, where GELU is lowest with {dip:.6f}; the second derivative"
        f" twice, at {samples['bends'][0]:.4f} and {samples['bends'][1]:.4f}, so that it is convex between them only."
        f" GELU is no further than {distance:.3f} from ReLU, and its slope has no step."
    )
    is_right = (
        turns == 1
        and bends == 2
        and abs(dip - STATED_MINIMUM) <= TWO_DIGITS
        and abs(where - BOTTOM) < 1e-12
        and abs(float(np.min(value)) - dip) < 1e-5
        and step < 1e-5
        and abs(float(value[0])) < 1e-300
        and float(value[-1]) > 0.999 * z[-1]
    )
    return Judgement(Verdict.HOLDS if is_right else Verdict.FAILS, reason, numbers)


def _sign_changes(values: Array, inside: NDArray[np.bool_]) -> int:
    signs = np.sign(values[inside])
    return int(np.count_nonzero(np.diff(signs[signs != 0])))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the function with its lowest point beside ReLU, and both derivatives."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    z = samples["z"]
    inside = np.abs(z) <= 4
    axes[0].plot(z[inside], np.maximum(z[inside], 0), color="0.6", linewidth=2, label="ReLU")
    axes[0].plot(z[inside], samples["value"][inside], color=COLOURS[0], linewidth=2, label="GELU")
    where, dip = samples["bottom"]
    axes[0].plot(where, dip, "o", color=COLOURS[1], markersize=7)
    axes[0].annotate(
        f"{dip:.4f} at {where:.4f}", (where, dip), (-4, -16), textcoords="offset points", ha="center", color=COLOURS[1]
    )
    axes[0].set_ylim(-0.45, 1.5)
    axes[0].set_xlim(-4, 2)
    axes[1].plot(z[inside], samples["slope"][inside], "--", color=COLOURS[4], linewidth=2, label="slope of GELU")
    axes[1].plot(z[inside], samples["second"][inside], ":", color=COLOURS[2], linewidth=2.5, label="second derivative")
    axes[1].axhline(0, color="0.3", linewidth=0.8)
    axes[1].plot(where, 0, "o", color=COLOURS[1], markersize=7)
    axes[1].plot(samples["bends"], [0, 0], "s", color=COLOURS[2], markersize=7)
    label(axes[0], "x", "value", "the dip")
    label(axes[1], "x", "derivatives", "where they are 0")
    legend_below(figure, axes, 4)


SHAPE = Claim(
    id="gelu-shape",
    section="5.1, Q1",
    statement="GELU is a smooth approximation of ReLU that is neither monotonic nor convex, dips to about -0.17 and"
    " is unbounded above.",
    limit="Exact: it is lowest at -0.7518 with -0.16997, which it attains, and convex between -1.4142 and 1.4142 only.",
    source="Second derivative (2 - x^2) phi(x); Hendrycks and Gimpel 2016, section 4",
    quantity="Slope and second derivative in 50 digits",
    rule="Holds if the slope changes sign once and the second derivative twice, the lowest value is"
    f" {STATED_MINIMUM:g} to {TWO_DIGITS:g}, the slope has no step at 0, and the ends go to 0 and to x; else it does"
    " not hold.",
    caption="GELU beside ReLU with its lowest point, and its first two derivatives with their zeros.",
    measure=measure,
    judge=judge,
    draw=draw,
    findings=(
        "Q1 gives the range as about (-0.17, infinity). The lowest value, -0.16997 at x = -0.7518, is attained: the"
        " range is closed below.",
    ),
)
