"""Sections 5.1 and 5.2: GELU and Swish against ReLU, each at its own best learning rate, in eight settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, is_above, is_below, wider
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (1e-3, 3e-3, 1e-2, 3e-2)

TASKS = {
    "digits": (("data=digits",), 200),
    # Five arms of two turns each: ReLU networks of this size reach an accuracy of 67 to 75% in this budget, far from
    # chance and from 100%. 19,200 training examples are 300 batches: no example is repeated.
    "spirals": (
        ("data=spirals", "data.examples=24000", "data.classes=5", "data.turns=2", "data.noise=0.03"),
        300,
    ),
}
"""Task -> its overrides, and the number of training steps."""

CLASSES = {"digits": 10, "spirals": 5}

START = ("init=gaussian", "init.weight_var=2", "init.bias_var=0.178")
"""He's variance, and nonzero biases: with biases of 0 a ReLU network is homogeneous, f(c x) = c f(x), and initially
ignores the radius, which distinguishes a spiral's arms. GELU is critical at nearly these variances (1.983, .173).
"""
PLACES = {"plain": (), "pre-norm residual": ("norm=layer", "norm.place=pre", "residual=identity")}
DEPTHS = (4, 12)
COMMON = ("optimizer=adam", "model.width=32", "batch_size=64")
ARMS = ("relu", "rival")

SETTINGS = {
    f"{task}, depth {depth}, {place}": (*COMMON, *TASKS[task][0], f"model.depth={depth}", *PLACES[place])
    for task, depth, place in product(TASKS, DEPTHS, PLACES)
}
"""Setting -> overrides, all but activation and init."""

ASIDE: dict[str, tuple[str, tuple[str, ...], int]] = {
    "biases at 0": ("spirals, depth 4, plain", ("init=he_normal",), 1),
    "four times the steps": ("spirals, depth 4, plain", START, 4),
}
"""Variations that do not count but explain a difference: name -> setting, init, factor of steps."""

LONGER = "four times the steps"
"""The variation that shows how long a gain lasts."""
EFFECT = 0.5
"""Percentage points that count. The held-out digits are one sample of 359 images, the same for all replicas: half a
point is two of them, which no number of replicas averages out."""


def _task(setting: str) -> str:
    return setting.partition(",")[0]


def _measure(rival: str, scale: Scale) -> Samples:
    """Measure `SETTING/ARM` (replicas,), final held-out accuracy, and `SETTING/ARM/rate` (1,), asides included."""
    samples: dict[str, Array] = {}
    trials: list[tuple[str, tuple[str, ...], tuple[str, ...], int]]
    trials = [(setting, overrides, START, 1) for setting, overrides in SETTINGS.items()]
    trials += [(f"{of}, {name}", SETTINGS[of], init, longer) for name, (of, init, longer) in ASIDE.items()]
    for setting, overrides, init, longer in trials:
        steps = longer * scale.steps(TASKS[_task(setting)][1])
        for arm, activation in zip(ARMS, ("relu", rival), strict=True):
            chosen = (f"activation={activation}", *init, *overrides)
            result = networks.tuned(chosen, RATES, scale.replicas, steps, every=0)
            samples[f"{setting}/{arm}"] = result["eval_accuracy"][-1]
            samples[f"{setting}/{arm}/rate"] = result["rate"]
    return samples


def _accuracies(samples: Samples, setting: str, arm: str) -> Array:
    """Return accuracies in percent; a diverged network counts as guessing."""
    return 100 * np.nan_to_num(samples[f"{setting}/{arm}"], nan=1 / CLASSES[_task(setting)])


def _gain(samples: Samples, rival: str, setting: str) -> Number:
    """Return the accuracy that the rival gains over ReLU."""
    relu, own = (_accuracies(samples, setting, arm) for arm in ARMS)
    return difference(f"{rival} minus ReLU: {setting}", own, relu, "percentage points")


def _judge(rival: str, samples: Samples) -> Judgement:
    gains = {setting: _gain(samples, rival, setting) for setting in SETTINGS}
    aside = {name: _gain(samples, rival, f"{of}, {name}") for name, (of, _, _) in ASIDE.items()}
    means = {task: _mean_gain(samples, rival, task) for task in TASKS}
    strict = {setting: _for_all(samples, setting) for setting in SETTINGS}
    better = [setting for setting, gain in strict.items() if is_above(gain, EFFECT)]
    worse = [setting for setting, gain in strict.items() if is_below(gain, -EFFECT)]
    edge = sum(samples[f"{setting}/{arm}/rate"][0] in (RATES[0], RATES[-1]) for setting in gains for arm in ARMS)
    numbers = (
        *means.values(),
        *gains.values(),
        *aside.values(),
        Number("chosen learning rates at an end of the grid", float(edge), units=f"of {2 * len(gains)}"),
    )
    reason = (
        f"At half a percentage point or more, {rival} is better in {len(better)} of {len(gains)} settings and worse in"
        f" {len(worse)}, by intervals that allow for {len(gains)} comparisons; its mean gain is"
        f" {' and '.join(f'{signed(mean)} points on {task}' for task, mean in means.items())}. How much of it is the"
        f" start and the short budget, in {' and '.join({of for of, _, _ in ASIDE.values()})}:"
        f" {signed(gains['spirals, depth 4, plain'])} as it is,"
        f" {', '.join(f'{signed(gain)} with {name}' for name, gain in aside.items())}."
    )
    if all(is_above(mean, EFFECT) for mean in means.values()) and not worse:
        return Judgement(Verdict.HOLDS, reason, numbers)
    if better:
        return Judgement(Verdict.CONDITION, reason, numbers, _condition(better, worse, gains, aside))
    if worse or all(is_below(mean, EFFECT) for mean in means.values()):
        return Judgement(Verdict.FAILS, reason, numbers)
    return Judgement(Verdict.UNDECIDED, reason, numbers, "more replicas: the intervals leave room for either")


def _for_all(samples: Samples, setting: str) -> Number:
    """Return the gain with an interval that is valid for all settings at once."""
    relu, own = (_accuracies(samples, setting, arm) for arm in ARMS)
    return wider(own, relu, len(SETTINGS))


def _condition(better: list[str], worse: list[str], gains: Mapping[str, Number], aside: Mapping[str, Number]) -> str:
    """Describe the settings where the rival is better, how long that lasts, and where it is worse."""
    where = " and ".join(_in_words(setting) for setting in better)
    steps = " and ".join(f"{TASKS[task][1]}" for task in TASKS if any(_task(setting) == task for setting in better))
    where += f", within the {steps} steps of this budget"
    of, _, longer = ASIDE[LONGER]
    if of in better:
        where += (
            f" ({_in_words(of)}: {gains[of].value:+.1f} points, with {longer} times the steps"
            f" {aside[LONGER].value:+.1f})"
        )
    return where + (
        f"; worse with {' and '.join(map(_in_words, worse))}" if worse else "; no difference shown elsewhere"
    )


def _in_words(setting: str) -> str:
    task, depth, place = setting.split(", ")
    return f"{depth.removeprefix('depth ')} {place} layers on {task}"


def _mean_gain(samples: Samples, rival: str, task: str) -> Number:
    """Return the mean gain over a task's settings; over both tasks the larger differences would dominate."""
    settings = [setting for setting in SETTINGS if _task(setting) == task]
    relu, own = (np.mean([_accuracies(samples, setting, arm) for setting in settings], axis=0) for arm in ARMS)
    return difference(f"{rival} minus ReLU: mean of the settings, {task}", own, relu, "percentage points")


