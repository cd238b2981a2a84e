"""Sections 3.1 and Q2: range and derivative of the sigmoid, exactly and in floats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import EQUAL, FORMATS, ROUNDINGS
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.sigmoid_bound import BOUND
from experiments.claims.sigmoid_max import MAX
from experiments.claims.signs import NOT_CENTRED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_FROM = {name: math.log(2 / np.finfo(name).eps) for name in FORMATS}
"""Where exp(-z) is half the spacing of numbers above 1, so that 1 + exp(-z) rounds to 1."""
OVERFLOW_TO = {name: -math.log(np.finfo(name).max) for name in FORMATS}
"""Where exp(-z) is the largest finite number."""
RIGHT = 0.01
"""Relative error of a slope in the figure up to which it counts as right."""


# --- range ----------------------------------------------------------------------------------------------------------


def measure_range(scale: Scale) -> Samples:
    """Measure the distance from both ends of (0, 1), exactly and in both formats."""
    import mpmath
    import torch

    z = exact.hard_points()
    above = exact.exact(lambda x: mpmath.log10(by_hand.sigmoid(x, mpmath)), z)
    below = exact.exact(lambda x: mpmath.log10(1 / (1 + mpmath.exp(x))), z)  # 1 - sigmoid(x) without a difference
    samples = {"z": z, "exact": exact.exact(lambda x: by_hand.sigmoid(x, mpmath), z), "above": above, "below": below}
    for name in FORMATS:
        samples[f"value_{name}"] = exact.in_format(_lab_sigmoid(), z, name)
        samples[f"written_{name}"] = exact.in_format(lambda x: by_hand.sigmoid(x, torch), z, name)
        one = exact.edge(lambda x: by_hand.sigmoid(x, torch) < 1, 0.0, 100.0, name)
        overflow = exact.edge(lambda x: torch.exp(-x).isfinite(), 0.0, -1000.0, name)
        samples[f"edges_{name}"] = np.array([one, overflow])
    return samples


def judge_range(samples: Samples) -> Judgement:
    """Apply the rule: inside (0, 1) in exact arithmetic, accurate to rounding in floats, and inside (0, 1) there."""
    is_inside = bool(np.all(np.isfinite(samples["above"]) & np.isfinite(samples["below"])))
    is_inside &= bool(np.all((samples["above"] <= 0) & (samples["below"] <= 0)))
    numbers, errors, ends = [], [], 0
    for name in FORMATS:
        values = samples[f"value_{name}"]
        errors += [exact.roundings(samples[f"{kind}_{name}"], samples["exact"], name) for kind in ("value", "written")]
        ends += int(np.sum((values <= 0) | (values >= 1)))
        one, overflow = samples[f"edges_{name}"]
        numbers += [
            Number(f"largest z with a value below 1, {name}", float(one), predicted=ONE_FROM[name]),
            Number(f"smallest z whose exp(-z) is finite, {name}", float(overflow), predicted=OVERFLOW_TO[name]),
        ]
    numbers.append(Number("largest error in floats", max(errors), units="units in the last place of 1"))
    if not is_inside or max(errors) > ROUNDINGS:
        reason = "The function leaves (0, 1), or floats do not compute it to rounding." if is_inside else ""
        return Judgement(Verdict.FAILS, reason or "In 50 digits the function leaves (0, 1).", tuple(numbers))
    one, overflow = samples["edges_float32"]
    reason = (
        f"In 50 digits neither end is reached on {len(samples['z'])} points up to 1e4 on either side. In float32 the"
        f" value is exactly 1 above z = {one:.2f}, and below z = {overflow:.2f} the textbook formula overflows inside"
        f" (the remaining quotient is 0); in float64 above {samples['edges_float64'][0]:.2f} and below"
        f" {samples['edges_float64'][1]:.1f}."
    )
    if ends:
        where = (
            f"exact arithmetic, or {overflow:.0f} < z < {one:.0f} in float32; beyond it the ends 0 and 1 are reached"
        )
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), where)
    return Judgement(Verdict.HOLDS, reason, tuple(numbers))


def draw_range(figure: Figure, samples: Samples) -> None:
    """Plot the distance from 0 (left) and from 1 (right), and where each format reaches them."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    z = samples["z"]
    for ax, side, log, ends in zip(axes, (-1, 1), ("above", "below"), ((-130, 5), (-5, 45)), strict=True):
        inside = (z > ends[0]) & (z < ends[1])
        ax.plot(z[inside], samples[log][inside], color="black", linewidth=2, label="exact")
        for name, colour, style in (("float64", COLOURS[0], "--"), ("float32", COLOURS[1], "-")):
            values = samples[f"value_{name}"][inside]
            with np.errstate(divide="ignore"):
                shown = np.log10(values if side < 0 else 1 - values)
            known = np.isfinite(shown)
            ax.plot(z[inside][known], shown[known], style, color=colour, linewidth=2, label=name)
            if not known.all():  # the end of the format's line
                end = np.flatnonzero(known)[0 if side < 0 else -1]
                ax.plot(z[inside][end], shown[end], "x", color=colour, markersize=9, markeredgewidth=2.5)
    label(axes[0], "z", "log10 of the value", "Distance from 0")
    label(axes[1], "z", "log10 of 1 minus the value", "Distance from 1")
    axes[0].plot([], [], "x", color="0.3", markeredgewidth=2.5, label="exactly 0 or 1 from here on")
    legend_below(figure, axes, 4)


