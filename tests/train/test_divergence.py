"""A replica that diverges: when it is noticed, where, and that nobody else is touched."""

import numpy as np
import pytest
import torch

from lab.train import losses
from lab.train import trainer as trainer_module
from lab.train.divergence import DivergenceMonitor
from lab.train.trainer import Trainer
from tests.plain_torch import CPU, blocks
from tests.short_runs import are_same, assert_same_readings, every_network, load, make, state, train


def at(step, interfere):
    """Do something to a trainer before its given step."""
    return lambda trainer: interfere(trainer) if trainer.steps == step else None


@torch.no_grad()
def blow_up(trainer):
    """Replica 1's parameters become infinite, so that the next forward pass gives NaN."""
    for run in trainer.parameters.stacks:
        run.values[:, 1] *= torch.inf


def spoil_gradient(layer, replica, poison):
    """Make one entry of a layer's weight gradient non-finite, in every step from now on."""

    def spoil(gradient):
        gradient = gradient.clone()
        gradient[replica, 0, 0] = poison
        return gradient

    return lambda trainer: blocks(trainer.network)[layer].up.weight.register_hook(spoil)


@every_network
@pytest.mark.parametrize("step", [0, 3, 5])  # at the first reading, between two, at one
def test_a_diverged_replica_is_marked_frozen_and_harmless(choices, step):
    kept = []

    def interfere(trainer):
        if trainer.steps == step:
            blow_up(trainer)
            kept.append(state(trainer, [1]))

    records, trainer = train(make(**choices), interfere)
    undisturbed, healthy = train(make(**choices))
    others = [0, 2]
    assert_same_readings(records, undisturbed, others)
    assert are_same(state(trainer, others), state(healthy, others))
    parameters = len(trainer.parameters.stacks)
    assert are_same(state(trainer, [1])[:parameters], kept[0][:parameters])
    for record in records:
        assert record.diverged_at.tolist() == [-1, step if record.step >= step else -1, -1]
        assert np.isfinite(record.scalars["loss"][[0, 2]]).all()
    assert [record.step for record in records] == [0, 5, 10, 12]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [0, 3, 5])
@every_network
def test_one_gradient_entry_that_is_not_finite_is_noticed_on_any_step_and_its_layer_named(choices, step, poison):
    kept = []
    config = make(**choices)
    train(config, lambda trainer: kept.append(state(trainer)))
    records, trainer = train(config, at(step, spoil_gradient(2, 1, poison)))
    parameters = len(trainer.parameters.stacks)
    frozen = [tensor[:, 1] for tensor in kept[step][:parameters]]
    assert are_same([tensor[:, 0] for tensor in state(trainer, [1])[:parameters]], frozen)
    assert are_same(
        [tensor[:, [0, 2]] for tensor in state(trainer)[:parameters]], [t[:, [0, 2]] for t in kept[-1][:parameters]]
    )
    for record in records:
        is_over = record.step >= step
        assert record.diverged_at.tolist() == [-1, step if is_over else -1, -1]
        assert record.diverged_layer.tolist() == [-1, 2 if is_over else -1, -1]
        assert record.layers["nonfinite"][:, 1].tolist() == [0, 0, int(is_over), 0][: config.model.depth]
        assert not record.layers["nonfinite"][:, [0, 2]].any()
        if is_over:
            assert record.layers["update_ratio"][:, 1].max() == 0 or record.step == 12


def test_of_several_layers_the_one_nearest_the_loss_is_named_as_it_was_when_it_happened():
    def interfere(trainer):
        if trainer.steps == 2:
            spoil_gradient(1, 0, torch.nan)(trainer)
            spoil_gradient(2, 0, torch.nan)(trainer)
        if trainer.steps == 6:
            spoil_gradient(3, 0, torch.nan)(trainer)  # when it has diverged long ago

    last = train(make(), interfere)[0][-1]
    assert last.diverged_at.tolist() == [2, -1, -1]
    assert last.diverged_layer.tolist() == [2, -1, -1]


def test_where_only_the_readout_or_the_loss_is_not_finite_no_layer_is_named(monkeypatch):
    def interfere(trainer):
        if trainer.steps == 4:
            trainer.network.readout.bias.register_hook(lambda gradient: gradient * torch.nan)

    last = train(make(), interfere)[0][-1]
    assert last.diverged_at.tolist() == [4, 4, 4]
    assert last.diverged_layer.tolist() == [-1, -1, -1]

    def spoiled(logits, y, cross_entropy=losses.cross_entropy):
        loss = cross_entropy(logits, y)
        return loss + torch.tensor([0.0, torch.inf, 0.0])  # the gradient stays finite

    monkeypatch.setattr(trainer_module, "cross_entropy", spoiled)
    last = train(make())[0][-1]
    assert last.diverged_at.tolist() == [-1, 0, -1]
    assert last.diverged_layer.tolist() == [-1, -1, -1]


def test_a_replica_that_diverged_never_comes_back():
    def interfere(trainer):
        if trainer.steps == 2:
            trainer.handle = spoil_gradient(0, 1, torch.nan)(trainer)
        if trainer.steps == 3:
            trainer.handle.remove()

    records, _ = train(make(), interfere)
    assert records[-1].diverged_at.tolist() == [-1, 2, -1]
    assert not records[-1].layers["nonfinite"].any()
    assert (records[-1].layers["weight_grad_norm"] > 0).all()


def test_the_run_ends_when_all_have_diverged_and_not_before():
    def spoil(*replicas):
        def hook(gradient):
            gradient = gradient.clone()
            gradient[list(replicas)] = torch.nan
            return gradient

        return lambda trainer: trainer.network.readout.weight.register_hook(hook)

    def interfere(trainer):
        at(2, spoil(0, 2))(trainer)
        at(7, spoil(1))(trainer)

    records, trainer = train(make(steps=30), interfere)
    assert [record.step for record in records] == [0, 5, 10]
    assert records[1].diverged_at.tolist() == [2, -1, 2]
    assert records[2].diverged_at.tolist() == [2, 7, 2]
    assert trainer.steps == 11


def test_too_large_a_learning_rate_diverges_by_itself():
    records, _ = train(make(activation="identity", optimizer={"name": "sgd", "lr": 1e6}, steps=40))
    assert (records[-1].diverged_at >= 1).all()
    assert records[-1].step < 40


def test_finite_gradients_whose_sum_overflows_are_not_taken_for_a_divergence():
    trainer = Trainer(make(), load(make()), CPU)
    for run in trainer.parameters.stacks:
        run.gradients.fill_(3e38)
    monitor = DivergenceMonitor(trainer.parameters.stacks, trainer.anatomy.layers)
    assert monitor.update(torch.zeros(3)) is None
    trainer.parameters.stacks[1].gradients[1, 2, 5] = torch.inf
    alive = monitor.update(torch.zeros(3))
    assert alive is not None
    assert alive.tolist() == [True, True, False]
    assert monitor.report()["diverged_layer"].tolist() == [-1, -1, 2]
