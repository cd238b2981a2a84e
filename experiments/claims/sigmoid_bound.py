"""Q2: decay of the gradient through sigmoid layers, with slopes of at most 1/4 and arbitrary weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = 10
"""The guide's example."""
QUARTER = 0.25
COMMON = (
    *("activation=sigmoid", f"model.depth={LAYERS}", "model.width=256", "data=gaussian", "batch_size=32"),
    *("dtype=float64", "probe.cotangent=random"),
)
INITS: Mapping[str, str] = {
    "orthogonal, norm 1": "orthogonal",
    "Xavier": "xavier_normal",
    "torch default": "torch_default",
    "critical": "critical",
}
ARMS: Mapping[str, tuple[str, ...]] = {name: (*COMMON, f"init={init}") for name, init in INITS.items()}


def measure(scale: Scale) -> Samples:
    """Measure delta_rms of every layer over the last one's, and its prediction."""
    samples: dict[str, Array] = {}
    for name, overrides in ARMS.items():
        reading = networks.initial(overrides, scale.replicas)
        delta = reading["delta_rms"].transpose("layer", "replica").to_numpy()
        predicted = reading["predicted_delta_rms"].to_numpy()
        samples |= {f"{name} measured": delta / delta[-1], f"{name} predicted": predicted / predicted[-1]}
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: the factor of one layer against 1/4, by arm; the bound assumes weights of norm 1."""
    factors, products = {}, []
    for name in ARMS:
        measured, predicted = samples[f"{name} measured"], samples[f"{name} predicted"]
        steps = len(measured) - 1
        factors[name] = interval(
            f"gradient kept by a layer, {name}",
            measured[0] ** (1 / steps),
            predicted=float(predicted[0]) ** (1 / steps),
        )
        products.append(
            interval(
                f"first over last gradient of {LAYERS} layers, {name}",
                np.log10(measured[0]),
                "log10",
                float(np.log10(predicted[0])),
            )
        )
    bound = Number(f"the guide's product for {LAYERS} layers", (LAYERS - 1) * float(np.log10(QUARTER)), units="log10")
    numbers = (*factors.values(), *products, bound)
    reason = (
        f"A layer keeps {factors['orthogonal, norm 1'].value:.3f} of the gradient with orthogonal weights,"
        f" {factors['Xavier'].value:.3f} with Xavier, {factors['torch default'].value:.3f} with torch's default and"
        f" {factors['critical'].value:.3f} with critical weights, against the guide's 0.25; through nine layers that"
        f" is {10 ** products[1].value:.1e}, {10 ** products[2].value:.1e} and {10 ** products[3].value:.2g} for the"
        f" last three, against {10**bound.value:.1e}."
    )
    if all(is_below(factor, QUARTER) for factor in factors.values()):
        return Judgement(Verdict.HOLDS, reason, numbers)
    if is_below(factors["orthogonal, norm 1"], QUARTER) and is_above(factors["critical"], QUARTER):
        where = (
            "weights of norm 1 at most, for which it is an upper bound; the rate is the root of weight_var times the"
            " mean squared slope, which Xavier happens to put close to 1/4 and critical weights at 1"
        )
        return Judgement(Verdict.CONDITION, reason, numbers, where)
    return Judgement(Verdict.FAILS, reason, numbers)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient against layer for the four arms, with theory and the guide's product."""
    from lab.plot.style import COLOURS, MARKERS

    (ax,) = axes = panels(figure)
    layer = np.arange(LAYERS)
    guide = (LAYERS - 1 - layer) * np.log10(QUARTER)
    ax.plot(layer, guide, color="0.55", linewidth=5, solid_capstyle="round", label="the guide: 0.25 per layer")
    for number, name in enumerate(ARMS):
        measured = np.log10(samples[f"{name} measured"])
        size = 6 if number else 12  # orthogonal and Xavier coincide
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": size}
        style |= {} if number else {"markerfacecolor": "white"}
        ax.plot(layer, measured.mean(1), "-", label=name, **style)
        ax.plot(layer, np.log10(samples[f"{name} predicted"]), "--", color="black", linewidth=1)
    ax.plot([], [], "--", color="black", linewidth=1, label="theory")
    label(ax, "layer (0 is nearest the input)", "log10 gradient, over the last's")
    legend_below(figure, axes, 3)


BOUND = Claim(
    id="sigmoid-bound",
    section="3.1, Q2",
    statement="Through n sigmoid layers the first layer's gradient shrinks in proportion to 0.25 to the power n - 1,"
    " so by 3.8e-6 for n = 10.",
    limit="0.25 is the largest slope, and between two slopes stands a weight matrix. In the mean square a layer keeps"
    " weight_var times the mean squared slope, which can be anything from 0 to beyond 1.",
    source="Schoenholz et al. 2017, Deep Information Propagation, section 3; Glorot and Bengio 2010, section 4",
    quantity="delta_rms of the first over the last of ten layers, at initialization with an independent gradient",
    rule="Holds if every arm's factor per layer is below 0.25 (its 95% interval over replicas); holds with a condition"
    " if that of orthogonal weights, whose norm is 1, is below and that of critical weights above; else it does not"
    " hold.",
    caption="Gradient against layer in sigmoid networks of ten layers at initialization, mean over replicas; dashed is"
    " mean-field theory, grey the guide's product.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, ("steps=0",)),
    findings=(
        "Q2 writes the gradient as proportional to 0.25^(n-1), but derives only that each slope is at most 0.25, and"
        " leaves out the weights that the chain rule puts between the slopes: it is an upper bound, and only for"
        " weights of norm 1 at most.",
        "Section 2 counts n slopes between the loss and the first layer's weights, Q2 counts n - 1. Both can be"
        " meant: n if the last layer ends in a sigmoid whose slope is not cancelled by the loss, n - 1 if it does"
        " not.",
    ),
)
