"""Sections 5.3 and Q3: effect of the gate of gated units, alone and in a trained network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.claims import exact
from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.gated_ffn import BLOCK, SWIGLU_FFN
from experiments.claims.gated_stability import SWIGLU_STABLE
from experiments.claims.networks import ALONE
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import interval, is_above
from lab import schema
from lab.typing import Array

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

GATES = {
    "glu": lambda u, mp: 1 / (1 + mp.exp(-u)),
    "bilinear": lambda u, mp: u,
    "reglu": lambda u, mp: max(u, mp.mpf(0)),
    "geglu": lambda u, mp: u * mp.ncdf(u),
    "swiglu": lambda u, mp: u / (1 + mp.exp(-u)),
}
"""Gated activation -> gain of a gate with pre-activation u, as the papers write it, for mpmath."""

VALUES = (-1e4, -1.5, 1e-8, 2.0)
"""Values at the gate; sign and size must not matter."""

ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Tolerance relative to |value| (1 + |gate|): a dozen successive roundings and their propagation."""

CLOSED = 0.05
"""A gate is closed if less than a twentieth of its value passes."""

SHARE = 0.05  # of gates, counts

STEPS, RATE = 200, 3e-3
"""Enough for about 97% accuracy on the held-out digits; the gates' shares do not depend on the last percent."""

ARMS = {
    name: (f"activation={name}", *BLOCK, "init=lecun_normal", "data=digits", f"optimizer.lr={RATE:g}")
    for name in ("glu", "swiglu")
}


def measure(scale: Scale) -> Samples:
    """Measure `points` (Z,), `NAME_gain`, `NAME_error` (Z,) and shares `NAME_start`, `NAME_end` (3, replicas)."""
    points = np.unique(
        np.concatenate([np.linspace(-40, 40, 321), *(s * np.geomspace(1e-12, 700, 60) for s in (-1, 1))])
    )
    samples = {"points": points}
    for name in GATES:
        samples[f"{name}_gain"], samples[f"{name}_error"] = _function(name, points)
    for name, arm in ARMS.items():
        samples[f"{name}_start"], samples[f"{name}_end"] = _shares(arm, scale.replicas, scale.steps(STEPS))
    return samples


def _function(name: str, points: Array) -> tuple[Array, Array]:
    """Return the exact gain at gate pre-activations (Z,), and the largest error of output and derivatives there."""
    import mpmath
    import torch

    from lab.network import activations

    gain = exact.exact(lambda u: GATES[name](u, mpmath), points)
    slope = exact.exact_slope(lambda u: GATES[name](u, mpmath), points)
    if name == "reglu":
        slope = (points > 0).astype(np.float64)  # at the kink the lab takes 0, as torch does
    layer = activations.build(schema.Activation(name), 1, ())
    errors = np.zeros_like(points)
    for value in VALUES:
        z = torch.from_numpy(np.stack([np.full_like(points, value), points], -1)[None]).requires_grad_()  # (1, Z, 2)
        output = layer(z)[0, :, 0]  # (Z,)
        (gradient,) = torch.autograd.grad(output.sum(), z)
        computed = (output.detach().numpy(), gradient[0, :, 0].numpy(), gradient[0, :, 1].numpy())
        wanted, sizes = (value * gain, gain, value * slope), (abs(value), 1.0, abs(value))
        for measured, expected, size in zip(computed, wanted, sizes, strict=True):
            errors = np.maximum(errors, np.abs(measured - expected) / (size * (1 + np.abs(points))))
    return gain, errors


def _shares(arm: tuple[str, ...], replicas: int, steps: int) -> tuple[Array, Array]:
    """Return the shares of closed, sign-turning and amplifying gates: (3, replicas).

    One array at initialization and one after training; over layers, units and held-out images.
    """
    import torch

    from lab import compose, data
    from lab.machine import threads as torch_threads
    from lab.train.trainer import Trainer

    configuration = compose.compose([*arm, f"replicas={replicas}", f"steps={steps}", *ALONE])
    device = torch.device("cpu")
    with torch_threads.thread_budget(1):
        trainer = Trainer(configuration, data.load(configuration.data, torch.float32, device), device)
        start = _gate_shares(trainer)
        for _ in range(steps):
            trainer.step()
        return start, _gate_shares(trainer)


