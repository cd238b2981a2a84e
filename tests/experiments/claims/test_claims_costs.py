"""The claims on what activations cost: verdicts follow the times, and the stopwatch times what it says."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.claims import costs, timing
from experiments.claims.claim import Claim, Verdict
from lab.typing import Array

CLAIMS: dict[str, Claim] = {claim.id: claim for claim in costs.CLAIMS}
SIDES = {
    "sigmoid-cost": ("sigmoid",),
    "relu-cost": ("sigmoid", "tanh"),
    "gelu-cost": ("gelu", "gelu_tanh"),
    "elu-cost": ("elu",),
}
TURNS = 40
CPU = torch.device("cpu")


def times(
    elementwise: Array, step: Array, names: tuple[str, ...], device: str = "cpu", noise: float = 0.05
) -> dict[str, Array]:
    """`names` take so many times ReLU's time at each size, and at each width of a step."""
    generator = np.random.default_rng(0)

    def drawn(seconds: Array) -> Array:
        return seconds[:, None] * np.exp(noise * generator.standard_normal((len(seconds), TURNS)))

    relu, whole = np.array([1e-6, 4e-6, 4e-5, 4e-4]), np.array([1e-3, 3e-3, 3e-2])
    samples: dict[str, Array] = {}
    for name in ("copy", "relu", *names):
        factor = elementwise if name in names else 1.0
        samples[f"{device}/forward_{name}"] = drawn(relu * factor)
        samples[f"{device}/both_{name}"] = drawn(3 * relu * factor)
    for name in ("identity", "relu", *names):
        samples[f"{device}/step_{name}"] = drawn(whole * (step if name in names else 1.0))
    return samples


GROWING, SHRINKING = np.array([1.1, 3.0, 3.0, 2.0]), np.array([1.3, 1.05, 1.0])
NONE, EVERYWHERE = np.ones(3), np.full(4, 4.0)

CASES: dict[str, tuple[dict[str, Array], dict[str, Array]]] = {
    id_: (times(GROWING, SHRINKING, names), times(np.ones(4), NONE, names)) for id_, names in SIDES.items()
}
"""Samples for which the recorded verdict comes out, and others for which it must not."""


@pytest.mark.parametrize("id_", CASES)
def test_every_claim_can_fail(id_: str) -> None:
    recorded, other = (CLAIMS[id_].judge(samples).verdict for samples in CASES[id_])
    assert recorded == RECORDED[id_]
    assert other == Verdict.FAILS


@pytest.mark.parametrize("id_", CASES)
def test_a_claim_holds_where_nothing_limits_it(id_: str) -> None:
    step = NONE if id_ == "relu-cost" else np.full(3, 1.5)
    samples = times(EVERYWHERE, step, SIDES[id_])
    assert CLAIMS[id_].judge(samples).verdict == Verdict.HOLDS
    on_gpu = times(np.ones(4), NONE, SIDES[id_], device="cuda")
    judgement = CLAIMS[id_].judge(samples | on_gpu)
    assert judgement.verdict == Verdict.CONDITION
    assert any(number.name.startswith("cuda") for number in judgement.numbers)


def test_gelu_is_slower_only_where_its_approximation_is_too() -> None:
    both, neither = CASES["gelu-cost"]
    one = {name: values if "gelu_tanh" in name else both[name] for name, values in neither.items()}
    assert CLAIMS["gelu-cost"].judge(one).verdict == Verdict.FAILS


@pytest.mark.parametrize("id_", CASES)
def test_a_noisy_machine_leaves_it_open_rather_than_wrong(id_: str) -> None:
    samples = times(np.full(4, 1.5), NONE, SIDES[id_], noise=2.0)
    assert CLAIMS[id_].judge(samples).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("id_", ["gelu-cost", "relu-cost"])
def test_figures_are_drawn(id_: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4))
    FigureCanvasAgg(figure)
    CLAIMS[id_].draw(figure, CASES[id_][0] | times(np.ones(4), NONE, SIDES[id_], device="cuda"))
    figure.canvas.draw()
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)


def test_all_costs_are_timed_alone() -> None:
    assert all(claim.is_timed for claim in CLAIMS.values())


