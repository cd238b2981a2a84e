"""Section 2: exploding gradients in recurrent networks, with one repeated matrix and with fresh ones for each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from experiments.claims.claim import Claim, Judgement, Samples, Scale, Verdict
from experiments.claims.networks import compared_and_selecting
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import text
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS, TIME = 64, 60
ENSEMBLES = ("gaussian", "orthogonal", "symmetric")
ACTIVATIONS = ("tanh", "relu")
WEIGHT_VARS = (0.5, 1.0, 2.0, 4.0)
"""Weight variances of the Gaussian matrices; the others, and comparisons between ensembles, use 1 and no activation."""
KINDS = ("repeated", "fresh")
MATTERS = 0.1
"""Nats per step that count as a difference: the effect of 22% more weight variance, a factor of 400 over 60 steps."""

TRAINED_UNITS, TRAINED_TIME, STEPS, EVERY, BATCH = 32, 30, 1200, 100, 16
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
MAX_NORM = 1.0
FEW = 8
"""Compared replicas; as many choose the rate."""
BURST = 100.0
"""Growth of the total gradient norm in training that counts as an explosion."""
SOLVED = 0.5
"""Share of the error of guessing below which a network has learnt something."""


def measure(scale: Scale) -> Samples:
    """Measure gradients in time at initialization, and training on the adding problem."""
    from lab.machine.threads import thread_budget

    with thread_budget(1):
        return growth_at_start(scale.replicas) | training(scale)


def growth_at_start(replicas: int) -> dict[str, Array]:
    """Return nats per step back, `gaussian ACTIVATION KIND` (weight_vars, replicas) and `ENSEMBLE KIND` (replicas,).

    With `ENSEMBLE KIND profile` (T, replicas), log10 of delta_rms over the last step's, `... log radius` (replicas,) of
    the matrices, and `mean field ACTIVATION` (weight_vars,), what wide networks are expected to show.
    """
    from experiments.claims import rnn

    samples = {}
    for kind in KINDS:
        for ensemble in ENSEMBLES:
            config = rnn.Recurrence(ensemble, 1.0, kind == "repeated", "identity", UNITS, TIME)
            delta = rnn.gradient_in_time(config, replicas)
            samples[f"{ensemble} {kind} profile"] = np.log10(delta / delta[-1])
            samples[f"{ensemble} {kind}"] = np.log(delta[0] / delta[-1]) / (TIME - 1)
            samples[f"{ensemble} {kind} log radius"] = rnn.log_radii(config, replicas)
        for activation in ACTIVATIONS:
            deltas = [
                rnn.gradient_in_time(
                    rnn.Recurrence("gaussian", weight_var, kind == "repeated", activation, UNITS, TIME), replicas
                )
                for weight_var in WEIGHT_VARS
            ]
            samples[f"gaussian {activation} {kind}"] = np.stack([np.log(d[0] / d[-1]) / (TIME - 1) for d in deltas])
    return samples | {f"mean field {name}": mean_field(name) for name in ACTIVATIONS}


def mean_field(activation: str) -> Array:
    """Return the mean of ln sqrt(s D(q_t)) over the steps, (weight_vars,), for q' = s V(q) + E |x|^2 / 2.

    Chen, Pennington and Schoenholz 2018, "Dynamical Isometry and a Mean Field Theory of RNNs", section 3: in wide
    networks a repeated matrix acts like a fresh one. The adding problem's inputs have E |x|^2 = 1/3 + 2/T.
    """
    from lab import schema, theory

    kernel, driven = theory.kernel(schema.Activation(activation)), (1 / 3 + 2 / TIME) / 2
    means = []
    for weight_var in WEIGHT_VARS:
        q, rates = driven, []
        for _ in range(TIME - 1):
            rates.append(math.log(weight_var * float(kernel.slope_moment(q))) / 2)
            q = weight_var * float(kernel.second_moment(q)) + driven
        means.append(float(np.mean(rates)))
    return np.array(means)


def training(scale: Scale) -> dict[str, Array]:
    """Return `KIND CLIPPING growth` (rates, replicas), `... grid` and `... loss` (readings, replicas) at the best rate.

    The grid, (rates, replicas), holds the final losses of the replicas that choose the rate.
    """
    from experiments.claims import rnn

    count, steps = min(FEW, scale.replicas), scale.steps(STEPS)
    numbers = compared_and_selecting(count)
    cells = [(rate, limit, number) for limit in (np.inf, MAX_NORM) for rate in RATES for number in numbers]
    rates, limits = np.array([rate for rate, _, _ in cells]), np.array([limit for _, limit, _ in cells])
    replicas = [number for _, _, number in cells]
    samples: dict[str, Array] = {"guessing": np.array([rnn.GUESSING])}
    for kind in KINDS:
        config = rnn.Recurrence("identity", 1.0, kind == "repeated", "relu", TRAINED_UNITS, TRAINED_TIME)
        result = rnn.train(config, rates, limits, replicas, steps, scale.steps(EVERY), BATCH)
        shape = (2, len(RATES), 2, count)
        loss, growth = result["loss"].reshape(-1, *shape), result["growth"].reshape(shape)
        for clipping, words in enumerate(("unclipped", "clipped")):
            final = np.where(np.isfinite(loss[-1, clipping]), loss[-1, clipping], np.inf)  # (rates, 2, count)
            best = int(np.argmin(final[:, 1].mean(-1)))
            samples[f"{kind} {words} growth"] = growth[clipping, :, 0]
            samples[f"{kind} {words} grid"] = final[:, 1]
            samples[f"{kind} {words} loss"] = loss[:, clipping, best, 0]
            samples[f"{kind} {words} rate"] = np.array([RATES[best]])
        samples["steps"] = result["steps"]
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: repeated against fresh matrices, at initialization and in training; effect of clipping."""
    worse, equal_radius, numbers = {}, {}, []
    for ensemble in ENSEMBLES:
        repeated, fresh = (samples[f"{ensemble} {kind}"] for kind in KINDS)
        radii = [samples[f"{ensemble} {kind} log radius"] for kind in KINDS]
        theory = {"gaussian": _lyapunov(UNITS), "orthogonal": 0.0}.get(ensemble)
        numbers += [
            interval(f"growth, {ensemble}, repeated", repeated, "nats per step", float(radii[0].mean())),
            interval(f"growth, {ensemble}, fresh", fresh, "nats per step", theory),
        ]
        worse[ensemble] = difference(
            f"repeated less fresh, {ensemble}, equal variance", repeated, fresh, "nats per step"
        )
        equal_radius[ensemble] = difference(
            f"repeated less fresh, {ensemble}, equal spectral radius",
            repeated - radii[0],
            fresh - radii[1],
            "nats per step",
        )
    for activation in ACTIVATIONS:
        for index, weight_var in enumerate(WEIGHT_VARS):
            numbers += [
                interval(
                    f"growth, {activation}, weight variance {weight_var:g}, {kind}",
                    samples[f"gaussian {activation} {kind}"][index],
                    "nats per step",
                    float(samples[f"mean field {activation}"][index]),
                )
                for kind in KINDS
            ]
    guessing = samples["guessing"][0]
    bursts = {
        kind: interval(
            f"share of unclipped trainings that explode, {kind}",
            (samples[f"{kind} unclipped growth"] > BURST).mean(0),
        )
        for kind in KINDS
    }
    more = difference(
        "explode more often when repeated", *((samples[f"{kind} unclipped growth"] > BURST).mean(0) for kind in KINDS)
    )
    final = {
        (kind, words): interval(
            f"final error over guessing's, {kind}, {words}",
            _failed_is_guessing(samples[f"{kind} {words} loss"][-1], guessing),
        )
        for kind in KINDS
        for words in ("unclipped", "clipped")
    }
    numbers += [*worse.values(), *equal_radius.values(), *bursts.values(), more, *final.values()]
    reason = (
        "At equal weight variance a repeated matrix lets the gradient grow faster than fresh ones by"
        f" {text(worse['gaussian'])} nats per step if it is Gaussian, {text(worse['orthogonal'])} if orthogonal and"
        f" {text(worse['symmetric'])} if symmetric (ln 2 = 0.693: its spectral radius is twice as large); at equal"
        f" spectral radius by {text(equal_radius['gaussian'])}, {text(equal_radius['orthogonal'])} and"
        f" {text(equal_radius['symmetric'])}. In training without clipping the gradient grows more than {BURST:g}-fold"
        f" in {bursts['repeated'].value:.0%} of the recurrent networks and {bursts['fresh'].value:.0%} of those with"
        " fresh matrices, over the same rates. Clipped, recurrent networks reach"
        f" {text(final['repeated', 'clipped'], 2)} of the error of guessing, unclipped"
        f" {text(final['repeated', 'unclipped'], 2)}."
    )
    at_start = [ensemble for ensemble in ENSEMBLES if is_above(worse[ensemble], MATTERS)]
    in_training = is_above(more, 0)
    if not at_start and not in_training:
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if len(at_start) == len(ENSEMBLES) and in_training:
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    conditions = []
    if at_start:
        conditions.append(
            "at the start for matrices whose spectral radius exceeds their mean gain by much"
            f" ({' and '.join(at_start)}), while for {' and '.join(name for name in ENSEMBLES if name not in at_start)}"
            f" ones repetition adds less than {MATTERS:g} nats per step"
        )
    else:
        conditions.append(f"not at the start, where a repeated matrix adds less than {MATTERS:g} nats per step")
    if in_training:
        conditions.append("in training, where one step changes the matrix of all time steps at once")
    if is_below(final["repeated", "clipped"], SOLVED):
        conditions.append("clipping the norm then rescues it")
    return Judgement(Verdict.CONDITION, reason, tuple(numbers), "; ".join(conditions))


