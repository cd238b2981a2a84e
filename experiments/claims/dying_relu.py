"""Dying ReLU: born dead, killed by large steps, and what brings units back, unit by unit (the guide's section 4.1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.dead_units import SLEEPERS, share
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
"""Standard errors by which a share of dead networks may miss the closed form: 60 shares, correlated, are looked at."""

EXAMPLES = 1600
"""All of spirals' training examples: a unit of layer 0 that sleeps through them sleeps through every batch."""
SIZES = (32, 128, 512, EXAMPLES)
RATES = (0.1, 0.3, 1.0, 2.0)
BURST = 20
MOMENTUM_RATE = 1.0
RATE, STEPS, EVERY = 0.02, 600, 10
"""What follows the burst: learning rate, steps, and steps from one look to the next."""
SLEEP_STEPS, SLEEP_EVERY, DEPTH_OF_SLEEP = 1000, 50, 0.1
DECAY = 0.2
ENOUGH_KILLED = 0.1
"""Of all units: what large steps must kill beyond what as long a way in small steps does."""
ENOUGH_UNITS = 30
"""Dead units of layer 0: if none of 30 wakes, then fewer than one in ten does (rule of three, 95%)."""

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
"""How the killed networks go on, all from the same weights. The lab's decay takes weights and biases alike; the two
partial ones are done after each step."""
COURSES = (*AFTER, "plain_sgd_with_burst", "momentum_with_burst")
OTHERS = ("relu", "leaky_relu", "prelu", "elu", "gelu")
"""Activations whose units are put to sleep by hand: weights blown up by ReLU's burst would suit none of them."""
ARMS = {
    **{f"born dead, width {width}": (*TINY_STACK, f"model.width={width}") for width in WIDTHS},
    **{f"burst, rate {rate:g}": (*STACK, f"optimizer.lr={rate:g}") for rate in RATES},
    "burst, momentum": (*STACK, *MOMENTUM, f"optimizer.lr={MOMENTUM_RATE:g}"),
    **{f"after, {name}": (*STACK, *more, f"optimizer.lr={RATE:g}") for name, more in AFTER.items()},
    "after, momentum": (*STACK, *MOMENTUM, f"optimizer.lr={RATE:g}"),
    **{f"put to sleep, {name}": (*SLEEPERS, f"activation={name}") for name in OTHERS},
}


def measure(scale: Scale) -> Samples:
    """Shares of dead tiny networks, of units dead after bursts, and counts of units that slept and that woke."""
    from experiments.claims import dead_units
    from lab.machine.torch_threads import thread_budget

    samples = {f"born_{width}": _born_dead(width, TINY * scale.replicas) for width in WIDTHS}
    replicas, steps = scale.replicas, scale.steps(STEPS)
    with thread_budget(1):
        burst = dead_units.start(STACK, replicas, RATES)
        looks = dead_units.follow(burst, BURST, 1, SIZES)  # (looks, sizes, layers, rates * R, N)
        dead = _shares(looks[-1], burst)  # (sizes, layers, rates * R)
        samples["dead"] = np.moveaxis(dead.reshape(*dead.shape[:2], len(RATES), replicas), 2, 0)
        slow = dead_units.start(ARMS[f"burst, rate {RATES[0]:g}"], replicas)
        at_end = dead_units.follow(slow, _small_steps(), _small_steps())[-1, 0]
        samples["dead_small_steps"] = _shares(at_end, slow)
        killed = looks[:, -1, :, -replicas:]
        for name in AFTER:
            trainer = dead_units.start(ARMS[f"after, {name}"], replicas)
            dead_units.hand_over(burst.network, trainer.network, first=burst.config.replicas - replicas)
            after = partial(_decay, kind=PARTIAL[name]) if name in PARTIAL else None
            course = dead_units.follow(trainer, steps, EVERY, after=after)[:, 0]
            samples |= _counts(name, course, trainer)
            if name == "plain_sgd":
                samples |= _counts("plain_sgd_with_burst", np.concatenate([killed, course[1:]]), trainer)
        samples |= _counts("momentum_with_burst", *_with_momentum(replicas, steps))
        for name in OTHERS:
            found = dead_units.sleepers(
                (f"activation={name}",), replicas, scale.steps(SLEEP_STEPS), SLEEP_EVERY, DEPTH_OF_SLEEP
            )
            samples |= {f"slept_{name}": found.slept[None], f"woke_{name}": found.woke[None]}
    return samples


