"""Section 4.1: ReLU's gradient and outputs from layer to layer, and the topic's other claims."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.networks import first_over_last, initial
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.relu_faster import FASTER
from experiments.claims.relu_sparsity import SPARSITY
from experiments.claims.statistics import interval, is_above, is_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# --- a unit derivative ----------------------------------------------------------------------------------------------

WIDTH, DEPTH = 128, 40
STEPS_UP = DEPTH - 1
"""Layers between the last and the first."""
VARIANCES = {"torch's default": 1 / 3, "Xavier": 1.0, "He": 2.0, "twice He's": 4.0}
"""weight_var s of each arm: weights N(0, s / fan_in), no bias."""
NEARLY_ALL = 1.0
"""Decades over all layers within which a gradient counts as passed: a factor of ten."""
_PASSAGE = (f"model.depth={DEPTH}", f"model.width={WIDTH}", "probe.cotangent=random", "data=digits")
GRADIENT_ARMS = {
    **{
        f"relu, s = {variance:.3g}": (*_PASSAGE, "activation=relu", "init=gaussian", f"init.weight_var={variance!r}")
        for variance in VARIANCES.values()
    },
    "sigmoid, xavier": (*_PASSAGE, "activation=sigmoid", "init=xavier_normal"),
}


def tolerance(replicas: int) -> float:
    """Return the allowed deviation from ln chi in decades per layer: finite width plus three standard errors.

    ln delta^2 over L layers of width n has mean -5L/(2n) and variance 5L/n beyond mean field (form: Hanin 2018).
    """
    error = 5 / (2 * WIDTH) + 3 * math.sqrt(5 / (WIDTH * STEPS_UP * replicas))
    return error / (2 * math.log(10))


def measure_gradient(scale: Scale) -> Samples:
    """Measure decades of gradient lost, the share of slopes that are 1, and slopes that are neither 0 nor 1."""
    import torch

    from lab.network.activations import FUNCTIONS

    samples = {}
    for name, overrides in GRADIENT_ARMS.items():
        reading = initial(overrides, scale.replicas)
        samples[f"decades {name}"] = first_over_last(reading)
        if name.startswith("relu"):
            samples[f"on {name}"] = 1 - reading["zero_fraction"].mean("layer").to_numpy()
    z = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    slope = FUNCTIONS["relu"].derivative(z)
    samples["wrong_slopes"] = np.array([float((slope != (z > 0).double()).sum())])
    return samples


def judge_gradient(samples: Samples) -> Judgement:
    """Apply the rule: rates against s / 2, and whether the gradient passes at every weight variance."""
    arms = [name for name in GRADIENT_ARMS if name.startswith("relu")]
    replicas = len(samples[f"decades {arms[0]}"])
    rates, passes, misses = [], {}, 0.0
    for name, variance in zip(arms, VARIANCES.values(), strict=True):
        predicted = math.log10(variance / 2) / 2
        rate = interval(f"decades per layer: {name}", samples[f"decades {name}"] / STEPS_UP, "decades", predicted)
        whole = interval(name, samples[f"decades {name}"])
        passes[name] = is_above(whole, -NEARLY_ALL) and is_below(whole, NEARLY_ALL)
        misses = max(misses, abs(rate.value - predicted))
        rates.append(rate)
    on = interval("share of slopes that are 1, at s = 2", samples[f"on {arms[2]}"], "of slopes", 0.5)
    sigmoid = interval("decades per layer: sigmoid, xavier", samples["decades sigmoid, xavier"] / STEPS_UP, "decades")
    wrong = float(samples["wrong_slopes"][0])
    allowed = tolerance(replicas)
    numbers = (*rates, sigmoid, on, Number("largest distance from log10(s / 2) / 2", misses, units="decades"))
    reason = (
        f"A share of {on.value:.2f} of the slopes is 1, the rest 0. Over {STEPS_UP} layers the gradient changes by "
        + ", ".join(f"{rate.value * STEPS_UP:+.1f} at {name[6:]}" for name, rate in zip(arms, rates, strict=True))
        + f" decades (theory: log10(s/2)/2 per layer, missed by at most {misses:.4f}, allowed {allowed:.4f});"
        f" sigmoid with Xavier: {sigmoid.value * STEPS_UP:+.0f}."
    )
    if wrong or not passes[arms[2]] or not sigmoid.value < rates[2].value or not misses <= allowed:
        return Judgement(Verdict.FAILS, reason, numbers)
    if all(passes.values()):
        return Judgement(Verdict.HOLDS, reason, numbers)
    return Judgement(
        Verdict.CONDITION, reason, numbers, "the weights' variance compensates for the half that is off: s = 2 (He)"
    )


def draw_gradient(figure: Figure, samples: Samples) -> None:
    """Plot decades of gradient over all layers against the weights' variance."""
    from lab.plot.style import COLOURS

    (ax,) = panels(figure)
    variances = np.array(list(VARIANCES.values()))
    fine = np.geomspace(variances[0] / 1.3, variances[-1] * 1.3, 100)
    ax.plot(
        fine, STEPS_UP * np.log10(fine / 2) / 2, color="black", linestyle="--", label="theory: log10(s/2)/2 per layer"
    )
    for number, (name, variance) in enumerate(VARIANCES.items()):
        values = samples[f"decades relu, s = {variance:.3g}"]
        ax.plot(
            np.full(len(values), variance), values, "o", color=COLOURS[0], alpha=0.5, label="" if number else "ReLU"
        )
        ax.annotate(name, (variance, float(np.nanmean(values))), (8, -14), textcoords="offset points")
    sigmoid = samples["decades sigmoid, xavier"]
    ax.plot(np.full(len(sigmoid), 1.0), sigmoid, "s", color=COLOURS[1], alpha=0.5, label="sigmoid, xavier")
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set_xticks(variances, ["1/3", "1", "2", "4"])
    label(ax, "weight variance s (weights N(0, s / fan_in))", "decades, first over last layer", f"{DEPTH} layers")
    legend_below(figure, [ax], 3)