def signed(number: Number, digits: int = 1) -> str:
    """Format a difference with its interval."""
    if number.lower is None:
        return f"{number.value:+.{digits}f}"
    return f"{number.value:+.{digits}f} [{number.lower:+.{digits}f}, {number.upper:+.{digits}f}]"


def _draw(rival: str, figure: Figure, samples: Samples) -> None:
    from lab.plot.style import COLOURS, MARKERS

    (ax,) = panels(figure)
    ax.axvspan(-EFFECT, EFFECT, color="0.88", label=f"less than {EFFECT:g} points: does not count")
    rows = [(setting, setting, 0) for setting in SETTINGS]
    rows += [(f"({name})", f"{of}, {name}", 1) for name, (of, _, _) in ASIDE.items()]
    for row, (_, setting, group) in enumerate(rows):
        gain = _gain(samples, rival, setting)
        low, high = (gain.value if end is None else end for end in (gain.lower, gain.upper))
        if setting in SETTINGS:
            both = _for_all(samples, setting)
            ax.hlines(-row, both.lower or 0, both.upper or 0, color=COLOURS[group], linewidth=0.8)
        ax.errorbar(
            gain.value,
            -row,
            xerr=[[gain.value - low], [high - gain.value]],
            color=COLOURS[group],
            marker=MARKERS[group],
            capsize=2,
            label=("counts", "spirals, depth 4, plain, but")[group] if row in (0, len(SETTINGS)) else None,
        )
    ax.set_yticks([-row for row in range(len(rows))], [name for name, _, _ in rows], fontsize="small")
    ax.axvline(0, color="0.4", linewidth=0.8)
    label(ax, f"held-out accuracy, {rival} minus ReLU (percentage points)", "")
    legend_below(figure, [ax], 3)


