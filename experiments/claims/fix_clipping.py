"""Section 2.5: effect of clipping the gradient's norm, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import text
from experiments.claims.shares import answered, share
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH, STEPS, EVERY = 20, 500, 50
RATES = (0.0001, 0.001, 0.01, 0.1, 1.0)
CLIPPED = ("clip=norm", "clip.max_norm=1")
COMMON = (f"model.depth={DEPTH}", "model.width=32", "batch_size=32")
LARGE = ("activation=relu", "init=gaussian", "init.weight_var=3")
VANISHING = ("activation=sigmoid", "init=xavier_normal")
ARMS: Mapping[str, tuple[str, ...]] = {
    "exploding": (*COMMON, *LARGE),
    "exploding, clipped": (*COMMON, *LARGE, *CLIPPED),
    "strongly exploding, clipped": (*COMMON, *LARGE, "init.weight_var=4", *CLIPPED),
    "exploding, tanh": (*COMMON, "activation=tanh", "init=gaussian", "init.weight_var=9"),
    "critical": (*COMMON, *LARGE, "init.weight_var=2"),
    "vanishing": (*COMMON, *VANISHING),
    "vanishing, clipped": (*COMMON, *VANISHING, "clip=norm", "clip.max_norm=10"),
}
EXPLODING, CLIPPED_ARM, STRONG, BOUNDED, CRITICAL, PLAIN, PLAIN_CLIPPED = ARMS
TRAINED = (EXPLODING, CLIPPED_ARM, STRONG, CRITICAL)
THRESHOLDS = (0.01, 1.0, 100.0)
EXACT = 1e-9
"""Relative error of float64 in a step of 1e-6 of a weight; that of float32 is far larger."""
MATTERS = 0.1
"""Accuracy that a rescue must add and an incomplete cure must lack: that of guessing."""
WATCHED, RATE = 100, 0.1
"""Steps and learning rate of the vanishing networks, whose gradient norm stays below their threshold of 10."""


def measure(scale: Scale) -> Samples:
    """Measure the effect of one clipped step, accuracy at every rate with and without, and a vanishing network."""
    samples = dict(zip(("norm error", "ratio error", "step ratio"), one_step(scale.replicas), strict=True))
    for arm in TRAINED:
        result = networks.tuned(ARMS[arm], RATES, scale.replicas, scale.steps(STEPS), scale.steps(EVERY))
        samples |= {
            f"{arm}: grid": result["grid"],
            f"{arm}: accuracy": result["eval_accuracy"],
            f"{arm}: rate": result["rate"],
        }
    plain, clipped = (
        networks.trained(ARMS[arm], scale.replicas, WATCHED, f"optimizer.lr={RATE}", "probe.every=10")
        for arm in (PLAIN, PLAIN_CLIPPED)
    )
    samples["vanishing: gradient"] = networks.first_over_last(clipped.isel(step=0))
    samples["vanishing: accuracy"] = clipped["eval_accuracy"].isel(step=-1).to_numpy()
    samples["vanishing: loss changed by"] = abs(plain["loss"] - clipped["loss"]).max("step").to_numpy()
    return samples


def one_step(replicas: int) -> tuple[Array, Array, Array]:
    """Return relative errors of two identities, and the ratio of the steps of two layers: (thresholds, replicas) each.

    The identities: the norm after clipping is min(norm, threshold), and all layers have the same ratio of step to
    gradient. The third array is log10 of the first layer's step over the last's. The network is tanh because in a ReLU
    network without biases all weight gradients have about the same size even if dL/dz explodes.
    """
    overrides = (*ARMS[BOUNDED], "dtype=float64", "model.bias=false", "optimizer.lr=1", "clip=norm")
    norms, ratios, gradients = [], [], []
    for threshold in THRESHOLDS:
        table = networks.trained(overrides, replicas, 1, f"clip.max_norm={threshold}").isel(step=0)
        before, after = table["grad_norm"].to_numpy(), table["clipped_grad_norm"].to_numpy()
        norms.append(np.abs(after / np.minimum(before, threshold) - 1))
        step = (table["update_ratio"] * table["weight_norm"]).transpose("layer", "replica").to_numpy()
        scale = step / table["weight_grad_norm"].transpose("layer", "replica").to_numpy()
        ratios.append(np.max(np.abs(scale / scale[-1] - 1), axis=0))
        gradients.append(np.log10(step[0] / step[-1]))
    return np.stack(norms), np.stack(ratios), np.stack(gradients)


def judge(samples: Samples) -> Judgement:
    """Apply the rule: both identities, the rescue, the gap to a critical network, and the vanishing network."""
    norm_error = Number("largest relative error of norm = min(norm, threshold)", float(np.max(samples["norm error"])))
    ratio_error = Number("largest relative change of the ratio between layers", float(np.max(samples["ratio error"])))
    final = {arm: answered(samples[f"{arm}: accuracy"][-1]) for arm in TRAINED}
    accuracy = {arm: interval(f"held-out accuracy, {arm}", final[arm]) for arm in TRAINED}
    rescue = difference("accuracy added by clipping", final[CLIPPED_ARM], final[EXPLODING])
    missing = {
        arm: difference(f"accuracy missing to critical weights, {arm}", final[CRITICAL], final[arm])
        for arm in (CLIPPED_ARM, STRONG)
    }
    best = int(np.argmin(np.abs(np.array(RATES) - samples[f"{CLIPPED_ARM}: rate"][0])))
    # No working network is wrong on all 359 examples: an accuracy of exactly 0 means divergence.
    lost = share("diverged without clipping at the rate best with it", samples[f"{EXPLODING}: grid"][best] == 0)
    changed = Number(
        "largest change of a vanishing network's loss", float(np.max(samples["vanishing: loss changed by"]))
    )
    vanished = interval("first over last gradient, vanishing, clipped", samples["vanishing: gradient"], "log10")
    stuck = interval("held-out accuracy, vanishing, clipped", samples["vanishing: accuracy"])
    strong = interval("first over last step, clipped, exploding, tanh", samples["step ratio"][1], "log10")
    numbers = (
        norm_error,
        ratio_error,
        strong,
        *accuracy.values(),
        rescue,
        *missing.values(),
        lost,
        changed,
        vanished,
        stuck,
    )
    reason = (
        f"Clipping sets the norm to min(norm, threshold) to within {norm_error.value:.0e} and leaves the ratio between"
        f" layers' steps, here 10^{text(strong, 1)} between first and last, to within {ratio_error.value:.0e}. At its"
        f" best rate the clipped network reaches {text(accuracy[CLIPPED_ARM], 2)}; without clipping {lost.value:.0%} of"
        f" the replicas diverge at that rate and the best rate reaches {text(accuracy[EXPLODING], 2)}. Critical weights"
        f" reach {text(accuracy[CRITICAL], 2)} without clipping, and clipping a network that explodes more strongly"
        f" {text(accuracy[STRONG], 2)}. A vanishing network's loss changes by {changed.value:.1g}, and it stays at"
        f" {text(stuck, 2)}."
    )
    if norm_error.value > EXACT or not is_above(rescue, 0):
        return Judgement(Verdict.FAILS, reason, numbers)
    if not is_above(rescue, MATTERS):
        need = f"a difference that is {MATTERS:g} or more with its whole interval: more replicas or steps"
        return Judgement(Verdict.UNDECIDED, reason, numbers, need)
    incomplete = [arm for arm, number in missing.items() if is_above(number, MATTERS)]
    if ratio_error.value > EXACT or not incomplete:
        return Judgement(Verdict.HOLDS, reason, numbers)
    where = "it bounds the step, but the ratio between layers is unchanged"
    for arm, explosion in ((CLIPPED_ARM, "a mild explosion (s = 3)"), (STRONG, "a stronger one (s = 4)")):
        fate = "stays worse" if arm in incomplete else "is cured" if is_below(missing[arm], MATTERS) else "is open"
        where += f"; {explosion} {fate}: accuracy {accuracy[arm].value:.2f}"
    where += f", critical weights {accuracy[CRITICAL].value:.2f}"
    if changed.value == 0:
        where += "; it does not help against vanishing"
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot accuracy against the learning rate."""
    from lab.plot.style import COLOURS, MARKERS

    (ax,) = panels(figure)
    for number, arm in enumerate(TRAINED):
        values = samples[f"{arm}: grid"]  # (rates, replicas)
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number]}
        ax.plot(RATES, values.mean(1), label=arm, **style)
        ax.fill_between(RATES, values.min(1), values.max(1), color=COLOURS[number], alpha=0.15, linewidth=0)
    ax.axhline(0.1, linestyle=":", color="0.4", label="guessing")
    ax.set_xscale("log")
    ax.set_ylim(-0.02, 1)
    label(ax, "learning rate of SGD", "held-out accuracy (0: diverged)", f"{DEPTH} ReLU layers after {STEPS} steps")
    legend_below(figure, [ax], 2)


