"""Section 4.4: ELU centres activations nearer 0, and has a gradient for negative inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.dead_units import DEACTIVATED, share
from experiments.claims.elu_noise import NOISE
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import difference, interval, is_above, is_below
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lab.network.activations import ActivationLayer
    from lab.train.trainer import Trainer

# --- nearer to 0 ----------------------------------------------------------------------------------------------------

DEPTH, STEPS = 6, 600
TIMES = ("at initialization", "trained")
FOR_THEORY = 20
"""Networks for each of the scale's replicas, at initialization only, to compare layer 0 with theory."""
NEARER_BY = 0.1
"""Difference that counts as nearer, in units of the activations' rms."""
_STACK = (
    *(f"model.depth={DEPTH}", "model.width=64", "data=digits", "batch_size=64", "optimizer.lr=0.03"),
    *("probe.examples=512", "probe.set=norms"),
)
CENTRED_ARMS = {
    "relu, he": (*_STACK, "activation=relu", "init=he_normal"),
    "elu, he": (*_STACK, "activation=elu", "init=he_normal"),
    "elu, lecun": (*_STACK, "activation=elu", "init=lecun_normal"),
    "tanh, xavier": (*_STACK, "activation=tanh", "init=xavier_normal"),
}
ELUS = ("elu, he", "elu, lecun")
MEASURES = {
    "layer": "mean of the layer",
    "units": "means of its units (rms)",
}
"""Two measures of a shift, each over the rms of the layer's activations."""


def measure_centred(scale: Scale) -> Samples:
    """Measure both shifts by layer and replica, before and after training, and predict layer 0's mean."""
    from experiments.claims import dead_units
    from lab.machine.threads import thread_budget
    from lab.train.losses import evaluate

    samples: dict[str, Array] = {}
    with thread_budget(1):
        for name, overrides in CENTRED_ARMS.items():
            trainer = dead_units.start(overrides, scale.replicas)
            many = dead_units.start(overrides, FOR_THEORY * scale.replicas)
            samples |= {f"first {name}": _first_mean(many), f"predicted {name}": np.array([_predicted(many)])}
            for time in TIMES:
                if time == "trained":
                    for _ in range(scale.steps(STEPS)):
                        trainer.step()
                for kind, values in _shifts(trainer).items():
                    samples[f"{kind} {name}, {time}"] = np.where(trainer.divergence.alive.numpy(), values, np.nan)
            samples[f"accuracy {name}"] = evaluate(trainer.network, trainer.dataset)["eval_accuracy"].numpy()
    return samples


def _shifts(trainer: Trainer) -> dict[str, Array]:
    """Return |mean| of the layer and rms of the units' means, over the rms of the activations: (layers, R) each."""
    import torch

    shifts: dict[str, list[Array]] = {kind: [] for kind in MEASURES}
    with torch.no_grad():
        for a in trainer.network.activations(trainer.instrument.probe_set):
            rms = a.double().square().mean((1, 2)).sqrt()  # (R,)
            of_units = a.double().mean(1)  # (R, N)
            shifts["layer"].append((of_units.mean(1).abs() / rms).numpy())
            shifts["units"].append((of_units.square().mean(1).sqrt() / rms).numpy())
    return {kind: np.array(values) for kind, values in shifts.items()}


def _first_mean(trainer: Trainer) -> Array:
    """Return the mean activation of layer 0, (R,)."""
    import torch

    with torch.no_grad():
        first = next(iter(trainer.network.activations(trainer.instrument.probe_set)))  # (R, P, N)
    return np.asarray(first.double().mean((1, 2)).numpy())


def _predicted(trainer: Trainer) -> float:
    """Return E a in layer 0, for any width: for an input x and Gaussian weights, z is N(0, s |x|^2 / fan_in)."""
    from lab.theory import kernel

    x = trainer.instrument.probe_set[0].double().numpy()  # (P, features)
    features, width = x.shape[1], trainer.config.model.width
    s = {"he_normal": 2.0, "lecun_normal": 1.0, "xavier_normal": 2 * features / (features + width)}
    return float(kernel(trainer.config.activation).mean(s[trainer.config.init.name] * (x**2).mean(1)).mean())


