"""Section 2: vanishing gradients freeze the first layers under SGD, and under Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import Claim, Judgement, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import text
from experiments.claims.shares import answered
from experiments.claims.statistics import interval, is_above, is_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHALLOW, DEEP = 5, 20
STEPS, EVERY = 600, 100
WATCHED, WATCHED_EVERY = 100, 20
"""Steps over which updates are recorded, and the interval; the first, where Adam's updates are lr, is excluded."""
SGD_RATES = (0.1, 1.0, 10.0)
ADAM_RATES = (0.001, 0.003, 0.01)
"""Adam's step is about the rate, SGD's the rate times a gradient near 1, hence grids that differ by a factor of 100
and more, of equal length."""
COMMON = ("activation=sigmoid", "init=xavier_normal", "model.width=32", "batch_size=32")
SGD = ("optimizer=sgd",)
ADAM = ("optimizer=adam",)
TINY_EPS = ("optimizer=adam", "optimizer.eps=1e-30")
ARMS: Mapping[str, tuple[str, ...]] = {
    f"{SHALLOW} layers, SGD": (*COMMON, f"model.depth={SHALLOW}", *SGD),
    f"{SHALLOW} layers, Adam": (*COMMON, f"model.depth={SHALLOW}", *ADAM),
    f"{DEEP} layers, SGD": (*COMMON, f"model.depth={DEEP}", *SGD),
    f"{DEEP} layers, Adam": (*COMMON, f"model.depth={DEEP}", *ADAM),
    f"{DEEP} layers, Adam, tiny eps": (*COMMON, f"model.depth={DEEP}", *TINY_EPS),
}
SHALLOW_SGD, SHALLOW_ADAM, DEEP_SGD, DEEP_ADAM, DEEP_TINY = ARMS
NEGLIGIBLE = -2.0
"""log10 of the first layer's relative update over the last's below which the layer counts as frozen."""
EVEN = -0.5
"""The same, above which both layers move alike: within a factor of 3."""
LEARNT = 0.5
"""Accuracy, between the 10% of guessing and the 95% and more that this data allows."""