def _born_dead(width: int, replicas: int) -> Array:
    """1 where a tiny network has a layer of zeros for one input, at this layer or below: (depth, replicas)."""
    reading = initial(ARMS[f"born dead, width {width}"], replicas)
    dead = reading["dead_fraction"].transpose("layer", "replica").to_numpy() == 1
    return np.maximum.accumulate(dead, axis=0).astype(np.float64)


def _shares(awake: Flags, trainer: Trainer) -> Array:
    """(..., layers, R, N) -> share of sleeping units (..., layers, R), NaN for a replica that diverged."""
    return np.where(trainer.divergence.alive.numpy(), (~awake).mean(-1), np.nan)


def _counts(name: str, looks: Flags, trainer: Trainer) -> dict[str, Array]:
    from experiments.claims.dead_units import asleep_and_woken

    alive = trainer.divergence.alive.numpy()
    slept, woke = (np.where(alive, count, np.nan) for count in asleep_and_woken(looks))
    return {f"slept_{name}": slept, f"woke_{name}": woke}


def _decay(network: Network, kind: str) -> None:
    """Shrink the weights alone, or the biases alone."""
    from experiments.claims.dead_units import maps

    for each in maps(network):
        each.get_parameter(kind).mul_(1 - RATE * DECAY)


def _with_momentum(replicas: int, steps: int) -> tuple[Flags, Trainer]:
    """Burst and what follows, where the second takes over the velocity of the first."""
    from experiments.claims import dead_units

    burst = dead_units.start(ARMS["burst, momentum"], replicas)
    trainer = dead_units.start(ARMS["after, momentum"], replicas)
    looks = dead_units.follow(burst, BURST, 1)[:, 0]
    dead_units.hand_over(burst.network, trainer.network)
    velocities = (each.optimizer.state["momentum_buffer"] for each in (trainer, burst))
    for ours, theirs in zip(*velocities, strict=True):
        ours.copy_(theirs)
    return np.concatenate([looks, dead_units.follow(trainer, steps, EVERY)[1:, 0]]), trainer


