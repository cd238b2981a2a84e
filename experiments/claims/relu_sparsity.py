"""Section 4.1: sparsity of ReLU's activations by depth, before and after training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.claim import Claim, Judgement, Samples, Scale, Verdict
from experiments.claims.networks import initial
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, STEPS = 64, 600
_STACK = (f"model.width={WIDTH}", "init=he_normal", "data=digits", "batch_size=64", "optimizer.lr=0.03")
ARMS = {
    "4 layers": (*_STACK, "activation=relu", "model.depth=4", "probe.examples=512", "probe.set=norms"),
    "20 layers": (*_STACK, "activation=relu", "model.depth=20", "probe.examples=512", "probe.set=norms"),
    "gelu": (*_STACK, "activation=gelu", "model.depth=4"),
}
RELU_ARMS = ("4 layers", "20 layers")
TIMES = ("at initialization", "trained")
MANY = 0.25
"""Share of zeros among units that are on for some example: half of that for symmetric weights."""


def measure(scale: Scale) -> Samples:
    """Measure, by layer and replica, before and after training, the shares of zeros and of units that are never on."""
    from experiments.claims import dead_units
    from lab.machine.threads import thread_budget
    from lab.train.losses import evaluate

    samples = {}
    with thread_budget(1):
        for name in RELU_ARMS:
            trainer = dead_units.start(ARMS[name], scale.replicas)
            for time in TIMES:
                if time == "trained":
                    for _ in range(scale.steps(STEPS)):
                        trainer.step()
                on = [z > 0 for z in dead_units.pre_activations(trainer.network, trainer.instrument.probe_set)]
                alive = trainer.divergence.alive.numpy()
                zeros = np.stack([1 - layer.double().mean((1, 2)).numpy() for layer in on])  # (L, R)
                never = np.stack([1 - layer.any(1).double().mean(1).numpy() for layer in on])
                samples[f"zeros {name}, {time}"] = np.where(alive, zeros, np.nan)
                samples[f"never {name}, {time}"] = np.where(alive, never, np.nan)
            samples[f"accuracy {name}"] = evaluate(trainer.network, trainer.dataset)["eval_accuracy"].numpy()
    samples["zeros gelu"] = initial(ARMS["gelu"], scale.replicas)["zero_fraction"].mean("layer").to_numpy()
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: one half of zeros at initialization, not only from units that never fire."""
    numbers, is_sparse, is_half, drift = [], {}, True, 0.0
    for name in RELU_ARMS:
        for time in TIMES:
            zeros, never = samples[f"zeros {name}, {time}"], samples[f"never {name}, {time}"]
            is_initial = time == TIMES[0]
            share = interval(f"zeros: {name}, {time}", zeros.mean(0), "of activations", 0.5 if is_initial else None)
            with np.errstate(invalid="ignore"):
                of_living = ((zeros - never) / (1 - never)).mean(0)
            living = interval(
                f"zeros of units that are on for some example: {name}, {time}", of_living, "of activations"
            )
            numbers += [share, interval(f"units never on: {name}, {time}", never.mean(0), "of units"), living]
            is_sparse[f"{name}, {time}"] = is_above(living, MANY)
            if is_initial:
                # Given the layer below, each unit is off with probability 1/2; at worst for all examples together.
                allowed = 4 * math.sqrt(0.25 / (WIDTH * zeros.size))
                is_half &= abs(share.value - 0.5) <= allowed
            else:
                drift = max(drift, float(np.nanmax(np.abs(np.nanmean(zeros, axis=1) - 0.5))))
        numbers.append(interval(f"held-out accuracy: {name}", samples[f"accuracy {name}"]))
    gelu = interval("zeros: gelu, at initialization (it underflows)", samples["zeros gelu"], "of activations")
    above = difference("zeros: relu less gelu", samples[f"zeros 4 layers, {TIMES[0]}"].mean(0), samples["zeros gelu"])
    numbers += [gelu, above]
    deep = {time: np.nanmean(samples[f"never 20 layers, {time}"][-1]) for time in TIMES}
    shares = {f"{name}, {time}": np.nanmean(samples[f"zeros {name}, {time}"]) for name in RELU_ARMS for time in TIMES}
    reason = (
        "Exact zeros among the activations: "
        + "; ".join(f"{case} {share:.0%}" for case, share in shares.items())
        + f". Training moves single layers by up to {drift:.2f} from one half. In the last of 20 layers"
        f" {deep[TIMES[0]]:.0%} of the units are never on at initialization, {deep[TIMES[1]]:.0%} after training."
    )
    if not is_half or not any(is_sparse.values()) or not is_above(above, MANY):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if all(is_sparse.values()):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    dense = ", ".join(case for case, sparse in is_sparse.items() if not sparse)
    return Judgement(
        Verdict.CONDITION,
        reason,
        tuple(numbers),
        f"not where the zeros are units that are never on rather than units that choose: {dense}",
    )


def draw(figure: Figure, samples: Samples) -> None:
    """Plot zeros and units that are never on against depth, before and after training."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for ax, name in zip(axes, RELU_ARMS, strict=True):
        ax.axhline(0.5, color="black", linestyle=":", linewidth=1.2, label="theory at initialization")
        for number, time in enumerate(TIMES):
            for kind, style, words in (("zeros", "-", "zeros"), ("never", "--", "units never on")):
                values = samples[f"{kind} {name}, {time}"]
                layer = np.arange(len(values))
                colour = COLOURS[number]
                ax.plot(
                    layer, np.nanmean(values, 1), style, color=colour, marker=MARKERS[number], label=f"{words}, {time}"
                )
        ax.set_ylim(0, 1)
        ax.set_xticks(layer[:: max(1, len(layer) // 4)])
        label(ax, "layer (0 is nearest the input)", "share" if ax is axes[0] else "", name)
    legend_below(figure, axes[:1], 2)


SPARSITY = Claim(
    id="relu-sparsity",
    section="4.1",
    statement="ReLU turns negative inputs into 0, so that for any one input many units output exactly 0.",
    limit=(
        "Symmetric weights make the share of zeros one half at initialization, and training moves it. With depth the"
        " examples become alike, so that a unit is off for all of them or for none: such zeros select nothing."
    ),
    source="Glorot, Bordes and Bengio 2011, section 3; Poole et al. 2016, section 2, for examples becoming alike",
    quantity=(
        "share of activations that are exactly 0, of units that are on for none of 512 examples, and of zeros among the"
        f" other units, for 4 and 20 layers of {WIDTH} on digits, before and after {STEPS} steps of SGD"
    ),
    rule=(
        "Fails if the share of zeros at initialization is farther than four standard errors from 1/2, if it does not"
        f" exceed GELU's by {MANY:g}, or if nowhere more than {MANY:g} of the activations of units that are on for some"
        " example are 0 (95% intervals). Holds if they are at both depths, before and after training; else holds with a"
        " condition."
    ),
    caption=(
        "Share of exact zeros (solid) and of units that are on for no example at all (dashed), means over replicas."
        " With depth examples become alike and units are on for all or none of them; training tells them apart again."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with={arm: (f"steps={STEPS}" if arm in RELU_ARMS else "steps=0",) for arm in ARMS},
    needs_full=True,
)