def test_a_ratio_is_that_of_medians_with_an_interval_that_shrinks_with_turns() -> None:
    generator = np.random.default_rng(1)
    noise = np.exp(0.3 * generator.standard_normal((2, 400)))
    few, many = (costs.ratio("", 3 * noise[0, :turns], noise[1, :turns]) for turns in (25, 400))
    assert many.value == pytest.approx(3 * np.median(noise[0]) / np.median(noise[1]))
    # The median's standard error is 1.2533 sd / sqrt(n), so that ln of the ratio is off by .027; four of those.
    assert abs(math.log(many.value / 3)) <= 4 * 1.2533 * 0.3 * math.sqrt(2 / 400)
    widths = []
    for found in (few, many):
        assert found.lower is not None
        assert found.upper is not None
        assert found.lower < 3 < found.upper
        widths.append(math.log(found.upper / found.lower))
    assert widths[1] < 0.6 * widths[0]


def test_a_step_is_expected_to_differ_by_its_elementwise_calls() -> None:
    samples = {
        "cpu/both_relu": np.tile(1e-9 * np.array(timing.SIZES)[:, None], (1, 3)),
        "cpu/both_sigmoid": np.tile(5e-9 * np.array(timing.SIZES)[:, None], (1, 3)),
        "cpu/step_relu": np.full((3, 3), 1e-3),
    }
    for place, width in enumerate(timing.WIDTHS):
        extra = timing.DEPTH * 4e-9 * timing.BATCH * width
        assert costs._expected_step(samples, "cpu", "sigmoid", "relu", place) == pytest.approx(1 + extra / 1e-3)


# --- the stopwatch --------------------------------------------------------------------------------------------------


def test_sides_take_turns_and_begin_in_turn() -> None:
    called: list[str] = []
    calls = {side: [partial(called.append, side)] * 2 for side in ("a", "b", "c")}
    seconds = timing._turns(calls, (2, 1), 4, CPU, has_lead=True)
    assert {side: found.shape for side, found in seconds.items()} == dict.fromkeys("abc", (2, 4))
    turns = [called[i : i + 15] for i in range(0, len(called), 15)]  # 3 sides: one ahead and two, one ahead and one
    assert len(turns) == timing.WARM_UP + 4
    assert all(sorted(turn) == ["a"] * 5 + ["b"] * 5 + ["c"] * 5 for turn in turns)
    assert {turn[0] for turn in turns} == {"a", "b", "c"}


def test_a_side_that_does_twice_the_work_takes_twice_the_time() -> None:
    x = torch.randn(200, 200)

    def once() -> None:
        for _ in range(3):
            x @ x

    def twice() -> None:
        once()
        once()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = timing._turns({"once": [once, once], "twice": [twice, twice]}, (1, 4), 40, CPU, has_lead=False)
    torch.set_num_threads(threads)
    for place in range(2):
        assert costs.ratio("", found["twice"][place], found["once"][place]).value == pytest.approx(2, rel=0.25)
    assert costs.ratio("", found["once"][1], found["once"][0]).value == pytest.approx(1, rel=0.25)


TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "copy": lambda z: z,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "elu": F.elu,
}


@pytest.mark.parametrize("name", TORCH)
def test_what_is_timed_is_the_function_and_its_gradient(name: str) -> None:
    z = torch.linspace(-3, 3, 13)
    leaf = z.clone().requires_grad_()
    expected = TORCH[name](leaf)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf, materialize_grads=True)
    torch.testing.assert_close(timing._forward(timing._function(name), z)(), expected.detach())
    found: Any = timing._both(timing._function(name), z, torch.ones_like(z))()
    torch.testing.assert_close(found[0], gradient)


def test_measured_samples_have_the_names_and_shapes_of_made_up_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WIDTHS", (4, 8, 16))
    monkeypatch.setattr(timing, "WARM_UP", 0)
    real = timing.elementwise(("copy", "relu", "elu"), 2, CPU) | timing.steps(("identity", "relu", "elu"), 2, CPU)
    made = CASES["elu-cost"][0]
    assert {f"cpu/{name}": len(values) for name, values in real.items()} == {k: len(v) for k, v in made.items()}
    assert all(values.shape[1] == 2 and (values > 0).all() for values in real.values())


RECORDED = {
    "sigmoid-cost": Verdict.CONDITION,
    "relu-cost": Verdict.CONDITION,
    "gelu-cost": Verdict.CONDITION,
    "elu-cost": Verdict.CONDITION,
}
"""What the full run gave, on a CPU."""
