"""Section 4.1: ReLU against sigmoid and tanh, each at its own best learning rate and initialization."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.networks import tuned
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READINGS = 10
LEAST_REPLICAS = 2
SGD_RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ADAM_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TASKS = {
    "digits, SGD": (("data=digits", "optimizer=sgd"), SGD_RATES, 200, 10),
    "digits, Adam": (("data=digits", "optimizer=adam"), ADAM_RATES, 200, 10),
    "spirals, Adam": (("data=spirals", "optimizer=adam"), ADAM_RATES, 300, 3),
}
"""Name -> overrides, learning rates, steps, classes. (Plain SGD learns next to nothing of spirals in that time.)"""
PLACES = (
    *(("digits, SGD", depth) for depth in (2, 6, 12)),
    ("digits, Adam", 6),
    *(("spirals, Adam", depth) for depth in (2, 6, 12)),
)
ACTIVATIONS = ("relu", "sigmoid", "tanh")
INITS = ("he_normal", "xavier_normal")
"""Each activation uses the better one in each place. Their variances differ by 2 in hidden layers, but by 33 in layer 0
of spirals, where Xavier's average of fan_in and fan_out suits no activation."""
RIVALS = ("sigmoid", "tanh")
TICKS = (0.1, 0.2, 0.5, 1, 2)
FASTER_BY = math.log10(1.1)
"""log10 ratio of losses that counts as faster: a tenth lower."""


def _name(activation: str, task: str, depth: int, init: str) -> str:
    return f"{activation}, {task}, {depth} layers, {init.partition('_')[0]}"


ARMS = {
    _name(activation, task, depth, init): (
        *(*TASKS[task][0], f"model.depth={depth}", "model.width=64", "batch_size=32"),
        *(f"activation={activation}", f"init={init}"),
    )
    for task, depth in PLACES
    for activation in ACTIVATIONS
    for init in INITS
}


