"""Section 2: the factor that exceeds 1 when gradients explode, and losses that end in NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import networks, profiles
from experiments.claims.claim import AT_START, Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import FADING, text
from experiments.claims.shares import share
from experiments.claims.statistics import is_above, is_below
from experiments.claims.wording import bands
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH, STEPS = 30, 200
RATES = (0.001, 0.01, 0.1)
"""Learning rates of SGD."""
COMMON = (f"model.depth={DEPTH}", "init=gaussian")
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "ReLU, s = 2": ("activation=relu", "init.weight_var=2"),
    "ReLU, s = 3": ("activation=relu", "init.weight_var=3"),
    "ReLU, s = 4": ("activation=relu", "init.weight_var=4"),
    "tanh, s = 1.76": ("activation=tanh", "init.weight_var=1.7610", "init.bias_var=0.05"),
    "tanh, s = 9": ("activation=tanh", "init.weight_var=9", "init.bias_var=0.05"),
}
READ = ("model.width=128", "batch_size=32")
TRAINED = ("model.width=32", "batch_size=32")
ARMS: Mapping[str, tuple[str, ...]] = {name: (*COMMON, *words) for name, words in WEIGHTS.items()}
CRITICAL_RELU, LARGE_RELU, LARGER_RELU, CRITICAL_TANH, LARGE_TANH = ARMS
EXPLODING = (LARGE_RELU, LARGER_RELU, LARGE_TANH)
GUIDE = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu")
"""The guide's activations without a free slope."""
LARGEST_SLOPE = 1.13
MOST = 0.5
"""Share of replicas that counts as most of them."""


def measure(scale: Scale) -> Samples:
    """Measure gradient against layer, replicas that diverge at each rate, and the largest slope of each activation."""
    samples = profiles.measure({name: (*words, *READ) for name, words in ARMS.items()}, scale.replicas)
    for name, words in ARMS.items():
        samples[f"{name}: diverged"] = diverged((*words, *TRAINED), scale)
    samples["largest slopes"] = largest_slopes()
    return samples


def diverged(overrides: tuple[str, ...], scale: Scale) -> Array:
    """Return 1 where the loss or a gradient was not finite within the steps, (rates, replicas)."""
    from lab import compose
    from lab.run import simulation

    steps = scale.steps(STEPS)
    base = compose.compose(
        [*overrides, "replicas=1", f"steps={steps}", "probe.every=0", "probe.set=norms", *networks.ALONE]
    )
    arms = networks.at_rates(base, RATES, range(scale.replicas))
    loss = simulation.side_by_side(arms)["loss"].isel(step=-1).to_numpy()
    return np.asarray(~np.isfinite(loss), dtype=np.float64).reshape(len(RATES), scale.replicas)


def largest_slopes() -> Array:
    """Return the largest |slope| of each of GUIDE on a grid of 2,000,001 points over [-20, 20], (activations,)."""
    import torch

    from lab import schema
    from lab.network import activations

    z = torch.linspace(-20, 20, 2_000_001, dtype=torch.float64)
    layers = [activations.build(schema.ACTIVATIONS[name](name), 1, ()) for name in GUIDE]
    return np.array([layer.slope(z).abs().max().item() for layer in layers])