GRADIENT_ONE = Claim(
    id="relu-gradient-one",
    section="4.1, Q1",
    statement=(
        "Because its derivative is 1 wherever the input is positive, ReLU lets gradients pass through many layers"
        " without loss and makes much deeper networks trainable."
    ),
    limit=(
        "About half of the units are off, so the mean squared slope is D = 1/2, and the squared gradient changes by s/2"
        " per layer, s being the weights' variance times fan_in. Only s = 2 compensates for the missing half."
    ),
    source="He et al. 2015, section 2.2",
    quantity=(
        f"delta_rms at the first over that at the last of {DEPTH} layers of {WIDTH} units at initialization, with an"
        " independent gradient entering at the top; share of slopes that are 1"
    ),
    rule=(
        f"A gradient passes if the 95% interval of its change over all layers lies within {NEARLY_ALL:g} decade of 0."
        " Fails if some slope is neither 0 nor 1, if the gradient does not pass at s = 2, if sigmoid with Xavier does"
        " no worse, or if a rate misses log10(s/2)/2 by more than finite width and three standard errors allow. Else"
        " holds if it passes at every s tried, and holds with a condition if it does not."
    ),
    caption=(
        f"How much of the gradient is left after {STEPS_UP} layers, by the variance of the weights; one point per"
        " replica. The unit slope alone decides nothing: at He's variance the gradient passes, at half of it 6 decades"
        " are lost."
    ),
    measure=measure_gradient,
    judge=judge_gradient,
    draw=draw_gradient,
    arms=GRADIENT_ARMS,
    shown_with=dict.fromkeys(GRADIENT_ARMS, ("steps=0",)),
)

# --- no upper bound -------------------------------------------------------------------------------------------------

_FORWARD = (f"model.depth={DEPTH}", f"model.width={WIDTH}", "probe.cotangent=random", "data=digits", "init=gaussian")
FORWARD_VARIANCES = (1.0, 2.0, 3.0, 4.0)
UNBOUNDED_ARMS = {
    **{f"relu, s = {s:g}": (*_FORWARD, "activation=relu", f"init.weight_var={s}") for s in FORWARD_VARIANCES},
    "tanh, s = 4": (*_FORWARD, "activation=tanh", "init.weight_var=4.0"),
    "relu, s = 4, batch norm": (*_FORWARD, "activation=relu", "init.weight_var=4.0", "norm=batch"),
}


def measure_unbounded(scale: Scale) -> Samples:
    """Measure log10 of act_rms by layer, and decades of gradient."""
    samples = {}
    for name, overrides in UNBOUNDED_ARMS.items():
        reading = initial(overrides, scale.replicas)
        samples[f"signal {name}"] = np.log10(reading["act_rms"].transpose("layer", "replica").to_numpy())
        samples[f"gradient {name}"] = first_over_last(reading)
    return samples


