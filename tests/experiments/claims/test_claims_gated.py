"""The claims on gated units, and on GELU and Swish against ReLU: verdicts follow the samples, helpers are right."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit

from experiments.claims import better, gated, gated_ffn, gated_stability, gated_stacks, networks
from experiments.claims.claim import Claim, Scale, Verdict
from experiments.claims.statistics import is_above
from lab.network import activations
from lab.typing import Array

CLAIMS: dict[str, Claim] = {claim.id: claim for claim in (*gated.CLAIMS, *better.CLAIMS)}
REPLICAS = 8


def spread(center: float, deviation: float, shape: tuple[int, ...] = (REPLICAS,), seed: int = 0) -> Array:
    """Replicas with exactly that mean and deviation."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    drawn = (drawn - drawn.mean(-1, keepdims=True)) / drawn.std(-1, keepdims=True)
    return center + deviation * drawn


def gate_samples(reversing: float) -> dict[str, Array]:
    """Right functions, and a trained SwiGLU network with that share of gates that turn the sign."""
    points = np.linspace(-40, 40, 161)
    gains = {
        "glu": expit(points),
        "bilinear": points,
        "reglu": np.maximum(points, 0),
        "geglu": points * (points > 0),
        "swiglu": points * expit(points),
    }
    samples = {"points": points}
    for name, gain in gains.items():
        samples |= {f"{name}_gain": gain, f"{name}_error": np.full_like(points, 1e-16)}
    for name in ("glu", "swiglu"):
        start = np.stack([spread(share, 0.001) for share in gated.expected_shares(name)])
        samples |= {f"{name}_start": start, f"{name}_end": start.copy()}
    samples["swiglu_end"] = np.stack([spread(share, 0.001) for share in (0.08, reversing, 0.01)])
    return samples


def ffn_samples(**loss_over_relu: float) -> dict[str, Array]:
    """All losses alike but for those given, as `swiglu=0.8`; the plain gated stacks diverge."""
    samples: dict[str, Array] = {}
    for number, arm in enumerate(gated_ffn.ARMS):
        block = arm.partition(", ")[2]
        loss = 0.5 * loss_over_relu.get(block, 1.0) * np.exp(spread(0.0, 0.02, seed=number))
        is_lost = block.startswith("plain swiglu")
        samples[f"{arm}/loss"] = np.full(REPLICAS, np.nan) if is_lost else loss
        samples[f"{arm}/training"] = samples[f"{arm}/loss"]
        samples[f"{arm}/accuracy"] = np.full(REPLICAS, 0.9)
        samples[f"{arm}/rate"] = np.array([3e-3])
        samples[f"{arm}/parameters"] = np.array([16530.0])
    return samples


def stability_samples(swiglu_octaves: int, error: float = 0.0) -> dict[str, Array]:
    """Plain stacks as theory has them, off by `error` in ln; SwiGLU that bears that many more rates of the grid."""
    samples: dict[str, Array] = {}
    for name in gated_stacks.STACKS:
        rows = []
        for start in gated_stacks.STARTS:
            middle, deviation, _ = gated_stacks.predicted(name, start)
            drawn = [spread(m, d) for m, d in zip(middle, deviation, strict=True)]
            rows.append(np.exp(np.stack(drawn) + error))
        samples[f"{name}/variance"] = np.stack(rows)
    for optimizer, rates in gated_stability.OPTIMIZERS.items():
        for block in gated_stability.BLOCKS:
            stable = 6 + np.arange(REPLICAS) % 2 + (swiglu_octaves if block == "swiglu" else 0)
            loss = np.full((26, len(rates), REPLICAS), 0.1)
            loss[:, np.arange(len(rates))[:, None] >= stable] = np.nan
            samples[f"{optimizer}/{block}/loss"] = loss
    for block in gated_stability.BLOCKS:
        samples[f"{block}/tails"] = spread(10.0, 0.1)
    return samples


def better_samples(gain: float) -> dict[str, Array]:
    """A rival that gets that share more right than ReLU in every setting."""
    names = [*better.SETTINGS, *(f"{of}, {name}" for name, (of, _, _) in better.ASIDE.items())]
    samples: dict[str, Array] = {}
    for name in names:
        samples |= {f"{name}/relu": spread(0.7, 0.005, seed=1), f"{name}/rival": spread(0.7 + gain, 0.005, seed=2)}
        samples |= {f"{name}/relu/rate": np.array([3e-3]), f"{name}/rival/rate": np.array([1e-2])}
    return samples