def judge(samples: Samples) -> Judgement:
    """Apply the rule: growth of the gradient, its prediction, and the share of replicas that end in NaN."""
    measured = {arm: profiles.slope(samples, arm) for arm in ARMS}
    middle = RATES.index(0.01)
    shares = {arm: share(f"share in NaN at lr 0.01, {arm}", samples[f"{arm}: diverged"][middle]) for arm in ARMS}
    anywhere = {
        arm: share(f"share in NaN at any of the rates, {arm}", samples[f"{arm}: diverged"].max(0)) for arm in ARMS
    }
    slopes = dict(zip(GUIDE, samples["largest slopes"], strict=True))
    steepest = max(slopes, key=lambda name: slopes[name])
    bounds = [Number(f"largest slope, {name}", float(slope)) for name, slope in slopes.items()]
    numbers = (*measured.values(), *shares.values(), *anywhere.values(), *bounds, *bands(samples, ARMS))
    strange = profiles.outside(samples, ARMS)
    reason = (
        f"The gradient grows by {text(_growth(measured[LARGE_RELU]))} decades per layer towards the input in ReLU"
        f" networks with s = 3, {text(_growth(measured[LARGER_RELU]))} with s = 4 and"
        f" {text(_growth(measured[CRITICAL_RELU]))} with s = 2, though every ReLU's slope is 0 or 1 (the steepest here"
        f" is {steepest}, {slopes[steepest]:.4f}). At a learning rate of 0.01 {shares[LARGE_RELU].value:.0%} of the"
        f" networks with s = 3 end in NaN and {shares[CRITICAL_RELU].value:.0%} of those with s = 2. A tanh network"
        f" with s = 9 grows by {text(_growth(measured[LARGE_TANH]))} decades per layer, and"
        f" {anywhere[LARGE_TANH].value:.0%} of its replicas end in NaN at any rate."
    )
    grows = all(profiles.explodes(measured[arm]) for arm in EXPLODING)
    ends_in_nan = is_above(shares[LARGE_RELU], MOST) and is_below(shares[CRITICAL_RELU], MOST)
    if not grows or not ends_in_nan:
        return Judgement(Verdict.FAILS, reason, numbers)
    if strange:
        gap = f"an explanation of {'; '.join(strange)}, whose gradient is not what theory expects"
        return Judgement(Verdict.UNDECIDED, reason, numbers, gap)
    if slopes["relu"] > 1 and not is_below(anywhere[LARGE_TANH], MOST):
        return Judgement(Verdict.HOLDS, reason, numbers)
    where = "what must be above 1 is the gain sqrt(s D) of a layer, weights and slopes together"
    if slopes["relu"] <= 1 and slopes[steepest] <= LARGEST_SLOPE:
        where += f", for slopes do not exceed {LARGEST_SLOPE:g}"
    if is_below(anywhere[LARGE_TANH], MOST):
        where += "; and NaN follows where activations are unbounded: a tanh network explodes with a finite loss"
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def _growth(slope: Number) -> Number:
    """Return decades gained towards the input: `profiles.slope` with the opposite sign."""
    assert slope.lower is not None
    assert slope.upper is not None
    return Number(slope.name, -slope.value, -slope.upper, -slope.lower, slope.units)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient against layer, and the share of replicas that end in NaN at each rate."""
    from lab.plot.style import COLOURS

    axes = panels(figure, 2)
    profiles.draw(axes[0], samples, list(ARMS))
    label(axes[0], "layer (0 is nearest the input)", "gradient over the last layer's", "at initialization")
    width = 0.16
    for number, arm in enumerate(ARMS):
        percent = 100 * samples[f"{arm}: diverged"].mean(1)
        places = np.arange(len(RATES)) + (number - 2) * width
        axes[1].bar(places, percent + 1, width, bottom=-1, color=COLOURS[number])
    axes[1].set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
    axes[1].set_ylim(-1, 100)
    label(axes[1], "learning rate of SGD", "replicas that end in NaN, %", f"after {STEPS} steps")
    legend_below(figure, axes, 3)


CLAIM = Claim(
    id="exploding-product",
    section="2",
    statement="Factors that stay above 1 multiply to gradients that grow exponentially towards the input, to updates"
    " that are too large, and often to a loss of NaN.",
    limit="The factor is a layer's Jacobian gain sqrt(s D(q)), which weights push above 1; slopes of common"
    " activations are at most 1.13. Where activations are bounded the loss stays finite.",
    source="Poole et al. 2016, section 2; Schoenholz et al. 2017, section 3; He et al. 2015, section 2.2",
    quantity=f"decades of delta_rms per layer over {DEPTH} layers at initialization, for a random gradient that enters"
    f" at the end; share of replicas whose loss or gradient is not finite within {STEPS} steps of SGD; largest slope of"
    " each activation",
    rule=f"Exploding is more than {FADING:g} decades per layer by the 95% interval. Does not hold unless ReLU with s ="
    " 3 and 4 and tanh with s = 9 explode and at lr 0.01 most ReLU networks with s = 3 end in NaN and most with s = 2"
    " do not. Holds with a condition if every arm lies in theory's band and ReLU's slope is at most 1, or most"
    " exploding tanh networks stay finite at all rates; else holds.",
    caption="Left: gradient against layer at initialization, median and range over replicas, theory dashed. Right:"
    " share of replicas that end in NaN in training.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, (*READ, *AT_START)),
    training=f"the same with {', '.join(TRAINED)} for {STEPS} steps of SGD at each of the rates"
    f" {', '.join(f'{rate:g}' for rate in RATES)}",
    needs_full=True,
    findings=(
        "Section 2 does not say what is above 1 when gradients explode. It cannot be the activations' slopes, to which"
        " it attributes vanishing: ReLU's never exceed 1, and GELU's, the steepest of the guide's, never 1.129.",
    ),
)