def judge_centred(samples: Samples) -> Judgement:
    """Apply the rule: ELU's shift minus ReLU's, by both measures, before and after training."""
    numbers, nearer = [], {}
    for time in TIMES:
        for kind, words in MEASURES.items():
            shifts = {name: samples[f"{kind} {name}, {time}"].mean(0) for name in CENTRED_ARMS}
            numbers += [interval(f"{words}, {time}: {n}", values, "of rms") for n, values in shifts.items()]
            for name in ELUS:
                gap = difference(f"{words}, {time}: {name} less relu", shifts[name], shifts["relu, he"], "of rms")
                numbers.append(gap)
                nearer[f"{words}, {time}, {name}"] = is_below(gap, -NEARER_BY)
    for name in CENTRED_ARMS:
        predicted = float(samples[f"predicted {name}"][0])
        numbers.append(interval(f"mean activation of layer 0: {name}", samples[f"first {name}"], "", predicted))
        numbers.append(interval(f"held-out accuracy: {name}", samples[f"accuracy {name}"]))
    means = {
        (kind, time, name): np.nanmean(samples[f"{kind} {name}, {time}"])
        for kind in MEASURES
        for time in TIMES
        for name in ("relu, he", *ELUS)
    }
    reason = "; ".join(
        f"{words}, {time}: ReLU {means[kind, time, 'relu, he']:.2f}, ELU {means[kind, time, ELUS[0]]:.2f} (He) and"
        f" {means[kind, time, ELUS[1]]:.2f} (LeCun)"
        for time in TIMES
        for kind, words in MEASURES.items()
    )
    reason = f"Over the activations' rms: {reason}."
    if all(nearer.values()):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    if not any(nearer.values()):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    missing = "; ".join(case for case, is_nearer in nearer.items() if not is_nearer)
    return Judgement(Verdict.CONDITION, reason, tuple(numbers), f"not by {NEARER_BY:g} for {missing}")


def draw_centred(figure: Figure, samples: Samples) -> None:
    """Plot both measures by layer, dashed at initialization and solid after training."""
    from lab.plot.style import COLOURS, MARKERS

    axes = panels(figure, 2)
    for ax, (kind, words) in zip(axes, MEASURES.items(), strict=True):
        for number, name in enumerate(CENTRED_ARMS):
            for time, style in zip(TIMES, ("--", "-"), strict=True):
                values = np.nanmean(samples[f"{kind} {name}, {time}"], 1)
                text = name if style == "-" else None
                ax.plot(range(DEPTH), values, style, color=COLOURS[number], marker=MARKERS[number], label=text)
        ax.set_ylim(0, 1)
        label(ax, "layer (0 is nearest the input)", "over the activations' rms" if ax is axes[0] else "", words)
    axes[0].plot([], [], "--", color="0.4", label=TIMES[0])
    axes[0].plot([], [], "-", color="0.4", label=TIMES[1])
    legend_below(figure, axes[:1], 3)


CENTRED = Claim(
    id="elu-centred",
    section="4.4",
    statement="ELU's negative part brings the mean of the activations nearer to 0 than ReLU's.",
    limit=(
        "What biases the next layer is the mean of each unit over the examples, not the mean over the layer, in which"
        " units of opposite sign cancel; that one depends on how alike the examples have become, whatever the"
        " activation."
    ),
    source="Clevert et al. 2016, section 3; theory of layer 0: Gaussian pre-activations",
    quantity=(
        f"|mean| of a layer's activations, and rms of its units' means over 512 examples, both over the activations'"
        f" rms; {DEPTH} layers of 64 on digits, before and after {STEPS} steps of SGD; means over layers"
    ),
    rule=(
        f"Nearer is a difference from ReLU whose 95% interval lies below -{NEARER_BY:g}. Holds if ELU is nearer by both"
        " measures, with He's and LeCun's initialization, before and after training; fails if nowhere; else holds with"
        " a condition."
    ),
    caption="How far the activations' means are from 0, by layer, before (dashed) and after training (solid).",
    measure=measure_centred,
    judge=judge_centred,
    draw=draw_centred,
    arms=CENTRED_ARMS,
    training=f"{STEPS} steps of SGD",
    needs_full=True,
)

