"""Section 4.1: ReLU units that are dead at initialization, die in large steps, or revive, tracked one by one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.dead_units import DEACTIVATED, share
from experiments.claims.networks import initial
from experiments.claims.panels import label, panels
from experiments.claims.statistics import difference, interval, is_above
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.claims.dead_units import Flags
    from lab.network import Network
    from lab.train.trainer import Trainer

WIDTHS = (2, 3, 4)
BORN_DEPTH = 20
TINY = 125
"""Tiny networks for each of the scale's replicas."""
FARTHEST = 4.0
"""Standard errors by which a share of dead networks may miss the closed form; 60 correlated shares are tested."""

EXAMPLES = 1600
"""All training examples of spirals: a unit of layer 0 that is inactive on them is inactive on every batch."""
SIZES = (32, 128, 512, EXAMPLES)
RATES = (0.1, 0.3, 1.0, 2.0)
BURST = 20
MOMENTUM_RATE = 1.0
RATE, STEPS, EVERY = 0.02, 600, 10
"""Training after the burst: learning rate, steps, and steps between observations."""
REVIVAL_STEPS, REVIVAL_EVERY, DISTANCE = 1000, 50, 0.1
DECAY = 0.2
ENOUGH_KILLED = 0.1
"""Share of units that large steps must kill beyond those that the same distance in small steps kills."""
ENOUGH_UNITS = 30
"""Dead units of layer 0: if none of 30 revives, fewer than one in ten does (rule of three, 95%)."""

STACK = (
    *("activation=relu", "init=he_normal", "data=spirals", "model.depth=3", "model.width=32", "batch_size=64"),
    *("dtype=float64", f"probe.examples={EXAMPLES}", "probe.set=norms"),
)
TINY_STACK = (
    *("activation=relu", "init=he_normal", "data=gaussian", f"model.depth={BORN_DEPTH}"),
    *("batch_size=1", "probe.examples=1", "probe.set=norms"),
)
MOMENTUM = ("optimizer.momentum=0.9",)
PARTIAL = {"decay_of_weights": "weight", "decay_of_biases": "bias"}
AFTER: dict[str, tuple[str, ...]] = {
    "plain_sgd": (),
    "decay_of_all": (f"optimizer.weight_decay={DECAY}",),
    "decay_of_weights": (),
    "decay_of_biases": (),
}
"""Training after the burst, always from the same weights. The lab decays weights and biases alike; the two partial
decays are applied after each step."""
COURSES = (*AFTER, "plain_sgd_with_burst", "momentum_with_burst")
OTHERS = ("relu", "leaky_relu", "prelu", "elu", "gelu")
"""Activations whose units are deactivated through biases: the large weights after ReLU's burst suit none of them."""
ARMS = {
    **{f"dead at initialization, width {width}": (*TINY_STACK, f"model.width={width}") for width in WIDTHS},
    **{f"burst, rate {rate:g}": (*STACK, f"optimizer.lr={rate:g}") for rate in RATES},
    "burst, momentum": (*STACK, *MOMENTUM, f"optimizer.lr={MOMENTUM_RATE:g}"),
    **{f"after, {name}": (*STACK, *more, f"optimizer.lr={RATE:g}") for name, more in AFTER.items()},
    "after, momentum": (*STACK, *MOMENTUM, f"optimizer.lr={RATE:g}"),
    **{f"deactivated, {name}": (*DEACTIVATED, f"activation={name}") for name in OTHERS},
}


