"""Section 5.1: GELU and its approximation, in 50 digits and in floats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import EQUAL, FORMATS, ROUNDINGS
from experiments.claims.gelu_gradient import GRADIENT
from experiments.claims.gelu_shape import SHAPE
from experiments.claims.panels import label, legend_below, panels
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# --- definition -----------------------------------------------------------------------------------------------------

MASKED_AT = np.linspace(-3, 3, 25)
DRAWS = 100_000
"""Masks drawn for each point and replica."""
FARTHEST = 4.5
"""Standard errors by which one of 25 means may miss its expectation; one in 6,000 runs exceeds this by chance."""


def measure_definition(scale: Scale) -> Samples:
    """Measure both forms in 50 digits, the lab's in two formats, and mean and spread of randomly masked inputs."""
    import mpmath

    from lab.network.activations import FUNCTIONS

    z = exact.hard_points(reach=40, points=1281)

    def gap(x: Any) -> Any:
        difference = x * mpmath.ncdf(x) - by_hand.gelu(x, mpmath)
        return mpmath.log10(abs(difference) / max(1, abs(x)) + mpmath.mpf(10) ** -exact.DIGITS)

    rng = np.random.default_rng(0)
    kept = np.array([[rng.binomial(DRAWS, p) / DRAWS for _ in range(scale.replicas)] for p in _below(MASKED_AT)])
    samples = {
        "z": z,
        "exact": exact.exact(lambda x: x * mpmath.ncdf(x), z),
        "log10_gap": exact.exact(gap, z),
        "masked": MASKED_AT[:, None] * kept,  # (points, R), means of x or 0
        "at_masked": exact.exact(lambda x: x * mpmath.ncdf(x), MASKED_AT),
    }
    for name in FORMATS:
        samples[f"value_{name}"] = exact.in_format(FUNCTIONS["gelu"].function, z, name)
        again = exact.in_format(FUNCTIONS["gelu"].function, z, name)
        samples[f"repeated_{name}"] = np.abs(again - samples[f"value_{name}"])
    return samples


def judge_definition(samples: Samples) -> Judgement:
    """Apply the rule: the formula to rounding, the mask's mean, and determinism."""
    gap = float(np.max(samples["log10_gap"]))
    # 1 + erf is off by a unit in the last place of 1, and x multiplies it.
    error = max(exact.roundings(samples[f"value_{name}"], samples["exact"], name, samples["z"]) for name in FORMATS)
    masked = samples["masked"]
    chance = _below(MASKED_AT)
    spread = np.abs(MASKED_AT) * np.sqrt(chance * (1 - chance))  # of one masked input
    standard_error = spread / math.sqrt(DRAWS * masked.shape[1])
    misses = np.abs(masked.mean(1) - samples["at_masked"])[spread > 0] / standard_error[spread > 0]
    farthest = float(np.max(misses))
    repeated = max(float(np.max(samples[f"repeated_{name}"])) for name in FORMATS)
    widest, where = exact.largest(spread, MASKED_AT)
    numbers = (
        Number("largest gap between x Phi(x) and its form with erf in 50 digits", gap, units="log10"),
        Number("largest error of the lab's GELU", error, units="units in the last place of x"),
        Number("farthest mean of a masked input from GELU", farthest, units="standard errors"),
        Number("largest difference between two calls of GELU", repeated, predicted=0.0),
        Number(f"standard deviation of a masked input at x = {where:g}", widest),
    )
    reason = (
        f"x Phi(x) and its form with erf agree to 1e{gap:.0f} in 50 digits, and the lab's to {error:.2g} units in the"
        f" last place of x. An input that is kept with probability Phi(x) has GELU as its mean (to {farthest:.1f}"
        f" standard errors), but scatters by up to {widest:.2f}, while two calls of GELU differ by {repeated:g}."
    )
    if gap > EQUAL or error > ROUNDINGS or farthest > FARTHEST:
        return Judgement(Verdict.FAILS, reason, numbers)
    if repeated == 0:
        where_ = (
            "the formula as it is, and the random choice in expectation only: GELU itself is a deterministic function"
        )
        return Judgement(Verdict.CONDITION, reason, numbers, where_)
    return Judgement(Verdict.HOLDS, reason, numbers)


