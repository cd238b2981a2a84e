"""Sections 5.3 and Q3: stability of gated networks, by the signal in plain stacks and the largest usable rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.better import signed
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.gated_ffn import BLOCK
from experiments.claims.gated_stacks import LAYERS, STACK, STACKS, STARTS, fixed_point, predicted, variances
from experiments.claims.networks import ALONE, at_rates
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab import schema
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = ("relu", "gelu", "silu", "swiglu")
"""silu is SwiGLU without the gate: activations of the same mean square, and so branches of the same size."""
OPTIMIZERS = {
    "sgd": tuple(2.0 ** np.array([-4, -2, 0, 0.5, 1, 1.25, 1.5, 1.75, 2, 2.5, 3])),
    "adamw": tuple(2.0 ** np.array([-5, -3, -1, 1, 1.5, 2, 2.5, 2.75, 3, 3.5, 4])),
}
"""Optimizer -> learning rates, from those at which ReLU learns the digits to those at which no block does, densest near
the limit."""
STEPS, EVERY = 100, 4
LEARNT = 0.5 * math.log(10)
"""Training loss (nats) below which a network has learnt something: half of that of guessing one of ten."""
SPIKE = 1.0
"""A loss this many nats above the lowest so far is a spike."""

ARMS = {
    **{
        f"plain {name}": (f"activation={name}", "init=gaussian", f"init.weight_var={s:g}", *STACK)
        for name, s in STACKS.items()
    },
    **{
        f"{optimizer}, {block}": (
            f"activation={block}",
            *BLOCK,
            "init=lecun_normal",
            f"optimizer={optimizer}",
            "data=digits",
        )
        for optimizer in OPTIMIZERS
        for block in BLOCKS
    },
}


def measure(scale: Scale) -> Samples:
    """Measure `STACK/variance` (starts, layers, replicas), `OPTIMIZER/BLOCK/loss` and `BLOCK/tails`."""
    samples: dict[str, Array] = {}
    for name in STACKS:
        starts = [start * fixed_point(name) for start in STARTS]
        samples[f"{name}/variance"] = variances(ARMS[f"plain {name}"], starts, scale.replicas)
    for optimizer, rates in OPTIMIZERS.items():
        for block in BLOCKS:
            arm = ARMS[f"{optimizer}, {block}"]
            samples[f"{optimizer}/{block}/loss"] = _losses(arm, rates, scale.replicas, scale.steps(STEPS))
    for block in BLOCKS:
        samples[f"{block}/tails"] = tails(ARMS[f"adamw, {block}"], scale.replicas)
    return samples


def _losses(overrides: Sequence[str], rates: Sequence[float], replicas: int, steps: int) -> Array:
    """Return training losses of all rates side by side, (readings, rates, replicas); NaN after divergence."""
    from lab import compose
    from lab.run import simulation

    common = ("replicas=1", f"steps={steps}", f"probe.every={EVERY}", "probe.set=norms", "probe.eval_every=0")
    base = compose.compose([*overrides, *common, "probe.examples=1", *ALONE])
    loss = simulation.side_by_side(at_rates(base, rates, range(replicas)))["loss"].to_numpy()
    return np.where(np.isfinite(loss), loss, np.nan).reshape(-1, len(rates), replicas)


def tails(overrides: Sequence[str], replicas: int) -> Array:
    """Return E a^4 / (E a^2)^2 over units and inputs of a block at initialization: (replicas,)."""
    import torch

    from lab import compose, data
    from lab.machine import threads as torch_threads
    from lab.train.trainer import Trainer

    wide = ("model.width=256", "model.depth=1", f"replicas={replicas}", *ALONE)
    configuration = compose.compose([*overrides, *wide])
    device = torch.device("cpu")
    with torch_threads.thread_budget(1), torch.no_grad():
        trainer = Trainer(configuration, data.load(configuration.data, torch.float32, device), device)
        x = trainer.dataset.test_x.expand(replicas, -1, -1)
        (a,) = (a.double() for a in trainer.network.activations(x))  # (R, B, hidden)
    return np.asarray((a.pow(4).mean((1, 2)) / a.square().mean((1, 2)).square()).numpy())


# --- judging --------------------------------------------------------------------------------------------------------


def stable_octaves(losses: Array, rates: Sequence[float]) -> Array:
    """Return log2 of the largest rate up to which a replica learns at every rate: (replicas,).

    A replica learns if the mean loss over the last quarter of the readings is below LEARNT. One that learns at no rate
    gets an octave below the grid.
    """
    late = losses[-max(1, len(losses) // 4) :].mean(0)  # (rates, replicas), NaN where it diverged
    learns = late < LEARNT
    stable = np.cumprod(learns, axis=0).sum(0)  # rates from the bottom up
    octaves = np.log2(np.array([rates[0] / 2, *rates]))
    return np.asarray(octaves[stable])


def spiking(losses: Array) -> Array:
    """Return the share of rates at which a replica's loss spikes or diverges: (replicas,)."""
    filled = np.where(np.isnan(losses), np.inf, losses)
    least = np.minimum.accumulate(filled, axis=0)
    return np.asarray((filled[1:] > least[:-1] + SPIKE).any(0).mean(0))


