"""Section 2.1: effect of ReLU on vanishing gradients, for different weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.claims import networks, profiles
from experiments.claims.claim import AT_START, Claim, Judgement, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import FADING, text
from experiments.claims.shares import answered
from experiments.claims.statistics import difference, interval, is_above
from experiments.claims.wording import bands, pair
from lab.readings import delta_slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH, TRAINED_DEPTH = 50, 20
STEPS, EVERY = 500, 50
RATES = (0.001, 0.01, 0.1, 1.0)
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "ReLU, He": ("activation=relu", "init=he_normal"),
    "ReLU, Xavier": ("activation=relu", "init=xavier_normal"),
    "ReLU, torch default": ("activation=relu", "init=torch_default"),
    "tanh, Xavier": ("activation=tanh", "init=xavier_normal"),
    "tanh, torch default": ("activation=tanh", "init=torch_default"),
    "sigmoid, Xavier": ("activation=sigmoid", "init=xavier_normal"),
}
HE, XAVIER, DEFAULT, TANH_XAVIER, TANH_DEFAULT, SIGMOID = WEIGHTS
READ = (f"model.depth={DEPTH}", "model.width=128", "batch_size=32", "dtype=float64")
TRAINED = (f"model.depth={TRAINED_DEPTH}", "model.width=32", "batch_size=32")
ARMS: Mapping[str, tuple[str, ...]] = {name: (*words, *READ) for name, words in WEIGHTS.items()}
GAIN = 0.3
"""Accuracy that ReLU must gain over sigmoid to count as a cure; guessing has 10%."""
MATTERS = 0.05
"""Difference in accuracy up to which two networks learn equally well."""


def measure(scale: Scale) -> Samples:
    """Measure gradient against layer at initialization, and learning curves at each arm's best rate."""
    samples = profiles.measure(ARMS, scale.replicas)
    for arm, words in WEIGHTS.items():
        result = networks.tuned((*words, *TRAINED), RATES, scale.replicas, scale.steps(STEPS), scale.steps(EVERY))
        samples[f"{arm}: accuracy"], samples[f"{arm}: steps"] = result["eval_accuracy"], result["steps"]
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: decades per layer, and final accuracy."""
    measured = {arm: profiles.slope(samples, arm) for arm in ARMS}
    learnt = {arm: answered(samples[f"{arm}: accuracy"][-1]) for arm in ARMS}
    accuracy = {arm: interval(f"held-out accuracy, {arm}", learnt[arm]) for arm in ARMS}
    gain = difference("accuracy, ReLU with He less sigmoid with Xavier", learnt[HE], learnt[SIGMOID])
    relu, tanh = (delta_slope(samples[f"{arm}: delta_rms"]) for arm in (DEFAULT, TANH_DEFAULT))
    worse = difference("what ReLU loses more than tanh, torch default", relu, tanh, "decades per layer")
    strange = profiles.outside(samples, ARMS)
    ahead = difference("accuracy, tanh with Xavier less ReLU with He", learnt[TANH_XAVIER], learnt[HE])
    numbers = (*measured.values(), *accuracy.values(), gain, worse, ahead, *bands(samples, ARMS))
    reason = (
        f"ReLU loses {text(measured[HE])} decades per layer with He's weights, {text(measured[XAVIER])} with Xavier's"
        f" and {text(measured[DEFAULT])} with torch's default, where tanh loses {text(measured[TANH_DEFAULT])}; sigmoid"
        f" with Xavier's loses {text(measured[SIGMOID])}. Trained, {TRAINED_DEPTH} layers reach"
        f" {text(accuracy[HE], 2)}, {text(accuracy[XAVIER], 2)} and {text(accuracy[DEFAULT], 2)} with ReLU,"
        f" {text(accuracy[TANH_XAVIER], 2)} with tanh and Xavier, {text(accuracy[SIGMOID], 2)} with sigmoid."
    )
    cures = profiles.stays(measured[HE]) and profiles.vanishes(measured[SIGMOID]) and is_above(gain, GAIN)
    if not cures:
        return Judgement(Verdict.FAILS, reason, numbers)
    vanishing = [arm for arm in (XAVIER, DEFAULT) if profiles.vanishes(measured[arm])]
    if not vanishing:
        return Judgement(Verdict.HOLDS, reason, numbers)
    if strange:
        gap = f"an explanation of {'; '.join(strange)}, whose gradient is not what theory expects"
        return Judgement(Verdict.UNDECIDED, reason, numbers, gap)
    where = f"a weight variance of 2 / fan_in: {' and '.join(map(pair, vanishing))} vanish exponentially"
    if is_above(worse, 0):
        where += ", the latter faster than tanh" if vanishing[-1] == DEFAULT else ""
    if is_above(ahead, -MATTERS):
        where += (
            f"; and {pair(TANH_XAVIER)} learns at least as well"
            f" ({accuracy[TANH_XAVIER].value:.2f} against {accuracy[HE].value:.2f} with He)"
        )
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient against layer, and accuracy against steps."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    profiles.draw(axes[0], samples, list(ARMS))
    label(
        axes[0], "layer (0 is nearest the input)", "gradient over the last layer's", f"{DEPTH} layers at initialization"
    )
    for number, arm in enumerate(ARMS):
        steps, curve = samples[f"{arm}: steps"], answered(samples[f"{arm}: accuracy"]).mean(1)
        axes[1].plot(steps, curve, color=COLOURS[number], marker=MARKERS[number], markevery=2, markersize=5)
    axes[1].set_ylim(0, 1)
    label(axes[1], "steps", "held-out accuracy", f"{TRAINED_DEPTH} layers in training")
    legend_below(figure, axes, 3)


CLAIM = Claim(
    id="fix-activation",
    section="2.1",
    statement="ReLU and its relatives, with a slope of 1 for positive inputs, largely solve the vanishing of"
    " gradients.",
    limit="Half of the units are off, so that a layer keeps s/2 of the squared gradient: all of it only at a weight"
    " variance of 2 / fan_in. Xavier's weights halve it in every layer, and torch's default for linear layers leaves a"
    " sixth.",
    source="He et al. 2015, section 2.2",
    quantity=f"decades of delta_rms per layer over {DEPTH} layers at initialization, for a random gradient that enters"
    f" at the end; held-out accuracy of {TRAINED_DEPTH} layers on digits after {STEPS} steps of SGD at each arm's best"
    f" of {len(RATES)} rates",
    rule=f"Vanishing is more than {FADING:g} decades per layer by the 95% interval. Does not hold unless ReLU with He"
    " stays within that either way, sigmoid with Xavier vanishes, and ReLU's accuracy is higher by more than"
    f" {GAIN:.0%} of all examples (a diverged network counts as guessing). Holds with a condition if ReLU vanishes with"
    " Xavier's or torch's default weights, and every arm lies in theory's band; else holds.",
    caption="Left: gradient against layer at initialization, median and range over replicas, theory dashed. Right:"
    " learning curves, mean over replicas.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, AT_START),
    training=f"the same with {', '.join(TRAINED)} for {STEPS} steps of SGD at each of the rates"
    f" {', '.join(f'{rate:g}' for rate in RATES)}",
    needs_full=True,
)
