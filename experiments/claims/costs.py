"""Cost of activations: elementwise at several sizes, against ReLU and a plain copy, and in training steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, is_above, is_below
from experiments.claims.timing import BATCH, DEPTH, SIZES, STEP, WIDTHS, elementwise, steps
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPENSIVE = 1.5
"""Elementwise ratio to ReLU that counts as expensive."""
NOTICED = 1.1
"""Ratio of training steps that counts as noticeable."""
TURNS, STEP_TURNS = 250, 100

Places = dict[tuple[str, int], bool]
"""(device, size or width) -> flag."""


def _measure(names: Sequence[str], scale: Scale) -> Samples:
    """Measure `DEVICE/forward_NAME`, `DEVICE/both_NAME` (sizes, turns) and `DEVICE/step_NAME` (widths, turns) in s.

    Names are `names`, relu, and copy (elementwise) or identity (in a step). A GPU is measured if there is one.
    """
    import torch

    from lab.machine import threads as torch_threads

    samples: dict[str, Array] = {}
    with torch_threads.thread_budget(1):
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            on = torch.device(device)
            timings = elementwise(("copy", "relu", *names), scale.steps(TURNS), on)
            timings |= steps(("identity", "relu", *names), scale.steps(STEP_TURNS), on)
            samples |= {f"{device}/{name}": seconds for name, seconds in timings.items()}
    return samples


def ratio(name: str, seconds: Array, base: Array, predicted: float | None = None) -> Number:
    """Return the ratio of medians over turns with its bootstrap interval."""
    logs = difference(name, np.log(seconds), np.log(base), statistic=np.median)
    ends = [None if end is None else math.exp(end) for end in (logs.lower, logs.upper)]
    return Number(name, math.exp(logs.value), ends[0], ends[1], "times", predicted)


def _ratios(samples: Samples, kind: str, device: str, name: str, base: str) -> list[Number]:
    """Return the ratio for each size, or for each width of a step."""
    of_name, of_base = (samples[f"{device}/{kind}_{which}"] for which in (name, base))
    places = WIDTHS if kind == "step" else SIZES
    where = {"forward": "forward, {:,} entries", "both": "forward and backward, {:,} entries", "step": "step, width {}"}
    return [
        ratio(
            f"{device}: {name} / {base}, {where[kind].format(place)}",
            of_name[i],
            of_base[i],
            _expected_step(samples, device, name, base, i) if kind == "step" and base == "relu" else None,
        )
        for i, place in enumerate(places)
    ]


def _expected_step(samples: Samples, device: str, name: str, base: str, place: int) -> float:
    """Return the ratio of steps expected from the elementwise times alone, interpolated between sizes."""
    entries = BATCH * WIDTHS[place]
    times = [
        math.exp(
            np.interp(np.log(entries), np.log(SIZES), np.log(np.median(samples[f"{device}/both_{which}"], axis=1)))
        )
        for which in (name, base)
    ]
    step = float(np.median(samples[f"{device}/step_{base}"][place]))
    return 1 + DEPTH * (times[0] - times[1]) / step


def _devices(samples: Samples) -> list[str]:
    return [device for device in ("cpu", "cuda") if f"{device}/forward_relu" in samples]


def _judge_slow(names: Sequence[str], samples: Samples) -> Judgement:
    """Apply the rule: are all of `names` slower than ReLU, and does a training step become slower?"""
    numbers: list[Number] = []
    slow: Places = {}
    noticed: Places = {}
    not_slow, ratios = [], []
    for device in _devices(samples):
        forward = [_ratios(samples, "forward", device, name, "relu") for name in names]
        step = [_ratios(samples, "step", device, name, "relu") for name in names]
        for i, name in enumerate(names):
            numbers += forward[i] + _ratios(samples, "both", device, name, "relu") + step[i]
            ratios.append(f"{device}, {name}: {_range(forward[i])} elementwise, {_range(step[i])} in a step")
        numbers += _ratios(samples, "forward", device, "relu", "copy")
        for i, size in enumerate(SIZES):
            slow[device, size] = all(is_above(row[i], EXPENSIVE) for row in forward)
            not_slow.append(any(is_below(row[i], EXPENSIVE) for row in forward))
        for i, width in enumerate(WIDTHS):
            noticed[device, width] = any(is_above(row[i], NOTICED) for row in step)
    reason = f"Time over ReLU's, from the smallest size to the largest. {'; '.join(ratios)}."
    if all(slow.values()) and all(noticed.values()):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    if any(slow.values()):
        condition = (
            f"elementwise, {_where(slow, 'entries')}; a whole training step takes a tenth longer"
            f" {_where(noticed, 'units of width')}"
        )
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), condition)
    if all(not_slow):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    return Judgement(Verdict.UNDECIDED, reason, tuple(numbers), "a quieter machine: the intervals are too wide")


EXPONENTIALS = ("sigmoid", "tanh")


def _judge_relu(samples: Samples) -> Judgement:
    """Apply the rule: ReLU against a copy, against the exponentials, and in a training step."""
    numbers: list[Number] = []
    cheap: Places = {}
    light: Places = {}
    dear, ratios = [], []
    for device in _devices(samples):
        copy = _ratios(samples, "forward", device, "relu", "copy")
        slower = [_ratios(samples, "forward", device, name, "relu") for name in EXPONENTIALS]
        step = _ratios(samples, "step", device, "relu", "identity")
        numbers += [*copy, *slower[0], *slower[1], *step]
        ratios.append(
            f"{device}: ReLU takes {_range(copy)} the time of a copy, {' and '.join(EXPONENTIALS)} {_range(slower[0])}"
            f" and {_range(slower[1])} that of ReLU; a step with ReLU takes {_range(step)} one without activations"
        )
        for i, size in enumerate(SIZES):
            cheap[device, size] = is_below(copy[i], EXPENSIVE) and all(is_above(row[i], EXPENSIVE) for row in slower)
            dear.append(is_above(copy[i], EXPENSIVE) or any(is_below(row[i], EXPENSIVE) for row in slower))
        for i, width in enumerate(WIDTHS):
            light[device, width] = is_below(step[i], NOTICED)
    reason = f"From the smallest size to the largest. {'; '.join(ratios)}."
    if all(cheap.values()) and all(light.values()):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    if any(cheap.values()):
        parts = [] if all(cheap.values()) else [f"like a copy and faster than exponentials {_where(cheap, 'entries')}"]
        parts += [] if all(light.values()) else [f"less than a tenth of a step {_where(light, 'units of width')}"]
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), "; ".join(parts))
    if all(dear):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    return Judgement(Verdict.UNDECIDED, reason, tuple(numbers), "a quieter machine: the intervals are too wide")


def _where(places: Places, units: str) -> str:
    """Describe the sizes or widths for which the flag is set."""
    parts = []
    for device in dict.fromkeys(device for device, _ in places):
        chosen = [f"{place:,}" for (on, place), is_so in places.items() if is_so and on == device]
        parts.append(f"on the {device} at {' / '.join(chosen)} {units}" if chosen else f"nowhere on the {device}")
    return " and ".join(parts)


def _range(numbers: Sequence[Number]) -> str:
    return " ".join(f"{number.value:.2f}" for number in numbers)


def _draw(names: Sequence[str], figure: Figure, samples: Samples) -> None:
    """Plot elementwise ratios against size, and ratios of training steps against width."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    pairs = [(name, "relu") for name in names] + [("relu", "copy")]
    for device in _devices(samples):
        style = "-" if device == "cpu" else "--"
        for i, (name, base) in enumerate(pairs):
            text = f"{name} / {'copy or identity' if base == 'copy' else base}, {device}"
            shown = [("forward", SIZES, base), ("step", WIDTHS, "identity" if base == "copy" else base)]
            for ax, (kind, places, of) in zip(axes, shown, strict=True):
                ratios = _ratios(samples, kind, device, name, of)
                middle = [number.value for number in ratios]
                ends = [[number.lower or number.value, number.upper or number.value] for number in ratios]
                ax.errorbar(
                    places,
                    middle,
                    yerr=np.abs(np.array(ends).T - middle),
                    linestyle=style,
                    color=COLOURS[i],
                    marker=MARKERS[i],
                    capsize=2,
                    label=text,
                )
    for ax, level in zip(axes, (EXPENSIVE, NOTICED), strict=True):
        ax.axhline(1, color="0.4", linewidth=0.8)
        ax.axhline(level, color="0.4", linewidth=0.8, linestyle=":", label="what counts" if level == NOTICED else None)
        ax.set_xscale("log")
    axes[0].set_yscale("log")
    low, high = axes[0].get_ylim()
    axes[0].set_yticks([tick for tick in (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30) if low <= tick <= high])
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    for ax in axes:
        ax.minorticks_off()
    label(axes[0], "entries of the tensor", "ratio of times", "one call, forward")
    label(axes[1], "width of the network", "ratio of times", "whole training step")
    legend_below(figure, axes, 2)