def judge(samples: Samples) -> Judgement:
    """Apply the rule: agreement of plain stacks with theory, and the largest stable learning rates."""
    from lab.theory import kernel

    numbers, misses, checks = [], 0, 0
    for name in STACKS:
        for which, start in enumerate(STARTS):
            wanted, sd, bias = predicted(name, start)
            logs = np.log(samples[f"{name}/variance"][which])  # (layers, R)
            allowed = 3 * sd / math.sqrt(logs.shape[1]) + np.abs(bias)
            misses += int(np.sum(~(np.abs(logs.mean(1) - wanted) <= allowed)))
            checks += len(wanted)
            title = f"plain {name} from {start:g} fixed points: ln variance after {LAYERS} layers"
            numbers.append(interval(title, logs[-1], "", float(wanted[-1])))
    numbers.append(Number("layers where theory and measurement differ", float(misses), units=f"of {checks}"))
    gains = []
    for optimizer, rates in OPTIMIZERS.items():
        losses = {block: samples[f"{optimizer}/{block}/loss"] for block in BLOCKS}
        octaves = {block: stable_octaves(losses[block], rates) for block in BLOCKS}
        for block in BLOCKS:
            numbers.append(interval(f"{optimizer}, {block}: largest stable rate", octaves[block], "log2"))
            numbers.append(interval(f"{optimizer}, {block}: rates with a spike", 100 * spiking(losses[block]), "%"))
        gains += [
            difference(f"{optimizer}: swiglu over {block}", octaves["swiglu"], octaves[block], "octaves")
            for block in BLOCKS[:-1]
        ]
    for block in BLOCKS:
        tail = float(kernel(schema.Activation(block)).fourth_moments(1.0)[0])
        tail /= float(kernel(schema.Activation(block)).second_moment(1.0)) ** 2
        numbers.append(interval(f"{block}: E a^4 / (E a^2)^2 at initialization", samples[f"{block}/tails"], "", tail))
    numbers += gains
    return _verdict(misses, gains, tuple(numbers))


def _verdict(misses: int, gains: Sequence[Number], numbers: tuple[Number, ...]) -> Judgement:
    listed = "; ".join(f"{gain.name} {signed(gain, 2)}" for gain in gains)
    plain = {number.name.split()[1] + number.name.split()[3]: number.value for number in numbers[: 2 * len(STACKS)]}
    reason = (
        f"Without a norm a SwiGLU stack leaves its fixed point doubly exponentially: started a factor of 2 away, the"
        f" variance is e^{plain['swiglu2']:+.0f} or e^{plain['swiglu0.5']:+.0f} after {LAYERS} layers, as theory"
        f" predicts, while ReLU's stays (e^{plain['relu2']:+.1f}, e^{plain['relu0.5']:+.1f})."
        f" With norm and skip, octaves of learning rate that still train: {listed}."
    )
    if misses:
        reason = f"Measured variances differ from theory in {misses} places, so the instrument is in doubt. {reason}"
        return Judgement(Verdict.UNDECIDED, reason, numbers, "measurement and theory agree")
    better = [optimizer for optimizer in OPTIMIZERS if all(is_above(gain, 0) for gain in _of(gains, optimizer))]
    worse = [optimizer for optimizer in OPTIMIZERS if any(is_below(gain, 0) for gain in _of(gains, optimizer))]
    if better:
        rest = [optimizer for optimizer in OPTIMIZERS if optimizer not in better]
        condition = f"with norm and skip, without which gating destabilizes, and with {' and '.join(better)}"
        condition += f", not with {' and '.join(rest)}" if rest else ""
        return Judgement(Verdict.CONDITION, reason, numbers, condition)
    if worse:
        return Judgement(Verdict.FAILS, reason, numbers)
    condition = (
        "training runs of very large models, where the guide places the observation; these experiments show that"
        " gating without a norm destabilizes, and that with norm and skip it does not tolerate larger learning rates"
        " than every plain block, with either optimizer"
    )
    return Judgement(Verdict.UNDECIDED, reason, numbers, condition)