def draw_definition(figure: Figure, samples: Samples) -> None:
    """Plot GELU through the means of masked inputs, with their spread as bars."""
    from lab.plot.style import COLOURS

    (ax,) = axes = panels(figure)
    z = samples["z"]
    inside = np.abs(z) <= 3.2
    chance = _below(MASKED_AT)
    spread = np.abs(MASKED_AT) * np.sqrt(chance * (1 - chance))
    bars: dict[str, Any] = {"fmt": "o", "markersize": 5, "color": COLOURS[1], "ecolor": COLOURS[4], "elinewidth": 3}
    caption = "x or 0 at random: mean, and one standard deviation of a single draw"
    ax.errorbar(MASKED_AT, samples["masked"].mean(1), spread, label=caption, **bars)
    ax.plot(z[inside], samples["exact"][inside], color=COLOURS[0], linewidth=2, label="GELU")
    label(ax, "x", "output")
    legend_below(figure, axes, 2)


def _below(x: Array) -> Array:
    """Return P(X <= x) of a standard normal X."""
    from scipy.special import ndtr

    return np.asarray(ndtr(x))


DEFINITION = Claim(
    id="gelu-definition",
    section="5.1",
    statement="GELU is the input times the probability that a standard normal number is smaller, x Phi(x), and passes"
    " or zeroes its input at random, the larger the likelier passed.",
    limit="The random choice is where the formula comes from: GELU is its expectation and has no randomness of its"
    " own.",
    source="Hendrycks and Gimpel 2016, Gaussian Error Linear Units, section 2",
    quantity="The formula in 50 digits and two formats; means of inputs kept with probability Phi(x)",
    rule=f"Does not hold if the formula is off by more than {ROUNDINGS:g} units in the last place of x or a mean of"
    f" masked inputs by more than {FARTHEST:g} standard errors; holds with a condition if two calls give the same;"
    " else holds.",
    caption="GELU, and inputs that are kept with probability Phi(x) and else set to 0: their mean is GELU, a single"
    " one is not.",
    measure=measure_definition,
    judge=judge_definition,
    draw=draw_definition,
    findings=(
        "Section 5.1 says that GELU determines stochastically whether to pass its input. That describes its"
        " derivation, not the function: the same input always gives the same output, the expectation of such a"
        " choice.",
    ),
)


# --- approximation --------------------------------------------------------------------------------------------------

CLOSE, CLOSE_RELATIVE, WITHIN = 1e-3, 0.1, 4.0
"""Tolerances: absolute everywhere, and relative within the range that the guide plots."""


def measure_approximation(scale: Scale) -> Samples:
    """Measure values and slopes of both forms in 50 digits, on a grid fine enough for the largest difference."""
    import mpmath
    import torch

    from lab.network.activations import FUNCTIONS

    z = np.unique(np.concatenate([exact.hard_points(reach=40, points=641), np.linspace(-6, 6, 1537)]))
    pair = {"exact": lambda x: by_hand.gelu(x, mpmath), "tanh": lambda x: by_hand.gelu_tanh(x, mpmath)}
    samples = {"z": z}
    for kind, formula in pair.items():
        samples[kind] = exact.exact(formula, z)
        samples[f"{kind}_slope"] = exact.exact_slope(formula, z)
    for name in FORMATS:
        rounded = z.astype(name).astype(np.float64)
        reference = samples["tanh"] if name == "float64" else exact.exact(pair["tanh"], rounded)
        lab = exact.in_format(FUNCTIONS["gelu_tanh"].function, rounded, name)
        hand = exact.in_format(lambda x: by_hand.gelu_tanh(x, torch), rounded, name)
        samples[f"roundings_{name}"] = np.array([exact.roundings(values, reference, name) for values in (lab, hand)])
    return samples


