"""Section 3.1: signs of a unit's weight gradients for positive inputs, for one example and for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.networks import ALONE
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from lab.train.trainer import Trainer

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
DRAWS = 512
"""Examples per share: a batch of one is drawn 512 times, one of 128 four times."""
STEPS = 300
COMMON = (
    *("data=digits", "init=xavier_normal", "model.depth=3", "model.width=64", "optimizer=adam", "optimizer.lr=0.003"),
    "batch_size=128",
)
ARMS: Mapping[str, tuple[str, ...]] = {name: (f"activation={name}", *COMMON) for name in ("sigmoid", "tanh")}
TIMES = ("initialization", "trained")
ALL, NEARLY_ALL = 0.99, 0.9
REVERSED = -0.5
"""A step is reversed if its cosine with the previous one is below this."""


def measure(scale: Scale) -> Samples:
    """Measure shares of like signs and of reversals in the second and third layer, before and after training."""
    import torch

    from lab import compose, data
    from lab.machine.threads import thread_budget
    from lab.train.trainer import Trainer

    samples = {"batches": np.array(BATCHES, dtype=np.float64)}
    with thread_budget(1):
        for name, overrides in ARMS.items():
            config = compose.compose([*overrides, f"replicas={scale.replicas}", "probe.set=norms", *ALONE])
            cpu = torch.device("cpu")
            trainer = Trainer(config, data.load(config.data, torch.float32, cpu), cpu)
            for time in TIMES:
                if time == "trained":
                    for _ in range(scale.steps(STEPS)):
                        trainer.step()
                shares = [_signs(trainer, batch, max(2, round(DRAWS * scale.share) // batch)) for batch in BATCHES]
                for quantity in shares[0]:
                    samples[f"{quantity} {name} {time}"] = np.stack([of[quantity] for of in shares])  # (K, R)
    return samples


def _signs(trainer: Trainer, batch: int, draws: int) -> dict[str, Any]:
    """Return means over units, two layers and draws, (R,) each: `alike`, weight gradients of a unit share a sign;
    `together`, those of a layer do; `reversed`, a unit's step goes back."""
    import torch

    rng = np.random.default_rng(batch)
    dataset, replicas = trainer.dataset, trainer.config.replicas
    alike, together, reversals, before = [], [], [], None
    for _ in range(draws):
        rows = torch.from_numpy(rng.integers(len(dataset.train_y), size=(replicas, batch)))
        gradients = weight_gradients(trainer, dataset.train_x[rows], dataset.train_y[rows])
        alike.append(torch.stack([same_sign(gradient) for gradient in gradients]).mean(0))
        together.append(torch.stack([same_sign(gradient.flatten(1)[..., None]) for gradient in gradients]).mean(0))
        if before is not None:
            cosines = [torch.cosine_similarity(a, b, dim=1) for a, b in zip(before, gradients, strict=True)]
            reversals.append(torch.stack([(cosine < REVERSED).double().mean(-1) for cosine in cosines]).mean(0))
        before = gradients
    kinds = {"alike": alike, "together": together, "reversed": reversals}
    return {quantity: torch.stack(values).mean(0).numpy() for quantity, values in kinds.items()}


