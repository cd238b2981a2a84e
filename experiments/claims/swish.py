"""Section 5.2: shape of swish for every beta, its limits, and learnt values of beta."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import by_hand, exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.exact import FORMATS, ROUNDINGS
from experiments.claims.networks import ALONE
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import interval, is_above
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETAS = (-1.0, 0.0, 0.1, 1.0, 10.0, 100.0)
SILU_DIP = 0.27846454276107380
"""W(1/e): where s(x) (1 + x s(-x)) is 0, x = -(1 + W(1/e)), the value is -W(1/e), W Lambert's function."""
SLOPE_ROUNDINGS = ROUNDINGS + math.log(2 / np.finfo(np.float64).eps) / 2
"""For the slope s + z s (1 - s), whose difference is off by half a unit in the last place of 1 and is multiplied by z,
until s rounds to 1."""
STEPS = 400
MOVED = 0.02
"""Change of beta that counts as having moved, 2% of its start."""
ARMS = {
    "learnt beta": (
        *(
            "activation=swish",
            "activation.learnable=true",
            "init=he_normal",
            "data=digits",
            "model.depth=6",
            "model.width=64",
        ),
        *("batch_size=64", "optimizer=adam", "optimizer.lr=0.003"),
    )
}


def measure(scale: Scale) -> Samples:
    """Measure errors of the lab's swish and slope, the dip, the distance from ReLU, and beta after training."""
    import mpmath
    import torch

    from lab.network.activations import SwishLayer

    near = [np.linspace(-5, 5, 501) / beta for beta in BETAS if beta > 0]  # where the dip of each is
    points = np.concatenate([exact.hard_points(reach=40, points=641), *near])
    z = np.unique(points.astype(np.float32)).astype(np.float64)
    samples = {"z": z, "betas": np.array(BETAS)}
    for beta in BETAS:
        swish = partial(by_hand.swish, beta=beta, m=mpmath)
        samples[f"exact {beta:g}"] = exact.exact(swish, z)
        samples[f"slope {beta:g}"] = exact.exact_slope(swish, z)
        for name in FORMATS:
            layer = SwishLayer(1, beta, is_learnable=False).to(getattr(torch, name))
            samples[f"lab {beta:g} {name}"] = exact.in_format(layer, z[None, None], name)[0, 0]
            samples[f"lab slope {beta:g} {name}"] = exact.in_format(layer.slope, z[None, None], name)[0, 0]
    with mpmath.workdps(exact.DIGITS):

        def silu(x: Any) -> Any:
            return by_hand.swish(x, 1, mpmath)

        bottom = mpmath.findroot(lambda x: mpmath.diff(silu, x), -1.3)
        samples["bottom"] = np.array([float(bottom), float(silu(bottom))])
    samples["learnt"] = _learnt(scale)
    return samples


def _learnt(scale: Scale) -> Array:
    """Return beta of every layer before and after training: (2, layers, replicas)."""
    import torch

    from lab import compose, data
    from lab.machine.threads import thread_budget
    from lab.network.activations import SwishLayer
    from lab.train.trainer import Trainer

    config = compose.compose([*ARMS["learnt beta"], f"replicas={scale.replicas}", "probe.set=norms", *ALONE])
    cpu = torch.device("cpu")

    def betas() -> Array:
        layers = [part for part in trainer.network.modules() if isinstance(part, SwishLayer)]
        return np.stack([layer.beta.detach().double().flatten().numpy() for layer in layers])

    with thread_budget(1):
        trainer = Trainer(config, data.load(config.data, torch.float32, cpu), cpu)
        before = betas()
        for _ in range(scale.steps(STEPS)):
            trainer.step()
        return np.stack([before, betas()])