CASES: dict[str, tuple[dict[str, Array], dict[str, Array]]] = {
    "glu-gate": (gate_samples(reversing=0.46), gate_samples(reversing=0.02)),
    "swiglu-ffn": (ffn_samples(swiglu=0.8, bilinear=0.8), ffn_samples(swiglu=1.2)),
    "swiglu-stable": (stability_samples(2), stability_samples(-2)),
    "gelu-better": (better_samples(0.03) | {"digits, depth 4, plain/rival": spread(0.6, 0.005)}, better_samples(0.0)),
    "swish-better": (better_samples(0.03) | {"digits, depth 4, plain/rival": spread(0.6, 0.005)}, better_samples(0.03)),
}
"""Samples for which the recorded verdict comes out, and others for which it must not."""


@pytest.mark.parametrize("id_", CASES)
def test_every_claim_can_fail(id_: str) -> None:
    recorded, other = (CLAIMS[id_].judge(samples).verdict for samples in CASES[id_])
    assert recorded == RECORDED[id_]
    assert other != recorded


def test_other_verdicts_come_out_too() -> None:
    assert CLAIMS["swiglu-ffn"].judge(ffn_samples(swiglu=1.0)).verdict == Verdict.UNDECIDED
    assert CLAIMS["swiglu-ffn"].judge(ffn_samples(swiglu=1.2)).verdict == Verdict.FAILS
    assert CLAIMS["swiglu-stable"].judge(stability_samples(0)).verdict == Verdict.UNDECIDED
    mixed = stability_samples(2) | {"adamw/swiglu/loss": stability_samples(-2)["adamw/swiglu/loss"]}
    assert "not with adamw" in CLAIMS["swiglu-stable"].judge(mixed).condition
    assert CLAIMS["swiglu-stable"].judge(stability_samples(-2)).verdict == Verdict.FAILS
    assert CLAIMS["gelu-better"].judge(better_samples(0.03)).verdict == Verdict.HOLDS
    assert CLAIMS["gelu-better"].judge(better_samples(-0.03)).verdict == Verdict.FAILS


def test_a_gain_that_eight_comparisons_may_show_by_chance_does_not_count() -> None:
    """2.35 standard errors above half a point: more than a 95% interval needs (1.96), less than one of 1 - 0.05/8
    (2.73); 4 are more than both."""
    error = 0.005 * math.sqrt(2 / REPLICAS)
    samples = better_samples(0.0)
    one = "spirals, depth 4, plain"
    for errors, verdict in ((2.35, Verdict.UNDECIDED), (4.0, Verdict.CONDITION)):
        gain = better.EFFECT / 100 + errors * error
        changed = {f"{one}/rival": spread(0.7 + gain, 0.005, seed=2), f"{one}/relu": spread(0.7, 0.005, seed=1)}
        judged = CLAIMS["gelu-better"].judge(samples | changed)
        assert is_above(next(n for n in judged.numbers if n.name.endswith(one)), better.EFFECT)
        assert (judged.verdict == Verdict.CONDITION) == (verdict == Verdict.CONDITION)
        assert ("300 steps of this budget" in judged.condition) == (verdict == Verdict.CONDITION)


def test_plain_stacks_that_diverge_are_said_to_count_as_guessing() -> None:
    samples = ffn_samples(swiglu=0.8)
    samples["digits, plain swiglu, s = 0.1/loss"] = np.full(REPLICAS, math.log(10))
    reason = CLAIMS["swiglu-ffn"].judge(samples).reason
    assert f"from s = 1 {REPLICAS} of {REPLICAS} diverged and 0 end at guessing" in reason
    assert f"from s = 0.1 0 of {REPLICAS} diverged and {REPLICAS} end at guessing" in reason


@pytest.mark.parametrize("id_", ["gelu-better", "swish-better", "swiglu-ffn"])
def test_made_up_samples_have_the_names_and_shapes_of_real_ones(id_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(
        overrides: object, rates: object, replicas: int, steps: int, every: int, metric: str = ""
    ) -> dict[str, Array]:
        curves = {name: np.ones((2, replicas)) for name in ("loss", "eval_loss", "eval_accuracy")}
        return {"steps": np.array([0.0, 1.0]), **curves, "rate": np.array([1e-3])}

    monkeypatch.setattr(networks, "tuned", tuned)
    monkeypatch.setattr(gated_ffn, "count", lambda overrides: 100)
    real = CLAIMS[id_].measure(Scale("test", REPLICAS, 0.02))
    assert {k: v.shape for k, v in real.items()} == {k: v.shape for k, v in CASES[id_][0].items()}
    assert all(value.dtype == np.float64 for value in real.values())


@pytest.mark.parametrize("id_", CASES)
def test_figures_are_drawn_even_when_replicas_diverge(id_: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4))
    FigureCanvasAgg(figure)
    CLAIMS[id_].draw(figure, CASES[id_][0])
    figure.canvas.draw()
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in figure.axes)