def _lab_sigmoid() -> exact.Formula:
    from lab.network.activations import FUNCTIONS

    return FUNCTIONS["sigmoid"].function


RANGE = Claim(
    id="sigmoid-range",
    section="3.1",
    statement="The sigmoid sends every real number to a value strictly between 0 and 1.",
    limit="True of real numbers. In floating point both ends are reached, and the formula as printed overflows inside"
    " for large negative inputs.",
    source="Goldberg 1991, What every computer scientist should know about floating-point arithmetic",
    quantity="Distance of the value from 0 and from 1, in 50 digits and in two formats",
    rule="Holds if no value touches an end in 50 digits nor in floats; holds with a condition if only floats touch"
    f" one; does not hold if an exact value does, or if floats are off by more than {ROUNDINGS:g} units in the last"
    " place.",
    caption="How close the sigmoid comes to 0 (left) and to 1 (right). The exact curves continue indefinitely; each"
    " format ends at its cross and gives exactly 0 or 1 beyond it.",
    measure=measure_range,
    judge=judge_range,
    draw=draw_range,
    findings=(
        "The formula 1 / (1 + exp(-z)) overflows inside below z = -88.72 in float32 and below -709.78 in float64:"
        " exp(-z) is infinite there, NumPy warns, and the quotient is exactly 0, which is not inside (0, 1).",
        "Section 3.1 gives the range as (0, 1): in float32 the value is exactly 1 from z = 16.64 on, in float64 from"
        " 36.74 on, so that log(1 - value) of a binary classifier is minus infinity; a loss has to work on z itself.",
    ),
)


# --- derivative -----------------------------------------------------------------------------------------------------


def measure_derivative(scale: Scale) -> Samples:
    """Measure the derivative from differences in many digits, the identity, the lab, and backpropagation."""
    import mpmath
    import torch

    from lab.network.activations import FUNCTIONS

    z = exact.hard_points()

    def gap(x: Any) -> Any:
        difference = mpmath.diff(lambda y: by_hand.sigmoid(y, mpmath), x) - by_hand.sigmoid_slope(x, mpmath)
        return mpmath.log10(abs(difference) + mpmath.mpf(10) ** -exact.DIGITS)

    samples = {
        "z": z,
        "exact": exact.exact_slope(lambda x: by_hand.sigmoid(x, mpmath), z),
        "product": exact.exact(lambda x: 1 / ((1 + mpmath.exp(-x)) * (1 + mpmath.exp(x))), z),
        "log10_gap": exact.exact(gap, z),
    }
    for name in FORMATS:
        samples[f"value_{name}"] = exact.in_format(FUNCTIONS["sigmoid"].derivative, z, name)
        samples[f"written_{name}"] = exact.in_format(lambda x: by_hand.sigmoid_slope(x, torch), z, name)
        samples[f"backpropagated_{name}"] = exact.autograd_slope(lambda x: by_hand.sigmoid(x, torch), z, name)
        nothing = exact.edge(lambda x: by_hand.sigmoid_slope(x, torch) > 0, 0.0, 100.0, name)

        def is_a_number(x: torch.Tensor) -> torch.Tensor:
            x = x.requires_grad_()
            return torch.autograd.grad(by_hand.sigmoid(x, torch).sum(), x)[0].isfinite()

        samples[f"edges_{name}"] = np.array([nothing, exact.edge(is_a_number, 0.0, -1000.0, name)])
    return samples


