"""Section 2.3: quantities with mean 0 and standard deviation 1 under layer norm, and the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import profiles
from experiments.claims.claim import AT_START, Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.networks import ALONE
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.profiles import text
from experiments.claims.statistics import interval, is_above
from experiments.claims.wording import bands
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

DEPTH, WIDTH, STEPS = 10, 64, 300
NORM = ("norm=layer", "norm.eps=0")
NETWORK = ("activation=relu", "init=he_normal", *NORM, f"model.depth={DEPTH}", f"model.width={WIDTH}", "batch_size=64")
TRAINED = (*NETWORK, "dtype=float64", "optimizer=adam", "optimizer.lr=0.001")
READ = (*NORM, "model.depth=30", "model.width=128", "batch_size=32")
STARTS: Mapping[str, tuple[str, ...]] = {
    "ReLU, He": ("activation=relu", "init=he_normal", *READ),
    "tanh, Xavier": ("activation=tanh", "init=xavier_normal", *READ),
    "sigmoid, Xavier": ("activation=sigmoid", "init=xavier_normal", *READ),
}
ARMS: Mapping[str, tuple[str, ...]] = {"trained": TRAINED, **STARTS}
PLACES = ("normalized", "affine", "activated")
"""Outputs of the division, of gain and shift, and of the activation, which are the inputs of the next layer."""
ROUNDING = 1e-12
"""Means and deviations over 64 units are exact to a few 1e-16 in float64; float32 or a wrong divisor exceeds this."""
OFF = 0.05
"""Departure from mean 0 or deviation 1 that counts: a twentieth of the deviation."""


def measure(scale: Scale) -> Samples:
    """Measure mean and deviation over the units of a layer, before and after training, and gradients."""
    samples = profiles.measure(STARTS, scale.replicas)
    return samples | moments_of_layers(scale)


def moments_of_layers(scale: Scale) -> dict[str, Array]:
    """Return `TIME PLACE mean` and `... deviation` (layers, replicas) over units, averaged over the examples.

    `TIME error` (layers, replicas) is the largest |mean| or |biased deviation - 1| of examples where normalized,
    `TIME unbiased` the mean deviation there with divisor N - 1, `TIME units` the mean |mean| of units over examples.
    """
    import torch

    from lab import compose, data
    from lab.machine.threads import thread_budget
    from lab.train.trainer import Trainer

    settings = compose.compose([*TRAINED, f"replicas={scale.replicas}", *ALONE, f"steps={scale.steps(STEPS)}"])
    moments: dict[str, Array] = {}
    with thread_budget(settings.threads):
        dataset = data.load(settings.data, torch.float64, torch.device("cpu"))
        trainer = Trainer(settings, dataset, torch.device("cpu"))
        x = dataset.test_x.expand(scale.replicas, -1, -1)  # (R, B, features)
        for time in ("before", "after"):
            layers = [statistics(seen) for seen in values_by_place(trainer.network, x)]
            moments |= {f"{time} {name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}
            for _ in range(settings.steps if time == "before" else 0):
                trainer.step()
    return moments


def values_by_place(network: object, x: Tensor) -> list[dict[str, Tensor]]:
    """Run a forward pass and return, for each layer, the values at each of PLACES, (R, B, N)."""
    import torch

    from lab.network import Block, Network
    from lab.network.normalization import LayerNormLayer

    assert isinstance(network, Network)
    layers = []
    with torch.no_grad():
        for block in network.blocks:
            assert isinstance(block, Block)
            assert isinstance(block.inner_norm, LayerNormLayer)
            affine = block.inner_norm.affine
            assert affine is not None
            seen: dict[str, Tensor] = {}

            def keep(module: object, inputs: tuple[Tensor], output: Tensor, seen: dict[str, Tensor] = seen) -> None:
                seen["normalized"], seen["affine"] = inputs[0], output

            handle = affine.register_forward_hook(keep)
            x = seen["activated"] = block(x)
            handle.remove()
            layers.append(seen)
    return layers


def statistics(seen: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return statistics of one layer, (R,) each."""
    moments = {}
    for place in PLACES:
        values = seen[place]  # (R, B, N)
        moments[f"{place} mean"] = values.mean(-1).mean(1)
        moments[f"{place} deviation"] = values.std(-1, correction=0).mean(1)
    normalized = seen["normalized"]
    mean, biased = normalized.mean(-1).abs(), (normalized.std(-1, correction=0) - 1).abs()  # (R, B)
    moments["error"] = mean.maximum(biased).amax(1)
    moments["unbiased"] = normalized.std(-1, correction=1).mean(1)
    moments["units"] = normalized.mean(1).abs().mean(-1)
    return {name: value.numpy() for name, value in moments.items()}