# --- the gate -------------------------------------------------------------------------------------------------------


def test_a_gate_and_value_that_changed_places_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.linspace(-12, 12, 25)
    assert gated._function("swiglu", points)[1].max() <= gated.ROUNDING
    right = activations.GatedLayer.forward

    def swapped(self: activations.GatedLayer, z: torch.Tensor) -> torch.Tensor:
        return right(self, z.roll(z.shape[-1] // 2, -1))

    monkeypatch.setattr(activations.GatedLayer, "forward", swapped)
    gain, error = gated._function("swiglu", points)
    samples = CASES["glu-gate"][0] | {"points": points, "swiglu_error": error, "swiglu_gain": gain}
    for name in ("glu", "bilinear", "reglu", "geglu"):
        samples[f"{name}_gain"] = np.interp(points, CASES["glu-gate"][0]["points"], samples[f"{name}_gain"])
    assert CLAIMS["glu-gate"].judge(samples).verdict == Verdict.FAILS


@pytest.mark.parametrize("name", ["glu", "swiglu"])
def test_expected_shares_are_those_of_random_gates(name: str) -> None:
    draws = 200_000
    u = np.random.default_rng(0).standard_normal(draws)
    gate = expit(u) * (u if name == "swiglu" else 1)
    found = np.array([np.mean(np.abs(gate) < 0.05), np.mean(gate <= -0.05), np.mean(gate > 1)])
    expected = np.array(gated.expected_shares(name))
    assert np.all(np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws))


def test_every_gate_is_of_one_kind_or_lets_part_of_its_value_pass() -> None:
    gates = np.array([[-0.28, -0.06, -0.04, 0.0, 0.04, 0.06, 1.0, 1.1], [5.0] * 8])
    assert gated.shares(gates).tolist() == [[3 / 8, 0], [2 / 8, 0], [1 / 8, 1]]


def test_gates_of_a_fresh_network_are_as_expected() -> None:
    start, end = gated._shares(gated.ARMS["swiglu"], replicas=2, steps=0)
    assert np.array_equal(start, end)
    expected = np.array(gated.expected_shares("swiglu"))
    units = 2 * 4 * 49  # at the least independent: those of both replicas' layers, for one image
    assert np.all(np.abs(start.mean(1) - expected) <= 4 * np.sqrt(expected * (1 - expected) / units))


# --- blocks of equal size -------------------------------------------------------------------------------------------


def test_all_blocks_have_the_same_number_of_parameters() -> None:
    counts = {block: gated_ffn.count(gated_ffn.ARMS[f"digits, {block}"]) for block in ("relu", "glu", "swiglu")}
    n, h, g = 24, 74, 49
    blocks = 4 * (n + 2 * n * h + h + n)  # a norm's gain, two maps and their biases
    assert counts["relu"] == blocks + (64 * n + n) + n + (10 * n + 10)
    assert 2 * n * h + h == 3 * n * g + 2 * g
    assert len(set(counts.values())) == 1


def test_plain_stacks_are_of_about_equal_size() -> None:
    counts = [gated_ffn.count(gated_ffn.ARMS[f"digits, plain {name}"]) for name in gated_ffn.PLAIN_ARMS]
    assert max(counts) <= 1.01 * min(counts)


def test_blocks_of_unequal_size_are_not_compared() -> None:
    samples = CASES["swiglu-ffn"][0] | {"digits, geglu/parameters": np.array([20000.0])}
    assert CLAIMS["swiglu-ffn"].judge(samples).verdict == Verdict.UNDECIDED


def test_a_network_that_diverged_counts_as_guessing() -> None:
    samples = ffn_samples() | {"digits, swiglu/loss": np.full(REPLICAS, np.nan)}
    change = gated_ffn._change(samples, "digits, swiglu", "digits, relu")
    assert change.value == pytest.approx(100 * math.log(math.log(10) / 0.5))
    setting = "spirals, depth 4, plain"
    accuracies = better._accuracies({f"{setting}/relu": np.array([np.nan, 1.0])}, setting, "relu")
    assert accuracies.tolist() == [20.0, 100.0]


# --- stability ------------------------------------------------------------------------------------------------------


GATES: dict[str, tuple[float, Callable[[Array], Array]]] = {
    "relu": (2.0, lambda z: np.maximum(z[..., 0], 0)),
    "bilinear": (1.0, lambda z: z[..., 0] * z[..., 1]),
    "swiglu": (1.0, lambda z: z[..., 0] * z[..., 1] * expit(z[..., 1])),
}


@pytest.mark.parametrize("name", GATES)
def test_predicted_variances_are_those_of_chains_of_random_layers(name: str) -> None:
    """Given its input a layer's pre-activations are independent Gaussians, so that the variance is a Markov chain."""
    chains, layers = 400, 4
    generator = np.random.default_rng(3)
    weight_var, function = GATES[name]
    q = np.full(chains, 2 * {"relu": 1.0, "bilinear": 1.0, "swiglu": 2.4297325}[name])
    middle, deviation, bias = gated_stacks.predicted(name, 2.0)
    for layer in range(layers):
        z = np.sqrt(q)[:, None, None] * generator.standard_normal((chains, gated_stacks.WIDTH, 2))
        q = weight_var * np.square(function(z)).mean(1)
        error = np.log(q).mean() - middle[layer] - bias[layer]
        # The bias is of second order in the noise; what it leaves out is of the order of its own square.
        assert abs(error) <= 4 * deviation[layer] / math.sqrt(chains) + bias[layer] ** 2
        assert np.log(q).std() == pytest.approx(deviation[layer], rel=4 / math.sqrt(2 * chains) + abs(bias[layer]))


def test_a_product_squares_and_a_rectifier_keeps_what_comes_in() -> None:
    """Exact for bias-free stacks, whatever the weights: a factor at the input is squared by every bilinear layer."""
    starts = [1.0, 1.5]
    small = ("model.width=16", "model.depth=4", "model.bias=false", "dtype=float64", "data=gaussian", "init=gaussian")
    found = gated_stacks.variances(("activation=bilinear", *small), starts, 2)
    exponents = 2.0 ** np.arange(1, 5)
    np.testing.assert_allclose(found[1] / found[0], np.tile(1.5 ** exponents[:, None], 2), rtol=1e-11)
    found = gated_stacks.variances(("activation=relu", "init.weight_var=2", *small), starts, 2)
    np.testing.assert_allclose(found[1] / found[0], 1.5, rtol=1e-11)


def test_a_stack_starts_from_the_variance_that_is_asked_for() -> None:
    """A ReLU layer hands it on with relative variance 5 / width; the factor 2 of its weights belongs to it."""
    width, replicas = 64, 16
    overrides = (*gated_stacks.STACK, f"model.width={width}", "model.depth=1", "init=gaussian", "init.weight_var=2")
    found = gated_stacks.variances(("activation=relu", *overrides), [3.0], replicas)
    assert abs(found.mean() / 3 - 1) <= 4 * math.sqrt(5 / width / replicas)


def test_an_instrument_that_disagrees_with_theory_decides_nothing() -> None:
    judgement = CLAIMS["swiglu-stable"].judge(stability_samples(2, error=10.0))
    assert judgement.verdict == Verdict.UNDECIDED
    assert "theory" in judgement.condition


def test_the_largest_stable_rate_is_the_last_before_the_first_failure() -> None:
    rates = (1.0, 2.0, 4.0)
    losses = np.full((8, 3, 4), 0.1)
    losses[:, 1, 0] = 2.3  # fails at 2, so that 4 does not count
    losses[4:, 2, 1] = np.nan
    losses[:, 0, 2] = 2.3
    losses[:2] = 2.5  # where it begins does not matter
    assert gated_stability.stable_octaves(losses, rates).tolist() == [0.0, 1.0, -1.0, 2.0]


def test_a_spike_is_a_rise_above_the_least_so_far() -> None:
    losses = np.array([2.3, 1.0, 1.9, 0.5, 1.6, 0.4])[:, None, None] * np.ones((1, 2, 1))
    losses[:, 1, 0] = [2.3, 1.0, 1.9, 0.5, 1.4, 0.4]  # rises by .9 only
    assert gated_stability.spiking(losses).tolist() == [0.5]
    losses[-1, 1, 0] = np.nan
    assert gated_stability.spiking(losses).tolist() == [1.0]


RECORDED = {
    "glu-gate": Verdict.CONDITION,
    "swiglu-ffn": Verdict.CONDITION,
    "swiglu-stable": Verdict.CONDITION,
    "gelu-better": Verdict.CONDITION,
    "swish-better": Verdict.CONDITION,
}
"""What the full run gave."""