def judge_approximation(samples: Samples) -> Judgement:
    """Apply the rule: the largest difference, absolute and relative, of values and slopes, and where."""
    z = samples["z"]
    difference, where = exact.largest(np.abs(samples["tanh"] - samples["exact"]), z)
    slope, slope_where = exact.largest(np.abs(samples["tanh_slope"] - samples["exact_slope"]), z)
    inside = (np.abs(z) <= WITHIN) & (z != 0)
    relative, relative_where = exact.largest(np.abs(samples["tanh"][inside] / samples["exact"][inside] - 1), z[inside])
    error = float(max(np.max(samples[f"roundings_{name}"]) for name in FORMATS))
    numbers = (
        Number("largest difference", difference),
        Number("where", where),
        Number("largest difference of the slopes", slope),
        Number("where the slopes differ most", slope_where),
        Number(f"largest relative difference for |x| up to {WITHIN:g}", relative),
        Number("where the relative difference is", relative_where),
        Number(
            "largest rounding error of the tanh form, the lab's and by hand", error, units="units in the last place"
        ),
    )
    reason = (
        f"The two differ by at most {difference:.2e}, at |x| = {abs(where):.2f}, and their slopes by {slope:.1e} at"
        f" |x| = {abs(slope_where):.2f}. Relatively the tanh form is off by {relative:.0%} at x ="
        f" {relative_where:.0f}, where both are nearly 0."
    )
    if difference > CLOSE or error > ROUNDINGS:
        return Judgement(Verdict.FAILS, reason, numbers)
    if relative > CLOSE_RELATIVE:
        where_ = "absolute differences, which matter; the tail for negative inputs falls off too fast"
        return Judgement(Verdict.CONDITION, reason, numbers, where_)
    return Judgement(Verdict.HOLDS, reason, numbers)


def draw_approximation(figure: Figure, samples: Samples) -> None:
    """Plot difference of values and slopes, and the ratio in the tail."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    z = samples["z"]
    inside = np.abs(z) <= 6
    axes[0].plot(
        z[inside], 1e4 * (samples["tanh"] - samples["exact"])[inside], color=COLOURS[0], linewidth=2, label="values"
    )
    slopes = 1e4 * (samples["tanh_slope"] - samples["exact_slope"])[inside]
    axes[0].plot(z[inside], slopes, "--", color=COLOURS[1], linewidth=2, label="slopes")
    label(axes[0], "x", "tanh form minus exact, in 0.0001", "difference")
    tail = (z <= -0.5) & (z >= -6)
    axes[1].plot(z[tail], -samples["exact"][tail], color=COLOURS[0], linewidth=2, label="exact")
    axes[1].plot(z[tail], -samples["tanh"][tail], "--", color=COLOURS[1], linewidth=2, label="tanh form")
    axes[1].set_yscale("log")
    label(axes[1], "x", "minus GELU(x)", "the tail")
    for ax in axes:
        ax.legend(frameon=False, loc="lower right")


APPROXIMATION = Claim(
    id="gelu-approximation",
    section="5.1",
    statement="With 0.044715 for the cubic term, the form with tanh is a close approximation of GELU.",
    limit="Closest where it matters: never further than 5e-4. In the tail it falls off too fast, by half at x = -4."
    " And the two are different functions: weights trained with one do not give the same numbers with the other.",
    source="Hendrycks and Gimpel 2016, Gaussian Error Linear Units, section 2",
    quantity="Largest difference of values and slopes in 50 digits, and where",
    rule=f"Does not hold if values differ by more than {CLOSE:g} somewhere, or floats are off by more than"
    f" {ROUNDINGS:g} units in the last place; holds with a condition if for |x| up to {WITHIN:g} they differ by more"
    f" than {CLOSE_RELATIVE:.0%}; else holds.",
    caption="Left: the tanh form minus the exact GELU, values and slopes. Right: both in the tail, on a logarithmic"
    " axis.",
    measure=measure_approximation,
    judge=judge_approximation,
    draw=draw_approximation,
)

CLAIMS = (DEFINITION, APPROXIMATION, SHAPE, GRADIENT)