def measure(scale: Scale) -> Samples:
    """Measure held-out loss and accuracy at every arm's best rate, the rate, and the grid behind it."""
    samples: dict[str, Array] = {}
    for task, depth in PLACES:
        _, rates, steps, _ = TASKS[task]
        every = max(1, scale.steps(steps) // READINGS)
        for activation in ACTIVATIONS:
            for init in INITS:
                name = _name(activation, task, depth, init)
                replicas = max(LEAST_REPLICAS, scale.replicas // 2)
                result = tuned(ARMS[name], rates, replicas, every * READINGS, every, metric="eval_loss")
                samples |= {f"{kind} {name}": values for kind, values in result.items()}
    return samples


def better_init(samples: Samples, activation: str, task: str, depth: int) -> str:
    """Return the arm whose best rate has the lower loss, by the replicas that are not compared."""
    names = [_name(activation, task, depth, init) for init in INITS]
    return min(names, key=lambda name: float(samples[f"grid {name}"].mean(1).min()))


def judge(samples: Samples) -> Judgement:
    """Apply the rule: number of places where ReLU's loss is a tenth lower, or higher, than each rival's."""
    numbers: list[Number] = []
    faster: dict[str, list[str]] = {rival: [] for rival in RIVALS}
    slower: dict[str, list[str]] = {rival: [] for rival in RIVALS}
    for task, depth in PLACES:
        place = _place((task, depth))
        best = {activation: better_init(samples, activation, task, depth) for activation in ACTIVATIONS}
        losses = {activation: _log_loss(samples, name, TASKS[task][3]) for activation, name in best.items()}
        for rival in RIVALS:
            gap = difference(f"relu less {rival}: {place}", losses["relu"], losses[rival], "log10 nat")
            numbers.append(gap)
            if is_below(gap, -FASTER_BY):
                faster[rival].append(place)
            elif is_above(gap, FASTER_BY):
                slower[rival].append(place)
        for name in best.values():
            rate = float(samples[f"rate {name}"][0])
            numbers.append(interval(f"held-out accuracy: {name}, rate {rate:g}", samples[f"eval_accuracy {name}"][-1]))
    reason = " ".join(
        f"Against {rival}, ReLU's held-out loss after equally many steps is lower by a tenth or more in"
        f" {len(faster[rival])} of {len(PLACES)} places and higher in {len(slower[rival])}"
        + (f" ({'; '.join(slower[rival])})." if slower[rival] else ".")
        for rival in RIVALS
    )
    if all(len(faster[rival]) == len(PLACES) for rival in RIVALS):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    if not any(faster.values()):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    condition = "; ".join(f"against {rival}: {_in_short(faster[rival])}" for rival in RIVALS)
    return Judgement(Verdict.CONDITION, reason, tuple(numbers), condition)


def _place(of: tuple[str, int]) -> str:
    """Describe a place without commas."""
    (data, optimizer), depth = of[0].split(", "), of[1]
    return f"{depth} layers on {data} with {optimizer}"


def _in_short(places: list[str]) -> str:
    """List the places where ReLU is faster, or the exceptions if those are fewer."""
    others = [place for place in map(_place, PLACES) if place not in places]
    if not others or not places:
        return "everywhere" if places else "nowhere"
    return " and ".join(places) if len(places) <= len(others) else f"everywhere but in {' and '.join(others)}"


def _log_loss(samples: Samples, name: str, classes: int) -> Array:
    """Return log10 of the final loss, (R,); a diverged replica counts as guessing."""
    return np.asarray(np.log10(_known(samples[f"eval_loss {name}"][-1], classes)))


def _known(loss: Array, classes: int) -> Array:
    """Return the loss, or that of guessing where a replica has diverged."""
    return np.where(np.isfinite(loss), loss, math.log(classes))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot held-out loss against steps in three places."""
    from lab.plot.style import COLOURS, MARKERS

    places = (("digits, SGD", 12), ("spirals, Adam", 2), ("spirals, Adam", 12))
    axes = panels(figure, len(places))
    for ax, (task, depth) in zip(axes, places, strict=True):
        for number, activation in enumerate(ACTIVATIONS):
            name = better_init(samples, activation, task, depth)
            loss = _known(samples[f"eval_loss {name}"], TASKS[task][3])
            steps = samples[f"steps {name}"]
            colour, marker = COLOURS[number], MARKERS[number]
            ax.plot(steps, np.median(loss, 1), color=colour, marker=marker, markersize=4, label=activation)
            ax.fill_between(steps, loss.min(1), loss.max(1), color=colour, alpha=0.2, linewidth=0)
        ax.set_yscale("log")
        ax.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        ax.set_yticks([], minor=True)
        ax.set_ylim(0.07, 3.5)
        first = ax is axes[0]
        label(ax, "step", "held-out loss (nat)" if first else "", f"{task}\n{depth} layers")
    legend_below(figure, axes[:1], 3)


FASTER = Claim(
    id="relu-faster",
    section="4.1",
    statement="Networks with ReLU converge much faster than those with sigmoid or tanh.",
    limit=(
        "Depth, initialization and learning rate enter: each activation needs its own, and sigmoid's trouble is depth."
        " The often quoted factor of six is one convolutional network of four layers against tanh."
    ),
    source="Krizhevsky et al. 2012, section 3.1",
    quantity=(
        "held-out loss after equally many steps, each activation at the best of five or six learning rates and of He's"
        " and Xavier's initialization (chosen on other replicas); stacks of 2, 6 and 12 layers of 64 units; 8 networks"
        " per arm"
    ),
    rule=(
        "ReLU is faster (slower) in a place if the 95% interval of the difference of log10 loss lies below (above) the"
        " size of log10 1.1, a loss lower (higher) by a tenth. Holds if it is faster than both in every place, fails if"
        " it is faster than neither anywhere, else holds with a condition, the places."
    ),
    caption=(
        "Held-out loss at each activation's best learning rate and initialization: median and range over replicas."
        " Tested were small fully connected stacks, not the convolutional networks of the literature."
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