def weight_gradients(trainer: Trainer, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return dL/dW (R, fan_in, fan_out) of the hidden layers but the first, for x (R, B, features)."""
    import torch

    from lab.network import Block
    from lab.train.losses import cross_entropy

    weights = [block.up.weight for block in trainer.network.blocks if isinstance(block, Block)][1:]
    return list(torch.autograd.grad(cross_entropy(trainer.network(x), y).sum(), weights))


def same_sign(gradient: Tensor) -> Tensor:
    """Return the share of units whose weight gradients all have one sign: (R, I, N) -> (R,)."""
    return ((gradient > 0).all(1) | (gradient < 0).all(1)).double().mean(-1)


def judge(samples: Samples) -> Judgement:
    """Apply the rule: like signs for one example and for a batch of 128, and reversed steps."""
    numbers: list[Number] = []
    shares: dict[tuple[str, str, int], Number] = {}
    for time in TIMES:
        for name in ARMS:
            for index, batch in ((0, 1), (-1, BATCHES[-1])):
                of = f"{name}, {time}, batch of {batch}"
                share = interval(f"units with like signs: {of}", samples[f"alike {name} {time}"][index])
                shares[name, time, batch] = share
                numbers += [share, interval(f"reversed steps: {of}", samples[f"reversed {name} {time}"][index])]
    back = {
        (time, batch): difference(
            f"reversed steps, sigmoid minus tanh: {time}, batch of {batch}",
            samples[f"reversed sigmoid {time}"][index],
            samples[f"reversed tanh {time}"][index],
        )
        for time in TIMES
        for index, batch in ((0, 1), (-1, BATCHES[-1]))
    }
    numbers += back.values()
    for time in TIMES:
        name = f"layers with like signs throughout: sigmoid, {time}, batch of 1"
        numbers.append(interval(name, samples[f"together sigmoid {time}"][0]))
    last = BATCHES[-1]
    one = all(shares["sigmoid", time, 1].value > ALL for time in TIMES)
    is_own = all(shares["tanh", time, batch].value < 1 - ALL for time in TIMES for batch in (1, last))
    zigzag = {batch: all(is_above(back[time, batch], 0) for time in TIMES) for batch in (1, last)}
    is_kept = all(shares["sigmoid", time, last].value > NEARLY_ALL for time in TIMES)
    reason = (
        f"For one example {_percent(shares['sigmoid', 'initialization', 1])} of the sigmoid units at initialization"
        f" and {_percent(shares['sigmoid', 'trained', 1])} after training have weight gradients of one sign, for a"
        f" batch of {last} {_percent(shares['sigmoid', 'initialization', last])} and"
        f" {_percent(shares['sigmoid', 'trained', last])}; for tanh at most"
        f" {max(share.value for key, share in shares.items() if key[0] == 'tanh'):.1%}. Sigmoid's steps are reversed"
        f" more often than tanh's by {_percent(back['initialization', 1])} and {_percent(back['trained', 1])} of all"
        f" steps for one example, and by {_percent(back['initialization', last])} and {_percent(back['trained', last])}"
        " for a batch."
    )
    if one and is_own and zigzag[1]:
        if is_kept and zigzag[last]:
            return Judgement(Verdict.HOLDS, reason, tuple(numbers))
        where = "individual units and examples; the sum over a batch mixes signs"
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), where)
    return Judgement(Verdict.FAILS, reason, tuple(numbers))


def _percent(number: Number) -> str:
    return f"{number.value:.1%}"


def draw(figure: Figure, samples: Samples) -> None:
    """Plot like signs and reversals against the batch size."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for ax, quantity, title in zip(
        axes, ("alike", "reversed"), ("units with like signs", "steps that go back"), strict=True
    ):
        for number, name in enumerate(ARMS):
            for time, style in zip(TIMES, ("-", "--"), strict=True):
                values = samples[f"{quantity} {name} {time}"]
                style_: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
                ax.plot(samples["batches"], values.mean(1), style, label=f"{name}, {time}", **style_)
        ax.set_xscale("log", base=2)
        ax.set_xticks(BATCHES[::2], [str(batch) for batch in BATCHES[::2]])
        ax.set_ylim(-0.03, 1.03 if quantity == "alike" else None)
        label(ax, "examples in the batch", "share", title)
    legend_below(figure, axes, 2)


NOT_CENTRED = Claim(
    id="sigmoid-not-centred",
    section="3.1",
    statement="Because a sigmoid's outputs are all positive, the gradients of a next unit's weights all have the same"
    " sign, and updates zig-zag.",
    limit="dL/dW of one unit is the sum over examples of the unit's delta times its inputs: each term has one sign,"
    " the sum need not have. The sign differs from unit to unit, too.",
    source="LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.3",
    quantity="Share of units whose incoming weight gradients all have one sign; share of steps whose cosine with the"
    f" step before is below {REVERSED:g}",
    rule=f"Holds if more than {ALL:.0%} of sigmoid units have like signs for one example and more than"
    f" {NEARLY_ALL:.0%} for a batch of {BATCHES[-1]}, before and after training, tanh units fewer than {1 - ALL:.0%},"
    " and sigmoid's steps are reversed more often than tanh's in both cases; holds with a condition if that is so for"
    " one example only; else it does not hold.",
    caption="Left: share of units of the second and third layer whose incoming weight gradients all have one sign,"
    " against the batch size. Right: share of successive gradients of a unit that point back. Mean over replicas.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, (f"steps={STEPS}",)),
    findings=(
        "Section 3.1 claims that all gradients of a layer's weights share one sign. Even for one example they do"
        " so only within a unit: across the units of a layer the signs of their deltas differ.",
    ),
)
