"""The training loop: what a run is, and that neither a reading nor a replica changes a bit of another."""

import itertools

import numpy as np
import pytest
import torch

from lab.data import Batches
from lab.measure import instrument
from lab.network.seeding import streams
from lab.train import losses as losses_module
from lab.train.loop import due, is_due
from lab.train.trainer import Due, Trainer
from tests.plain_torch import CPU, build, configure
from tests.short_runs import are_same, assert_same_readings, every_network, load, make, state, train

# --- what a run is --------------------------------------------------------------------------------------------------


def test_a_network_learns():
    config = configure(
        model={"depth": 3, "width": 32}, optimizer={"name": "adam", "lr": 0.01}, steps=60, batch_size=64, replicas=2
    )
    last = train(config)[0][-1]
    assert (last.scalars["eval_accuracy"] > 0.85).all()  # of 10 digits
    assert (last.scalars["loss"] < 0.5).all()


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(12, 5, [0, 5, 10, 12]), (10, 5, [0, 5, 10]), (3, 0, [0, 3]), (3, 1, [0, 1, 2, 3]), (4, 100, [0, 4]), (0, 7, [0])],
)
def test_readings_are_taken_at_the_first_the_last_and_every_multiple(steps, every, expected):
    records, trainer = train(make(steps=steps, probe={"every": every}))
    assert [record.step for record in records] == expected
    assert trainer.steps == steps
    assert list(itertools.accumulate((record.seconds for record in records), max)) == [r.seconds for r in records]


@pytest.mark.parametrize(("eval_every", "expected"), [(0, [0, 12]), (10, [0, 10, 12]), (5, [0, 5, 10, 12])])
def test_held_out_data_is_evaluated_at_readings_that_are_due(eval_every, expected):
    records, _ = train(make(probe={"every": 5, "eval_every": eval_every}))
    for record in records:
        for name in ("eval_loss", "eval_accuracy"):
            assert np.isfinite(record.scalars[name]).all() == (record.step in expected)


@pytest.mark.parametrize(("step", "every", "expected"), [(0, 0, True), (4, 0, False), (4, 2, True), (5, 2, False)])
def test_a_cadence_is_due_at_the_start_and_at_its_multiples(step, every, expected):
    assert is_due(step, every) == expected


def test_the_last_step_reads_evaluates_and_makes_no_update():
    config = make(steps=7, probe={"every": 5, "eval_every": 0, "jacobian": True, "jacobian_every": 5})
    due_at = [due(config, step) for step in range(8)]
    assert due_at[0] == Due(reading=True, evaluation=True, jacobian=True)
    assert due_at[5] == Due(reading=True, jacobian=True)
    assert due_at[7] == Due(reading=True, evaluation=True, update=False)
    assert all(due_at[step] == Due() for step in (1, 2, 3, 4, 6))


@every_network
def test_no_steps_means_one_reading_and_no_update(choices):
    config = make(steps=0, **choices)
    records, trainer = train(config)
    untouched = build(config, 4, 3)
    assert [record.step for record in records] == [0]
    for (name, mine), theirs in zip(trainer.network.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert np.isnan(records[0].layers["update_ratio"]).all()
    assert np.isfinite(records[0].layers["weight_grad_norm"]).all()


def test_the_last_reading_makes_no_update():
    records, trainer = train(make(steps=5))
    _, longer = train(make(steps=9), before_step=lambda t: None)
    kept = []
    train(make(steps=9), before_step=lambda t: kept.append(state(t)))
    assert are_same(state(trainer), kept[5])
    assert not are_same(state(longer), kept[5])
    assert np.isnan(records[-1].layers["update_ratio"]).all()
    assert not np.isnan(records[0].layers["update_ratio"]).any()


@pytest.mark.parametrize("rows", [1, 5, 12, 1000])
def test_held_out_data_in_parts_is_the_same_as_at_once(rows, monkeypatch):
    config = make(dtype="float64")
    trainer = Trainer(config, load(config), CPU)
    whole = losses_module.evaluate(trainer.network, trainer.dataset)
    monkeypatch.setattr(losses_module, "EVAL_ROWS", rows)
    for name, values in losses_module.evaluate(trainer.network, trainer.dataset).items():
        torch.testing.assert_close(values, whole[name], rtol=1e-13, atol=0)


# --- bit for bit ----------------------------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_configuration_twice_is_the_same_to_the_last_bit(choices, dtype):
    (first, mine), (second, theirs) = (train(make(dtype=dtype, **choices)) for _ in range(2))
    assert_same_readings(first, second)
    assert are_same(state(mine), state(theirs))


def test_another_seed_is_another_run():
    (_, first), (_, second) = (train(make(seed=seed)) for seed in (0, 1))
    assert not are_same(state(first), state(second))


LOOKS = [
    {"every": 0, "eval_every": 0},
    {"every": 0, "eval_every": 0, "set": "norms", "examples": 60},
    {"every": 1, "eval_every": 1},
    {"every": 1, "eval_every": 0, "set": "norms"},
    {"every": 4, "eval_every": 8, "examples": 2},
]


@every_network
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_looking_changes_no_bit_of_losses_and_parameters(choices, dtype):
    runs = [train(make(dtype=dtype, probe=look, **choices)) for look in LOOKS]
    losses = [{record.step: record.scalars["loss"] for record in records} for records, _ in runs]
    for mine, (_, trainer) in zip(losses, runs, strict=True):
        for step in mine.keys() & losses[2].keys():
            np.testing.assert_array_equal(mine[step], losses[2][step])
        assert are_same(state(trainer), state(runs[0][1]))
    assert len(losses[2]) == 13


def test_looking_at_a_network_of_many_chunks_changes_no_bit_of_its_clipped_training(monkeypatch):
    monkeypatch.setattr(instrument, "GROUP_BYTES", 40_000)
    choices = {"model": {"depth": 7, "width": 70}, "clip": {"name": "norm", "max_norm": 0.01}, "replicas": 2}
    (_, blind), (_, watched) = (train(make(probe={"every": every}, **choices)) for every in (0, 1))
    assert are_same(state(blind), state(watched))


# --- replicas -------------------------------------------------------------------------------------------------------


@every_network
def test_a_replica_is_the_same_replica_run_alone(choices):
    choices = {"dtype": "float64", "seed": 7, **choices}
    together, trainer = train(make(replicas=3, first_replica=1, **choices))
    for replica in range(3):
        alone, single = train(make(replicas=1, first_replica=1 + replica, **choices))
        for mine, theirs in zip(together, alone, strict=True):
            for name, values in (mine.layers | mine.scalars).items():
                expected = (theirs.layers | theirs.scalars)[name][..., 0]
                np.testing.assert_allclose(values[..., replica], expected, 1e-9, 1e-12, err_msg=name)
        for mine, theirs in zip(trainer.parameters.stacks, single.parameters.stacks, strict=True):
            torch.testing.assert_close(mine.values[:, replica], theirs.values[:, 0], rtol=1e-9, atol=1e-11)
    assert not np.allclose(together[-1].scalars["loss"][0], together[-1].scalars["loss"][1:])


def test_a_replicas_batches_do_not_depend_on_how_many_replicas_there_are():
    dataset = load(make())
    together = Batches(dataset, 7, [streams(0, replica).batches for replica in (2, 5, 9)])
    alone = Batches(dataset, 7, [streams(0, 5).batches])
    for _ in range(30):
        (x, y), (one_x, one_y) = together.next(), alone.next()
        assert torch.equal(x[1:2], one_x)
        assert torch.equal(y[1:2], one_y)