def _gate_shares(trainer: Any) -> Array:
    import torch

    seen: list[torch.Tensor] = []

    def keep(layer: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append(layer.gate(args[0].chunk(2, dim=-1)[1]))  # (R, B, hidden)

    handles = [block.activation.register_forward_hook(keep) for block in trainer.network.blocks]
    with torch.no_grad(), trainer.network.evaluating():
        trainer.network(trainer.dataset.test_x.expand(trainer.config.replicas, -1, -1))
    for handle in handles:
        handle.remove()
    return shares(torch.stack(seen, 1).flatten(1).numpy())


def shares(gates: Array) -> Array:
    """Return the shares of gates (R, gates) that are closed, turn the sign of their value, or amplify it: (3, R)."""
    return np.stack([kind.mean(1) for kind in (np.abs(gates) < CLOSED, gates <= -CLOSED, gates > 1)])


def expected_shares(name: str) -> tuple[float, float, float]:
    """Return the three shares for gate pre-activations N(0, 1), as RMS norm and LeCun's variance give them."""
    from scipy.optimize import brentq
    from scipy.special import expit, ndtr

    if name == "glu":
        return float(ndtr(math.log(CLOSED / (1 - CLOSED)))), 0.0, 0.0

    def root(level: float, low: float, high: float) -> float:
        return float(brentq(lambda u: u * expit(u) - level, low, high))

    dip = -1.2784645427610738  # where silu is smallest, -.2785
    falls, rises = root(-CLOSED, -40, dip), root(-CLOSED, dip, 0)
    reverses = float(ndtr(rises) - ndtr(falls))
    return float(ndtr(root(CLOSED, 0, 1))) - reverses, reverses, float(1 - ndtr(root(1, 0, 3)))


KINDS = ("closed", "turning the sign", "amplifying")


def judge(samples: Samples) -> Judgement:
    """Apply the rule: correctness of the gated product, then whether the gate acts as a valve."""
    points = samples["points"]
    error = max(float(samples[f"{name}_error"].max()) for name in GATES)
    shut, half, widest, deepest = (
        max(float(np.abs(samples[f"{name}_gain"][points <= -10]).max()) for name in GATES if name != "bilinear"),
        float(np.interp(0, points, samples["glu_gain"])),
        float(np.interp(10, points, samples["swiglu_gain"])),
        float(samples["swiglu_gain"].min()),
    )
    numbers = [
        Number("largest error of output and derivatives, of |value| (1 + |u|)", error, predicted=0.0),
        Number("largest share of a value that passes at u <= -10", shut),
        Number("what GLU passes at u = 0", half, predicted=0.5),
        Number("what SwiGLU passes at u = 10", widest),
        Number("what SwiGLU passes where it turns the sign most", deepest),
    ]
    ends = {}
    for name in ARMS:
        for kind, start, end, predicted in zip(
            KINDS, samples[f"{name}_start"], samples[f"{name}_end"], expected_shares(name), strict=True
        ):
            numbers.append(interval(f"{name}: gates {kind}, at initialization", 100 * start, "%", 100 * predicted))
            ends[name, kind] = interval(f"{name}: gates {kind}, after training", 100 * end, "%")
            numbers.append(ends[name, kind])
    reason = (
        f"Output and derivatives are the exact product to {error:.0e} of its size, and at u <= -10 at most {shut:.1e}"
        " of the value passes, forwards and backwards."
    )
    if not error <= ROUNDING or shut > CLOSED:
        return Judgement(Verdict.FAILS, reason, tuple(numbers))
    beyond = [ends["swiglu", kind] for kind in KINDS[1:]]
    if any(is_above(number, 100 * SHARE) for number in beyond):
        reason = (
            f"{reason} But SwiGLU's gate is no valve between shut and open: in a trained network"
            f" {ends['swiglu', 'closed'].value:.0f}% of the gates are closed, {beyond[0].value:.0f}% turn the sign of"
            f" their value and {beyond[1].value:.0f}% amplify it. GLU's gate, always between 0 and 1, has"
            f" {ends['glu', 'closed'].value:.0f}% closed."
        )
        condition = (
            "a gate near 0 closes, but which pre-activation closes it depends on the gate: a strongly negative one for"
            " all but bilinear, and also 0 for SwiGLU, where GLU's stands half open; only GLU's gate stays between shut"
            " and open"
        )
        return Judgement(Verdict.CONDITION, reason, tuple(numbers), condition)
    return Judgement(Verdict.HOLDS, reason, tuple(numbers))


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the gain against the gate's pre-activation, and the shares of gates by kind."""
    from lab.plot.style import COLOURS, MARKERS

    left, right = panels(figure, 2)
    points = samples["points"]
    is_shown = (np.abs(points) <= 5) & (points % 0.25 == 0)
    for number, name in enumerate(("glu", "reglu", "geglu", "swiglu")):
        left.plot(
            points[is_shown],
            samples[f"{name}_gain"][is_shown],
            color=COLOURS[number],
            marker=MARKERS[number],
            markevery=(3 * number, 13),
            label=name,
        )
    left.axhspan(-CLOSED, CLOSED, color="0.85", label="closed")
    left.set_ylim(-0.5, 2.5)
    label(left, "gate's pre-activation u", "what passes: output / value")
    for number, name in enumerate(ARMS):
        for when, filled in (("start", False), ("end", True)):
            shares = 100 * samples[f"{name}_{when}"]
            place = np.arange(3) + 0.3 * (number - 0.5) + 0.12 * (filled - 0.5)
            colour = COLOURS[3 * number]
            right.plot(
                place,
                shares.mean(1),
                linestyle="none",
                marker=MARKERS[3 * number],
                color=colour,
                markerfacecolor=colour if filled else "none",
                label=f"{name}, {'trained' if filled else 'at initialization'}",
            )
    right.set_xticks(range(3), ["closed", "turn the\nsign", "amplify"])
    right.set_ylim(bottom=-2)
    label(right, "", "share of gates (%)")
    legend_below(figure, [left, right], 4)


GLU_GATE = Claim(
    id="glu-gate",
    section="5.3, Q3",
    statement=(
        "One half of a gated unit, its gate, decides for each input how much of the other half, the value, passes; a"
        " gate near 0 closes, a large one lets through."
    ),
    limit=(
        "The gate holds back the gradient to its value as it holds back the value. GLU's gate lies between 0 and 1; a"
        " Swish, GELU or linear gate is no switch: it amplifies without bound and can turn the sign."
    ),
    source="Dauphin et al. 2017, section 2 (GLU, its gradient); Shazeer 2020, section 2 (the variants)",
    quantity=(
        "Output and derivatives of the lab's gated activations against 50-digit arithmetic; share of gates that are"
        " closed (pass less than 5%), turn the sign, or amplify, before and after training on the digits."
    ),
    rule=(
        "Holds: output = value * gate, its derivative by the value is the gate and by the gate the value times the"
        f" gate's slope, all within {ROUNDING:.0e} of |value| (1 + |u|); and at u <= -10 every gate but the bilinear"
        " one passes less than 5%. With a condition, if more than 5% of a trained SwiGLU network's gates turn the sign"
        " or amplify, the whole 95% interval over replicas above it. Does not hold: otherwise."
    ),
    caption=(
        "Left: what gates let pass. Right: share of gates in a pre-norm residual network of four blocks, over layers,"
        " units and held-out digits, at initialization (hollow) and after training (filled)."
    ),
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, (f"steps={STEPS}",)),
    measure=measure,
    judge=judge,
    draw=draw,
    findings=(
        "The guide sets the dynamic gate against ReLU's fixed threshold, but a ReLU is a gate on its own input,"
        " relu(z) = z * 1(z > 0), and just as dynamic; what a gated unit adds is a second map that sets the gate.",
    ),
)

CLAIMS = (GLU_GATE, SWIGLU_FFN, SWIGLU_STABLE)
