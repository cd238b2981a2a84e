"""probe.cotangent=random: the layers measured with an independent gradient, the training left as it is."""

import math

import numpy as np
import pytest
import torch

from lab.data import Batches
from lab.network.seeding import streams
from lab.readings import JACOBIAN_MOMENTS
from lab.train.trainer import Due, Trainer
from tests.plain_torch import CPU, TorchNetwork, build
from tests.short_runs import are_same, assert_same_readings, every_network, load, make, state, train

OF_THE_COTANGENT = {"delta_rms", "layer_gain", "weight_grad_norm", "bias_grad_norm"}


def probe(**choices):
    return {"every": 5, "eval_every": 10, "examples": 5, **choices}


@every_network
def test_the_training_does_not_notice_it(choices):
    (expected, plain), (records, trainer) = (
        train(make(probe=probe(cotangent=cotangent), **choices)) for cotangent in ("loss", "random")
    )
    assert are_same(state(plain), state(trainer))
    for mine, theirs in zip(records, expected, strict=True):
        for name in set(mine.layers) - OF_THE_COTANGENT:
            np.testing.assert_array_equal(mine.layers[name], theirs.layers[name], name)
        for name in set(mine.scalars) - {"delta_slope"}:
            np.testing.assert_array_equal(mine.scalars[name], theirs.scalars[name], name)
    assert not np.allclose(records[-1].layers["delta_rms"], expected[-1].layers["delta_rms"], rtol=1e-2)


@pytest.mark.parametrize(
    "choices", [{"activation": "tanh"}, {"norm": {"name": "layer", "place": "pre"}, "residual": "identity"}]
)
def test_the_layers_gradients_are_autograds_for_the_gradient_that_entered(choices):
    config = make(dtype="float64", steps=0, probe=probe(cotangent="random"), **choices)
    dataset = load(config)
    record = Trainer(config, dataset, CPU).step(Due(reading=True, update=False))
    assert record is not None
    for replica in range(config.replicas):
        network = TorchNetwork(config, dataset.features, dataset.classes)
        network.copy(build(config, dataset.features, dataset.classes), replica)
        seeds = streams(config.seed, replica)
        x, _ = (tensor[0] for tensor in Batches(dataset, config.batch_size, [seeds.batches]).next())
        generator = torch.Generator().manual_seed(int(seeds.cotangents.integers(2**63)))
        entered = torch.randn(config.batch_size, config.model.width, generator=generator, dtype=torch.float64)
        network(x.requires_grad_())
        for block in network.blocks:
            block.z.retain_grad()
        (network.blocks[-1].y * entered / config.batch_size).sum().backward()
        deltas = [math.sqrt((config.batch_size * block.z.grad).square().mean()) for block in network.blocks]
        gradients = [next(block.maps.parameters()).grad for block in network.blocks]
        np.testing.assert_allclose(record.layers["delta_rms"][:, replica], deltas, 1e-10)
        norms = [float(gradient.norm()) for gradient in gradients if gradient is not None]
        np.testing.assert_allclose(record.layers["weight_grad_norm"][:, replica], norms, 1e-10)


def test_the_gradient_that_enters_has_unit_variance_whatever_the_batch():
    for batch_size in (8, 32):
        config = make(
            activation="identity",
            batch_size=batch_size,
            model={"depth": 2, "width": 200},
            probe=probe(cotangent="random"),
        )
        record = Trainer(config, load(config), CPU).step(Due(reading=True))
        assert record is not None
        # 3 replicas of 8 * 200 standard normal numbers or more: an rms scatters by 1 / sqrt(2 * 1600) = 1.8%
        np.testing.assert_allclose(record.layers["delta_rms"][-1], 1.0, atol=5 * 0.018)


def test_a_replica_is_measured_with_its_own_gradient_however_many_there_are():
    choices = {"dtype": "float64", "probe": probe(cotangent="random")}
    together, _ = train(make(replicas=3, **choices))
    alone, _ = train(make(replicas=1, first_replica=2, **choices))
    for mine, theirs in zip(alone, together, strict=True):
        np.testing.assert_allclose(mine.layers["delta_rms"][:, 0], theirs.layers["delta_rms"][:, 2], 1e-9)


def test_norms_alone_can_be_measured_with_it():
    records, _ = train(make(probe=probe(cotangent="random", set="norms")))
    full, _ = train(make(probe=probe(cotangent="random")))
    for mine, theirs in zip(records, full, strict=True):
        for name, values in mine.layers.items():
            np.testing.assert_array_equal(values, theirs.layers[name], name)


def test_two_readings_use_two_gradients_and_a_repeated_run_the_same_ones():
    config = make(probe=probe(cotangent="random"), optimizer={"name": "sgd", "lr": 0.0})
    first, _ = train(config)
    again, _ = train(config)
    assert_same_readings(first, again)
    # Nothing but the batch and the gradient changes between readings; the last layer's is the gradient's own size.
    assert len({record.layers["delta_rms"][-1, 0] for record in first}) == len(first)
    assert not set(JACOBIAN_MOMENTS) & set(first[0].scalars)
