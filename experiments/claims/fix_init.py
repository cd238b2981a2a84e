"""Section 2.2: Xavier's and He's weights keep signal and gradient in range, each for its own activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import profiles
from experiments.claims.claim import AT_START, Claim, Judgement, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import FADING, text
from experiments.claims.wording import bands, pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH = 50
COMMON = (f"model.depth={DEPTH}", "model.width=256", "data=gaussian", "batch_size=16", "dtype=float64")
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "Xavier, tanh": ("init=xavier_normal", "activation=tanh"),
    "Xavier, sigmoid": ("init=xavier_normal", "activation=sigmoid"),
    "Xavier, ReLU": ("init=xavier_normal", "activation=relu"),
    "He, ReLU": ("init=he_normal", "activation=relu"),
    "He, tanh": ("init=he_normal", "activation=tanh"),
    "He, GELU": ("init=he_normal", "activation=gelu"),
    "LeCun, SELU": ("init=lecun_normal", "activation=selu"),
    "Xavier times 5/3, tanh": ("init=xavier_normal", f"init.gain={5 / 3!r}", "activation=tanh"),
}
ARMS: Mapping[str, tuple[str, ...]] = {name: (*COMMON, *words) for name, words in WEIGHTS.items()}
OWN = ("Xavier, tanh", "He, ReLU")
"""Each initialization with the activation it was derived for."""
OTHERS = ("Xavier, sigmoid", "Xavier, ReLU", "He, tanh", "He, GELU", "Xavier times 5/3, tanh")
QUANTITIES: Mapping[str, str] = {"delta_rms": "gradient", "pre_rms": "signal"}


def measure(scale: Scale) -> Samples:
    return profiles.measure(ARMS, scale.replicas)


def judge(samples: Samples) -> Judgement:
    """Apply the rule: arms that keep both signal and gradient."""
    measured = {name: {arm: profiles.slope(samples, arm, name) for arm in ARMS} for name in QUANTITIES}
    numbers = tuple(number for of_arms in measured.values() for number in of_arms.values())
    numbers += (*bands(samples, ARMS), *bands(samples, ARMS, "pre_rms", -1))
    is_kept = {arm: all(profiles.stays(measured[name][arm]) for name in QUANTITIES) for arm in ARMS}
    strange = [f"{arm} ({word})" for name, word in QUANTITIES.items() for arm in profiles.outside(samples, ARMS, name)]
    gradient = measured["delta_rms"]
    shown = "; ".join(f"{pair(arm)} {text(gradient[arm])}" for arm in ARMS)
    reason = f"Decades of gradient lost per layer towards the input (minus: gained): {shown}."
    lost = [arm for arm in OTHERS if not is_kept[arm]]
    if not all(is_kept[arm] for arm in OWN):
        return Judgement(Verdict.FAILS, reason, numbers)
    if not lost:
        return Judgement(Verdict.HOLDS, reason, numbers)
    if strange:
        gap = f"an explanation of {'; '.join(strange)}, which is not what theory expects"
        return Judgement(Verdict.UNDECIDED, reason, numbers, gap)
    where = (
        f"the activation that an init was derived for: {' and '.join(map(pair, OWN))} keep signal and gradient over"
        f" {DEPTH} layers; not so {'; '.join(map(pair, lost))}"
    )
    return Judgement(Verdict.CONDITION, reason, numbers, where)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot gradient and signal against layer."""
    axes = panels(figure, 2)
    for ax, (name, word) in zip(axes, QUANTITIES.items(), strict=True):
        base, where = (-1, "last") if name == "delta_rms" else (0, "first")
        profiles.draw(ax, samples, list(ARMS), name, base)
        ax.set_ylim(1e-13, 1e4)
        ax.set_yticks(10.0 ** np.arange(-12, 4, 3))
        label(ax, "layer (0 is nearest the input)", f"{word} over the {where} layer's", word)
    legend_below(figure, axes, 3)


CLAIM = Claim(
    id="fix-init",
    section="2.2",
    statement="Initializations such as Xavier's and He's choose the weights' variance so that signal and gradients"
    " stay in range.",
    limit="Each for the activation it was derived for. Xavier halves ReLU's squared gradient in every layer and leaves"
    " sigmoid's a twentieth; He's weights let GELU's vanish; the customary gain of 5/3 makes tanh's explode slowly.",
    source="Glorot and Bengio 2010, section 4.2.1; He et al. 2015, section 2.2; Schoenholz et al. 2017, section 3",
    quantity=f"decades per layer of delta_rms and of the pre-activations' rms over {DEPTH} layers at initialization,"
    " for a random gradient that enters at the end",
    rule=f"In range is less than {FADING:g} decades per layer either way, a factor of 30 over {DEPTH} layers, for"
    " signal and gradient, by 95% intervals. Does not hold if Xavier with tanh or He with ReLU is out of range. Holds"
    " with a condition if another pair is, and every arm lies in theory's band; else holds.",
    caption="Gradient over the last layer's (left) and rms of the pre-activations over the first layer's (right)"
    " against layer at initialization: median and range over replicas, theory dashed.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, AT_START),
)
