"""Section 2.3: effect of batch norm on vanishing and exploding gradients, at initialization and in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import networks, profiles
from experiments.claims.claim import AT_START, Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import FADING, text
from experiments.claims.shares import answered
from experiments.claims.statistics import difference, interval, is_above, is_below
from experiments.claims.wording import bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = ("norm=batch",)
READ = ("model.depth=30", "model.width=128", "batch_size=128")
SIGMOID = ("activation=sigmoid", "init=xavier_normal")
RELU = ("activation=relu", "init=he_normal")
LARGE = ("activation=relu", "init=gaussian", "init.weight_var=3")
STARTS: Mapping[str, tuple[str, ...]] = {
    "sigmoid, Xavier": (*SIGMOID, *READ),
    "sigmoid, Xavier, batch norm": (*SIGMOID, *READ, *BATCH),
    "ReLU, s = 3": (*LARGE, *READ),
    "ReLU, s = 3, batch norm": (*LARGE, *READ, *BATCH),
    "ReLU, He": (*RELU, *READ),
    "ReLU, He, batch norm": (*RELU, *READ, *BATCH),
}
SMALL = ("model.width=32", "batch_size=64")
SHALLOW, DEEP = ("model.depth=10", *SMALL), ("model.depth=50", *SMALL)
SKIP = ("residual=identity", "norm.place=pre")
TRAINED: Mapping[str, tuple[str, ...]] = {
    "10 sigmoid layers": (*SIGMOID, *SHALLOW),
    "10 sigmoid layers, batch norm": (*SIGMOID, *SHALLOW, *BATCH),
    "10 ReLU layers": (*RELU, *SHALLOW),
    "10 ReLU layers, batch norm": (*RELU, *SHALLOW, *BATCH),
    "50 ReLU layers": (*RELU, *DEEP),
    "50 ReLU layers, batch norm": (*RELU, *DEEP, *BATCH),
    "50 residual ReLU layers": (*RELU, *DEEP, "residual=identity"),
    "50 residual ReLU layers, batch norm": (*RELU, *DEEP, *BATCH, *SKIP),
}
ARMS: Mapping[str, tuple[str, ...]] = {**STARTS, **TRAINED}
NORMED = ", batch norm"
STEPS, EVERY = 300, 30
RATES = (0.01, 0.1, 1.0)
FEW = 8
"""Compared replicas of the deep networks, which cost most."""
WATCHED, WATCHED_EVERY, RATE = 60, 10, 0.1
FASTER = 0.05
"""Gain in accuracy, averaged over the learning curve, that counts as faster."""
LEARNT = 0.5
"""Accuracy between guessing (10%) and what this data allows (95% and more)."""


def measure(scale: Scale) -> Samples:
    """Measure gradients at initialization, the change of their slope in the first steps, and learning curves."""
    samples = profiles.measure(STARTS, scale.replicas)
    for arm, overrides in TRAINED.items():
        replicas = min(FEW, scale.replicas) if "model.depth=50" in overrides else scale.replicas
        result = networks.tuned(overrides, RATES, replicas, scale.steps(STEPS), scale.steps(EVERY))
        samples |= {f"{arm}: accuracy": result["eval_accuracy"], f"{arm}: steps": result["steps"]}
    first = networks.trained(
        TRAINED["50 ReLU layers, batch norm"],
        scale.replicas,
        WATCHED,
        f"optimizer.lr={RATE}",
        f"probe.every={WATCHED_EVERY}",
        "probe.eval_every=0",
        "probe.set=norms",
    )
    samples["first steps: slope"] = first["delta_slope"].transpose("step", "replica").to_numpy()
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: effect of batch norm at initialization, in the first steps, and in training at two depths."""
    slope = {arm: profiles.slope(samples, arm) for arm in STARTS}
    strange = profiles.outside(samples, STARTS)
    learning = {arm: answered(samples[f"{arm}: accuracy"]) for arm in TRAINED}
    final = {arm: interval(f"held-out accuracy, {arm}", curve[-1]) for arm, curve in learning.items()}
    gain = {
        arm: difference(
            f"accuracy added, averaged over training, {arm}", learning[arm + NORMED].mean(0), learning[arm].mean(0)
        )
        for arm in TRAINED
        if not arm.endswith(NORMED)
    }
    slopes = samples["first steps: slope"]
    first, last = (
        interval(f"growth with batch norm after {step} steps", -slopes[index], "decades per layer")
        for index, step in ((0, 0), (-1, WATCHED))
    )
    numbers: tuple[Number, ...] = (
        *slope.values(),
        first,
        last,
        *gain.values(),
        *final.values(),
        *bands(samples, STARTS),
    )
    sigmoid, large, he = (arm for arm in STARTS if not arm.endswith(NORMED))
    deep, skip = "50 ReLU layers", "50 residual ReLU layers"
    reason = (
        f"At initialization batch norm turns {text(slope[sigmoid])} decades per layer (plus: vanishing) into"
        f" {text(slope[sigmoid + NORMED])} for sigmoid, {text(slope[large])} into {text(slope[large + NORMED])} for"
        f" ReLU with s = 3, and {text(slope[he])} into {text(slope[he + NORMED])} for ReLU with He's weights (theory"
        f" {slope[he + NORMED].predicted:.3f}). After {WATCHED} steps 50 layers grow by {text(last)} instead of"
        f" {text(first)}. Averaged over training it adds {text(gain['10 sigmoid layers'], 2)} to the accuracy of 10"
        f" sigmoid layers, {text(gain['10 ReLU layers'], 2)} of 10 ReLU layers, {text(gain[deep], 2)} of 50, and"
        f" {text(gain[skip], 2)} of 50 residual ones, which end at {text(final[skip + NORMED], 2)}."
    )
    tamed = profiles.vanishes(slope[sigmoid]) and not profiles.vanishes(slope[sigmoid + NORMED])
    faster = [arm for arm in ("10 sigmoid layers", "10 ReLU layers") if is_above(gain[arm], FASTER)]
    if not tamed or not faster:
        return Judgement(Verdict.FAILS, reason, numbers)
    conditions = []
    if profiles.stays(slope[he]) and profiles.explodes(slope[he + NORMED]):
        conditions.append("at initialization it makes the gradient of deep plain networks explode")
    if is_below(final[deep + NORMED], LEARNT) and is_above(final[skip + NORMED], LEARNT):
        neither = "neither with nor without it" if is_below(final[deep], LEARNT) else "without it only"
        conditions.append(f"50 plain layers learn {neither}, residual ones do with it")
    slow = [arm for arm in ("10 sigmoid layers", "10 ReLU layers") if arm not in faster]
    if slow:
        conditions.append(f"{' and '.join(slow)} do not learn faster by more than {FASTER:g}")
    if not conditions:
        return Judgement(Verdict.HOLDS, reason, numbers)
    if strange:
        gap = f"an explanation of {'; '.join(strange)}, whose gradient is not what theory expects"
        return Judgement(Verdict.UNDECIDED, reason, numbers, gap)
    where = "networks of moderate depth, and with skips; " + "; ".join(conditions)
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient against layer at initialization, and learning curves of ReLU networks, with and without it."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    shown = [arm for arm in (*STARTS, *TRAINED) if arm in STARTS or "ReLU" in arm]
    for number, arm in enumerate(shown):
        is_start, is_normed = arm in STARTS, arm.endswith(NORMED)
        style: dict[str, Any] = {
            "linestyle": "-" if is_normed else ":",
            "color": COLOURS[number // 2],
            "marker": MARKERS[number // 2],
            "markersize": 5,
            "label": arm.removesuffix(NORMED) if is_normed else None,
        }
        if is_start:
            gradient = np.median(samples[f"{arm}: delta_rms"], axis=1)
            axes[0].plot(gradient / gradient[-1], markevery=(number, 6), **style)
        else:
            curve = answered(samples[f"{arm}: accuracy"]).mean(1)
            axes[1].plot(samples[f"{arm}: steps"], curve, markevery=3, **style)
    axes[0].set_yscale("log")
    axes[1].set_ylim(-0.02, 1)
    for words, line in (("with batch norm", "-"), ("without", ":")):
        axes[1].plot([], [], line, color="black", label=words)
    label(axes[0], "layer (0 is nearest the input)", "gradient over the last layer's", "30 layers at initialization")
    label(axes[1], "steps", "accuracy (diverged: 0.1)", "in training")
    legend_below(figure, axes, 3)


CLAIM = Claim(
    id="fix-batchnorm",
    section="2.3",
    statement="Batch norm keeps the inputs of layers at mean 0 and standard deviation 1, which much reduces vanishing"
    " and exploding gradients and speeds up training.",
    limit="At initialization it makes the gradient of deep plain networks explode, by sqrt(pi / (pi - 1)) per ReLU"
    " layer, whatever the weights. This fades in the first steps; in residual networks it does not occur.",
    source="Yang et al. 2019, A Mean Field Theory of Batch Normalization; De and Smith 2020",
    quantity="decades of delta_rms per layer over 30 layers at initialization, for a random gradient that enters at the"
    f" end; held-out accuracy on digits, at the end and averaged over {STEPS} steps of SGD, at each arm's best of"
    f" {len(RATES)} rates; {FEW} networks per setting with 50 layers in training",
    rule=f"Vanishing and exploding are more than {FADING:g} decades per layer by the 95% interval. Does not hold unless"
    " batch norm ends the vanishing of sigmoid with Xavier and raises the averaged accuracy of 10 sigmoid or 10 ReLU"
    f" layers by more than {FASTER:g}. Holds with a condition if it makes ReLU with He's weights explode, or 50 plain"
    f" layers stay below {LEARNT:.0%} accuracy with it where residual ones do not, or one of the 10-layer networks"
    f" gains less than {FASTER:g}, and every arm lies in theory's band; else holds. A diverged network counts as"
    " guessing, 0.1.",
    caption="Left: gradient against layer at initialization, median over replicas. Right: learning curves, mean over"
    " replicas. Dotted: without batch norm.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(STARTS, AT_START),
    training=f"{STEPS} steps of SGD at each of the rates {', '.join(f'{rate:g}' for rate in RATES)}; 50 ReLU layers"
    f" with batch norm also for {WATCHED} steps at rate {RATE:g}",
    needs_full=True,
)