def measure(scale: Scale) -> Samples:
    """Measure accuracy at each arm's best rate, and there the relative updates by layer and the initial gradient."""
    samples = {}
    for arm, overrides in ARMS.items():
        rates = SGD_RATES if arm.endswith("SGD") else ADAM_RATES
        result = networks.tuned(overrides, rates, scale.replicas, scale.steps(STEPS), scale.steps(EVERY))
        samples[f"{arm}: accuracy"] = result["eval_accuracy"]
        samples[f"{arm}: steps"], samples[f"{arm}: rate"] = result["steps"], result["rate"]
        watched = networks.trained(
            overrides,
            scale.replicas,
            WATCHED,
            f"optimizer.lr={float(result['rate'][0])}",
            f"probe.every={WATCHED_EVERY}",
            "probe.eval_every=0",
        )
        updates = watched["update_ratio"].transpose("step", "layer", "replica").to_numpy()[1:-1]  # (S, layers, R)
        with np.errstate(divide="ignore"):
            samples[f"{arm}: update"] = np.log10(updates).mean(0)
        samples[f"{arm}: gradient"] = networks.first_over_last(watched.isel(step=0))
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: do the first layers move, and does the network learn, with either optimizer?"""
    gradient, update, accuracy = {}, {}, {}
    for arm in ARMS:
        gradient[arm] = interval(f"first over last gradient, {arm}", samples[f"{arm}: gradient"], "log10")
        log_updates = samples[f"{arm}: update"]
        update[arm] = interval(f"first over last relative update, {arm}", log_updates[0] - log_updates[-1], "log10")
        accuracy[arm] = interval(f"held-out accuracy, {arm}", answered(samples[f"{arm}: accuracy"][-1]))
    numbers = (*gradient.values(), *update.values(), *accuracy.values())
    reason = (
        f"With SGD the first of {DEEP} layers moves 10^{text(update[DEEP_SGD], 1)} times as far as the last, relative"
        f" to its weights, and the accuracy stays at {text(accuracy[DEEP_SGD], 2)}; of {SHALLOW} layers"
        f" 10^{text(update[SHALLOW_SGD], 1)} and {text(accuracy[SHALLOW_SGD], 2)}. With Adam it is"
        f" 10^{text(update[SHALLOW_ADAM], 1)} and {text(accuracy[SHALLOW_ADAM], 2)} at {SHALLOW} layers from the same"
        f" gradient; at {DEEP} layers, where gradients lie below its eps, 10^{text(update[DEEP_ADAM], 1)} and"
        f" {text(accuracy[DEEP_ADAM], 2)}; with eps = 1e-30 10^{text(update[DEEP_TINY], 1)} and"
        f" {text(accuracy[DEEP_TINY], 2)}."
    )
    is_frozen = is_below(update[DEEP_SGD], NEGLIGIBLE) and is_below(accuracy[DEEP_SGD], LEARNT)
    moves = {arm: is_above(update[arm], EVEN) for arm in (SHALLOW_ADAM, DEEP_TINY)}
    if not is_frozen:
        return Judgement(Verdict.FAILS, reason, numbers)
    if not any(moves.values()):
        return Judgement(Verdict.HOLDS, reason, numbers)
    where = "plain SGD; Adam moves the first layers as far as the last as long as their gradients are not below its eps"
    if is_above(accuracy[SHALLOW_ADAM], LEARNT):
        where += f", and then trains the same {SHALLOW} layers"
    if moves[DEEP_TINY] and is_below(accuracy[DEEP_TINY], LEARNT):
        where += (
            f"; but {DEEP} layers do not learn even where all of them move, so frozen layers are not the only problem"
        )
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the relative update of each layer, and accuracy against steps."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for number, arm in enumerate(ARMS):
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
        update = samples[f"{arm}: update"].mean(1)
        axes[0].plot(np.linspace(0, 1, len(update)), update, **style, markevery=max(1, len(update) // 5), label=arm)
        axes[1].plot(samples[f"{arm}: steps"], answered(samples[f"{arm}: accuracy"]).mean(1), **style)
    axes[1].axhline(0.1, linestyle=":", color="0.4")
    axes[1].set_ylim(0, 1)
    label(axes[0], "place of the layer: 0 first, 1 last", "log10 of update over weights", "update of each layer")
    label(axes[1], "steps", "held-out accuracy", "accuracy (dotted: guessing)")
    legend_below(figure, axes, 2)


CLAIM = Claim(
    id="frozen-early-layers",
    section="2",
    statement="Vanishing gradients make the first layers' updates negligible, which freezes them and keeps the network"
    " from learning.",
    limit="SGD's step is proportional to the gradient. Adam divides each parameter's by its own size, so that its"
    " steps do not vanish with the gradient until that is as small as eps.",
    source="Kingma and Ba 2015, section 2.1 (the step is invariant to the gradient's scale)",
    quantity=f"norm of a layer's update over that of its parameters, mean of log10 over steps {WATCHED_EVERY} to"
    f" {WATCHED - WATCHED_EVERY}; held-out accuracy on digits after {STEPS} steps at each arm's best of three rates;"
    " sigmoid networks with Xavier weights",
    rule="Frozen: the first layer's relative update is less than 1/100 of the last's; not learning: accuracy below"
    f" 50%; both by 95% intervals. Does not hold if with SGD the first of {DEEP} layers is not frozen, or they learn"
    " nevertheless. Holds with a condition if under Adam the first layer moves at least a third as far as the last,"
    " from the same gradient; else holds.",
    caption="Left: relative update of each layer, mean over replicas. Right: held-out accuracy, mean over replicas.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    training=f"{STEPS} steps at each of the rates {', '.join(f'{rate:g}' for rate in SGD_RATES)} (SGD) or"
    f" {', '.join(f'{rate:g}' for rate in ADAM_RATES)} (Adam)",
    needs_full=True,
)
