"""Sections 4.2 and 4.3: effects of a slope below 0: units revive, and the slope can be learnt or random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.dead_units import DEACTIVATED, share
from experiments.claims.leaky_inconsistent import INCONSISTENT
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.rrelu import RANDOM
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# --- revival ---------------------------------------------------------------------------------------------------------

NEGATIVE_SLOPES = (0.01, 0.1, 0.3)
DISTANCES = (0.1, 1.0)
"""Distances below 0 of the largest pre-activation of deactivated units."""
STEPS, EVERY = 1000, 50
REVIVE_ARMS = {
    "relu": (*DEACTIVATED, "activation=relu"),
    **{
        f"slope {a:g}": (*DEACTIVATED, "activation=leaky_relu", f"activation.negative_slope={a:g}")
        for a in NEGATIVE_SLOPES
    },
}
MAXIMUM_SLOPES = (-0.5, 0.0, 0.01, 0.1, 0.5, 1.0, 1.5, 3.0)
"""Slopes at which max(a z, z) is compared with the piecewise definition."""


def measure_revives(scale: Scale) -> Samples:
    """Count inactive units, those with a gradient and those that revive; evaluate the formula with the maximum."""
    from experiments.claims.dead_units import deactivated_units
    from lab.machine.threads import thread_budget

    samples = {"largest_difference": largest_differences()}
    with thread_budget(1):
        for name, overrides in REVIVE_ARMS.items():
            for depth in DISTANCES:
                more = overrides[len(DEACTIVATED) :]
                units = deactivated_units(more, scale.replicas, scale.steps(STEPS), EVERY, depth)
                samples |= {f"{kind} {name}, {depth:g}": counts for kind, counts in units._asdict().items()}
    return samples


def largest_differences() -> Array:
    """Return the largest |max(a z, z) - leaky ReLU| over |z| up to 5, for each of MAXIMUM_SLOPES."""
    import torch

    from lab.network.activations import LeakyReLULayer

    z = np.linspace(-5, 5, 10_001)
    return np.array(
        [np.abs(np.maximum(a * z, z) - LeakyReLULayer(a)(torch.from_numpy(z)).numpy()).max() for a in MAXIMUM_SLOPES]
    )


def judge_revives(samples: Samples) -> Judgement:
    """Apply the rule: units with a gradient, units that revive, and slopes for which the maximum is leaky ReLU."""
    numbers, moved, shares = [], {}, {}
    for name in REVIVE_ARMS:
        for depth in DISTANCES:
            inactive, got, revived = (samples[f"{kind} {name}, {depth:g}"] for kind in ("inactive", "moved", "revived"))
            arm = f"{name}, {depth:g} below 0"
            moved[arm] = interval(f"inactive units with a gradient: {arm}", share(got, inactive), "of units")
            shares[arm] = interval(f"revived: {arm}", share(revived, inactive), "of units")
            numbers += [moved[arm], shares[arm]]
    errors = dict(zip(MAXIMUM_SLOPES, samples["largest_difference"], strict=True))
    numbers += [Number(f"largest |max(az, z) - leaky ReLU|, a = {a:g}, |z| < 5", float(e)) for a, e in errors.items()]
    leaky = [arm for arm in moved if arm.startswith("slope")]
    has_gradient = all(moved[arm].value == 1 for arm in leaky)
    relu_is_stuck = all(moved[arm].value == 0 and shares[arm].value == 0 for arm in moved if arm not in leaky)
    is_right_up_to_one = all(error == 0 for a, error in errors.items() if a <= 1)
    reason = (
        "Inactive units of leaky ReLU with a gradient: "
        + ("all" if has_gradient else "not all")
        + f"; of ReLU: {'none' if relu_is_stuck else 'some'}. Revived within {STEPS} steps: "
        + ", ".join(f"{shares[arm].value:.0%} ({arm})" for arm in leaky)
        + f". max(az, z) differs from leaky ReLU by {errors[1.5]:g} at a = 1.5 and not at all up to a = 1."
    )
    revives = [arm for arm in leaky if is_above(shares[arm], 0)]
    if not (has_gradient and relu_is_stuck and is_right_up_to_one and revives):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if len(revives) == len(leaky):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    return Judgement(Verdict.CONDITION, reason, tuple(numbers), _condition(revives))


def _condition(revives: list[str]) -> str:
    """Return the condition: slopes and distances at which revival cannot be distinguished from 0."""
    parts = []
    for a in NEGATIVE_SLOPES:
        missing = [depth for depth in DISTANCES if f"slope {a:g}, {depth:g} below 0" not in revives]
        if len(missing) == len(DISTANCES):
            parts.append(
                f"at {a:g} none revived within {STEPS} steps that can be distinguished from 0 (a limit of this"
                f" experiment: 1/a = {1 / a:.0f} times as many would be needed)"
            )
        elif missing:
            parts.append(f"at {a:g} none that was {' or '.join(f'{depth:g}' for depth in missing)} below 0")
    return f"a slope that is large enough for how far below 0 the unit is: {'; '.join(parts)}"


def draw_revives(figure: Figure, samples: Samples) -> None:
    """Plot the revived share by slope, for both distances below 0."""
    from lab.plot.style import COLOURS, MARKERS

    (ax,) = panels(figure)
    for index, depth in enumerate(DISTANCES):
        for row, name in enumerate(REVIVE_ARMS):
            inactive, revived = (samples[f"{kind} {name}, {depth:g}"] for kind in ("inactive", "revived"))
            number = interval(name, share(revived, inactive))
            low, high = (number.value if end is None else end for end in (number.lower, number.upper))
            ax.errorbar(
                row + 0.1 * (2 * index - 1),
                number.value,
                yerr=[[max(0.0, number.value - low)], [max(0.0, high - number.value)]],
                fmt=MARKERS[index],
                color=COLOURS[index],
                label=f"{depth:g} below 0" if row == 0 else None,
            )
    ax.set_xticks(range(len(REVIVE_ARMS)), list(REVIVE_ARMS))
    ax.set_ylim(-0.02, 1.02)
    ax.legend(frameon=False, loc="upper left")
    label(ax, "slope below 0", "share of inactive units that revived")


REVIVES = Claim(
    id="leaky-revives",
    section="4.2",
    statement="With max(az, z), a about .01, negative inputs keep a gradient, so that dead units can revive.",
    limit=(
        "The gradient is a times as large, so reviving takes 1/a times as long and may not happen in any training. Here"
        f" training ends after {STEPS} steps; slope 0.01 would need 1/a = 100 times as many, which was not tried. And"
        " max(az, z) is leaky ReLU only for a up to 1; above, it bends the other way: z below 0 and az above."
    ),
    source="Maas et al. 2013, section 2",
    quantity=(
        "half of layer 0 (3 layers of 32, digits) deactivated on all training examples through its biases: the share"
        f" that gets a gradient from the first batch, and the share that revives within {STEPS} steps of SGD"
    ),
    rule=(
        "Fails if not every inactive unit of leaky ReLU gets a gradient, if one of ReLU does, if leaky ReLU revives"
        " none (95% interval above 0) at any slope, or if max(az, z) differs from the piecewise definition for some a"
        " up to 1. Holds if units revive at every slope and distance tried; else holds with a condition, which names"
        f" the slopes at which none revived that can be distinguished from 0 within {STEPS} steps: a limit of this"
        " experiment, since a slope of a needs 1/a times as many."
    ),
    caption=(
        "Share of units that revived, by slope, for units whose largest pre-activation was put 0.1 or 1 below 0. Bars:"
        " 95% over replicas."
    ),
    measure=measure_revives,
    judge=judge_revives,
    draw=draw_revives,
    arms=REVIVE_ARMS,
    training=f"{STEPS} steps, with the biases of half of layer 0 lowered first",
    needs_full=True,
)

# --- a slope that is learnt -----------------------------------------------------------------------------------------

STARTS = (0.0, 0.25, 0.5)
LEARN_STEPS, LEARN_EVERY = 1500, 50
MOVED = 0.02
"""Mean absolute change of a slope that counts as learning: nearly a tenth of the usual start."""
SETTLED = 0.25
"""Share of the distance between two starts that may remain if the best slope is reached."""
LEARN_ARMS = {
    f"from {start:g}": (
        *("init=he_normal", "data=digits", "model.depth=6", "model.width=32", "batch_size=64", "optimizer.lr=0.02"),
        *("optimizer.momentum=0.9", "probe.set=norms", "activation=prelu", f"activation.negative_slope={start:g}"),
    )
    for start in STARTS
}


def measure_learns(scale: Scale) -> Samples:
    """Measure the slopes of every layer in every observation."""
    from experiments.claims import dead_units
    from lab.machine.threads import thread_budget
    from lab.train.losses import evaluate

    samples = {}
    with thread_budget(1):
        for name, overrides in LEARN_ARMS.items():
            trainer = dead_units.start(overrides, scale.replicas)
            observations = []
            steps = scale.steps(LEARN_STEPS)
            for step in range(steps + 1):
                if step % LEARN_EVERY == 0:
                    slopes = [block.get_parameter("activation.negative_slope") for block in trainer.network.blocks]
                    observations.append([slope.detach().double().flatten().numpy().copy() for slope in slopes])
                if step < steps:
                    trainer.step()
            alive = trainer.divergence.alive.numpy()
            samples[f"slopes {name}"] = np.where(alive, np.array(observations), np.nan)  # (S, L, R)
            samples[f"accuracy {name}"] = evaluate(trainer.network, trainer.dataset)["eval_accuracy"].numpy()
    return samples


def judge_learns(samples: Samples) -> Judgement:
    """Apply the rule: do slopes move, differ by layer, and become independent of their start?"""
    numbers = []
    moves = []
    for name in LEARN_ARMS:
        slopes = samples[f"slopes {name}"]
        moves.append(interval(f"mean change of a slope: {name}", np.abs(slopes[-1] - slopes[0]).mean(0)))
        by_layer = interval(f"slope of layer 0 less that of the last: {name}", slopes[-1, 0] - slopes[-1, -1])
        numbers += [moves[-1], by_layer, interval(f"held-out accuracy: {name}", samples[f"accuracy {name}"])]
        if name == f"from {STARTS[1]:g}":  # PyTorch's and the paper's
            usual_by_layer = by_layer
    ends = [samples[f"slopes {name}"][-1].mean(0) for name in LEARN_ARMS]
    apart = STARTS[-1] - STARTS[0]
    left = difference(
        f"mean slope at the end, from {STARTS[-1]:g} less from {STARTS[0]:g}, over their distance at the start",
        ends[-1] / apart,
        ends[0] / apart,
    )
    numbers += [left, *(interval(f"mean slope at the end: {n}", e) for n, e in zip(LEARN_ARMS, ends, strict=True))]
    differs = is_above(usual_by_layer, 0) or is_below(usual_by_layer, 0)
    reason = (
        f"From {STARTS[1]:g} a slope moves by {moves[1].value:.2f} on average; layer 0's ends"
        f" {usual_by_layer.value:+.2f} from the last layer's. Of the distance between starts {STARTS[0]:g} and"
        f" {STARTS[-1]:g}, {left.value:.0%} is left after {LEARN_STEPS} steps."
    )
    if not all(is_above(move, MOVED) for move in moves) or not differs:
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if is_below(left, SETTLED):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    return Judgement(
        Verdict.CONDITION,
        reason,
        tuple(numbers),
        f"learnt means moved: after {LEARN_STEPS} steps where a slope ends still depends on where it started",
    )


def draw_learns(figure: Figure, samples: Samples) -> None:
    """Plot slopes against steps by start (left), and final slopes by layer (right)."""
    from lab.plot.style import COLOURS, MARKERS

    course, ends = panels(figure, 2)
    for number, name in enumerate(LEARN_ARMS):
        slopes = samples[f"slopes {name}"]
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "label": name}
        steps = LEARN_EVERY * np.arange(len(slopes))
        course.plot(steps, np.nanmean(slopes, (1, 2)), markevery=max(1, len(steps) // 8), **style)
        middle, spread = np.nanmean(slopes[-1], 1), np.nanstd(slopes[-1], 1)
        ends.errorbar(np.arange(len(middle)), middle, yerr=spread, capsize=2, **style)
    label(course, "step", "slope below 0, mean over layers", "While training")
    label(ends, "layer (0 is nearest the input)", "slope at the end", "By layer (bars: ± std over replicas)")
    legend_below(figure, [course], 3)


LEARNS = Claim(
    id="prelu-learns",
    section="4.3",
    statement="PReLU's slope is a parameter that backpropagation trains, so the network finds the best slope itself.",
    limit=(
        "It follows the gradient like any weight. Layers end at slopes of their own, and a finite training may leave it"
        " near its start."
    ),
    source="He et al. 2015, sections 2.1 and 4.1",
    quantity=f"slopes of 6 layers of 32 on digits, {LEARN_STEPS} steps of SGD with momentum, from {STARTS}",
    rule=(
        f"Fails unless slopes move by more than {MOVED:g} on average from every start and, from the usual start of"
        f" {STARTS[1]:g}, layer 0's ends elsewhere than the last layer's (95% intervals). Holds if less than"
        f" {SETTLED:.0%} of the distance between the outermost starts, {STARTS[0]:g} and {STARTS[-1]:g}, is left at the"
        " end, as it must be if the best slope is found; else holds with a condition."
    ),
    caption="PReLU's slopes while training and at the end, from three starts.",
    measure=measure_learns,
    judge=judge_learns,
    draw=draw_learns,
    arms=LEARN_ARMS,
    shown_with=dict.fromkeys(LEARN_ARMS, (f"steps={LEARN_STEPS}",)),
    needs_full=True,
)

CLAIMS = (REVIVES, INCONSISTENT, LEARNS, RANDOM)