# --- a gradient for negative inputs ---------------------------------------------------------------------------------

DISTANCES = (0.1, 1.0, 4.0, 8.0)
REVIVAL_STEPS, REVIVAL_EVERY = 1000, 50
ALIVE_ARMS = {name: (*DEACTIVATED, f"activation={name}") for name in ("relu", "elu")}
ROUNDINGS = 4.0
"""Tolerance of a slope in units of the last place."""


def measure_alive(scale: Scale) -> Samples:
    """Measure ELU's slope against 50 digits, where it underflows in float32, and how many units revive."""
    from experiments.claims.dead_units import deactivated_units
    from lab import schema
    from lab.machine.threads import thread_budget
    from lab.network import activations

    samples = slope_samples(activations.build(schema.ELU("elu", 1.0), 1, []))
    with thread_budget(1):
        for name in ALIVE_ARMS:
            for depth in DISTANCES:
                steps = scale.steps(REVIVAL_STEPS)
                units = deactivated_units((f"activation={name}",), scale.replicas, steps, REVIVAL_EVERY, depth)
                samples |= {f"{kind} {name}, {depth:g}": counts for kind, counts in units._asdict().items()}
    return samples


def slope_samples(layer: ActivationLayer) -> dict[str, Array]:
    """Return the layer's slope, backpropagation's and exp(z) below 0."""
    import mpmath
    import torch

    sizes = np.concatenate([np.linspace(0, 110, 2201), np.geomspace(1e-12, 700, 201)])
    z = -sizes.astype(np.float32).astype(np.float64)  # both formats hold each point exactly
    reference = exact.exact(mpmath.exp, z)
    both = (layer.slope(torch.from_numpy(z)).numpy(), exact.autograd_slope(layer, z, "float64"))
    return {
        "z": z,
        "exact_slope": reference,
        "slope_float32": exact.autograd_slope(layer, z, "float32"),
        "relative_error": np.array([max(np.abs(slope / reference - 1).max() for slope in both)]),
        "flat_from": np.array([exact.edge(lambda x: layer(x) > -1, 0.0, -1000.0, "float32")]),
        "slope_until": np.array([exact.edge(lambda x: layer.slope(x) > 0, 0.0, -1000.0, "float32")]),
    }


def judge_alive(samples: Samples) -> Judgement:
    """Apply the rule: the slope is exp(z), inactive units have a gradient, and some revive."""
    eps = float(np.finfo(np.float64).eps)
    error = float(samples["relative_error"][0]) / eps
    flat, until = float(samples["flat_from"][0]), float(samples["slope_until"][0])
    numbers = [
        Number("largest relative error of the slope, float64", error, units="units of the last place"),
        Number("ELU is above -1 in float32 down to z =", flat),
        Number("its slope is above 0 in float32 down to z =", until),
    ]
    moved, shares = {}, {}
    for name in ALIVE_ARMS:
        for depth in DISTANCES:
            inactive, got, revived = (samples[f"{kind} {name}, {depth:g}"] for kind in ("inactive", "moved", "revived"))
            arm = f"{name}, {depth:g} below 0"
            moved[name, depth] = interval(f"inactive units with a gradient: {arm}", share(got, inactive), "of units")
            shares[name, depth] = interval(f"revived: {arm}", share(revived, inactive), "of units")
            numbers += [moved[name, depth], shares[name, depth]]
    revives = [depth for depth in DISTANCES if is_above(shares["elu", depth], 0)]
    reason = (
        f"ELU's slope below 0 is exp(z) to {error:.1f} units of the last place, and above 0 in float32 down to"
        f" z = {until:.0f}. Of the units deactivated "
        + ", ".join(f"{shares['elu', depth].value:.0%} ({depth:g} below 0)" for depth in DISTANCES)
        + f" revived within {REVIVAL_STEPS} steps; of ReLU's "
        + f"{max(shares['relu', depth].value for depth in DISTANCES):.0%}."
    )
    has_gradient = all(moved["elu", depth].value == 1 for depth in DISTANCES)
    relu_has_none = all(moved["relu", depth].value == 0 for depth in DISTANCES)
    if not (has_gradient and relu_has_none and error <= ROUNDINGS and revives):
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    if len(revives) == len(DISTANCES):
        return Judgement(Verdict.HOLDS, reason, tuple(numbers))
    far = " or ".join(f"{depth:g}" for depth in DISTANCES if depth not in revives)
    condition = (
        f"near 0: the gradient shrinks as exp(z), and of units {far} below 0 none revived within {REVIVAL_STEPS}"
        " steps that can be distinguished from 0"
    )
    return Judgement(Verdict.CONDITION, reason, tuple(numbers), condition)