def measure(scale: Scale) -> Samples:
    """Measure shares of dead tiny networks and of units dead after bursts, and count inactive and revived units."""
    from experiments.claims import dead_units
    from lab.machine.threads import thread_budget

    samples = {f"born_{width}": _born_dead(width, TINY * scale.replicas) for width in WIDTHS}
    replicas, steps = scale.replicas, scale.steps(STEPS)
    with thread_budget(1):
        burst = dead_units.start(STACK, replicas, RATES)
        observations = dead_units.follow(burst, BURST, 1, SIZES)  # (observations, sizes, layers, rates * R, N)
        dead = _shares(observations[-1], burst)  # (sizes, layers, rates * R)
        samples["dead"] = np.moveaxis(dead.reshape(*dead.shape[:2], len(RATES), replicas), 2, 0)
        slow = dead_units.start(ARMS[f"burst, rate {RATES[0]:g}"], replicas)
        at_end = dead_units.follow(slow, _small_steps(), _small_steps())[-1, 0]
        samples["dead_small_steps"] = _shares(at_end, slow)
        killed = observations[:, -1, :, -replicas:]
        for name in AFTER:
            trainer = dead_units.start(ARMS[f"after, {name}"], replicas)
            dead_units.copy_maps(burst.network, trainer.network, first=burst.config.replicas - replicas)
            after = partial(_decay, kind=PARTIAL[name]) if name in PARTIAL else None
            course = dead_units.follow(trainer, steps, EVERY, after=after)[:, 0]
            samples |= _counts(name, course, trainer)
            if name == "plain_sgd":
                samples |= _counts("plain_sgd_with_burst", np.concatenate([killed, course[1:]]), trainer)
        samples |= _counts("momentum_with_burst", *_with_momentum(replicas, steps))
        for name in OTHERS:
            units = dead_units.deactivated_units(
                (f"activation={name}",), replicas, scale.steps(REVIVAL_STEPS), REVIVAL_EVERY, DISTANCE
            )
            samples |= {f"inactive_{name}": units.inactive[None], f"revived_{name}": units.revived[None]}
    return samples


def _born_dead(width: int, replicas: int) -> Array:
    """Return 1 where a tiny network has a layer of zeros for one input, at this layer or below: (depth, replicas)."""
    reading = initial(ARMS[f"dead at initialization, width {width}"], replicas)
    dead = reading["dead_fraction"].transpose("layer", "replica").to_numpy() == 1
    return np.maximum.accumulate(dead, axis=0).astype(np.float64)


def _shares(active: Flags, trainer: Trainer) -> Array:
    """Return the share of inactive units, (..., layers, R, N) -> (..., layers, R); NaN for a replica that diverged."""
    return np.where(trainer.divergence.alive.numpy(), (~active).mean(-1), np.nan)


def _counts(name: str, observations: Flags, trainer: Trainer) -> dict[str, Array]:
    from experiments.claims.dead_units import inactive_and_revived

    alive = trainer.divergence.alive.numpy()
    inactive, revived = (np.where(alive, count, np.nan) for count in inactive_and_revived(observations))
    return {f"inactive_{name}": inactive, f"revived_{name}": revived}


def _decay(network: Network, kind: str) -> None:
    """Decay only the weights, or only the biases."""
    from experiments.claims.dead_units import maps

    for linear in maps(network):
        linear.get_parameter(kind).mul_(1 - RATE * DECAY)


def _with_momentum(replicas: int, steps: int) -> tuple[Flags, Trainer]:
    """Train through the burst and after it; the second trainer takes over the velocity of the first."""
    from experiments.claims import dead_units

    burst = dead_units.start(ARMS["burst, momentum"], replicas)
    trainer = dead_units.start(ARMS["after, momentum"], replicas)
    observations = dead_units.follow(burst, BURST, 1)[:, 0]
    dead_units.copy_maps(burst.network, trainer.network)
    velocities = (owner.optimizer.state["momentum_buffer"] for owner in (trainer, burst))
    for own, earlier in zip(*velocities, strict=True):
        own.copy_(earlier)
    return np.concatenate([observations, dead_units.follow(trainer, steps, EVERY)[1:, 0]]), trainer


