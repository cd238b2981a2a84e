"""Claims about ReLU and its family: each verdict can come out otherwise, and the tools find what they should."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from experiments.claims import (
    dead_units,
    dying_relu,
    elu,
    elu_noise,
    leaky_inconsistent,
    relu,
    relu_family,
    relu_faster,
    relu_sparsity,
    rrelu,
)
from experiments.claims.claim import Claim, Samples, Scale, Verdict
from lab import compose, schema
from lab.machine.threads import thread_budget
from lab.network import activations
from lab.typing import Array

R = 8
CLAIMS: dict[str, Claim] = {claim.id: claim for topic in (relu, dying_relu, relu_family, elu) for claim in topic.CLAIMS}


@pytest.fixture(autouse=True)
def _one_thread():
    with thread_budget(1):
        yield


def near(value: float, *shape: int, spread: float = 0.01) -> Array:
    """That value and a little, the same every time: (*shape, R)."""
    return value + spread * np.random.default_rng(0).normal(size=(*shape, R))


# --- samples like those of `measure`, and others for which the verdict must be another ------------------------------


def gradient_one() -> tuple[Samples, Samples]:
    names = list(relu.GRADIENT_ARMS)
    kept = {
        f"decades {name}": near(relu.STEPS_UP * math.log10(s / 2) / 2)
        for name, s in zip(names[:-1], relu.VARIANCES.values(), strict=True)
    }
    good = {
        **kept,
        **{f"on {name}": near(0.5, spread=0.001) for name in names[:-1]},
        f"decades {names[-1]}": near(-24.0),
        "wrong_slopes": np.zeros(1),
    }
    return good, {**good, **{name: near(0.0) for name in kept}}


def sparsity() -> tuple[Samples, Samples]:
    good = {"zeros gelu": near(0.0, spread=0.0)}
    for name, depth in zip(relu_sparsity.RELU_ARMS, (4, 20), strict=True):
        good[f"accuracy {name}"] = near(0.9)
        for time, share in zip(relu_sparsity.TIMES, (0.5, 0.45), strict=True):
            good[f"zeros {name}, {time}"] = near(share, depth, spread=0.001)
            good[f"never {name}, {time}"] = near(0.05, depth, spread=0.001)
    return good, {**good, "never 20 layers, trained": near(0.4, 20, spread=0.001)}


def unbounded() -> tuple[Samples, Samples]:
    layers = np.arange(relu.DEPTH)[:, None]
    rates = [math.log10(s / 2) / 2 for s in relu.FORWARD_VARIANCES]
    arms = zip(relu.UNBOUNDED_ARMS, (*rates, 0, 0), strict=True)
    good: dict[str, Array] = {}
    for name, rate in arms:
        good |= {f"signal {name}": layers * rate + near(0, spread=1e-3), f"gradient {name}": near(rate)}
    return good, {**good, "signal relu, s = 4": layers * near(0, spread=1e-4)}


def faster() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {}
    doctored: dict[str, Array] = {}
    for name in relu_faster.ARMS:
        slow = 0.5 if name.startswith("tanh, digits") else 1.0  # which ReLU does not beat
        for samples, loss in (
            (good, 0.6 if name.startswith("relu") else slow),
            (doctored, 0.2 if "relu" in name else 1),
        ):
            samples |= {
                f"steps {name}": np.arange(11.0),
                f"eval_loss {name}": near(loss, 11),
                f"eval_accuracy {name}": near(0.9, 11),
                f"rate {name}": np.ones(1),
                f"grid {name}": near(loss, 5),
            }
    return good, doctored


def dying() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {}
    for width in dying_relu.WIDTHS:
        share = 1 - (1 - 2.0**-width) ** np.arange(1, 21)
        good[f"born_{width}"] = (np.arange(1000) < np.round(1000 * share)[:, None]).astype(np.float64)
    good["dead"] = near(0.5, 4, 4, 3)
    good["dead_small_steps"] = near(0.05, 3)
    for name in (*dying_relu.COURSES, *dying_relu.OTHERS):
        good |= {f"inactive_{name}": np.full((3, R), 10.0), f"revived_{name}": np.full((3, R), 2.0)}
    good["revived_plain_sgd_with_burst"] = np.array([[0.0], [2.0], [2.0]]) * np.ones(R)
    one_revived = good["revived_plain_sgd_with_burst"].copy()
    one_revived[0, 3] = 1
    return good, {**good, "revived_plain_sgd_with_burst": one_revived}


def revives() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {"largest_difference": np.array([0.0] * 6 + [2.5, 10.0])}
    for name in relu_family.REVIVE_ARMS:
        for depth in relu_family.DISTANCES:
            is_leaky = name != "relu"
            good[f"inactive {name}, {depth:g}"] = np.full(R, 16.0)
            good[f"moved {name}, {depth:g}"] = np.full(R, 16.0 * is_leaky)
            good[f"revived {name}, {depth:g}"] = np.full(R, 4.0 * (is_leaky and depth < 1))
    return good, {**good, "moved slope 0.01, 0.1": np.full(R, 0.0)}


def inconsistent() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {}
    for name in leaky_inconsistent.ARMS:
        good |= {f"accuracy {name}": near(0.9, spread=0.001), f"rate {name}": np.ones(1)}
    better = {name: values + 0.05 for name, values in good.items() if name.startswith("accuracy leaky")}
    return good, {**good, **better}


def learns() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {}
    for start, name in zip(relu_family.STARTS, relu_family.LEARN_ARMS, strict=True):
        by_layer = np.linspace(0.3, 0.5, 6)[:, None] + start / 2
        slopes = np.stack([np.full((6, R), start), by_layer + near(0, 6)])
        good |= {f"slopes {name}": slopes, f"accuracy {name}": near(0.95)}
    return good, {**good, "slopes from 0.25": np.full((2, 6, R), 0.25)}


def random() -> tuple[Samples, Samples]:
    good = {
        "mean": near(rrelu.MEAN, spread=1e-5),
        "second_moment": near(rrelu.SECOND_MOMENT, spread=1e-5),
        "p_uniform": np.full(R, 0.5),
        "correlation": near(0, spread=1e-3),
        "fixed_lowest": np.full(R, rrelu.MEAN),
        "fixed_highest": np.full(R, rrelu.MEAN),
        "fixed_changes": np.zeros(R),
        "positive_kept": np.ones(1),
        "histogram": np.full(20, 1 / 20),
        "gap_1": near(0, spread=1e-6),
        "gap_6": near(5e-4, spread=1e-5),
    }
    paper = 1 / 5.5  # another slope in evaluation
    return good, {**good, "fixed_lowest": np.full(R, paper), "fixed_highest": np.full(R, paper)}


def centred() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {}
    for name in elu.CENTRED_ARMS:
        shift = 0.6 if name.startswith("relu") else 0.3
        for kind in elu.MEASURES:
            good |= {f"{kind} {name}, {time}": near(shift, elu.DEPTH) for time in elu.TIMES}
        good |= {f"predicted {name}": np.array([0.3]), f"first {name}": near(0.3), f"accuracy {name}": near(0.9)}
    return good, {**good, "units elu, lecun, trained": near(0.6, elu.DEPTH)}


def alive() -> tuple[Samples, Samples]:
    z = -np.linspace(0, 100, 101)
    good = {
        "z": z,
        "exact_slope": np.exp(z),
        "slope_float32": np.exp(z),
        "relative_error": np.array([2e-16]),
        "flat_from": np.array([-17.0]),
        "slope_until": np.array([-104.0]),
    }
    for depth in elu.DISTANCES:
        for name, got, revived in (("relu", 0, 0), ("elu", 16, 4 * (depth < 2))):
            good[f"inactive {name}, {depth:g}"] = np.full(R, 16.0)
            good[f"moved {name}, {depth:g}"] = np.full(R, float(got))
            good[f"revived {name}, {depth:g}"] = np.full(R, float(revived))
    return good, {**good, "relative_error": np.array([1e-12])}


def noise() -> tuple[Samples, Samples]:
    def arms(elu_keeps: float) -> Samples:
        samples: dict[str, Array] = {}
        for name in elu_noise.ARMS:
            kept = elu_keeps if name.startswith("elu") else 0.5
            accuracy = np.concatenate([near(0.95, 1), near(kept, len(elu_noise.SIZES) - 1)])
            samples |= {f"accuracy {name}": accuracy, f"rate {name}": np.ones(1)}
        return samples

    return arms(0.45), arms(0.6)


CASES: dict[str, tuple[Samples, Samples]] = {
    "relu-gradient-one": gradient_one(),
    "relu-sparsity": sparsity(),
    "relu-faster": faster(),
    "relu-unbounded": unbounded(),
    "dying-relu": dying(),
    "leaky-revives": revives(),
    "leaky-inconsistent": inconsistent(),
    "prelu-learns": learns(),
    "rrelu-random": random(),
    "elu-centred": centred(),
    "elu-alive": alive(),
    "elu-noise": noise(),
}


@pytest.mark.parametrize("claim_id", CASES)
def test_every_claim_can_fail(claim_id: str):
    good, doctored = CASES[claim_id]
    assert CLAIMS[claim_id].judge(good).verdict == RECORDED[claim_id]
    assert CLAIMS[claim_id].judge(doctored).verdict != RECORDED[claim_id]


def test_every_claim_of_these_topics_has_its_case():
    assert set(CASES) == set(CLAIMS) == set(RECORDED)


@pytest.mark.parametrize("claim_id", CASES)
def test_a_claim_is_drawn_from_its_samples_alone(claim_id: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4))
    CLAIMS[claim_id].draw(figure, CASES[claim_id][0])
    assert all(ax.get_xlabel() for ax in figure.axes)


@pytest.mark.parametrize("claim_id", CASES)
def test_one_arm_of_each_claim_composes(claim_id: str):
    compose.compose(list(CLAIMS[claim_id].arms.values())[-1])


def test_a_diverged_replica_leaves_the_other_replicas_verdict():
    for claim_id in ("dying-relu", "prelu-learns", "elu-noise", "leaky-inconsistent", "elu-centred"):
        good = dict(CASES[claim_id][0])
        for name, values in good.items():
            if values.shape[-1] == R and not name.startswith(("born", "revived_plain_sgd", "inactive_plain_sgd")):
                good[name] = np.where(np.arange(R) == 5, np.nan, values)
        if claim_id != "leaky-inconsistent":  # where it counts as guessing
            assert CLAIMS[claim_id].judge(good).verdict == RECORDED[claim_id]
        assert np.isfinite(CLAIMS[claim_id].judge(good).numbers[0].value)


def test_the_rule_of_learnt_slopes_looks_at_layers_from_the_usual_start_alone():
    good = dict(CASES["prelu-learns"][0])
    alike = np.stack([np.full((6, R), 0.0), np.full((6, R), 0.4)])  # all layers end at one slope
    assert CLAIMS["prelu-learns"].judge({**good, "slopes from 0": alike}).verdict == Verdict.CONDITION
    alike = np.stack([np.full((6, R), 0.25), np.full((6, R), 0.4)])
    assert CLAIMS["prelu-learns"].judge({**good, "slopes from 0.25": alike}).verdict == Verdict.FAILS
    assert "start of 0.25" in CLAIMS["prelu-learns"].rule


def test_a_slope_at_which_none_revived_is_reported_with_the_steps_that_it_had():
    good = dict(CASES["leaky-revives"][0])
    inactive = {f"revived slope 0.01, {depth:g}": np.zeros(R) for depth in relu_family.DISTANCES}
    condition = CLAIMS["leaky-revives"].judge({**good, **inactive}).condition
    assert "at 0.01 none revived within 1000 steps" in condition
    assert "100 times as many would be needed" in condition
    assert "at 0.1 none that was 1 below 0" in condition
    active = {name: np.full(R, 4.0) for name in good if name.startswith("revived slope")}
    assert CLAIMS["leaky-revives"].judge({**good, **active}).verdict == Verdict.HOLDS


# --- units, one by one ----------------------------------------------------------------------------------------------

STACK = ("data=spirals", "model.depth=3", "model.width=4", "batch_size=16", "probe.examples=64", "dtype=float64")


def test_a_unit_counts_once_and_wakes_only_after_it_slept():
    looks = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [1, 1, 0, 0, 0]], dtype=bool)[:, None, None, :]
    inactive, revived = dead_units.inactive_and_revived(looks)
    assert inactive.tolist() == [[4.0]]  # all but the first
    assert revived.tolist() == [[2.0]]  # the second and the fourth


def test_inactive_relu_units_are_the_dead_ones_of_the_instrument():
    trainer = dead_units.start((*STACK, "activation=relu"), 20)
    active = dead_units.active(trainer.network, trainer.instrument.probe_set, (64,))[0]  # (layers, R, N)
    np.testing.assert_array_equal((~active).mean(-1), trainer.instrument.dead_fraction().numpy())
    assert (~active).any()


def test_a_larger_probe_set_has_fewer_inactive_units():
    trainer = dead_units.start((*STACK, "activation=relu"), 20)
    active = dead_units.active(trainer.network, trainer.instrument.probe_set, (1, 8, 64))
    assert all((more >= less).all() for less, more in pairwise(active))
    assert active[0].sum() < active[2].sum()


def test_looking_at_units_does_not_change_the_training():
    looked, unseen = (dead_units.start((*STACK, "activation=rrelu"), 2) for _ in range(2))
    dead_units.follow(looked, 6, 1)
    dead_units.follow(unseen, 6, 6)
    for ours, theirs in zip(looked.parameters.stacks, unseen.parameters.stacks, strict=True):
        assert torch.equal(ours.values, theirs.values)


def test_each_rate_trains_its_own_replicas_even_if_it_is_the_only_one():
    both = dead_units.start((*STACK, "optimizer.lr=9"), 2, rates=(0.01, 0.1))
    alone = dead_units.start((*STACK, "optimizer.lr=9"), 2, rates=(0.1,))
    for trainer in (both, alone):
        trainer.step()
    ours, theirs = (trainer.network.readout.weight.detach() for trainer in (alone, both))
    torch.testing.assert_close(ours, theirs[2:])
    assert not torch.allclose(theirs[:2], theirs[2:])


def test_handed_over_weights_give_the_same_outputs():
    source, target = dead_units.start(STACK, 5), dead_units.start((*STACK, "seed=1"), 2)
    dead_units.copy_maps(source.network, target.network, first=3)
    x = source.instrument.probe_set
    torch.testing.assert_close(target.network(x[:2]), source.network(x)[3:])


def test_inactive_units_of_relu_get_no_gradient_and_those_of_leaky_relu_do():
    for activation, share in (("relu", 0), ("leaky_relu", 1)):
        found = dead_units.deactivated_units((f"activation={activation}",), 2, steps=2, every=1, distance=1.0)
        np.testing.assert_array_equal(found.inactive, 16.0)
        np.testing.assert_array_equal(found.moved, 16.0 * share)
        np.testing.assert_array_equal(found.revived, 0.0)


@pytest.mark.parametrize(("kind", "revives"), [("all", False), ("weight", False), ("bias", True)])
def test_on_centred_inputs_only_a_decay_of_biases_alone_wakes_a_dead_unit(kind: str, revives: bool):
    trainer = dead_units.start(("data=spirals", "model.depth=1", "probe.examples=1600", "dtype=float64"), 1)
    first = dead_units.maps(trainer.network)[0]
    x = trainer.instrument.probe_set
    with torch.no_grad():
        first.get_parameter("bias")[:, 0] = -(x @ first.get_parameter("weight")).amax(1) - 0.1
        assert not dead_units.active(trainer.network, x, (1600,))[0, 0].any()
        for name in ("weight", "bias") if kind == "all" else (kind,):
            first.get_parameter(name).mul_(1e-3)
    assert dead_units.active(trainer.network, x, (1600,))[0, 0].all() == revives


def test_the_closed_form_of_dead_networks_agrees_with_a_simulation_of_its_own():
    rng, networks, width = np.random.default_rng(1), 4000, 3
    a = rng.normal(size=(networks, width))  # any input
    for layer, expected in enumerate(dying_relu._closed_form(width)[:8]):
        a = np.maximum(np.einsum("rn,rnm->rm", a, rng.normal(size=(networks, width, width))), 0)
        dead = (a == 0).all(1).mean()
        error = math.sqrt(expected * (1 - expected) / networks)
        assert abs(dead - expected) < 4 * error, f"{layer + 1} layers"


def test_another_closed_form_would_be_noticed():
    good = CASES["dying-relu"][0]["born_3"]
    assert dying_relu._standard_errors(good, 3) < 1
    assert dying_relu._standard_errors(good, 2) > dying_relu.FARTHEST


# --- the rest -------------------------------------------------------------------------------------------------------


def test_the_maximum_is_leaky_relu_for_slopes_up_to_one_only():
    found = dict(zip(relu_family.MAXIMUM_SLOPES, relu_family.largest_differences(), strict=True))
    assert all(found[a] == 0 for a in found if a <= 1)
    assert found[1.5] == pytest.approx(5 * 0.5)
    assert found[3.0] == pytest.approx(5 * 2)


def test_a_wrong_slope_of_elu_is_caught():
    def judged(layer: activations.ActivationLayer) -> Verdict:
        return CLAIMS["elu-alive"].judge({**CASES["elu-alive"][0], **elu.slope_samples(layer)}).verdict

    right = activations.build(schema.ELU("elu", 1.0), 1, [])
    assert judged(right) == RECORDED["elu-alive"]
    wrong = activations.build(schema.ELU("elu", 1.0 + 1e-6), 1, [])
    assert judged(wrong) == Verdict.FAILS


def _same_every_time(self: activations.RReLULayer, z: torch.Tensor) -> torch.Tensor:
    slopes = torch.linspace(1 / 8, 1 / 3, z.shape[-1], dtype=z.dtype)
    return torch.where(z > 0, z, z * (slopes if self.training else rrelu.MEAN))


def _of_another_law(self: activations.RReLULayer, z: torch.Tensor) -> torch.Tensor:
    slopes = rrelu.MEAN + 0.06 * torch.randn_like(z)  # mean and variance are right
    return torch.where(z > 0, z, z * (slopes if self.training else rrelu.MEAN))


def _random_in_evaluation(self: activations.RReLULayer, z: torch.Tensor) -> torch.Tensor:
    return torch.where(z > 0, z, z * torch.empty_like(z).uniform_(1 / 8, 1 / 3))


@pytest.mark.parametrize("broken", [None, _same_every_time, _of_another_law, _random_in_evaluation])
def test_a_broken_rrelu_is_caught(broken: Callable[..., torch.Tensor] | None, monkeypatch):
    monkeypatch.setattr(rrelu, "DRAWS", (50, 40))
    monkeypatch.setattr(rrelu, "PASSES", 2)
    monkeypatch.setattr(rrelu, "DEPTHS", (1,))
    if broken is not None:
        monkeypatch.setattr(activations.RReLULayer, "forward", broken)
    samples = {**rrelu.measure(Scale("test", 4, 1.0)), "gap_1": np.zeros(4), "gap_6": np.zeros(4)}
    monkeypatch.setattr(rrelu, "DEPTHS", (1, 6))
    assert (rrelu.judge(samples).verdict == Verdict.HOLDS) == (broken is None)


def test_noise_of_size_zero_costs_nothing():
    from lab.train.losses import evaluate

    trainer = dead_units.start((*next(iter(elu_noise.ARMS.values())), "probe.set=norms"), 2, (0.3,))
    for _ in range(10):
        trainer.step()
    found = elu_noise.accuracies(trainer)
    np.testing.assert_allclose(found[0], evaluate(trainer.network, trainer.dataset)["eval_accuracy"].numpy())
    assert (found[0] > found[-1]).all()


def test_the_mean_of_layer_0_is_what_theory_says():
    trainer = dead_units.start(("data=digits", "model.depth=1", "model.width=64", "probe.examples=512"), 200)
    first = elu._first_mean(trainer)
    assert abs(first.mean() - elu._predicted(trainer)) < 4 * first.std(ddof=1) / math.sqrt(200)


def test_shifts_of_means_are_those_of_numpy():
    trainer = dead_units.start((*STACK, "activation=elu"), 3)
    found = elu._shifts(trainer)
    a = [each.detach().numpy() for each in trainer.network.activations(trainer.instrument.probe_set)][1]  # (R, P, N)
    rms = np.sqrt((a**2).mean((1, 2)))
    np.testing.assert_allclose(found["layer"][1], np.abs(a.mean((1, 2))) / rms)
    np.testing.assert_allclose(found["units"][1], np.sqrt((a.mean(1) ** 2).mean(1)) / rms)


def test_the_initialization_is_chosen_by_replicas_that_are_not_compared():
    samples = dict(CASES["relu-faster"][0])
    he, xavier = (f"relu, digits, SGD, 2 layers, {init}" for init in ("he", "xavier"))
    samples[f"grid {he}"] = np.full((5, R), np.inf)
    samples[f"eval_loss {he}"] = np.zeros((11, R))  # which would be chosen if it were looked at
    assert relu_faster.better_init(samples, "relu", "digits, SGD", 2) == xavier


RECORDED = {
    "relu-gradient-one": Verdict.CONDITION,
    "relu-sparsity": Verdict.HOLDS,
    "relu-faster": Verdict.CONDITION,
    "relu-unbounded": Verdict.CONDITION,
    "dying-relu": Verdict.CONDITION,
    "leaky-revives": Verdict.CONDITION,
    "leaky-inconsistent": Verdict.HOLDS,
    "prelu-learns": Verdict.CONDITION,
    "rrelu-random": Verdict.HOLDS,
    "elu-centred": Verdict.HOLDS,
    "elu-alive": Verdict.CONDITION,
    "elu-noise": Verdict.FAILS,
}
"""What the full run said."""
