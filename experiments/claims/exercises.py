"""Both coding questions: the guide's formulas in NumPy and torch, against autograd and torch's own functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import ROUNDINGS
from experiments.claims.panels import label, legend_below, panels
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# --- question 1: functions and derivatives --------------------------------------------------------------------------

SLOPE_IN_TEXT, SLOPE_IN_CODE = 0.01, 0.1
"""Slopes of leaky ReLU: the typical one of section 4.2, and the default of the script."""
Z = (-10.0, 10.0, 200)
"""The script's grid: ends and number of points."""
VALUE_RANGE, SLOPE_RANGE = (-2.0, 2.0), (-0.5, 1.5)
"""The script's vertical ranges for functions and derivatives."""
SCRIPT: Mapping[str, tuple[Callable[[Array], Any], Callable[[Array], Any]]] = {
    "sigmoid": (lambda x: by_hand.sigmoid(x, np), lambda x: by_hand.sigmoid_slope(x, np)),
    "tanh": (np.tanh, lambda x: by_hand.tanh_slope(x, np)),
    "relu": (lambda x: np.maximum(0, x), lambda x: np.where(x > 0, 1, 0)),
    "leaky_relu": (
        lambda x: np.maximum(SLOPE_IN_CODE * x, x),
        lambda x: np.where(x > 0, 1, SLOPE_IN_CODE),
    ),
}
"""Name -> the script's function and derivative in NumPy."""


def measure_plot(scale: Scale) -> Samples:
    """Measure the script's curves, torch's functions and autograd's slopes, and the position of its axes."""
    import torch.nn.functional as F
    from torch import sigmoid, tanh

    own: Mapping[str, exact.Formula] = {
        "sigmoid": sigmoid,
        "tanh": tanh,
        "relu": F.relu,
        "leaky_relu": lambda z: F.leaky_relu(z, SLOPE_IN_CODE),
    }
    z = np.union1d(np.linspace(*Z), np.linspace(*Z[:2], 4001))
    samples = {"z": z, "axes": np.array([_height_of_axis(VALUE_RANGE), _height_of_axis(SLOPE_RANGE)])}
    for name, (function, derivative) in SCRIPT.items():
        samples[f"value {name}"] = np.asarray(function(z), dtype=np.float64)
        samples[f"slope {name}"] = np.asarray(derivative(z), dtype=np.float64)
        samples[f"torch value {name}"] = exact.in_format(own[name], z, "float64")
        samples[f"torch slope {name}"] = exact.autograd_slope(own[name], z, "float64")
    samples["leaky slope"] = SCRIPT["leaky_relu"][0](np.array([Z[0]])) / Z[0]
    return samples


def _height_of_axis(limits: tuple[float, float]) -> float:
    """Return the height of matplotlib's horizontal axis with its spine in the centre of the range."""
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.subplots()
    ax.plot(np.linspace(*Z), np.linspace(*Z))
    ax.set_ylim(*limits)
    ax.spines["bottom"].set_position("center")
    figure.draw_without_rendering()
    spine = ax.spines["bottom"]
    ends = ax.transData.inverted().transform(spine.get_transform().transform(spine.get_path().vertices))  # (points, 2)
    return float(ends[0, 1])


def judge_plot(samples: Samples) -> Judgement:
    """Apply the rule: correct curves, the slope given in the text, and the axis at 0."""
    errors = {
        name: max(
            exact.roundings(samples[f"{kind} {name}"], samples[f"torch {kind} {name}"], "float64")
            for kind in ("value", "slope")
        )
        for name in SCRIPT
    }
    z = samples["z"]
    slope = float(samples["leaky slope"][0])
    in_values, in_slopes = (float(height) for height in samples["axes"])
    hidden = float(np.mean(np.abs(samples["value relu"]) > VALUE_RANGE[1]))
    farthest = float(np.max(np.abs(samples["value leaky_relu"] - np.maximum(SLOPE_IN_TEXT * z, z))))
    numbers = (
        *(
            Number(f"largest error of {name} and its derivative", e, units="units in the last place")
            for name, e in errors.items()
        ),
        Number("slope of the leaky ReLU that the script draws", slope, predicted=SLOPE_IN_TEXT),
        Number("largest distance to the leaky ReLU of the text", farthest, predicted=0.0),
        Number("height of the horizontal axis among the functions", in_values, predicted=0.0),
        Number("height of the horizontal axis among the derivatives", in_slopes, predicted=0.0),
        Number("share of ReLU's curve above the picture's edge", hidden),
    )
    reason = (
        f"The script's formulas agree with torch and autograd to {max(errors.values()):.2g} units in the last place."
        f" The leaky ReLU in its picture has the slope {slope:.2g}, the text's {SLOPE_IN_TEXT:g}. The horizontal axis"
        f" of the derivatives lies at {in_slopes:.2g}, and {hidden:.0%} of ReLU's curve lie above the picture."
    )
    if max(errors.values()) > ROUNDINGS:
        return Judgement(Verdict.FAILS, reason, numbers)
    if not np.isclose(slope, SLOPE_IN_TEXT) or abs(in_values) > 1e-6 or abs(in_slopes) > 1e-6:
        where = (
            f"a slope of {slope:.2g} for leaky ReLU, ten times the text's, and an axis at {in_slopes:.2g} below which"
            " the sigmoid's whole derivative lies"
        )
        return Judgement(Verdict.CONDITION, reason, numbers, where)
    return Judgement(Verdict.HOLDS, reason, numbers)