def _lyapunov(units: int) -> float:
    """Return E ln |W v| / |v| for Gaussian W of variance 1 / units: E ln(chi^2 / units) / 2."""
    return float(special.digamma(units / 2) + math.log(2 / units)) / 2


def _failed_is_guessing(loss: Array, guessing: float) -> Array:
    """Return errors over that of guessing, at most 1; a diverged network counts as guessing."""
    return np.minimum(np.nan_to_num(loss, nan=np.inf) / guessing, 1.0)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the gradient against time at initialization, and learning curves."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    lines = {"repeated": "-", "fresh": ":"}
    for number, ensemble in enumerate(ENSEMBLES):
        for kind in KINDS:
            values = samples[f"{ensemble} {kind} profile"]
            style: dict[str, Any] = {
                "linestyle": lines[kind],
                "color": COLOURS[number],
                "marker": MARKERS[number],
                "markersize": 5,
            }
            name = ensemble if kind == "repeated" else None
            axes[0].plot(np.median(values, axis=1), markevery=(4 * number, 12), label=name, **style)
            axes[0].fill_between(
                np.arange(TIME), values.min(1), values.max(1), color=COLOURS[number], alpha=0.12, linewidth=0
            )
    guessing = samples["guessing"][0]
    for number, words in enumerate(("unclipped", "clipped"), len(ENSEMBLES)):
        for kind in KINDS:
            loss = np.minimum(np.nan_to_num(samples[f"{kind} {words} loss"], nan=np.inf) / guessing, 1e3)
            style = {"linestyle": lines[kind], "color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
            axes[1].plot(
                samples["steps"],
                np.median(loss, axis=1),
                markevery=2,
                label=words if kind == "repeated" else None,
                **style,
            )
    axes[1].axhline(1, color="0.4", linewidth=1)
    axes[1].set_yscale("log")
    axes[1].set_ylim(0.2, 5)
    axes[1].set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axes[1].minorticks_off()
    for words, line in (("one matrix repeated", "-"), ("fresh ones", ":")):
        axes[0].plot([], [], line, color="black", label=words)
    label(axes[0], "time step (the loss is at the last)", "log10 of gradient over the last's", "at the start, linear")
    label(axes[1], "training steps", "error over that of guessing", "ReLU, adding problem")
    legend_below(figure, axes, 4)


ARMS: Mapping[str, tuple[str, ...]] = {
    f"{kind} matrix, ReLU, {clip}": (
        f"{TRAINED_UNITS} units",
        f"{TRAINED_TIME} time steps",
        "W starts as the identity",
        f"SGD, batches of {BATCH}, rates {', '.join(f'{rate:g}' for rate in RATES)}",
    )
    for kind in KINDS
    for clip in ("no clipping", f"norm clipped to {MAX_NORM:g}")
}

CLAIMS = (
    Claim(
        id="exploding-rnn",
        section="2",
        statement="Exploding gradients, rarer with modern activations, are above all a danger in recurrent networks.",
        limit="A repeated matrix multiplies the gradient by its spectral radius in the long run, fresh ones by the"
        " square root of the weight variance. For Gaussian and orthogonal matrices these are the same; repetition"
        " matters where they differ, and in training, where a step changes all time steps at once.",
        source="Pascanu et al. 2013, section 2.1; Chen et al. 2018, Dynamical Isometry and a Mean Field Theory of"
        " RNNs; Le et al. 2015 (identity weights, adding problem)",
        quantity=f"growth of delta_rms per step back in time over {TIME} steps of {UNITS} units at the start; share of"
        f" trainings on the adding problem ({TRAINED_TIME} steps, SGD, {len(RATES)} rates) in which the gradient's norm"
        f" grows more than {BURST:g}-fold; error on held-out sequences at each arm's best rate, {FEW} networks"
        " each in training",
        rule=f"At the start a repeated matrix is worse if it adds more than {MATTERS:g} nats per step at equal weight"
        " variance; in training, if more trainings explode over the same rates and replicas; both by 95% intervals."
        " Does not hold if it is worse in neither; holds if it is worse for Gaussian, orthogonal and symmetric"
        " matrices and in training; else holds with a condition.",
        caption="Left: gradient against time in linear networks at the start, median and range over replicas. Right:"
        " held-out error, median over replicas, at each arm's best rate. Dotted: fresh matrices for each time step.",
        measure=measure,
        judge=judge,
        draw=draw,
        arms=ARMS,
        needs_full=True,
    ),
)