def judge(samples: Samples) -> Judgement:
    """Apply the rule: the exact statement, where it fails, and the gradient's rates."""
    error = Number(
        "largest error of mean 0 and deviation 1",
        float(max(samples["before error"].max(), samples["after error"].max())),
    )
    unbiased = Number(
        "deviation with divisor N - 1",
        float(samples["before unbiased"].mean()),
        predicted=float(np.sqrt(WIDTH / (WIDTH - 1))),
    )
    units = interval("|mean| of a unit over the examples, at the start", samples["before units"].mean(0))
    off = {
        f"{time} {place}": interval(
            f"largest departure of a layer from mean 0 or deviation 1, {place}, {time} training",
            np.maximum(np.abs(samples[f"{time} {place} mean"]), np.abs(samples[f"{time} {place} deviation"] - 1)).max(
                0
            ),
        )
        for place in ("affine", "activated")
        for time in ("before", "after")
    }
    halves = interval(
        "mean after the activation, at the start",
        samples["before activated mean"].mean(0),
        predicted=float(1 / np.sqrt(2 * np.pi)),
    )
    slope = {arm: profiles.slope(samples, arm) for arm in STARTS}
    strange = profiles.outside(samples, STARTS)
    numbers = (error, unbiased, units, *off.values(), halves, *slope.values(), *bands(samples, STARTS))
    reason = (
        f"Each example's mean over the units is 0 and its biased deviation 1 to {error.value:.0e}, before gain and"
        f" shift; the mean of one unit over the examples is {text(units)} off. After training gain and shift have moved"
        f" one layer's values by {text(off['after affine'])}, and after the activation the mean is {text(halves)} at"
        f" the start already. The gradient loses {text(slope['sigmoid, Xavier'])} decades per layer in sigmoid,"
        f" {text(slope['tanh, Xavier'])} in tanh and {text(slope['ReLU, He'])} in ReLU networks."
    )
    if not error.value <= ROUNDING:
        return Judgement(Verdict.FAILS, reason, numbers)
    conditions = []
    if is_above(units, OFF):
        conditions.append("over the units of each example (not over examples, as in batch norm)")
    if is_above(off["after affine"], OFF):
        conditions.append("before gain and shift, which training moves")
    if is_above(off["before activated"], OFF):
        conditions.append("before the activation, so not at the next layer's input")
    if not conditions:
        return Judgement(Verdict.HOLDS, reason, numbers)
    if profiles.vanishes(slope["sigmoid, Xavier"]) and "sigmoid, Xavier" not in strange:
        conditions.append("and it does not keep sigmoid's gradient from vanishing")
    return Judgement(Verdict.CONDITION, reason, numbers, "; ".join(conditions))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot mean and deviation at each place after training, and gradient against layer."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for number, place in enumerate(PLACES):
        for name, line in (("mean", ":"), ("deviation", "-")):
            values = samples[f"after {place} {name}"].mean(1)
            axes[0].plot(
                values,
                line,
                color=COLOURS[number],
                marker=MARKERS[number],
                markersize=5,
                label=place if line == "-" else None,
            )
    axes[0].plot([], [], "-", color="black", label="deviation")
    axes[0].plot([], [], ":", color="black", label="mean")
    label(axes[0], "layer (0 is nearest the input)", "over the units of an example", f"ReLU, after {STEPS} steps")
    profiles.draw(axes[1], samples, list(STARTS), colour=len(PLACES))
    label(axes[1], "layer (0 is nearest the input)", "gradient over the last layer's", "at initialization")
    legend_below(figure, axes, 3)


CLAIM = Claim(
    id="fix-layernorm",
    section="2.3",
    statement="Layer norm gives the activations within a layer mean 0 and standard deviation 1.",
    limit="Over the units of each example, with the biased deviation, before the layer's gain and shift, and here"
    " before the activation. The gradient's rate is D(1) / V(1): ReLU 1, tanh 1.178, sigmoid .153, which still"
    " vanishes.",
    source="Ba et al. 2016, equation 4",
    quantity=f"mean and biased standard deviation over units in {DEPTH} ReLU layers, in float64 with eps = 0, at"
    f" initialization and after {STEPS} steps of Adam; decades of delta_rms per layer over 30 layers at initialization",
    rule="Does not hold if the normalized values of any example are off mean 0 or deviation 1 by more than"
    f" {ROUNDING:g}. Holds with a condition if units over examples, or some layer's values after gain and shift or"
    f" after the activation, are off by more than {OFF:g} (95% interval over replicas); else holds.",
    caption="Left: mean and standard deviation over units where normalized, after gain and shift (affine), and after"
    " the activation, in trained networks. Right: gradient against layer at initialization with layer norm, median and"
    " range over replicas, theory dashed.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with={"trained": (f"steps={STEPS}",), **dict.fromkeys(STARTS, AT_START)},
)