def judge(samples: Samples) -> Judgement:
    """Compare with the closed form and with small steps; check which units revive under plain SGD and otherwise."""
    farthest = max(_standard_errors(samples[f"born_{width}"], width) for width in WIDTHS)
    large, small = samples["dead"][-1, -1].mean(0), samples["dead_small_steps"].mean(0)  # (R,) each, over layers
    killed = difference("dead units: large steps less the same distance in small ones", large, small)
    inactive, revived = (
        float(np.nansum(samples[f"{word}_plain_sgd_with_burst"][0])) for word in ("inactive", "revived")
    )
    ways = {
        "later layers under plain SGD": _revived(samples, "plain_sgd", deeper=True),
        "layer 0 with momentum": _revived(samples, "momentum_with_burst"),
        "layer 0 with a decay of biases alone": _revived(samples, "decay_of_biases"),
    }
    come_back = [way for way, number in ways.items() if is_above(number, 0)]
    numbers = (
        *(
            interval(
                f"dead at initialization: {BORN_DEPTH} layers of width {width}",
                samples[f"born_{width}"][-1],
                "of networks",
                float(_closed_form(width)[-1]),
            )
            for width in WIDTHS
        ),
        Number("largest distance of 60 shares from the closed form", farthest, units="standard errors"),
        *(
            interval(f"dead units after {BURST} steps at rate {rate:g}", samples["dead"][row, -1].mean(0), "of units")
            for row, rate in enumerate(RATES)
        ),
        interval(f"the same, {_small_steps()} steps at rate {RATES[0]:g}", small, "of units"),
        killed,
        *(
            interval(f"layer 0 inactive on {size} examples after the burst", samples["dead"][-1, row, 0], "of units")
            for row, size in enumerate(SIZES)
        ),
        *(_revived(samples, name) for name in (*COURSES, *OTHERS)),
        *(_revived(samples, name, deeper=True) for name in COURSES),
    )
    reason = (
        f"Shares of tiny networks dead at initialization lie within {farthest:.1f} standard errors of 1 - (1 - 2^-N)^H."
        f" Large steps leave {np.nanmean(large):.0%} of units dead, the same distance in small ones"
        f" {np.nanmean(small):.0%}. Of {inactive:.0f} dead units in layer 0 plain SGD revived {revived:.0f}; "
        + "; ".join(f"{way}: {number.value:.0%}" for way, number in ways.items())
        + "."
    )
    if farthest > FARTHEST or not is_above(killed, ENOUGH_KILLED) or revived > 0:
        return Judgement(Verdict.FAILS, reason, numbers)
    if inactive < ENOUGH_UNITS:
        return Judgement(Verdict.UNDECIDED, reason, numbers, f"at least {ENOUGH_UNITS} dead units in layer 0")
    if not come_back:
        return Judgement(Verdict.HOLDS, reason, numbers)
    condition = (
        "permanently only in layer 0, under plain SGD, and if the unit is inactive on every training example; units"
        f" revived in {'; in '.join(come_back)}"
    )
    return Judgement(Verdict.CONDITION, reason, numbers, condition)


def _closed_form(width: int) -> Array:
    """Return P(dead) after 1 to BORN_DEPTH layers for one input, no bias and symmetric weights: 1 - (1 - 2^-N)^H."""
    return np.asarray(1 - (1 - 2.0**-width) ** np.arange(1, BORN_DEPTH + 1))


def _standard_errors(born: Array, width: int) -> float:
    """Return the largest distance of the shares (depth, replicas) from the closed form, in binomial standard errors."""
    expected = _closed_form(width)
    return float(np.max(np.abs(born.mean(1) - expected) / np.sqrt(expected * (1 - expected) / born.shape[1])))


def _revived(samples: Samples, name: str, deeper: bool = False) -> Number:
    """Return the share of once inactive units that revived later, in layer 0 or in all later layers."""
    layers = slice(1, None) if deeper else slice(0, 1)
    inactive, revived = (samples[f"{word}_{name}"][layers].sum(0) for word in ("inactive", "revived"))  # (R,)
    where = "later layers" if deeper else "layer 0"
    return interval(f"revived in {where}: {_words(name)}", share(revived, inactive), "of inactive units")


def _words(name: str) -> str:
    return name.replace("_", " ").replace("sgd", "SGD")


def _small_steps() -> int:
    return round(BURST * RATES[-1] / RATES[0])


def draw(figure: Figure, samples: Samples) -> None:
    """Draw the share dead at initialization with the closed form (left), and the share of revived units (right)."""
    born, revived = panels(figure, 2)
    _draw_born(born, samples)
    _draw_revived(revived, samples)