def judge(samples: Samples) -> Judgement:
    """Apply the rule: formula and limits in beta; for which beta swish dips and is bounded on one side only."""
    z = samples["z"]
    errors = [
        exact.roundings(samples[f"lab {beta:g} {name}"], samples[f"exact {beta:g}"], name)
        for beta in BETAS
        for name in FORMATS
    ]
    slope_errors = [
        exact.roundings(samples[f"lab slope {beta:g} {name}"], samples[f"slope {beta:g}"], name)
        for beta in BETAS
        for name in FORMATS
    ]
    where, dip = (float(value) for value in samples["bottom"])
    relu, lowest, is_shaped = {}, {}, {}
    for beta in BETAS:
        values = samples[f"exact {beta:g}"]
        relu[beta] = float(np.max(np.abs(values - np.maximum(z, 0))))
        lowest[beta] = float(np.min(values))
        dips = bool(np.any(values < 0) and np.any(np.diff(values) < 0))
        is_shaped[beta] = (
            dips and lowest[beta] > -4 * SILU_DIP / max(abs(beta), 1e-9) and bool(values[-1] > 0.9 * z[-1])
        )
    halved = float(np.max(np.abs(samples["exact 0"] - z / 2)))
    before, after = samples["learnt"]
    moved = interval("mean distance that a learnt beta moves", np.abs(after - before).mean(0))
    smallest = interval("smallest learnt beta of a network", after.min(0))
    numbers = (
        Number("where SiLU is lowest", where, predicted=-1 - SILU_DIP),
        Number("SiLU there", dip, predicted=-SILU_DIP),
        *(
            Number(f"largest distance from ReLU, beta {beta:g}", relu[beta], predicted=SILU_DIP / beta)
            for beta in BETAS
            if beta > 0
        ),
        Number("largest distance from x / 2, beta 0", halved, predicted=0.0),
        *(Number(f"lowest value for |x| up to 1e4, beta {beta:g}", lowest[beta]) for beta in BETAS),
        Number("largest error of the lab's swish", max(errors), units="units in the last place"),
        Number("largest error of its slope", max(slope_errors), units="units in the last place"),
        moved,
        smallest,
    )
    reason = (
        f"SiLU is lowest at x = {where:.4f} with {dip:.4f}. For beta > 0 swish is no more than {SILU_DIP:.4f} / beta"
        f" from ReLU, {relu[100.0]:.4f} at beta = 100; at 0 it is x / 2, which reaches {lowest[0.0]:.0f} at -1e4, and"
        f" at -1 it is mirrored and unbounded below. A learnt beta moves by {moved.value:.3f} in training (95%"
        f" interval {_bounds(moved)}); the smallest of a network ends at {smallest.value:.2f}."
    )
    is_right = (
        max(errors) <= ROUNDINGS
        and max(slope_errors) <= SLOPE_ROUNDINGS
        and abs(dip + SILU_DIP) < 1e-12
        and halved == 0
    )
    is_relu_like = all(abs(relu[beta] * beta / SILU_DIP - 1) < 0.02 for beta in BETAS if beta >= 0.1)
    if not (is_right and is_relu_like and is_shaped[1.0]):
        return Judgement(Verdict.FAILS, reason, numbers)
    if not all(is_shaped[beta] for beta in BETAS) or not is_above(moved, MOVED):
        where_ = "beta > 0, which a constant of 1 grants and nothing forces on a learnt one"
        return Judgement(Verdict.CONDITION, reason, numbers, where_)
    return Judgement(Verdict.HOLDS, reason, numbers)


def _bounds(number: Number) -> str:
    return f"{number.lower:.3f} to {number.upper:.3f}" if number.lower is not None else "unknown"


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the family around 0, and the learnt betas of every layer."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    z = samples["z"]
    inside = np.abs(z) <= 4
    styles = ("-", "--", ":", "-", "--", "-.")
    for number, (beta, style) in enumerate(zip(BETAS[:-1], styles, strict=False)):
        values = samples[f"exact {beta:g}"][inside]
        axes[0].plot(z[inside], values, style, color=COLOURS[number], linewidth=2, label=f"beta {beta:g}")
    axes[0].set_ylim(-1.5, 3)
    label(axes[0], "x", "swish(x)", "only beta > 0 is bounded below")
    after = samples["learnt"][1]
    layers = np.arange(len(after))
    axes[1].axhline(1, color="0.4", linestyle=":")
    axes[1].plot(layers, after, color=COLOURS[5], linewidth=0.8, alpha=0.8)
    axes[1].plot(
        layers, after.mean(1), color=COLOURS[6], marker=MARKERS[0], linewidth=2, label="learnt, mean over replicas"
    )
    label(axes[1], "layer (0 is nearest the input)", "beta after training", "learnt beta, which started at 1")
    legend_below(figure, axes, 3)


SHAPE = Claim(
    id="swish-shape",
    section="5.2",
    statement="Swish is x sigmoid(beta x), called SiLU for beta = 1; it is smooth, dips below 0 before it rises, is"
    " bounded below and unbounded above; beta is a constant or learnt.",
    limit="All of this for beta > 0. At 0 it is x / 2, neither dipping nor bounded below; towards infinity it becomes"
    " ReLU; for beta < 0 it is mirrored and unbounded below.",
    source="Ramachandran, Zoph and Le 2017, Searching for activation functions, section 4",
    quantity="The function in 50 digits for six betas, the lab's in two formats, and learnt betas in networks of six"
    " layers",
    rule=f"Does not hold if the lab's swish is off by more than {ROUNDINGS:g} units in the last place or its slope by"
    f" more than {SLOPE_ROUNDINGS:.0f}, SiLU's minimum is not -W(1/e), swish at beta = 0 is not x / 2, or for beta > 0"
    " its distance from ReLU is not W(1/e) / beta to 2%; holds with a condition if for some beta it does not dip or"
    f" is unbounded below, or learnt betas move by less than {MOVED:g}; else holds.",
    caption="Left: swish for five betas. Right: beta of each layer after training on digits, one thin line per"
    " replica.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, (f"steps={STEPS}",)),
    findings=(
        "Section 5.2 calls swish bounded below and beta a constant or learnt parameter: the former needs beta > 0,"
        " which the latter does not ensure. At beta = 0 it is x / 2.",
        "Section 5.2 attributes swish to an architecture search. The search was over activation functions"
        " (Ramachandran et al. 2017), and at beta = 1 the function had been published before, as SiLU (Hendrycks and"
        " Gimpel 2016, section 2; Elfwing et al. 2017).",
    ),
)

CLAIMS = (SHAPE,)
