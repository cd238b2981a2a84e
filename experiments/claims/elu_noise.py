"""Section 4.4: robustness of ELU to noise, by the accuracy on inputs with growing noise."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.networks import tuned
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lab.train.trainer import Trainer

INITS = {"elu": "he_normal", "relu": "he_normal", "leaky_relu": "he_normal", "tanh": "xavier_normal"}
DEPTHS = (2, 6)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
STEPS = 400
SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Standard deviations of the noise; the inputs' is 1."""
DRAWS = 5
MARGIN = 0.01
"""Accuracy, averaged over the noise levels, that counts as a difference in robustness."""
ARMS = {
    f"{activation}, {depth} layers": (
        *("data=digits", "model.width=64", "batch_size=32", f"model.depth={depth}"),
        *(f"activation={activation}", f"init={init}"),
    )
    for depth in DEPTHS
    for activation, init in INITS.items()
}


def measure(scale: Scale) -> Samples:
    """Measure held-out accuracy by noise level, (levels, R), of every arm trained at its own best rate."""
    from experiments.claims import dead_units
    from lab.machine.threads import thread_budget

    samples: dict[str, Array] = {}
    steps = scale.steps(STEPS)
    for name, overrides in ARMS.items():
        rate = tuned(overrides, RATES, scale.replicas, steps, steps)["rate"]
        with thread_budget(1):
            trainer = dead_units.start((*overrides, "probe.set=norms"), scale.replicas, tuple(rate))
            for _ in range(steps):
                trainer.step()
            samples |= {f"accuracy {name}": accuracies(trainer), f"rate {name}": rate}
    return samples


def accuracies(trainer: Trainer) -> Array:
    """Return accuracy on noisy held-out inputs, mean over draws, (levels, R); all networks get the same noise."""
    import torch

    dataset, generator = trainer.dataset, torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS, *dataset.test_x.shape, generator=generator)
    accuracy = np.zeros((len(SIZES), trainer.config.replicas))
    with torch.no_grad(), trainer.network.evaluating():
        for row, draw in product(range(len(SIZES)), noise):
            x = (dataset.test_x + SIZES[row] * draw).expand(trainer.config.replicas, -1, -1)
            hits = trainer.network(x).argmax(-1) == dataset.test_y  # (R, examples)
            accuracy[row] += hits.double().mean(1).numpy() / DRAWS
    return np.where(trainer.divergence.alive.numpy(), accuracy, np.nan)


def judge(samples: Samples) -> Judgement:
    """Apply the rule: accuracy that ELU loses to noise, minus that of the others."""
    numbers: list[Number] = []
    gaps: dict[tuple[str, int], Number] = {}
    for depth in DEPTHS:
        costs = {activation: _cost(samples[f"accuracy {activation}, {depth} layers"]) for activation in INITS}
        for activation, cost in costs.items():
            name = f"{activation}, {depth} layers"
            numbers += [
                interval(f"held-out accuracy without noise: {name}", samples[f"accuracy {name}"][0]),
                interval(f"accuracy lost to noise: {name}", cost),
                Number(f"learning rate: {name}", float(samples[f"rate {name}"][0])),
            ]
            if activation != "elu":
                gap = difference(f"lost by elu less lost by {activation}: {depth} layers", costs["elu"], cost)
                gaps[activation, depth] = gap
                numbers.append(gap)
    against_relu = [gaps["relu", depth] for depth in DEPTHS]
    reason = "Averaged over the sizes of the noise, ELU loses " + "; ".join(
        ", ".join(
            f"{100 * gaps[activation, depth].value:+.1f} points against {activation}" for activation in list(INITS)[1:]
        )
        + f" ({depth} layers)"
        for depth in DEPTHS
    ).replace("_", " ")
    reason += "; below 0 ELU is more robust. This holds on digits with Gaussian noise on the inputs at test time, at"
    reason += " width 64; other data and other noise were not tried."
    better = [depth for depth, gap in zip(DEPTHS, against_relu, strict=True) if is_below(gap, -MARGIN)]
    no_better = [depth for depth, gap in zip(DEPTHS, against_relu, strict=True) if is_above(gap, -MARGIN)]
    if len(better) == len(DEPTHS):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    if len(no_better) == len(DEPTHS):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if better:
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), f"shown with {better[0]} layers only")
    more = f"more replicas: the intervals hold both no difference and {100 * MARGIN:g} point"
    return Judgement(Verdict.UNDECIDED, reason, tuple(numbers), more)


def _cost(accuracy: Array) -> Array:
    """Return the accuracy lost, mean over the noise levels above 0: (levels, R) -> (R,)."""
    return np.asarray((accuracy[0] - accuracy[1:]).mean(0))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot accuracy against noise for the deeper stack (left), and minus ReLU's for both depths (right)."""
    from lab.plot.style import COLOURS, MARKERS

    whole, gap = panels(figure, 2)
    for number, activation in enumerate(INITS):
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
        for depth, line in zip(DEPTHS, ("--", "-"), strict=True):
            accuracy, relu = (100 * samples[f"accuracy {name}, {depth} layers"] for name in (activation, "relu"))
            middle = np.nanmean(accuracy, 1)
            if depth == DEPTHS[-1]:
                spread = np.nanstd(accuracy, 1)
                whole.errorbar(
                    SIZES, middle, spread, None, line, capsize=2, label=activation.replace("_", " "), **style
                )
            if activation != "relu":
                gap.plot(SIZES, middle - np.nanmean(relu, 1), line, **style)
    for depth, line in zip(DEPTHS, ("--", "-"), strict=True):
        gap.plot([], [], line, color="0.4", label=f"{depth} layers")
    gap.axhline(0, color=COLOURS[1], linewidth=1)
    whole.set_ylim(0, 100)
    noise = "noise (std; the inputs' is 1)"
    label(whole, noise, "held-out accuracy (%)", f"{DEPTHS[-1]} layers (bars: ± std)")
    label(gap, noise, "percentage points", "Less ReLU's accuracy")
    legend_below(figure, [whole, gap], 3)


NOISE = Claim(
    id="elu-noise",
    section="4.4",
    statement="Because it saturates for negative inputs, ELU can make a network more robust to noise.",
    limit=(
        "In the paper this is an argument of design, that a saturated unit passes little of its input's variation on,"
        " and no experiment. ReLU passes nothing below 0. Leaky ReLU, which does not saturate, shows whether saturation"
        f" makes the difference. Tested: digits, Gaussian noise on the inputs at test time, stacks of {DEPTHS[0]} and"
        f" {DEPTHS[1]} layers of width 64. Not tested: other data, noise in labels, weights or training, other widths."
    ),
    source="Clevert et al. 2016, sections 1 and 3",
    quantity=(
        f"held-out accuracy lost to Gaussian input noise, mean over standard deviations {SIZES[1:]} (inputs: 1), each"
        f" arm at the best of five learning rates, digits, {STEPS} steps, width 64"
    ),
    rule=(
        f"Holds if ELU loses less than ReLU by at least {100 * MARGIN:g} point (95% interval below) at both depths,"
        " fails if at neither (interval above), holds with a condition if at one; not decided if an interval holds"
        " both."
    ),
    caption=(
        "Accuracy on held-out digits with growing noise on the inputs, without any noise in training, and how much of"
        " it is more than ReLU's. tanh, which saturates on both sides, is there for comparison."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    training=f"{STEPS} steps of SGD at each of the rates {', '.join(f'{rate:g}' for rate in RATES)}",
    needs_full=True,
)
