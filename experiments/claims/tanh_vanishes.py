"""Section 3.2: conditions under which tanh's gradient vanishes, and the role of saturation."""

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

DEPTH, WIDTH = 100, 256
COMMON = (
    *("activation=tanh", f"model.depth={DEPTH}", f"model.width={WIDTH}", "data=gaussian", "batch_size=16"),
    *("dtype=float64", "probe.cotangent=random"),
)
INITS: Mapping[str, tuple[str, ...]] = {
    "torch default": ("init=torch_default",),
    "critical": ("init=gaussian", "init.weight_var=1"),
    "large weights": ("init=gaussian", "init.weight_var=100"),
    "large biases": ("init=gaussian", "init.weight_var=1", "init.bias_var=100"),
}
ARMS: Mapping[str, tuple[str, ...]] = {name: (*COMMON, *words) for name, words in INITS.items()}
ENDS = 10
"""Layers excluded at the input, where the variance has not settled, and at the end."""
POWER = 0.5
"""delta_rms grows as the layer's number to this power at the critical point: q_l tends to 1/(2l), and the squared
gradient loses the share 2 q_l per layer (Schoenholz et al. 2017; expand V and D at q = 0)."""
SATURATED = 0.5
FEW_DECADES = 3.0
"""Decades over all layers that count as vanishing; a power law with the exponent 1/2 loses 1.0 over 100 layers."""
LATE = 0.25
"""Share of the lost decades in the upper half of the layers: 1/2 for an exponential, 0.15 for that power law."""


