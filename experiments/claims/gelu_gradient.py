"""Q1: zeros of GELU's gradient, dead units, and gradients in deep networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import dead_units, exact, networks
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import FORMATS
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("relu", "gelu")
DEPTHS = (10, 20, 50)
DEEP: Mapping[tuple[str, int], tuple[str, ...]] = {
    (kind, depth): (
        *(f"activation={kind}", "init=he_normal", f"model.depth={depth}", "model.width=128", "data=gaussian"),
        *("batch_size=16", "dtype=float64", "probe.cotangent=random"),
    )
    for kind in KINDS
    for depth in DEPTHS
}
RATES, BURST = (0.3, 1.0, 2.0), 20
"""Learning rates, the last two far too large, and number of steps."""
HURT = (
    *("init=he_normal", "data=spirals", "model.depth=3", "model.width=32", "batch_size=64", "probe.examples=1600"),
    "probe.set=norms",
)
SILENT = 0.01
"""A unit is silent if its slope is below this share of the largest for every training example."""
REVIVAL_STEPS, REVIVAL_EVERY = 400, 50
DISTANCES = (0.1, 3.0)
"""Distances below 0 of the largest pre-activation of deactivated units."""
ARMS: Mapping[str, tuple[str, ...]] = {
    **{f"{kind}, He, depth {depth}": words for (kind, depth), words in DEEP.items()},
    **{f"{kind}, large steps": (f"activation={kind}", *HURT) for kind in KINDS},
    **{f"{kind}, deactivated": (f"activation={kind}", *dead_units.DEACTIVATED) for kind in KINDS},
}


def measure(scale: Scale) -> Samples:
    """Measure zeros of the slope, gradients of deep networks, silent units after large steps, and revived units."""
    import mpmath
    import torch

    from lab.machine.threads import thread_budget
    from lab.network.activations import FUNCTIONS

    with mpmath.workdps(exact.DIGITS):
        zero = mpmath.findroot(lambda x: mpmath.diff(lambda y: y * mpmath.ncdf(y), x), -0.7)
        samples = {"zero": np.array([float(zero)])}
    for name in FORMATS:

        def is_lost(x: torch.Tensor) -> torch.Tensor:
            x = x.requires_grad_()
            return torch.autograd.grad(FUNCTIONS["gelu"].function(x).sum(), x)[0] == 0

        samples[f"lost_{name}"] = np.array([exact.edge(is_lost, -100.0, -5.0, name)])
    for (kind, depth), overrides in DEEP.items():
        reading = networks.initial(overrides, scale.replicas)
        samples[f"deep {kind} {depth}"] = networks.first_over_last(reading)
        names = ("predicted_delta_rms", "predicted_delta_rms_lower", "predicted_delta_rms_upper")
        ends = [reading[name].to_numpy() for name in names]
        samples[f"predicted {kind} {depth}"] = np.log10([end[0] / end[-1] for end in ends])
    with thread_budget(1):
        for kind in KINDS:
            samples[f"silent {kind}"] = _silent(kind, scale.replicas)
            for distance in DISTANCES:
                units = dead_units.deactivated_units(
                    (f"activation={kind}",), scale.replicas, scale.steps(REVIVAL_STEPS), REVIVAL_EVERY, distance
                )
                samples[f"revived {kind} {distance:g}"] = units.revived / units.inactive
    return samples


def _silent(kind: str, replicas: int) -> Array:
    """Return the share of silent units after a burst of large steps, (rates, R); NaN for a diverged network."""
    import torch

    trainer = dead_units.start((f"activation={kind}", *HURT), replicas, RATES)
    for _ in range(BURST):
        trainer.step()
    activation = trainer.network.layers()[0].activation
    pre = dead_units.pre_activations(trainer.network, trainer.instrument.probe_set)
    steepest = torch.stack([activation.slope(z).abs().amax(1) for z in pre])  # (layers, R, N)
    share = (steepest < SILENT * activation.largest_slope()).double().mean((0, 2)).numpy()
    return np.where(trainer.divergence.alive.numpy(), share, np.nan).reshape(len(RATES), replicas)


def judge(samples: Samples) -> Judgement:
    """Apply the rule: a zero of the slope; silent and revived units, and deep gradients, against ReLU's."""
    silent = {
        (kind, rate): interval(
            f"silent units after {BURST} steps at rate {rate:g}, {kind}", samples[f"silent {kind}"][row]
        )
        for kind in KINDS
        for row, rate in enumerate(RATES)
    }
    fewer = difference(
        f"silent units at rate {RATES[1]:g}, relu minus gelu", samples["silent relu"][1], samples["silent gelu"][1]
    )
    revived = {
        (kind, distance): interval(
            f"revived, of units at a distance of {distance:g}, {kind}", samples[f"revived {kind} {distance:g}"]
        )
        for kind in KINDS
        for distance in DISTANCES
    }
    more = difference(
        f"revived, of units at a distance of {DISTANCES[0]:g}, gelu minus relu",
        samples[f"revived gelu {DISTANCES[0]:g}"],
        samples[f"revived relu {DISTANCES[0]:g}"],
    )
    deep, expected = {}, []
    for kind, depth in DEEP:
        middle, lower, upper = (float(end) for end in samples[f"predicted {kind} {depth}"])
        name = f"first over last gradient at He, depth {depth}, {kind}"
        deep[kind, depth] = interval(name, samples[f"deep {kind} {depth}"], "log10", middle)
        expected.append(Number(f"{name}: theory's band at width 128", middle, lower, upper, "log10"))
    last = DEPTHS[-1]
    behind = difference(
        f"first over last gradient, depth {last}, gelu minus relu",
        samples[f"deep gelu {last}"],
        samples[f"deep relu {last}"],
        "log10",
    )
    zero = float(samples["zero"][0])
    lost = {name: float(samples[f"lost_{name}"][0]) for name in FORMATS}
    numbers = (
        Number("zero of the derivative", zero),
        *(Number(f"x below which backpropagation gives exactly 0, {name}", value) for name, value in lost.items()),
        *(*silent.values(), fewer, *revived.values(), more, *deep.values(), *expected, behind),
    )
    reason = (
        f"The derivative is 0 at x = {zero:.4f}, and exactly 0 in float32 below {lost['float32']:.1f}. After {BURST}"
        f" steps at a rate of {RATES[1]:g} {silent['relu', RATES[1]].value:.0%} of the ReLU units are silent and"
        f" {silent['gelu', RATES[1]].value:.0%} of the GELU units; of units deactivated"
        f" {revived['gelu', DISTANCES[0]].value:.0%} revive with GELU and {revived['relu', DISTANCES[0]].value:.0%}"
        f" with ReLU, but {revived['gelu', DISTANCES[1]].value:.0%} if they are {DISTANCES[1]:g} below 0. With He"
        f" weights the gradient changes by 10^{deep['gelu', last].value:.1f} over {last} layers, ReLU's by"
        f" 10^{deep['relu', last].value:.1f}."
    )
    if not (is_above(fewer, 0) and is_above(more, 0)):
        return Judgement(Verdict.FAILS, reason, numbers)
    if -10 < zero < 10 or is_below(behind, 0):
        where = (
            f"nearly everywhere: the derivative has a zero at {zero:.4f} and vanishes far to the left; units die less,"
            " but He weights, made for ReLU, are too small for GELU in deep networks"
        )
        return Judgement(Verdict.CONDITION, reason, numbers, where)
    return Judgement(Verdict.HOLDS, reason, numbers)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot silent units against the learning rate, and the gradient against depth."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for number, kind in enumerate(KINDS):
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 7, "capsize": 4}
        shares = [interval("", row) for row in samples[f"silent {kind}"]]
        axes[0].errorbar(RATES, [share.value for share in shares], _bars(shares), label=kind, **style)
        logs = [interval("", samples[f"deep {kind} {depth}"]) for depth in DEPTHS]
        axes[1].errorbar(DEPTHS, [log.value for log in logs], _bars(logs), **style)
        predicted = [samples[f"predicted {kind} {depth}"][0] for depth in DEPTHS]
        axes[1].plot(
            DEPTHS, predicted, "--", color="black", linewidth=1, label="theory, infinitely wide" if number else None
        )
    axes[0].set_ylim(-0.03, 1)
    label(axes[0], "learning rate", "share of units", f"silent after {BURST} large steps")
    label(axes[1], "hidden layers", "log10 of first over last gradient", "He weights, at initialization")
    legend_below(figure, axes, 3)