def _arms(rival: str) -> dict[str, tuple[str, ...]]:
    names = {"relu": "relu", "rival": rival}
    arms = {
        f"{activation}: {setting}": (f"activation={activation}", *START, *overrides)
        for setting, overrides in SETTINGS.items()
        for activation in names.values()
    }
    for name, (of, init, _) in ASIDE.items():
        for activation in names.values():
            arms[f"{activation}: {of}, {name}"] = (f"activation={activation}", *init, *SETTINGS[of])
    return arms


RULE = (
    "Both sides train with Adam at their own best of the learning rates 0.001 to 0.03, from the same weight and bias"
    " variances. A setting counts where the whole interval of the difference in held-out accuracy lies beyond half a"
    f" percentage point, at a level of {1 - 0.05 / len(SETTINGS):.1%}, by which all {len(SETTINGS)} hold together with"
    " 95% (Bonferroni). Holds: the mean over a task's settings is above half a point on both tasks, and no setting"
    " counts against. Holds with a condition: at least one setting counts for it. Does not hold: none does, and one"
    " counts against or both means are below half a point."
)
TESTED = (
    "Tested: fully connected networks 32 wide, 4 and 12 deep, plain and pre-norm residual, on 8x8 digits and on five"
    " spirals, 200 and 300 steps, so that speed counts as much as the final accuracy. There are eight"
    " such settings, for which the rule corrects. Not tested: convolutions,"
    " attention, text, and sizes at which the published gains were found; these networks say nothing about those."
)


def _claim(id: str, section: str, rival: str, name: str, statement: str, limit: str, source: str) -> Claim:
    return Claim(
        id=id,
        section=section,
        statement=statement,
        limit=f"{limit} {TESTED}",
        source=source,
        quantity="Held-out accuracy after the budget, at each activation's own best learning rate.",
        rule=RULE,
        caption=(
            f"{name} against ReLU in held-out accuracy, each at its own best learning rate, 95% intervals over"
            f" replicas (thin: of all {len(SETTINGS)} settings together). Squares: one of the settings again, with"
            " biases that start at 0, and with four times as many steps."
        ),
        arms=_arms(rival),
        training=f"{TASKS['digits'][1]} steps on digits and {TASKS['spirals'][1]} on spirals, for the last two four"
        f" times as many, at each of the rates {', '.join(f'{rate:g}' for rate in RATES)}",
        measure=partial(_measure, rival),
        judge=partial(_judge, name),
        draw=partial(_draw, name),
        needs_full=True,
    )


CLAIMS = (
    _claim(
        "gelu-better",
        "5.1, Q1",
        "gelu",
        "GELU",
        "Networks with GELU perform better than networks with ReLU.",
        "The published gains are for language and vision models.",
        "Hendrycks and Gimpel 2016; Narang et al. 2021 (Transformer modifications compared)",
    ),
    _claim(
        "swish-better",
        "5.2",
        "silu",
        "Swish",
        "Swish gives a small but consistent gain over ReLU in deep models.",
        "Later comparisons on other tasks did not find the gain to be consistent. Here beta is 1 (SiLU).",
        "Ramachandran, Zoph and Le 2017; Eger, Youssef and Gurevych 2018 (21 activations on 8 NLP tasks)",
    ),
)
