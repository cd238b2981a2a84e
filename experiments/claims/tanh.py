"""Section 3.2: tanh as a rescaled sigmoid and its derivative, exactly and in floats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import EQUAL, FORMATS, ROUNDINGS
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.tanh_faster import FASTER
from experiments.claims.tanh_vanishes import VANISHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROSSING = 2 * math.acosh((1 + math.sqrt(3)) / 2)
"""Where sigmoid' = tanh': u = cosh(z / 2) solves 2 u^2 - 1 = 2 u."""
EXACT_CROSSING = 1e-12
OVERFLOW = {name: math.log(np.finfo(name).max) for name in FORMATS}
"""Where exp(z) is the largest finite number."""


def measure(scale: Scale) -> Samples:
    """Measure both forms and the derivative in 50 digits; the lab's tanh and the printed forms in two formats."""
    import mpmath
    import torch

    from lab.network.activations import FUNCTIONS

    z = exact.hard_points()

    def gap(first: exact.Formula, second: exact.Formula) -> exact.Formula:
        return lambda x: mpmath.log10(abs(first(x) - second(x)) + mpmath.mpf(10) ** -exact.DIGITS)

    def quotient(x: Any) -> Any:
        return by_hand.tanh_quotient(x, mpmath)

    def rescaled(x: Any) -> Any:
        return by_hand.tanh_from_sigmoid(x, mpmath)

    def slope(x: Any) -> Any:
        return by_hand.tanh_slope(x, mpmath)

    with mpmath.workdps(exact.DIGITS):
        crossing = mpmath.findroot(lambda x: slope(x) - mpmath.diff(lambda y: by_hand.sigmoid(y, mpmath), x), 1.5)
    samples = {
        "z": z,
        "exact": exact.exact(mpmath.tanh, z),
        "exact_slope": exact.exact_slope(mpmath.tanh, z),
        "gap_forms": exact.exact(gap(quotient, rescaled), z),
        "gap_slope": exact.exact(gap(lambda x: mpmath.diff(quotient, x), slope), z),
        "crossing": np.array([float(crossing)]),
    }
    torch_tanh = FUNCTIONS["tanh"]
    for name in FORMATS:
        samples[f"value_{name}"] = exact.in_format(torch_tanh.function, z, name)
        samples[f"slope_{name}"] = exact.in_format(torch_tanh.derivative, z, name)
        samples[f"quotient_{name}"] = exact.in_format(lambda x: by_hand.tanh_quotient(x, torch), z, name)
        samples[f"rescaled_{name}"] = exact.in_format(lambda x: by_hand.tanh_from_sigmoid(x, torch), z, name)
        number = exact.edge(lambda x: by_hand.tanh_quotient(x, torch).isfinite(), 0.0, 1000.0, name)
        steep = exact.edge(lambda x: by_hand.tanh_slope(x, torch) > 0, 0.0, 100.0, name)
        samples[f"edges_{name}"] = np.array([number, steep])
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: the identities in 50 digits; where tanh is steeper; accuracy in floats."""
    gap = float(max(np.max(samples["gap_forms"]), np.max(samples["gap_slope"])))
    references = {"value": samples["exact"], "slope": samples["exact_slope"]}
    lab = max(
        exact.roundings(samples[f"{kind}_{name}"], references[kind], name) for name in FORMATS for kind in references
    )
    crossing = float(samples["crossing"][0])
    numbers = [
        Number("largest gap between the forms, and of the derivative, in 50 digits", gap, units="log10"),
        Number("largest error of the lab's value and slope", lab, units="units in the last place of 1"),
        Number("size of z up to which tanh is steeper than the sigmoid", crossing, predicted=CROSSING),
    ]
    for name in FORMATS:
        number, steep = (float(value) for value in samples[f"edges_{name}"])
        numbers += [
            Number(f"largest z for which the quotient is a number, {name}", number, predicted=OVERFLOW[name]),
            Number(f"largest z with 1 - tanh^2 above 0, {name}", steep),
        ]
    number, steep = samples["edges_float32"]
    reason = (
        f"The two forms and both sides of the derivative agree to 1e{gap:.0f} in 50 digits. In float32 the quotient of"
        f" exponentials is NaN beyond {number:.2f} and 1 - tanh^2 exactly 0 beyond {steep:.2f}. tanh is steeper only"
        f" up to {crossing:.3f} on either side."
    )
    z, slope = samples["z"], samples["exact_slope"]
    is_crossed = bool(np.any(slope < special.expit(z) * special.expit(-z)))
    if gap > EQUAL or lab > ROUNDINGS or (is_crossed and abs(crossing - CROSSING) > EXACT_CROSSING):
        return Judgement(Verdict.FAILS, "Both sides differ. " + reason, tuple(numbers))
    is_broken = any(np.isnan(samples[f"quotient_{name}"]).any() for name in FORMATS)
    conditions = [f"steeper than the sigmoid for |z| < {crossing:.3f} only, exact arithmetic or not"] * is_crossed
    if is_broken or any((samples[f"slope_{name}"] <= 0).any() for name in FORMATS):
        conditions.append(
            f"the rest in exact arithmetic: in float32 the quotient is a number for |z| < {number:.0f} and the slope"
            f" above 0 for |z| < {steep:.0f}"
        )
    if conditions:
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), "; ".join(conditions))
    return Judgement(Verdict.HOLDS, reason, tuple(numbers))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot both slopes with their crossing, and the relative error of the forms in float32."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    z = samples["z"]
    inside = np.abs(z) <= 5
    sigmoid_slope = 0.25 * (1 - np.tanh(z[inside] / 2) ** 2)
    axes[0].plot(z[inside], samples["exact_slope"][inside], color=COLOURS[0], linewidth=2)
    axes[0].plot(z[inside], sigmoid_slope, "--", color=COLOURS[1], linewidth=2)
    axes[0].annotate("tanh", (0.3, 0.9), (6, 0), textcoords="offset points", color=COLOURS[0])
    axes[0].annotate("sigmoid", (3.0, 0.05), (2, 6), textcoords="offset points", color=COLOURS[1])
    for side in (-1, 1):
        axes[0].axvline(side * samples["crossing"][0], color="0.5", linestyle=":")
    label(axes[0], "z", "derivative", f"tanh is steeper up to {samples['crossing'][0]:.2f}")
    right = (z > 1e-10) & (z < 130)
    for kind, text, style, colour in (
        ("rescaled", "2 sigmoid(2z) - 1", ":", COLOURS[1]),
        ("quotient", "quotient", "-", COLOURS[4]),
        ("value", "torch.tanh", "--", COLOURS[0]),
    ):
        errors = np.abs(samples[f"{kind}_float32"][right] / samples["exact"][right] - 1)
        axes[1].plot(z[right], np.maximum(errors, 1e-9), style, color=colour, label=text)
    axes[1].axvspan(samples["edges_float32"][0], 1e4, color="black", label="quotient is NaN")
    axes[1].set_xscale("log")
    axes[1].set_yscale("log")
    axes[1].set_xlim(1e-10, 1e4)
    label(axes[1], "z", "relative error", "in float32")
    legend_below(figure, axes, 4)


IDENTITIES = Claim(
    id="tanh-identity",
    section="3.2",
    statement="tanh(z) is (e^z - e^-z) / (e^z + e^-z) and equals 2 sigmoid(2z) - 1; its derivative 1 - tanh(z)^2 lies"
    " in (0, 1] and is steeper than the sigmoid's.",
    limit="Exact, but neither form can be computed as it stands: the quotient overflows, and both lose all digits"
    " near 0. The derivative is steeper near 0 only.",
    source="Higham 2002, Accuracy and Stability of Numerical Algorithms, section 1.7 (cancellation)",
    quantity="Differences of both sides in 50 digits; errors of the printed forms in two formats",
    rule=f"Holds if all sides agree to 1e{EQUAL:g} in 50 digits, the lab's tanh and slope to {ROUNDINGS:g} units in"
    " the last place of 1, tanh's slope is nowhere below the sigmoid's, and in floats the printed quotient is a number"
    " and the slope above 0 everywhere. Holds with a condition if the slopes cross, in exact arithmetic at |z| ="
    f" {CROSSING:.3f}, where cosh(z / 2) = (1 + sqrt(3)) / 2, or if floats fail. Else it does not hold.",
    caption="Left: derivatives of tanh and sigmoid; dotted is where they cross. Right: relative error in float32 of"
    " the two printed forms and of torch's tanh (errors below 1e-9 are drawn there).",
    measure=measure,
    judge=judge,
    draw=draw,
    findings=(
        "The printed quotient of exponentials is infinity over infinity, NaN, for |z| above 88.72 in float32 and"
        " 709.78 in float64, where tanh is 1 to all digits.",
        "Both printed forms subtract nearly equal numbers near z = 0: in float32 every digit is wrong for |z| below"
        " about 1e-8, and three of seven are gone at 1e-4.",
        "Section 3.2 calls tanh's gradient steeper because its range is (0, 1] against (0, 0.25]. At the same"
        " z this holds only for |z| < 1.663; further out the sigmoid is steeper, by a factor that"
        " grows as e^|z| / 4.",
        "The range (0, 1] of the derivative is that of real numbers: 1 - tanh(z)^2 is exactly 0 for |z| above 9.01 in"
        " float32 and 19.06 in float64, and no gradient passes such a unit.",
    ),
)

CLAIMS = (IDENTITIES, FASTER, VANISHES)
