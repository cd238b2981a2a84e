"""Section 2.4: effect of skip connections on the gradient of very deep networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import AT_START, Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import text
from experiments.claims.shares import answered
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (4, 8, 16, 32, 64)
GAIN = 2**-0.25
"""Factor of He's weights for which both maps of a block have s = sqrt(2), so that its branch preserves the variance."""
BLOCK = ("model.block=ffn", "model.expansion=1", "activation=relu")
KEEPING = (*BLOCK, "init=he_normal", f"init.gain={GAIN!r}")
SMALL = (*BLOCK, "init=torch_default")
PRENORM = ("residual=identity", "norm=rms", "norm.place=pre")
KINDS: Mapping[str, tuple[str, ...]] = {
    "small weights, no skip": SMALL,
    "small weights, skip": (*SMALL, "residual=identity"),
    "skip": (*KEEPING, "residual=identity"),
    "skip, branch / sqrt(depth)": (*KEEPING, "residual=scaled"),
    "skip, norm first": (*KEEPING, *PRENORM),
}
NO_SKIP, SMALL_SKIP, UNDAMPED, DAMPED, NORMED = KINDS
READ = ("model.width=64", "batch_size=32", "data=gaussian", f"data.variance={2**-0.5!r}")
"""With s = sqrt(2) in the embedding too, the stream starts at a mean square of 1."""
SMALL_SHARE = 1 + (1 / 3) ** 2 / 2
"""1 + s^2 / 2, the factor of the squared gradient per block with a skip; torch's default s is 1/3 in both maps."""
LAYERS, STEPS, EVERY = 30, 300, 30
RATES = (1e-6, 1e-4, 0.01, 0.1, 1.0)
"""Low enough for networks whose gradient explodes by 2^15."""
FEW = 8
"""Compared replicas of the trained networks."""
TRAINED = (f"model.depth={LAYERS}", "model.width=32", "batch_size=32")
TRAINED_KINDS = ("no skip", UNDAMPED, NORMED)
LEARNT = 0.5
"""Accuracy between guessing (10%) and what this data allows (95% and more)."""
LARGE = math.log(10.0)
"""ln of the growth of the squared gradient that counts as a change: tenfold."""


def overrides(kind: str, depth: int) -> tuple[str, ...]:
    damping = (f"residual.alpha={depth**-0.5!r}",) if kind == DAMPED else ()
    return (*KINDS[kind], *damping, f"model.depth={depth}")


ARMS: Mapping[str, tuple[str, ...]] = {
    **{f"{kind}, {depth} blocks": (*overrides(kind, depth), *READ) for kind in KINDS for depth in DEPTHS},
    **{f"trained: {kind}": (*(KEEPING if kind == "no skip" else KINDS[kind]), *TRAINED) for kind in TRAINED_KINDS},
}


def measure(scale: Scale) -> Samples:
    """Measure the growth of ln squared gradient over all blocks, by depth, and learning curves of 30 blocks."""
    samples = {}
    for kind in KINDS:
        readings = [
            networks.initial(ARMS[f"{kind}, {depth} blocks"], scale.replicas, "probe.cotangent=random")
            for depth in DEPTHS
        ]
        samples[kind] = np.stack(
            [2 * np.log(reading["layer_gain"].transpose("layer", "replica").to_numpy()).sum(0) for reading in readings]
        )
    for kind in TRAINED_KINDS:
        arm, replicas = ARMS[f"trained: {kind}"], min(FEW, scale.replicas)
        result = networks.tuned(arm, RATES, replicas, scale.steps(STEPS), scale.steps(EVERY))
        samples |= {f"accuracy, {kind}": result["eval_accuracy"], f"steps, {kind}": result["steps"]}
    return samples


def expected(kind: str, depth: Array) -> Array:
    """Return ln of the growth of the squared gradient, (D,): L ln(1 + alpha^2), or ln(1 + L) behind a norm."""
    return np.asarray(
        {
            NO_SKIP: depth * math.log(SMALL_SHARE - 1),
            SMALL_SKIP: depth * math.log(SMALL_SHARE),
            UNDAMPED: depth * math.log(2),
            DAMPED: depth * np.log1p(1 / depth),
            NORMED: np.log1p(depth),
        }[kind]
    )