def judge_derivative(samples: Samples) -> Judgement:
    """Apply the rule: the identity in 50 digits; the lab's slope and the printed expression in floats."""
    gap = float(np.max(samples["log10_gap"]))
    lab = max(exact.roundings(samples[f"value_{name}"], samples["exact"], name) for name in FORMATS)
    written = max(exact.roundings(samples[f"written_{name}"], samples["exact"], name) for name in FORMATS)
    numbers = [
        Number("largest gap between both sides in 50 digits", gap, units="log10"),
        Number("largest error of the lab's slope", lab, units="units in the last place of 1"),
        Number("largest error of s (1 - s) in floats", written, units="units in the last place of 1"),
    ]
    for name in FORMATS:
        nothing, broken = (float(value) for value in samples[f"edges_{name}"])
        numbers += [
            Number(f"largest z with s (1 - s) above 0, {name}", nothing, predicted=ONE_FROM[name]),
            Number(f"smallest z backpropagated to a number, {name}", broken, predicted=OVERFLOW_TO[name]),
        ]
    nothing, broken = samples["edges_float32"]
    reason = (
        f"Both sides agree to 1e{gap:.0f} in 50 digits, and in floats to {max(lab, written):.2g} units in the last"
        f" place of 1. Fewer digits remain: in float32 s (1 - s) is exactly 0 above z = {nothing:.2f},"
        f" and backpropagation through the printed formula gives NaN below z = {broken:.2f}."
    )
    if gap > EQUAL or lab > ROUNDINGS:
        return Judgement(Verdict.FAILS, "The derivative and the product differ. " + reason, tuple(numbers))
    if written > ROUNDINGS:
        where = "exact arithmetic; computed as printed it is off by more than rounding"
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), where)
    return Judgement(Verdict.HOLDS, reason, tuple(numbers))


def draw_derivative(figure: Figure, samples: Samples) -> None:
    """Plot where float32 gives the derivative right, off, exactly 0 or NaN, in three ways of computing it."""
    from lab.plot.style import COLOURS

    (ax,) = axes = panels(figure)
    z = samples["z"]
    inside = np.abs(z) < 120
    fates = {"right to 1%": COLOURS[5], "off by more": COLOURS[1], "exactly 0": "0.75", "NaN": "black"}
    ways = {
        "value": "sigmoid(z)\nx sigmoid(-z)",
        "written": "s (1 - s)",
        "backpropagated": "backpropagation\nthrough\n1 / (1 + exp(-z))",
    }
    for row, kind in enumerate(ways):
        values, reference = samples[f"{kind}_float32"][inside], samples["product"][inside]
        is_right = np.abs(values / reference - 1) <= RIGHT
        fate = np.select([is_right, np.isnan(values), values == 0], [0, 3, 2], 1)
        starts = np.flatnonzero(np.diff(fate, prepend=-1))
        stops = np.append(starts[1:], len(fate) - 1)
        for start, stop in zip(starts, stops, strict=True):
            left, right = z[inside][start], z[inside][stop]
            ax.broken_barh([(left, right - left)], (row - 0.35, 0.7), color=list(fates.values())[fate[start]])
    for name, colour in fates.items():
        ax.fill_between([], [], [], color=colour, label=name)
    ax.set_yticks(range(len(ways)), list(ways.values()))
    ax.set_ylim(len(ways) - 0.5, -0.5)
    label(ax, "z", "", "The sigmoid's derivative in float32")
    legend_below(figure, axes, 4)


DERIVATIVE = Claim(
    id="sigmoid-derivative",
    section="3.1, Q2",
    statement="The derivative of the sigmoid s is s (1 - s).",
    limit="An identity of real numbers. As a program it loses its digits on the right, where s rounds to 1, and the"
    " printed formula for s has no derivative in floats far to the left.",
    source="Higham 2002, Accuracy and Stability of Numerical Algorithms, section 1.7 (cancellation)",
    quantity="Difference of both sides in 50 digits; errors in two formats",
    rule=f"Holds if both sides agree to 1e{EQUAL:g} in 50 digits and to {ROUNDINGS:g} units in the last place of 1"
    " in floats; holds with a condition if only in 50 digits; else it does not hold.",
    caption="What float32 makes of the sigmoid's derivative, computed in three ways. All are right where the slope"
    " matters; s (1 - s) is exactly 0 beyond z = 16.6, where the slope is 6e-8, and backpropagation through the"
    " printed formula ends in NaN.",
    measure=measure_derivative,
    judge=judge_derivative,
    draw=draw_derivative,
    findings=(
        "Backpropagation through the printed formula 1 / (1 + exp(-z)) gives NaN, not a small number, below z ="
        " -88.72 in float32 and -709.78 in float64: 0 from the quotient times infinity from the exponential.",
        "s (1 - s) is not symmetric in floats: at z = 17 in float32 it is 0, at z = -17 it is 4.1e-8, which is right;"
        " sigmoid(z) * sigmoid(-z) is right on both sides.",
    ),
)


CLAIMS = (RANGE, DERIVATIVE, MAX, BOUND, NOT_CENTRED)
