"""Leaky ReLU against ReLU over tasks, depths and initializations (the guide's section 4.2)."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.networks import tuned
from experiments.claims.panels import label, panels
from experiments.claims.statistics import interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {
    "digits": (("data=digits", "optimizer=sgd"), (0.03, 0.1, 0.3, 1.0, 3.0), 400, 10),
    "spirals": (("data=spirals", "optimizer=adam"), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 400, 3),
}
"""Name -> overrides, learning rates, steps, classes."""
DEPTHS = (2, 6)
INITS = ("he_normal", "xavier_normal")
PLACES = tuple(product(TASKS, DEPTHS, INITS))
ACTIVATIONS = {
    "relu": ("activation=relu",),
    "leaky .01": ("activation=leaky_relu", "activation.negative_slope=0.01"),
    "leaky .1": ("activation=leaky_relu", "activation.negative_slope=0.1"),
}
"""The guide's text has slope .01, its code .1."""
LEAKY = tuple(ACTIVATIONS)[1:]
MOST = 0.75
"""Share of places in which a consistent benefit must show."""
WORTH = 0.01
"""Accuracy that counts as a benefit."""


def _place(task: str, depth: int, init: str) -> str:
    return f"{task}, {depth} layers, {init.partition('_')[0]}"


ARMS = {
    f"{activation}: {_place(task, depth, init)}": (
        *(*TASKS[task][0], *overrides, f"model.depth={depth}", f"init={init}"),
        *("model.width=64", "batch_size=32"),
    )
    for task, depth, init in PLACES
    for activation, overrides in ACTIVATIONS.items()
}


def measure(scale: Scale) -> Samples:
    """Measure held-out accuracy (R,) of every arm at its best rate; replica r has the same weights in all arms."""
    samples: dict[str, Array] = {}
    for task, depth, init in PLACES:
        _, rates, full_steps, _ = TASKS[task]
        steps = scale.steps(full_steps)
        for activation in ACTIVATIONS:
            name = f"{activation}: {_place(task, depth, init)}"
            result = tuned(ARMS[name], rates, scale.replicas, steps, steps)
            samples |= {f"accuracy {name}": result["eval_accuracy"][-1], f"rate {name}": result["rate"]}
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: in how many places each slope is better, and worse, than ReLU."""
    gaps = _gaps(samples)
    better = {name: sum(is_above(gap, 0) for gap in gaps[name]) for name in LEAKY}
    worse = {name: sum(is_below(gap, 0) for gap in gaps[name]) for name in LEAKY}
    count = len(PLACES)
    numbers = [gap for name in LEAKY for gap in gaps[name]]
    numbers += [interval(f"held-out accuracy: {name}", samples[f"accuracy {name}"]) for name in ARMS]
    numbers += [Number(f"learning rate: {name}", float(samples[f"rate {name}"][0])) for name in ARMS]
    none = {name: sum(is_below(gap, WORTH) for gap in gaps[name]) for name in LEAKY}
    reason = " ".join(
        f"{name.capitalize()} is better than ReLU in {better[name]} of {count} places, worse in {worse[name]}, and in"
        f" {none[name]} a benefit of {100 * WORTH:g} point is ruled out; the gaps reach from"
        f" {min(gap.value for gap in gaps[name]):+.1%} to {max(gap.value for gap in gaps[name]):+.1%}."
        for name in LEAKY
    )
    consistent = [name for name in LEAKY if better[name] >= MOST * count and not worse[name]]
    if len(consistent) == len(LEAKY):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if consistent:
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), f"not for {consistent[0]}, which helped everywhere")
    if all(none[name] > (1 - MOST) * count for name in LEAKY):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    more = "more replicas: neither a benefit nor its absence shows in enough places"
    return Judgement(Verdict.UNDECIDED, reason, tuple(numbers), more)


def _gaps(samples: Samples) -> dict[str, list[Number]]:
    """Return accuracy less ReLU's, paired by replica, in every place."""
    gaps: dict[str, list[Number]] = {name: [] for name in LEAKY}
    for name, (task, depth, init) in product(LEAKY, PLACES):
        place = _place(task, depth, init)
        leaky, relu = (_accuracy(samples, activation, place) for activation in (name, "relu"))
        gaps[name].append(interval(f"{name} less relu: {place}", leaky - relu, "accuracy"))
    return gaps


def _accuracy(samples: Samples, activation: str, place: str) -> Array:
    """Return a diverged replica guesses."""
    values = samples[f"accuracy {activation}: {place}"]
    return np.where(np.isfinite(values), values, 1 / TASKS[place.partition(",")[0]][3])


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gaps and intervals, one row per place."""
    from lab.plot.style import COLOURS, MARKERS

    (ax,) = panels(figure)
    for number, (name, gaps) in enumerate(_gaps(samples).items()):
        for row, gap in enumerate(gaps):
            low, high = (gap.value if end is None else end for end in (gap.lower, gap.upper))
            ax.errorbar(
                100 * gap.value,
                row + 0.12 * (2 * number - 1),
                xerr=[[max(0.0, 100 * (gap.value - low))], [max(0.0, 100 * (high - gap.value))]],
                fmt=MARKERS[number],
                color=COLOURS[number],
                label=f"slope {name.split()[1]}" if row == 0 else None,
            )
    ax.axvline(0, color="0.4", linewidth=1)
    ax.set_yticks(range(len(PLACES)), [_place(*place) for place in PLACES], fontsize="small")
    ax.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    label(ax, "held-out accuracy less ReLU's (percentage points)", "")


INCONSISTENT = Claim(
    id="leaky-inconsistent",
    section="4.2",
    statement="Leaky ReLU is not consistently better than ReLU from task to task and network to network.",
    limit=(
        "What was tried: two small data sets, two depths, two initializations, two slopes; differences of a few points"
        " among well-tuned small networks say little about large ones."
    ),
    source="Maas et al. 2013, section 4; Xu et al. 2015, section 4",
    quantity=(
        "held-out accuracy less ReLU's, paired by replica (same weights and batches), each at the best of five learning"
        " rates (chosen on other replicas)"
    ),
    rule=(
        f"A slope helps consistently if it is better (95% interval above 0) in at least {MOST:.0%} of the places and"
        " worse (below 0) in none. Fails if both slopes do, holds with a condition if one does. Holds if, for both, the"
        f" interval stays below {100 * WORTH:g} point in more than {1 - MOST:.0%} of the places, so that no"
        " consistent benefit remains; else not decided."
    ),
    caption=(
        "Leaky ReLU's held-out accuracy less ReLU's in eight places. Points: mean over replicas, bars: 95%. Left of 0"
        " ReLU is better."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    training="; ".join(
        f"{task}: {steps} steps at each of the rates {', '.join(f'{rate:g}' for rate in rates)}"
        for task, (_, rates, steps, _) in TASKS.items()
    ),
    needs_full=True,
)