def draw_alive(figure: Figure, samples: Samples) -> None:
    """Plot the slope (left), and the revived share by distance below 0 (right)."""
    from lab.plot.style import COLOURS, MARKERS

    slope, revived = panels(figure, 2)
    order = np.argsort(samples["z"])
    z, exact_slope, rounded = (samples[name][order] for name in ("z", "exact_slope", "slope_float32"))
    shown = z > -120
    slope.semilogy(z[shown], exact_slope[shown], color="black", linestyle="--", label="exact")
    in_floats = np.where(rounded > 0, rounded, np.nan)
    slope.semilogy(z[shown], in_floats[shown], color=COLOURS[0], alpha=0.6, linewidth=3, label="float32")
    slope.legend(frameon=False, loc="upper left")
    label(slope, "pre-activation z", "slope", "ELU's slope below 0")
    for index, name in enumerate(ALIVE_ARMS):
        numbers = [
            interval(name, share(samples[f"revived {name}, {depth:g}"], samples[f"inactive {name}, {depth:g}"]))
            for depth in DISTANCES
        ]
        middle = np.array([number.value for number in numbers])
        ends = np.array(
            [[number.value if end is None else end for end in (number.lower, number.upper)] for number in numbers]
        )
        bars = np.abs(ends - middle[:, None]).T
        style: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "capsize": 2, "label": name}
        revived.errorbar(DISTANCES, middle, yerr=bars, **style)
    revived.set_ylim(-0.02, 1.02)
    revived.legend(frameon=False)
    label(revived, "largest pre-activation below 0 by", "share of inactive units that revived", "Inactive units")


ALIVE = Claim(
    id="elu-alive",
    section="4.4",
    statement="ELU has a gradient for negative inputs, which relieves dying units.",
    limit=(
        "The slope is alpha exp(z): it falls by e with each unit of z, so that a unit far below 0 learns next to"
        " nothing. ELU saturates where ReLU dies."
    ),
    source="Clevert et al. 2016, section 3, eq. 15",
    quantity=(
        "the lab's slope against exp(z) in 50 digits; half of layer 0 (3 layers of 32, digits) deactivated on all"
        f" training examples: the share with a gradient, and the share that revives within {REVIVAL_STEPS} steps of SGD"
    ),
    rule=(
        f"Fails if the slope misses exp(z) by more than {ROUNDINGS:g} units of the last place, if an inactive unit of"
        " ELU gets no gradient or one of ReLU does, or if none revives (95% interval above 0). Holds if units revive at"
        " every distance tried; else holds with a condition."
    ),
    caption=(
        "Left: ELU's slope, exactly and in float32. Right: of units whose largest pre-activation was put below 0, the"
        " share that revived. Bars: 95% over replicas."
    ),
    measure=measure_alive,
    judge=judge_alive,
    draw=draw_alive,
    arms=ALIVE_ARMS,
    training=f"{REVIVAL_STEPS} steps, with the biases of half of layer 0 lowered first",
    needs_full=True,
)

CLAIMS = (CENTRED, ALIVE, NOISE)