def _bars(numbers: list[Number]) -> Array:
    """Return lengths (2, K) of error bars down and up."""
    return np.array([[n.value - (n.lower or n.value), (n.upper or n.value) - n.value] for n in numbers]).T.clip(0)


GRADIENT = Claim(
    id="gelu-gradient",
    section="Q1",
    statement="GELU's gradient is smooth and nowhere 0, so that its units do not die as ReLU's do.",
    limit="The derivative changes sign, so it has a zero; far to the left it is 0 in floats, and units that are"
    " far below 0 stay inactive. He weights leave GELU's variance to shrink from layer to layer and its gradient to"
    " vanish.",
    source="Slope Phi(x) + x phi(x); Roberts, Yaida and Hanin 2022, The Principles of Deep Learning Theory, section"
    " 5.3.4",
    quantity="Root of the derivative; share of units that pass less than 1% of the largest slope for every example;"
    " share of units deactivated that revive; first over last gradient at initialization",
    rule="Does not hold if large steps silence no fewer GELU units than ReLU units, or no more inactive ones revive"
    " (95% intervals of the differences); holds with a condition if the derivative has a zero, or at depth 50 with He"
    " weights GELU's gradient falls more than ReLU's; else holds.",
    caption="Left: share of units that are silent for all training examples after 20 steps at large learning rates."
    " Right: first over last gradient at initialization with He weights. Bars are 95% intervals over replicas.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with={arm: ("steps=0",) for arm in ARMS if ", He, depth" in arm},
    training=f"large steps: {BURST} of SGD at each of the rates {', '.join(f'{rate:g}' for rate in RATES)};"
    f" deactivated: {REVIVAL_STEPS} steps, with the biases of half of layer 0 lowered first",
    needs_full=True,
    findings=(
        "Q1 calls GELU's gradient non-zero everywhere. It is 0 at x = -0.7518, negative to the left of it, and in"
        " float32 exactly 0 further out: below about -6.2 in torch's vectorized code on a CPU, below about -14 where"
        " each entry is computed by itself.",
    ),
)
