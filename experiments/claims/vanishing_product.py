"""Section 2: slopes below 1 and weights as factors of a vanishing gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import profiles
from experiments.claims.claim import AT_START, Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import FADING, text
from experiments.claims.statistics import interval
from experiments.claims.wording import bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH = 40
COMMON = (f"model.depth={DEPTH}", "model.width=128", "batch_size=32", "dtype=float64")
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "sigmoid, torch default": ("activation=sigmoid", "init=torch_default"),
    "sigmoid, Xavier": ("activation=sigmoid", "init=xavier_normal"),
    "sigmoid, critical": ("activation=sigmoid", "init=critical"),
    "tanh, torch default": ("activation=tanh", "init=torch_default"),
    "tanh, critical": ("activation=tanh", "init=critical", "init.bias_var=0.05"),
    "identity, torch default": ("activation=identity", "init=torch_default"),
}
ARMS: Mapping[str, tuple[str, ...]] = {name: (*COMMON, *words) for name, words in WEIGHTS.items()}
NOTORIOUS = ("sigmoid, torch default", "sigmoid, Xavier", "tanh, torch default")
"""Ordinary weights, of which the guide warns."""
BELOW_ONE = ("sigmoid, critical", "tanh, critical")
"""Slopes below 1, with weights chosen for s D(q) = 1."""
ONE = "identity, torch default"


def measure(scale: Scale) -> Samples:
    return profiles.measure(ARMS, scale.replicas)


def judge(samples: Samples) -> Judgement:
    """Apply the rule: decades per layer of each arm, and those that its slopes alone would cost."""
    measured = {arm: profiles.slope(samples, arm) for arm in ARMS}
    alone = {arm: by_slopes_alone(samples, arm) for arm in ARMS}
    strange = profiles.outside(samples, ARMS)
    numbers = (*measured.values(), *alone.values(), *bands(samples, ARMS))
    sigmoid = "sigmoid, critical"
    reason = (
        f"With ordinary weights the gradient loses {text(measured[NOTORIOUS[0]])} and {text(measured[NOTORIOUS[1]])}"
        f" decades per layer in sigmoid networks and {text(measured[NOTORIOUS[2]])} in tanh networks. With critical"
        f" weights sigmoid loses {text(measured[sigmoid])}, though its slopes alone would cost"
        f" {alone[sigmoid].value:.2f} decades per layer, and tanh {text(measured['tanh, critical'])}; the identity,"
        f" whose slope is 1, loses {text(measured[ONE])} with torch's default weights."
    )
    if not all(profiles.vanishes(measured[arm]) for arm in NOTORIOUS):
        return Judgement(Verdict.FAILS, reason, numbers)
    if not any(profiles.stays(measured[arm]) for arm in BELOW_ONE) and not profiles.vanishes(measured[ONE]):
        return Judgement(Verdict.HOLDS, reason, numbers)
    if strange:
        gap = f"an explanation of {'; '.join(strange)}, whose gradient is not what theory expects"
        return Judgement(Verdict.UNDECIDED, reason, numbers, gap)
    where = (
        "weights too: a layer's factor is sqrt(s D), below 1 at the usual inits of sigmoid and tanh, 1 at critical"
        " weights with the same slopes, and below 1 even for slopes of 1 if the weights are small"
    )
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def by_slopes_alone(samples: Samples, arm: str) -> Number:
    """Return the decades per layer lost to the rms slope alone: minus the mean of log10 sqrt(D(q)) over layers."""
    from lab import schema, theory

    kernel = theory.kernel(schema.Activation(arm.partition(",")[0]))
    slope_moment = kernel.slope_moment(samples[f"{arm}: pre_rms"] ** 2)  # (layers, replicas)
    return interval(f"lost by slopes alone, {arm}", -np.log10(slope_moment).mean(0) / 2, "decades per layer")


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient against layer, with the effect of slopes alone for critical arms."""
    (ax,) = panels(figure)
    profiles.draw(ax, samples, list(ARMS))
    arm = "sigmoid, critical"
    alone = by_slopes_alone(samples, arm).value
    layer = np.arange(DEPTH)
    ax.plot(layer, 10 ** (-alone * (DEPTH - 1 - layer)), ":", color="0.3", linewidth=1.5, label=f"slopes alone, {arm}")
    ax.set_ylim(1e-42, 1e3)
    label(ax, "layer (0 is nearest the input)", "gradient over the last layer's")
    legend_below(figure, [ax], 3)


CLAIM = Claim(
    id="vanishing-product",
    section="2",
    statement="Activations whose slope stays below 1 multiply to gradients that shrink exponentially towards the"
    " input; sigmoid and tanh are known for it.",
    limit="A layer multiplies the squared gradient by s D(q): the weight variance times the mean squared slope. With"
    " critical weights (s about 103 for sigmoid) it neither shrinks nor grows, and with small ones it shrinks at a"
    " slope of 1.",
    source="Schoenholz et al. 2017, Deep Information Propagation, section 3",
    quantity=f"decades of delta_rms per layer over {DEPTH} layers at initialization, for a random gradient that enters"
    " at the end",
    rule=f"Vanishing is more than {FADING:g} decades per layer (a factor of 2 in 10 layers), by the 95% interval. Does"
    " not hold if sigmoid or tanh at their ordinary weights do not vanish. Holds with a condition if critical sigmoid"
    " or tanh change by less either way, or the identity vanishes, and every arm lies in theory's band; else holds.",
    caption="Gradient against layer at initialization, median and range over replicas, theory dashed. Dotted: the"
    " gradient of the critical sigmoid network if only its slopes counted.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, AT_START),
    findings=(
        "Section 2 calls only the activations' slopes factors of the product. The chain rule it prints has the weights"
        " in it as well (the derivatives of z by the activation below), and these decide as much.",
    ),
)