def draw_plot(figure: Figure, samples: Samples) -> None:
    """Plot the four functions with their derivatives, leaky ReLU with both slopes."""
    from lab.plot.style import COLOURS

    figure.set_layout_engine("constrained")
    axes = figure.subplots(2, len(SCRIPT), sharex=True, sharey="row")
    z = samples["z"]
    for column, name in enumerate(SCRIPT):
        for ax, kind, limits in zip(axes[:, column], ("value", "slope"), ((-2.0, 4.0), (-0.1, 1.15)), strict=True):
            values = samples[f"{kind} {name}"]
            jumps = np.abs(np.diff(values, prepend=values[0])) > 0.5
            ax.plot(z, np.where(jumps, np.nan, values), color=COLOURS[0], linewidth=2)
            if name == "leaky_relu":
                text = np.maximum(SLOPE_IN_TEXT * z, z) if kind == "value" else np.where(z > 0, np.nan, SLOPE_IN_TEXT)
                ax.plot(z, np.where(z > 0, np.nan, text), "--", color=COLOURS[1], linewidth=2)
            ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_ylim(*limits)
            ax.set_xlim(-6, 6)
        axes[0, column].set_title(name, fontsize="medium")
        axes[1, column].set_xlabel("z")
    axes[0, 0].set_ylabel("function")
    axes[1, 0].set_ylabel("derivative")
    axes[1, -1].text(-5.6, 0.22, f"slope {SLOPE_IN_CODE:g}, the code", color=COLOURS[0], fontsize="small")
    axes[1, -1].text(-5.6, 0.35, f"slope {SLOPE_IN_TEXT:g}, the text", color=COLOURS[1], fontsize="small")


PLOT = Claim(
    id="plot-activations",
    section="Coding question 1",
    statement="Its NumPy script draws sigmoid, tanh, ReLU and leaky ReLU with their derivatives.",
    limit="The leaky ReLU drawn differs from the text's, and the axes are not at 0.",
    source="Sections 4.2 and coding question 1 of the guide itself; torch's autograd for the derivatives",
    quantity="The script's formulas against torch's functions and autograd on 4,000 points; slope and axes of its"
    " picture",
    rule=f"Does not hold if a formula is off by more than {ROUNDINGS:g} units in the last place; holds with a"
    " condition if the slope is not the text's or an axis is not at 0; else holds.",
    caption="The four functions of the script and their derivatives, with the horizontal axis at 0 and the leaky ReLU"
    " of both slopes. gradlab figures draws all activations of the lab.",
    measure=measure_plot,
    judge=judge_plot,
    draw=draw_plot,
    findings=(
        "Section 4.2 calls 0.01 the typical slope of leaky ReLU, the script's default is 0.1: its picture shows"
        " another function, at z = -10 ten times as far from ReLU.",
        "The script puts the horizontal axis in the centre of each panel. Among the derivatives, drawn from -0.5 to"
        " 1.5, that is at 0.5, not at 0: the sigmoid's derivative, 0.25 at most, lies below it as if it were"
        " negative.",
        "The script draws functions from -2 to 2 for inputs up to 10, so that two fifths of ReLU's curve lie outside"
        " its picture.",
    ),
)


# --- question 2: GELU from scratch ----------------------------------------------------------------------------------

CLOSE = 1e-3
"""As in gelu-approximation."""
GUIDE_GRID = (-4.0, 4.0, 100)
PAIRS = ("tanh form minus exact", "exact by hand minus torch", "tanh form by hand minus torch")