CLAIM = Claim(
    id="fix-clipping",
    section="2.5",
    statement="Scaling a gradient whose norm exceeds a threshold down to the threshold cures explosion: it prevents"
    " updates that are too large.",
    limit="It only bounds the step: all layers are scaled by the same factor, so that their ratio is unchanged, and a"
    " vanishing gradient is not affected.",
    source="Pascanu et al. 2013, section 3.2 (the algorithm); that a common factor preserves ratios is arithmetic",
    quantity=f"norm after clipping; size of a layer's step over its gradient; held-out accuracy of {DEPTH} ReLU layers"
    f" with weight variance s / fan_in, s = 3 (strongly: 4), on digits after {STEPS} steps of SGD, each arm at its best"
    f" of {len(RATES)} rates",
    rule=f"Does not hold if the norm is not min(norm, threshold) to {EXACT:g}, or clipping does not raise the accuracy"
    " at each arm's best rate (95% interval of the difference above 0); not decided if it may raise it by less than"
    f" {MATTERS:g}. Holds with a condition if the ratio between layers' steps stays and a clipped network misses more"
    f" than {MATTERS:g} of the accuracy of critical weights, by the 95% interval; else holds."
    " A diverged network counts as guessing.",
    caption="Held-out accuracy against learning rate, mean and range over replicas.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys((PLAIN, PLAIN_CLIPPED), (f"steps={WATCHED}", f"optimizer.lr={RATE}")),
    training=f"{STEPS} steps of SGD at each of the rates {', '.join(f'{rate:g}' for rate in RATES)}; exploding, tanh:"
    f" one step, clipped to each of {', '.join(f'{limit:g}' for limit in THRESHOLDS)}",
    needs_full=True,
)