def measure(scale: Scale) -> Samples:
    """Measure delta_rms of every layer over the last one's, its prediction, and the share of saturated units."""
    samples = {}
    for name, overrides in ARMS.items():
        reading = networks.initial(overrides, scale.replicas)
        delta = reading["delta_rms"].transpose("layer", "replica").to_numpy()
        predicted = reading["predicted_delta_rms"].to_numpy()
        with np.errstate(divide="ignore"):
            samples[f"measured {name}"] = np.log10(delta) - np.log10(delta[-1])
            samples[f"predicted {name}"] = np.log10(predicted) - np.log10(predicted[-1])
            band = [reading[f"predicted_delta_rms_{end}"].to_numpy() for end in ("lower", "upper")]
            samples[f"band {name}"] = np.log10([end[0] / end[-1] for end in band])
        saturated = reading["saturated_fraction"].transpose("layer", "replica").to_numpy()
        samples[f"saturated {name}"] = saturated[ENDS:-ENDS].mean(0)
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: decades of gradient lost, whether as a power of depth, and the share of saturated units."""
    fall, saturated = {}, {}
    for name in ARMS:
        predicted = samples[f"predicted {name}"]
        fall[name] = interval(
            f"first over last gradient, {name}", samples[f"measured {name}"][0], "log10", float(predicted[0])
        )
        saturated[name] = interval(f"saturated units, {name}", samples[f"saturated {name}"])
    expected = []
    for name in ARMS:
        lower, upper = (float(end) for end in samples[f"band {name}"])
        title = f"theory at width {WIDTH}, {name}"
        expected.append(Number(title, float(samples[f"predicted {name}"][0]), lower, upper, "log10"))
    layer = np.arange(1, DEPTH + 1)[ENDS:-ENDS]
    logs = np.log10(layer)
    weights = (logs - logs.mean()) / np.sum((logs - logs.mean()) ** 2)
    power = interval(
        "power of the layer's number that the critical gradient follows",
        weights @ samples["measured critical"][ENDS:-ENDS],
        predicted=float(weights @ samples["predicted critical"][ENDS:-ENDS]),
    )
    late = interval(
        "late loss at the critical point: upper half's decades less a quarter of all",
        _late(samples["measured critical"]),
        "log10",
        float(_late(samples["predicted critical"])),
    )
    numbers: tuple[Number, ...] = (*fall.values(), *expected, *saturated.values(), power, late)
    reason = (
        f"Over {DEPTH} layers the gradient changes by 10^{fall['torch default'].value:.1f} with torch's default, where"
        f" {saturated['torch default'].value:.1%} of the units are saturated, by 10^{fall['critical'].value:.2f} at"
        f" the critical point (as the layer's number to the power {power.value:.2f}), by"
        f" 10^{fall['large weights'].value:+.1f} with large weights, where {saturated['large weights'].value:.0%} are"
        f" saturated, and by 10^{fall['large biases'].value:.1f} with large biases, where"
        f" {saturated['large biases'].value:.0%} are."
    )
    vanishes = is_below(fall["torch default"], -FEW_DECADES)
    by_saturation = is_below(fall["large biases"], -FEW_DECADES) and is_above(saturated["large biases"], SATURATED)
    grows = is_above(fall["large weights"], 0) and is_above(saturated["large weights"], SATURATED)
    is_power = is_above(fall["critical"], -FEW_DECADES) and is_below(late, 0)
    if not vanishes and not by_saturation:
        return Judgement(Verdict.FAILS, reason, numbers)
    if not grows and not is_power:
        return Judgement(Verdict.HOLDS, reason, numbers)
    where = (
        "the weights: small ones, which saturate nothing, or biases that saturate without large weights; at the"
        " critical point the loss is only a power of the depth, and large weights saturate most units and make the"
        " gradient explode"
    )
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def _late(logs: Array) -> Array:
    """Return decades lost over the upper half of the layers minus a quarter of all: (L, ...) -> (...)."""
    return np.asarray(LATE * logs[0] - logs[len(logs) // 2])


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient against layer, with theory and each arm's share of saturated units."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    layer = np.arange(DEPTH)
    for number, name in enumerate(ARMS):
        middle = samples[f"measured {name}"].mean(1)
        share = samples[f"saturated {name}"].mean()
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markevery": 20, "markersize": 6}
        axes[0].plot(layer, middle, label=f"{name} ({share:.0%} saturated)", **style)
        axes[0].plot(layer, samples[f"predicted {name}"], "--", color="black", linewidth=1)
    axes[0].plot([], [], "--", color="black", linewidth=1, label="theory")
    axes[0].set_ylim(-30, 30)
    label(axes[0], "layer (0 is nearest the input)", "log10 gradient, over the last's", "four ways to start")
    axes[1].plot(layer + 1, samples["measured critical"].mean(1), color=COLOURS[1], linewidth=2)
    axes[1].plot(layer + 1, samples["predicted critical"], "--", color="black", linewidth=1)
    axes[1].plot(layer + 1, POWER * np.log10((layer + 1) / DEPTH), ":", color="0.4", label="root of the layer's number")
    axes[1].set_xscale("log")
    label(axes[1], "layer, counted from 1", "log10 of the gradient", "critical, on a logarithmic axis")
    legend_below(figure, axes, 2)


VANISHES = Claim(
    id="tanh-vanishes",
    section="3.2",
    statement="tanh saturates for large inputs, which makes its gradient vanish in deep networks as the sigmoid's"
    " does.",
    limit="What shrinks the gradient is weight_var times the mean squared slope. At weight_var 1 it falls only as a"
    " power of the depth; with larger weights most units are saturated and the gradient grows.",
    source="Poole et al. 2016; Schoenholz et al. 2017, Deep Information Propagation, section 3",
    quantity=f"delta_rms of the first over the last of {DEPTH} layers at initialization with an independent gradient;"
    " share of saturated units",
    rule=f"Does not hold if neither torch's default nor large biases that saturate lose {FEW_DECADES:g} decades; else"
    f" holds with a condition if the critical point loses fewer, with less than {LATE:.0%} of them in the upper half"
    f" of the layers, or large weights saturate more than {SATURATED:.0%} of the units and make the gradient grow;"
    " else holds. All by 95% intervals.",
    caption="Gradient against layer in tanh networks at initialization, mean over replicas, theory dashed. Right: the"
    " critical arm alone against the logarithm of the layer, where a power is a line.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, ("steps=0",)),
    findings=(
        "Section 3.2 blames saturation for tanh's vanishing gradients. At torch's default initialization they vanish"
        " with no unit saturated, and with large weights three units in four are saturated and the gradient"
        " explodes.",
    ),
)