def _of(gains: Sequence[Number], optimizer: str) -> list[Number]:
    return [gain for gain in gains if gain.name.startswith(f"{optimizer}:")]


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the variance through plain stacks with theory, and the share that learns against the learning rate."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 1 + len(OPTIMIZERS))
    layers = np.arange(1, LAYERS + 1)
    for number, name in enumerate(("relu", "swiglu")):
        for which, start in enumerate(STARTS):
            logs = np.log(samples[f"{name}/variance"][which]).mean(1) / math.log(10)
            axes[0].plot(
                layers,
                logs,
                linestyle="none",
                color=COLOURS[number],
                marker=MARKERS[number],
                label=None if which else name,
            )
            axes[0].plot(layers, predicted(name, start)[0] / math.log(10), "--", color=COLOURS[number])
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].set_yticks([-50, -10, -1, 0, 1, 10, 50])
    axes[0].yaxis.set_major_formatter("{x:g}")
    label(axes[0], "layers passed", "log10 variance of z", "plain; dashed: theory")
    for ax, (optimizer, rates) in zip(axes[1:], OPTIMIZERS.items(), strict=True):
        for number, block in enumerate(("relu", "swiglu", "gelu", "silu")):
            losses = samples[f"{optimizer}/{block}/loss"]
            late = np.nan_to_num(losses[-max(1, len(losses) // 4) :].mean(0), nan=np.inf)
            learns = 100 * (late < LEARNT).mean(1)
            ax.plot(
                rates,
                learns,
                color=COLOURS[number],
                marker=MARKERS[number],
                markersize=(9, 3, 7, 5)[number],
                label=block,
            )
        ax.set_xscale("log", base=2)
        label(ax, "learning rate", "replicas that learn (%)", f"pre-norm, {optimizer}")
    legend_below(figure, axes, 4)


SWIGLU_STABLE = Claim(
    id="swiglu-stable",
    section="5.3, Q3",
    statement="Gating makes training more stable: by filtering, it keeps extreme activations from spreading.",
    limit=(
        "A product of two maps squares its input, so that gated stacks without a norm diverge from an unstable fixed"
        " point doubly exponentially; what keeps transformers stable is norm and skip. SwiGLU's products have"
        " heavier tails than ReLU's or GELU's, and in very long runs they have been the cause of outliers."
    ),
    source=(
        "Mean field for a = v g(u): q' = s q E g(u)^2, after Poole et al. 2016; Chowdhery et al. 2022, section 2"
        " (PaLM's reasons); Fishman et al. 2024 (SwiGLU and outliers in FP8 training); Wortsman et al. 2023 (learning"
        " rates as a measure of instability)"
    ),
    quantity=(
        "Variance through plain stacks at initialization, against theory; largest learning rate at which pre-norm"
        " residual blocks of equal size still learn the digits, and the share of rates with a loss spike."
    ),
    rule=(
        "First the plain stacks have to agree with theory at every layer: mean ln variance within three standard errors"
        " and the bias of a mean's logarithm. Then, with norm and skip, a replica's largest stable rate is the last one"
        " of the grid (octaves) up to which its loss ends below half of guessing at every rate. With a condition: with"
        " at least one optimizer SwiGLU's is above those of ReLU, GELU and Swish, whole 95% intervals. Does not hold:"
        " with neither, and it is below one of them. Otherwise not decided: small networks cannot test statements about"
        " very large ones."
    ),
    caption=(
        "Left: variance through plain stacks started a factor of 2 above and below their fixed point, markers measured,"
        " dashed theory. Middle and right: share of replicas that learn the digits in 100 steps, against learning rate,"
        " four pre-norm residual blocks of equal parameter counts."
    ),
    arms=ARMS,
    training=f"plain: not at all, but fed inputs of chosen variance; the others {STEPS} steps at each of "
    + "; ".join(f"{name} {', '.join(f'{rate:.3g}' for rate in rates)}" for name, rates in OPTIMIZERS.items()),
    measure=measure,
    judge=judge,
    draw=draw,
    needs_full=True,
    findings=(
        "The PaLM report, which the guide names for the gain, gives quality as its reason for SwiGLU, not stability.",
    ),
)