def measure_gelu(scale: Scale) -> Samples:
    """Measure differences of three pairs in two formats on a fine grid, and in float32 on the script's own."""
    from experiments.claims import gelu_comparison

    x = gelu_comparison.grid()
    samples = {"x": x}
    comparisons = gelu_comparison.compare(x)
    for name, comparison in zip(
        (f"{pair}, {name}" for pair in PAIRS for name in exact.FORMATS), comparisons, strict=True
    ):
        samples[name] = comparison.difference
    own = np.linspace(*GUIDE_GRID).astype(np.float32).astype(np.float64)
    by_script = gelu_comparison.compare(own)
    samples["script x"] = own
    for pair, comparison in zip(PAIRS, by_script[::2], strict=True):  # float32 comes first in each pair
        samples[f"script: {pair}"] = comparison.difference
    return samples


def judge_gelu(samples: Samples) -> Judgement:
    """Apply the rule: by hand equals torch's to rounding, and the approximation is close."""
    x = samples["x"]
    size = np.maximum(1.0, np.abs(x))
    numbers, worst = [], 0.0
    for pair in PAIRS:
        for name in exact.FORMATS:
            difference, where = exact.largest(np.abs(samples[f"{pair}, {name}"]), x)
            numbers += [Number(f"{pair}, {name}, largest", difference), Number(f"{pair}, {name}, at x", where)]
            if pair != PAIRS[0]:
                unit = np.finfo(name).eps * size
                worst = max(worst, float(np.max(np.abs(samples[f"{pair}, {name}"]) / unit)))
    for pair in PAIRS[:2]:
        difference, where = exact.largest(np.abs(samples[f"script: {pair}"]), samples["script x"])
        numbers += [
            Number(f"{pair}, on the script's 100 points, largest", difference),
            Number(f"{pair}, on the script's 100 points, at x", where),
        ]
    numbers.append(Number("largest difference from torch", worst, units="units in the last place of x"))
    apart = float(np.max(np.abs(samples[f"{PAIRS[0]}, float64"])))
    own = float(np.max(np.abs(samples[f"script: {PAIRS[1]}"])))
    reason = (
        f"By hand both forms are torch's to {worst:.2g} units in the last place of x, and differ from one another by"
        f" at most {apart:.3e}. On the script's own 100 points in float32 its exact form is {own:.1e} from torch's."
    )
    is_right = worst <= 2 * ROUNDINGS and apart < CLOSE  # both sides round; false for a NaN
    return Judgement(Verdict.HOLDS if is_right else Verdict.FAILS, reason, tuple(numbers))


def draw_gelu(figure: Figure, samples: Samples) -> None:
    """Plot the difference of the forms, and the rounding between by hand and torch's."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    x = samples["x"]
    inside = np.abs(x) <= 6
    difference = samples[f"{PAIRS[0]}, float64"]
    axes[0].plot(x[inside], 1e4 * difference[inside], color=COLOURS[0], linewidth=2)
    largest, where = exact.largest(np.abs(difference), x)
    axes[0].plot([-abs(where), abs(where)], [1e4 * largest] * 2, "o", color=COLOURS[1], markersize=7)
    label(axes[0], "x", "difference, in 0.0001", f"tanh form minus exact: {largest:.2e} at {abs(where):.2f}")
    for number, pair in enumerate(PAIRS[1:]):
        values = np.abs(samples[f"{pair}, float32"])
        unit = np.finfo(np.float32).eps * np.maximum(1.0, np.abs(x))
        axes[1].plot(x[inside], (values / unit)[inside], ".", color=COLOURS[number], markersize=3, label=pair)
    label(axes[1], "x", "units in the last place of x", "by hand minus torch, float32")
    legend_below(figure, axes, 2)


FROM_SCRATCH = Claim(
    id="gelu-from-scratch",
    section="Coding question 2",
    statement="Its torch module computes GELU exactly as torch does, and its approximation is close.",
    limit="Equal to rounding, not bit by bit; the error of the approximation depends on the input.",
    source="Hendrycks and Gimpel 2016, section 2; torch.nn.functional.gelu",
    quantity="Differences in float32 and float64 on 20,481 points from -10 to 10, and on the script's 100 points",
    rule=f"Holds if both forms by hand are within {2 * ROUNDINGS:g} units in the last place of x of torch's,"
    f" {ROUNDINGS:g} for either side, and within {CLOSE:g} of one another; else it does not hold.",
    caption="Left: the tanh form minus the exact one, marked where it is largest. Right: what rounding leaves between"
    " the forms by hand and torch's in float32. gradlab figures draws them larger.",
    measure=measure_gelu,
    judge=judge_gelu,
    draw=draw_gelu,
)

CLAIMS = (PLOT, FROM_SCRATCH)