def _draw_born(ax: Axes, samples: Samples) -> None:
    from lab.plot.style import COLOURS, MARKERS

    layers = np.arange(1, BORN_DEPTH + 1)
    for number, width in enumerate(WIDTHS):
        ax.plot(layers, _closed_form(width), color=COLOURS[number])
        shares = samples[f"born_{width}"].mean(1)
        ax.plot(layers, shares, MARKERS[number], color=COLOURS[number], markersize=5, label=f"width {width}")
    ax.set_ylim(0, 1.03)
    ax.set_xticks([1, 5, 10, 15, 20])
    ax.legend(loc="lower right", frameon=False)
    label(ax, "hidden layers", "share of networks", "Dead at initialization (lines: theory)")


def _draw_revived(ax: Axes, samples: Samples) -> None:
    from lab.plot.style import COLOURS, MARKERS

    names = (*COURSES, *OTHERS)
    for shade, (deeper, text) in enumerate(((False, "layer 0"), (True, "layers 1 and 2"))):
        for row, name in enumerate(COURSES if deeper else names):
            number = _revived(samples, name, deeper)
            low, high = (number.value if end is None else end for end in (number.lower, number.upper))
            ax.errorbar(
                number.value,
                row + 0.16 * (2 * shade - 1),
                xerr=[[max(0.0, number.value - low)], [max(0.0, high - number.value)]],
                fmt=MARKERS[shade],
                color=COLOURS[shade],
                markersize=5,
                label=text if row == 0 else None,
            )
    ax.axhline(len(COURSES) - 0.5, color="0.5", linewidth=0.8)
    ax.set_yticks(range(len(names)), [_words(name) for name in names], fontsize="small")
    ax.invert_yaxis()
    ax.set_xlim(-0.03, 1.03)
    ax.legend(loc="upper right", frameon=True, framealpha=1, fontsize="small")
    label(ax, "share of inactive units", "", "Revived later")


DYING = Claim(
    id="dying-relu",
    section="4.1, Q1",
    statement=(
        "A ReLU unit whose input has become negative for everything outputs 0, receives no gradient and never learns"
        " again; too large a learning rate or a bad initialization causes it."
    ),
    limit=(
        "Dead refers to a set of inputs: a unit that is inactive on a probe set may be active"
        " on another example. A unit above layer 0 also revives when the layers below it change, and any unit when"
        " momentum carries it on. Weight decay scales weights and biases of layer 0 together, which cannot change the"
        " sign of a pre-activation; on centred inputs the mean pre-activation is the bias, so a dead unit's bias is"
        " negative, and only a decay of biases alone revives it. At initialization depth and width decide: a ReLU"
        " network of H layers of width N is dead for one input with probability 1 - (1 - 2^-N)^H."
    ),
    source='Lu et al. 2019, "Dying ReLU and Initialization: Theory and Numerical Examples"',
    quantity=(
        f"share of tiny networks with a layer of zeros at initialization; share of units whose pre-activation is never"
        f" positive on the training set (3 layers of 32, spirals) after {BURST} steps at rates up to {RATES[-1]:g};"
        f" share of those that revive within {STEPS} steps at rate {RATE:g}; the same for units deactivated through"
        f" their biases (digits, {REVIVAL_STEPS} steps)"
    ),
    rule=(
        f"Fails if a share of dead networks misses the closed form by more than {FARTHEST:g} standard errors, if large"
        f" steps do not leave {ENOUGH_KILLED:.0%} more of the units dead than the same distance in small steps (95%"
        " interval), or if plain SGD revives a single dead unit of layer 0. Then: holds if nothing revives elsewhere"
        " either; holds with a condition if the interval of the revived share lies above 0 in later layers, with"
        f" momentum, or with a decay of biases. Not decided below {ENOUGH_UNITS} dead units in layer 0."
    ),
    caption=(
        "Left: ReLU networks that give 0 for one input at initialization, by depth and width, against the closed form."
        " Right, above the line: of the ReLU units that were inactive on the whole training set after a burst of large"
        " steps, how many revived later. Below the line: the same for fresh networks in which half of layer 0 was"
        f" deactivated through its biases, {DISTANCE:g} below 0. Bars: 95% over replicas."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    training=f"burst: {BURST} steps; after: {STEPS} steps at rate {RATE:g} from the burst's weights; deactivated:"
    f" {REVIVAL_STEPS} steps, with the biases of half of layer 0 lowered first",
)

CLAIMS = (DYING,)