COMMON_QUANTITY = (
    "Ratio of median times: elementwise at 1,000 to 1,000,000 float32 entries, and of whole training steps of networks"
    f" {DEPTH} layers deep and {WIDTHS[0]} to {WIDTHS[-1]} wide, batch {BATCH}; one thread, sides in turns; on the"
    " CPU (the thread's time), and on a GPU if there is one."
)
SLOW_RULE = (
    "Elementwise it counts as slower where the whole 95% interval of the ratio of forward calls to ReLU's, over turns,"
    f" is above {EXPENSIVE}; a training step notices where it is above {NOTICED}. Holds: slower at every size and"
    " noticed at every width. With a condition: slower at some size. Does not hold: the interval is below that at every"
    " size."
)
CAPTION = (
    "Ratio of median times with 95% intervals over turns, one thread: left of single calls, right of whole training"
    f" steps of {DEPTH} layers at batch {BATCH}; dotted: what counts. ReLU itself is compared with a copy on the left,"
    " with a step without activations (identity) on the right."
)


def _slow(id: str, section: str, statement: str, limit: str, source: str, names: tuple[str, ...]) -> Claim:
    return Claim(
        id=id,
        section=section,
        statement=statement,
        limit=limit,
        source=source,
        quantity=COMMON_QUANTITY,
        rule=SLOW_RULE,
        caption=CAPTION,
        arms={name: (*STEP, f"activation={name}") for name in (*names, "relu")},
        training="single steps, which are timed",
        measure=partial(_measure, names),
        judge=partial(_judge_slow, names),
        draw=partial(_draw, names),
        is_timed=True,
    )