def judge(samples: Samples) -> Judgement:
    """The closed form, what large steps kill, whether plain SGD wakes anything in layer 0, and what wakes elsewhere."""
    farthest = max(_standard_errors(samples[f"born_{width}"], width) for width in WIDTHS)
    large, small = samples["dead"][-1, -1].mean(0), samples["dead_small_steps"].mean(0)  # (R,) each, over layers
    killed = difference("dead units: large steps less as long a way in small ones", large, small)
    slept, woke = (float(np.nansum(samples[f"{word}_plain_sgd_with_burst"][0])) for word in ("slept", "woke"))
    ways = {
        "later layers under plain SGD": _woken(samples, "plain_sgd", deeper=True),
        "layer 0 with momentum": _woken(samples, "momentum_with_burst"),
        "layer 0 with a decay of biases alone": _woken(samples, "decay_of_biases"),
    }
    come_back = [way for way, number in ways.items() if is_above(number, 0)]
    numbers = (
        *(
            interval(
                f"dead at birth: {BORN_DEPTH} layers of width {width}",
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
            interval(f"layer 0 asleep on {size} examples after the burst", samples["dead"][-1, row, 0], "of units")
            for row, size in enumerate(SIZES)
        ),
        *(_woken(samples, name) for name in (*COURSES, *OTHERS)),
        *(_woken(samples, name, deeper=True) for name in COURSES),
    )
    reason = (
        f"Shares of tiny networks dead at birth lie within {farthest:.1f} standard errors of 1 - (1 - 2^-N)^H. Large"
        f" steps leave {np.nanmean(large):.0%} of units dead, as long a way in small ones {np.nanmean(small):.0%}. Of"
        f" {slept:.0f} dead units in layer 0 plain SGD woke {woke:.0f}; "
        + "; ".join(f"{way}: {number.value:.0%}" for way, number in ways.items())
        + "."
    )
    if farthest > FARTHEST or not is_above(killed, ENOUGH_KILLED) or woke > 0:
        return Judgement(Verdict.FAILS, reason, numbers)
    if slept < ENOUGH_UNITS:
        return Judgement(Verdict.UNDECIDED, reason, numbers, f"at least {ENOUGH_UNITS} dead units in layer 0")
    if not come_back:
        return Judgement(Verdict.HOLDS, reason, numbers)
    condition = (
        "for ever only in layer 0, under plain SGD, and if the unit sleeps through every training example; units came"
        f" back in {'; in '.join(come_back)}"
    )
    return Judgement(Verdict.CONDITION, reason, numbers, condition)


def _closed_form(width: int) -> Array:
    """P(dead) after 1 to BORN_DEPTH layers, for one input, no bias and symmetric weights: 1 - (1 - 2^-N)^H."""
    return np.asarray(1 - (1 - 2.0**-width) ** np.arange(1, BORN_DEPTH + 1))


def _standard_errors(born: Array, width: int) -> float:
    """The largest distance of the shares (depth, replicas) from the closed form, in binomial standard errors."""
    expected = _closed_form(width)
    return float(np.max(np.abs(born.mean(1) - expected) / np.sqrt(expected * (1 - expected) / born.shape[1])))


def _woken(samples: Samples, name: str, deeper: bool = False) -> Number:
    """Of the units that slept at some look, the share that woke later: of layer 0, or of all later layers."""
    layers = slice(1, None) if deeper else slice(0, 1)
    slept, woke = (samples[f"{word}_{name}"][layers].sum(0) for word in ("slept", "woke"))  # (R,)
    where = "later layers" if deeper else "layer 0"
    return interval(f"woken in {where}: {_words(name)}", share(woke, slept), "of sleeping units")


def _words(name: str) -> str:
    return name.replace("_", " ").replace("sgd", "SGD")


def _small_steps() -> int:
    return round(BURST * RATES[-1] / RATES[0])


def draw(figure: Figure, samples: Samples) -> None:
    """Left: dead at birth against the closed form. Right: which of the sleeping units wake."""
    born, woken = panels(figure, 2)
    _draw_born(born, samples)
    _draw_woken(woken, samples)


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
    label(ax, "hidden layers", "share of networks", "Dead at birth (lines: theory)")


def _draw_woken(ax: Axes, samples: Samples) -> None:
    from lab.plot.style import COLOURS, MARKERS

    names = (*COURSES, *OTHERS)
    for shade, (deeper, text) in enumerate(((False, "layer 0"), (True, "layers 1 and 2"))):
        for row, name in enumerate(COURSES if deeper else names):
            number = _woken(samples, name, deeper)
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
    label(ax, "share of sleeping units", "", "Woken later")


DYING = Claim(
    id="dying-relu",
    section="4.1, Q1",
    statement=(
        "A ReLU unit whose input has become negative for everything outputs 0, receives no gradient and never learns"
        " again; too large a learning rate or a bad initialization brings it about."
    ),
    limit=(
        "Dead is meant with respect to a set of inputs: a unit that sleeps through a probe set may wake for another"
        " example. A unit above layer 0 also comes back when the layers below it change, and any unit when momentum"
        " carries it on. Weight decay scales weights and biases of layer 0 together, which cannot change the sign of a"
        " pre-activation; on centred inputs the mean pre-activation is the bias, so a dead unit's bias is negative, and"
        " only a decay of biases alone wakes it. At birth depth and width decide: a ReLU network of H layers of width N"
        " is dead for one input with probability 1 - (1 - 2^-N)^H."
    ),
    source='Lu et al. 2019, "Dying ReLU and Initialization: Theory and Numerical Examples"',
    quantity=(
        f"share of tiny networks with a layer of zeros at initialization; share of units whose pre-activation is never"
        f" positive on the training set (3 layers of 32, spirals) after {BURST} steps at rates up to {RATES[-1]:g};"
        f" share of those that wake within {STEPS} steps at rate {RATE:g}; the same for units put to sleep through"
        f" their biases (digits, {SLEEP_STEPS} steps)"
    ),
    rule=(
        f"Fails if a share of dead networks misses the closed form by more than {FARTHEST:g} standard errors, if large"
        f" steps do not leave {ENOUGH_KILLED:.0%} more of the units dead than as long a way in small steps (95%"
        " interval), or if plain SGD wakes a single dead unit of layer 0. Then: holds if nothing wakes elsewhere"
        " either; holds with a condition if the interval of the woken share lies above 0 in later layers, with"
        f" momentum, or with a decay of biases. Not decided below {ENOUGH_UNITS} dead units in layer 0."
    ),
    caption=(
        "Left: ReLU networks that give 0 for one input at initialization, by depth and width, against the closed form."
        " Right, above the line: of the ReLU units that slept through the whole training set after a burst of large"
        " steps, how many woke later. Below the line: the same for fresh networks in which half of layer 0 was put to"
        f" sleep through its biases, {DEPTH_OF_SLEEP:g} below waking. Bars: 95% over replicas."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    training=f"burst: {BURST} steps; after: {STEPS} steps at rate {RATE:g} from the burst's weights; put to sleep:"
    f" {SLEEP_STEPS} steps, with the biases of half of layer 0 lowered first",
)

CLAIMS = (DYING,)