def judge_unbounded(samples: Samples) -> Judgement:
    """Apply the rule: growth of the activations per layer against log10(s / 2) / 2."""
    replicas = samples["gradient tanh, s = 4"].shape[-1]
    allowed = tolerance(replicas)
    growth = {
        name: interval(
            f"growth of act_rms: {name}",
            (samples[f"signal {name}"][-1] - samples[f"signal {name}"][0]) / STEPS_UP,
            "decades per layer",
            math.log10(s / 2) / 2 if s else None,
        )
        for name, s in zip(UNBOUNDED_ARMS, (*FORWARD_VARIANCES, 0, 0), strict=True)
    }
    gradients = [
        interval(f"gradient gained to the input: {name}", samples[f"gradient {name}"] / STEPS_UP, "decades per layer")
        for name in UNBOUNDED_ARMS
    ]
    rates = [growth[f"relu, s = {s:g}"] for s in FORWARD_VARIANCES]
    misses = max(abs(rate.value - rate.predicted) for rate in rates if rate.predicted is not None)
    tanh, normed = growth["tanh, s = 4"], growth["relu, s = 4, batch norm"]
    reason = (
        "Activations change by "
        + ", ".join(f"{rate.value:+.3f} at s = {s:g}" for rate, s in zip(rates, FORWARD_VARIANCES, strict=True))
        + f" decades per layer (theory missed by at most {misses:.4f}, allowed {allowed:.4f}); with batch norm at s = 4"
        f" by {normed.value:+.3f}. tanh's stay bounded at s = 4 ({tanh.value:+.3f}), yet its gradient grows by"
        f" {gradients[4].value:.3f}."
    )
    grows = [is_above(rate, allowed) for rate in rates]
    numbers = (*growth.values(), *gradients)
    if not grows[-1] or not misses <= allowed:
        return Judgement(Verdict.FAILS, reason, numbers)
    if all(grows):
        return Judgement(Verdict.HOLDS, reason, numbers)
    return Judgement(
        Verdict.CONDITION, reason, numbers, "the weights' variance is above He's, s > 2, and nothing normalizes"
    )


def draw_unbounded(figure: Figure, samples: Samples) -> None:
    """Plot act_rms against depth."""
    from lab.plot.style import COLOURS, MARKERS

    (ax,) = panels(figure)
    for number, name in enumerate(UNBOUNDED_ARMS):
        values = samples[f"signal {name}"]
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "markevery": (number, 8)}
        ax.plot(np.arange(DEPTH), 10 ** np.nanmean(values, axis=1), label=name, **style)
    ax.set_yscale("log")
    label(ax, "layer (0 is nearest the input)", "act_rms", "Size of the activations at initialization")
    legend_below(figure, [ax], 3)


UNBOUNDED = Claim(
    id="relu-unbounded",
    section="4.1",
    statement="ReLU has no upper bound, so activations can become very large; batch norm and the like prevent it.",
    limit=(
        "The weights decide: E z^2 changes by s/2 per layer, so that nothing grows at s = 2 or below. A bound is no"
        " protection for the gradient either: tanh at s = 4 keeps its activations and its gradient explodes."
    ),
    source="He et al. 2015, section 2.2; Poole et al. 2016, section 2",
    quantity=f"growth of act_rms and of the gradient per layer, over {DEPTH} layers of {WIDTH} units at initialization",
    rule=(
        "Activations grow if the 95% interval of their growth lies above what finite width and three standard errors"
        " allow. Fails if ReLU's do not grow at s = 4 or a growth misses log10(s/2)/2 by more than that. Holds if they"
        " grow at s = 1, 2, 3 and 4; holds with a condition if only at some."
    ),
    caption="Size of the activations by layer: ReLU's explode or vanish, depending on the weights' variance s.",
    measure=measure_unbounded,
    judge=judge_unbounded,
    draw=draw_unbounded,
    arms=UNBOUNDED_ARMS,
    shown_with=dict.fromkeys(UNBOUNDED_ARMS, ("steps=0",)),
)

CLAIMS = (GRADIENT_ONE, SPARSITY, FASTER, UNBOUNDED)