IN_A_STEP = (
    "A step's matrix products grow with width squared, its activations with width, so that the difference shrinks; on a"
    " GPU an elementwise call waits for memory, whatever it computes."
)

CLAIMS = (
    _slow(
        "sigmoid-cost",
        "3.1, Q1",
        "The sigmoid is expensive, because of its exponential.",
        IN_A_STEP,
        "Arithmetic intensity: Williams, Waterman and Patterson 2009 (roofline)",
        ("sigmoid",),
    ),
    Claim(
        id="relu-cost",
        section="4.1, Q1",
        statement="ReLU costs next to nothing, and much less than the exponentials of sigmoid and tanh.",
        limit=f"It reads and writes memory as a copy does, and even that is not free. {IN_A_STEP}",
        source="Arithmetic intensity: Williams, Waterman and Patterson 2009 (roofline)",
        quantity=COMMON_QUANTITY,
        rule=(
            f"At a size ReLU counts as cheap where its forward call takes less than {EXPENSIVE} times a copy, and"
            f" sigmoid and tanh take more than {EXPENSIVE} times ReLU; in a step where one with ReLU takes less than"
            f" {NOTICED} times one without activations; whole 95% intervals over turns. Holds: at every size and width."
            " With a condition: cheap at some size. Does not hold: at none, and every size shows the opposite."
        ),
        caption=CAPTION,
        arms={name: (*STEP, f"activation={name}") for name in ("identity", "relu", *EXPONENTIALS)},
        training="single steps, which are timed",
        measure=partial(_measure, EXPONENTIALS),
        judge=_judge_relu,
        draw=partial(_draw, EXPONENTIALS),
        is_timed=True,
    ),
    _slow(
        "gelu-cost",
        "5.1, Q1",
        "GELU is significantly slower than ReLU, and so is its tanh approximation.",
        IN_A_STEP,
        "Hendrycks and Gimpel 2016, section 2 (the approximation); Williams, Waterman and Patterson 2009 (roofline)",
        ("gelu", "gelu_tanh"),
    ),
    _slow(
        "elu-cost",
        "4.4",
        "ELU is slower than ReLU, because of its exponential.",
        IN_A_STEP,
        "Clevert, Unterthiner and Hochreiter 2016; Williams, Waterman and Patterson 2009 (roofline)",
        ("elu",),
    ),
)