def judge(samples: Samples) -> Judgement:
    """Apply the rule: growth against depth, and trainability."""
    depth, deepest = np.array(DEPTHS, dtype=np.float64), DEPTHS[-1]
    total = {
        kind: interval(
            f"ln of squared gradient over {deepest} blocks, {kind}",
            samples[kind][-1],
            "ln",
            float(expected(kind, depth)[-1]),
        )
        for kind in KINDS
    }
    per_block = interval(
        "ln of squared gradient per block, skip", _slope(depth, samples[UNDAMPED]), "ln per block", math.log(2)
    )
    power = interval("power of 1 + depth, skip, norm first", _slope(np.log1p(depth), samples[NORMED]), predicted=1.0)
    accuracy = {
        kind: interval(f"held-out accuracy, {kind}", answered(samples[f"accuracy, {kind}"][-1]))
        for kind in TRAINED_KINDS
    }
    normed, plain = (answered(samples[f"accuracy, {kind}"][-1]) for kind in (NORMED, "no skip"))
    gain = difference("accuracy added by skip and norm", normed, plain)
    numbers: tuple[Number, ...] = (*total.values(), per_block, power, *accuracy.values(), gain)
    reason = (
        f"ln of the squared gradient changes over {deepest} blocks by {text(total[NO_SKIP], 0)} without skips and by"
        f" {text(total[SMALL_SKIP], 1)} with them, both with torch's default weights. With branches that keep the"
        f" variance it grows by {text(per_block)} a block (ln 2 = 0.693), in all by {text(total[UNDAMPED], 0)}; with"
        f" the branch over sqrt(depth) by {text(total[DAMPED], 2)} in all; with a norm before it as depth to the power"
        f" {text(power, 2)}. Trained, {LAYERS} blocks reach {text(accuracy['no skip'], 2)} without skips,"
        f" {text(accuracy[UNDAMPED], 2)} with undamped ones and {text(accuracy[NORMED], 2)} with a norm first."
    )
    passes = is_below(total[NO_SKIP], -LARGE) and all(
        is_above(total[kind], -LARGE) for kind in KINDS if kind != NO_SKIP
    )
    if not passes or not is_above(gain, 0):
        return Judgement(Verdict.FAILS, reason, numbers)
    if not is_above(total[UNDAMPED], LARGE):
        return Judgement(Verdict.HOLDS, reason, numbers)
    where = "branches that are damped or begin with a norm: undamped ones let the gradient explode as 2 to the depth"
    if is_below(accuracy[UNDAMPED], LEARNT):
        where += f", and {LAYERS} of them stay below {LEARNT:.0%} accuracy at every rate"
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def _slope(x: Array, y: Array) -> Array:
    """Return the least-squares slope of y (D, R) against x (D,): (R,)."""
    centred = x - x.mean()
    return np.asarray(centred @ y / (centred @ centred))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot growth against depth, and learning curves."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    depth = np.array(DEPTHS, dtype=np.float64)
    fine = np.geomspace(DEPTHS[0], DEPTHS[-1], 50)
    for number, kind in enumerate(KINDS):
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
        values = samples[kind] / math.log(10)
        axes[0].plot(depth, np.median(values, axis=1), linestyle="none", label=kind, **style)
        axes[0].vlines(depth, values.min(1), values.max(1), color=COLOURS[number], alpha=0.5)
        axes[0].plot(fine, expected(kind, fine) / math.log(10), "--", color="black", linewidth=1)
        if kind in TRAINED_KINDS:
            axes[1].plot(samples[f"steps, {kind}"], answered(samples[f"accuracy, {kind}"]).mean(1), **style)
    axes[1].plot(
        samples["steps, no skip"],
        answered(samples["accuracy, no skip"]).mean(1),
        ":",
        color="0.3",
        label="no skip, trained",
    )
    axes[0].plot([], [], "--", color="black", linewidth=1, label="theory")
    axes[0].set_xscale("log")
    axes[0].set_xticks(DEPTHS, [str(count) for count in DEPTHS])
    axes[0].minorticks_off()
    axes[0].set_ylim(-30, 25)
    axes[1].set_ylim(-0.02, 1)
    label(axes[0], "blocks", "log10 of squared gradient's growth", "at initialization")
    label(axes[1], "steps", "accuracy (diverged: 0.1)", f"{LAYERS} blocks in training")
    legend_below(figure, axes, 3)


CLAIM = Claim(
    id="fix-residual",
    section="2.4",
    statement="Skip connections give the gradient an identity path, on which it passes very deep networks without"
    " diminishing.",
    limit="It does not diminish, but undamped branches that keep the variance double its square in every block. With"
    " branches over sqrt(depth) it tends to e, with a norm at their start it grows only as 1 + depth.",
    source="Yang and Schoenholz 2017, Mean Field Residual Networks; Zhang et al. 2019, Fixup, section 2; De and Smith"
    " 2020",
    quantity=f"squared gradient below all blocks over that above them, for {DEPTHS[0]} to {DEPTHS[-1]} blocks W2"
    f" relu(W1 x) at initialization and a random gradient; held-out accuracy of {LAYERS} blocks on digits after {STEPS}"
    f" steps of SGD at each arm's best of {len(RATES)} rates, {FEW} networks each",
    rule=f"Does not hold if over {DEPTHS[-1]} blocks the squared gradient falls to less than a tenth with skips, or"
    " does not without, or skips with a norm do not train better than none. Holds with a condition if undamped skips"
    " raise it more than tenfold; else holds. All by 95% intervals; a diverged network counts as"
    " guessing.",
    caption="Left: growth of the squared gradient against the number of blocks, median and range over replicas, theory"
    " dashed. Right: learning curves, mean over replicas.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with={arm: AT_START for arm in ARMS if not arm.startswith("trained")},
    training=f"{STEPS} steps of SGD at each of the rates {', '.join(f'{rate:g}' for rate in RATES)}",
    needs_full=True,
)
