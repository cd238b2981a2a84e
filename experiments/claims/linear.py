"""Section 1: linear layers compose to one map, but gradient descent treats them differently."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from lab.network import Network

DEPTH, WIDTH = 20, 128
STACK = ("activation=identity", f"model.depth={DEPTH}", f"model.width={WIDTH}", "data=gaussian", "dtype=float64")
VARIANCES = (0.5, 1.0, 2.0)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
STEPS, EVERY = 400, 20
CIRCLES = ("data=circles", "model.width=32", "batch_size=64", "init=lecun_normal")
DIGITS = ("data=digits", "activation=identity", "model.width=32", "batch_size=64", "init=gaussian")
LEARNERS: Mapping[str, tuple[str, ...]] = {
    "circles, linear, depth 1": ("activation=identity", "model.depth=1", *CIRCLES),
    "circles, linear, depth 8": ("activation=identity", "model.depth=8", *CIRCLES),
    "circles, tanh, depth 2": ("activation=tanh", "model.depth=2", *CIRCLES),
    "digits, linear, depth 1": (*DIGITS, "model.depth=1", "init.weight_var=0.5"),
    "digits, linear, depth 20": (*DIGITS, "model.depth=20", "init.weight_var=0.5"),
}
STACKS: Mapping[float, tuple[str, ...]] = {
    variance: (*STACK, "batch_size=32", "probe.cotangent=random", "init=gaussian", f"init.weight_var={variance:g}")
    for variance in VARIANCES
}
ARMS: Mapping[str, tuple[str, ...]] = {
    **LEARNERS,
    **{f"gradient, linear, weight_var {variance:g}": words for variance, words in STACKS.items()},
}
ROUNDING = 1e-11
"""Allowed deviation of stack and product over the logits' rms: 20 sums of 128 terms have rounding errors of about
1e-14, and a factor of 1000 allows for the largest of 2560 logits and for cancellation."""
BEST_LINE = 2 / 3 + 3 * math.sqrt(2 / 9 / 400)
"""Accuracy of the best line on the circles: a line at distance d from the centre of radii 1 and 1/2 separates
1/2 + (arccos(d) - arccos(min(2 d, 1))) / (2 pi) correctly, at most 2/3, at d = 1/2; plus three standard errors of a
share of 400 held-out points."""
GAP = 0.2
DECADES = 2.0


def measure(scale: Scale) -> Samples:
    """Measure stack against product, learning on circles and digits, and the gradient at initialization."""
    samples = {"collapse": _collapse(scale.replicas)}
    replicas = max(2, scale.replicas // 2)
    for name, overrides in LEARNERS.items():
        result = networks.tuned(overrides, RATES, replicas, scale.steps(STEPS), scale.steps(EVERY))
        samples |= {
            f"accuracy {name}": result["eval_accuracy"],
            f"rate {name}": result["rate"],
            "steps": result["steps"],
        }
    for variance, overrides in STACKS.items():
        reading = networks.initial(overrides, scale.replicas)
        delta = reading["delta_rms"].transpose("layer", "replica").to_numpy()
        predicted = reading["predicted_delta_rms"].to_numpy()
        samples[f"gradient {variance:g}"] = np.log10(delta / delta[-1])
        samples[f"predicted {variance:g}"] = np.log10(predicted / predicted[-1])
    return samples


def _collapse(replicas: int) -> Array:
    """Return the largest difference between stack and single map over the logits' rms, (R,)."""
    import torch

    from lab import compose
    from lab.network import Network
    from lab.network.seeding import streams

    config = compose.compose([*STACK, "init=torch_default", f"replicas={replicas}"])  # which has biases
    network = Network(config, 64, 10, [streams(networks.SEED, r) for r in range(replicas)], torch.device("cpu"))
    x = torch.randn(replicas, 256, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight, bias = single_map(network)
        logits = network(x)  # (R, B, classes)
        gap = (logits - torch.baddbmm(bias, x, weight)).abs().amax((1, 2))
        return (gap / logits.square().mean((1, 2)).sqrt()).numpy()


def single_map(network: Network) -> tuple[Tensor, Tensor]:
    """Return the product of all maps of a plain network: weight (R, features, classes) and bias (R, 1, classes)."""
    import torch

    from lab.network import Block

    maps = [*(block.up for block in network.blocks if isinstance(block, Block)), network.readout]
    weight: Tensor = maps[0].weight
    bias: Tensor | None = maps[0].bias
    for part in maps[1:]:
        weight = torch.bmm(weight, part.weight)
        assert bias is not None
        assert part.bias is not None
        bias = torch.baddbmm(part.bias, bias, part.weight)
    assert bias is not None
    return weight, bias


def judge(samples: Samples) -> Judgement:
    """Apply the rule: equal functions, no better than a line on circles, different in gradient and training."""
    accuracy = {
        name: interval(f"held-out accuracy, {name}", samples[f"accuracy {name}"][-1], "share") for name in LEARNERS
    }
    gaps = {
        depth: difference(
            f"accuracy on circles, tanh minus linear of depth {depth}",
            samples["accuracy circles, tanh, depth 2"][-1],
            samples[f"accuracy circles, linear, depth {depth}"][-1],
        )
        for depth in (1, 8)
    }
    behind = difference(
        "accuracy on digits, linear of depth 1 minus depth 20",
        samples["accuracy digits, linear, depth 1"][-1],
        samples["accuracy digits, linear, depth 20"][-1],
    )
    gradient = {
        variance: interval(
            f"first over last gradient of {DEPTH} linear layers, weight_var {variance:g}",
            samples[f"gradient {variance:g}"][0],
            "log10",
            float(samples[f"predicted {variance:g}"][0]),
        )
        for variance in VARIANCES
    }
    collapse = float(np.max(samples["collapse"]))
    numbers = (
        Number("largest difference of stack and one map", collapse, units="logits' rms"),
        *(*accuracy.values(), *gaps.values(), behind, *gradient.values()),
    )
    low, high = gradient[VARIANCES[0]], gradient[VARIANCES[-1]]
    circles = [accuracy[f"circles, {name}"].value for name in ("linear, depth 1", "linear, depth 8", "tanh, depth 2")]
    digits = [accuracy[f"digits, linear, depth {depth}"].value for depth in (1, 20)]
    reason = (
        f"{DEPTH} linear layers and the product of their matrices differ by {collapse:.0e} of the logits. On two"
        f" circles linear networks get {circles[0]:.0%} and {circles[1]:.0%} right (no line can do better than 67%),"
        f" tanh {circles[2]:.0%}. But the stack's gradient changes by 10^{low.value:.1f} at weight_var"
        f" {VARIANCES[0]:g} and 10^{high.value:+.1f} at {VARIANCES[-1]:g}, with a derivative of 1 throughout, and at"
        f" the former 20 layers learn {digits[1]:.0%} of the digits where 1 learns {digits[0]:.0%}."
    )
    linear = [accuracy[f"circles, linear, depth {depth}"] for depth in (1, 8)]
    is_equal = collapse < ROUNDING  # false for a NaN
    if not is_equal or not all(is_below(share, BEST_LINE) for share in linear):
        return Judgement(Verdict.FAILS, reason, numbers)
    if not all(is_above(gap, GAP) for gap in gaps.values()):
        return Judgement(Verdict.UNDECIDED, reason, numbers, "a nonlinear arm that learns the circles")
    if (is_below(low, -DECADES) and is_above(high, DECADES)) or is_above(behind, GAP):
        where = "functions: to gradient descent a stack is not its product, because depth and weights set the gradient"
        return Judgement(Verdict.CONDITION, reason, numbers, where)
    return Judgement(Verdict.HOLDS, reason, numbers)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot learning on two circles, and the gradient along a linear stack."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for number, name in enumerate(name for name in LEARNERS if name.startswith("circles")):
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markevery": 4, "markersize": 6}
        axes[0].plot(
            samples["steps"], samples[f"accuracy {name}"].mean(1), label=name.removeprefix("circles, "), **style
        )
    axes[0].axhline(2 / 3, color="0.4", linestyle=":", label="best line")
    axes[0].set_ylim(0.4, 1.03)
    label(axes[0], "steps", "held-out accuracy, share", "two circles, each at its best rate")
    for number, variance in enumerate(VARIANCES):
        style = {"color": COLOURS[number + 3], "marker": MARKERS[number + 3], "markevery": 4, "markersize": 6}
        axes[1].plot(samples[f"gradient {variance:g}"].mean(1), label=f"linear, weight_var {variance:g}", **style)
        axes[1].plot(samples[f"predicted {variance:g}"], "--", color="black", linewidth=1)
    axes[1].plot([], [], "--", color="black", linewidth=1, label="theory")
    label(
        axes[1],
        "layer (0 is nearest the input)",
        "log10 gradient, over the last's",
        "derivative 1 in every layer",
    )
    legend_below(figure, axes, 3)


CLAIMS = (
    Claim(
        id="linear-collapse",
        section="1",
        statement="Linear layers without an activation between them compose to one linear map, whatever their number,"
        " and cannot learn nonlinear relations.",
        limit="They are one map as a function. Under gradient descent the stack behaves differently from its product:"
        " its gradient shrinks or grows with depth, depending on the weights, though every derivative is 1.",
        source="Saxe, McClelland and Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep"
        " linear neural networks, section 1",
        quantity="Difference of stack and product in float64; held-out accuracy on two concentric circles and on"
        " digits, each arm at its own best rate (8 networks each); first over last gradient at initialization",
        rule=f"Does not hold if stack and product differ by more than {ROUNDING:g} or a linear network exceeds the"
        f" best line ({BEST_LINE:.2f}, sampling included); not decided if the nonlinear network is not {GAP:g}"
        f" better; holds with a condition if depth changes the gradient by more than {DECADES:g} decades either way,"
        f" depending on the weights, or costs a linear network {GAP:g} of its accuracy on digits; else holds. By 95%"
        " intervals over replicas.",
        caption="Left: accuracy on two concentric circles. Right: gradient along stacks of 20 linear layers at"
        " initialization, mean over replicas; dashed is theory.",
        measure=measure,
        judge=judge,
        draw=draw,
        arms=ARMS,
        shown_with={arm: ("steps=0",) for arm in ARMS if arm.startswith("gradient")},
        training=f"{STEPS} steps of SGD at each of the rates {', '.join(f'{rate:g}' for rate in RATES)}",
        needs_full=True,
        findings=(
            "Section 1 calls the map that a stack composes to a larger one. It is smaller: two maps from 64 inputs"
            " over 128 units to 10 outputs have 9,610 numbers, their product 650, and its rank is that of the"
            " narrowest layer at most.",
        ),
    ),
)
