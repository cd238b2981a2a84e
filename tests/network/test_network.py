"""The network against the same network of torch.nn's modules, and identities that hold to rounding."""

import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from lab import schema
from lab.network.seeding import streams
from tests.plain_torch import TorchNetwork, blocks, build, configure, pairs, randomize

FEATURES, CLASSES, BATCH = 4, 3, 6

ACTIVATIONS: list[Any] = [
    *(name for name in schema.ACTIVATIONS if name not in ("elu", "swish")),
    {"name": "elu", "alpha": 0.7},
    {"name": "swish", "beta": 1.3},
    {"name": "swish", "beta": 0.8, "learnable": True},
]
NORMS = [
    "none",
    *(
        {"name": name, "place": place, "eps": 1e-3}
        for name, place in itertools.product(("batch", "layer", "rms"), ("pre", "inner", "post"))
    ),
]
RESIDUALS = ["none", "identity", {"name": "scaled", "alpha": 0.4}, {"name": "rezero", "alpha": 0.3}]


def label(value):
    return "-".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)


def is_gated(activation):
    return activation in schema.GATED


def makes_sense(activation, norm):
    return not (is_gated(activation) and isinstance(norm, dict) and norm["place"] == "inner")


every_pair = pytest.mark.parametrize(
    ("activation", "norm"),
    [pair for pair in itertools.product(ACTIVATIONS, NORMS) if makes_sense(*pair)],
    ids=label,
)


def draw(replicas, seed=0):
    """Inputs (R, B, features) and an arbitrary gradient of the loss by the logits (R, B, classes)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(replicas, BATCH, FEATURES, generator=generator, dtype=torch.float64)
    return x, torch.randn(replicas, BATCH, CLASSES, generator=generator, dtype=torch.float64)


def assert_is_torchs(config, is_training=True, tolerance=1e-10):
    """Logits and the gradients of the input and of every parameter, each replica against its own torch network."""
    network = build(config, FEATURES, CLASSES)
    randomize(network)
    references = [TorchNetwork(config, FEATURES, CLASSES).copy(network, r) for r in range(config.replicas)]
    x, cotangent = (tensor.to(getattr(torch, config.dtype)) for tensor in draw(config.replicas))
    x.requires_grad_()
    mode = nullcontext() if is_training else network.evaluating()
    if not is_training:
        network(x)  # a training pass moves running statistics off their start
        for replica, reference in enumerate(references):
            reference.take_slopes(network, replica)
            reference(x[replica])
            reference.eval()
    with mode:
        logits = network(x)
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(logits, [x, *parameters], cotangent)
    gradient_of = dict(zip(parameters, gradients[1:], strict=True))
    for replica, reference in enumerate(references):
        reference.take_slopes(network, replica)
        replica_x = x[replica].detach().requires_grad_()
        expected = reference(replica_x)
        expected.backward(cotangent[replica])
        torch.testing.assert_close(logits[replica], expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradients[0][replica], replica_x.grad, rtol=tolerance, atol=tolerance)
        compared = set()
        for mine, view, theirs in pairs(network, reference):
            torch.testing.assert_close(view(gradient_of[mine][replica]), theirs.grad, rtol=tolerance, atol=tolerance)
            compared.add(mine)
        assert compared == set(parameters)


@every_pair
@pytest.mark.parametrize("residual", RESIDUALS, ids=label)
def test_one_replica_is_torchs_network(activation, norm, residual):
    assert_is_torchs(
        configure(
            activation=activation,
            norm=norm,
            residual=residual,
            replicas=1,
            dtype="float64",
            model={"depth": 2, "width": 5},
        )
    )


@every_pair
def test_one_replica_of_feed_forward_blocks_is_torchs_network(activation, norm):
    for residual in RESIDUALS:
        assert_is_torchs(
            configure(
                activation=activation,
                norm=norm,
                residual=residual,
                replicas=1,
                dtype="float64",
                model={"depth": 2, "width": 5, "block": "ffn", "expansion": 1.6},
            )
        )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=label)
@pytest.mark.parametrize("norm", ["batch", "rms"])
def test_each_of_several_replicas_is_a_network_of_its_own(activation, norm):
    assert_is_torchs(
        configure(
            activation=activation,
            norm={"name": norm, "place": "pre"},
            residual={"name": "rezero", "alpha": 0.5},
            replicas=3,
            dtype="float64",
            model={"depth": 3, "width": 5},
        )
    )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=label)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_evaluation_is_torchs_evaluation_mode(activation, norm):
    place = {"place": "pre"} if norm == "batch" else {}
    assert_is_torchs(
        configure(
            activation=activation,
            norm={"name": norm, **place},
            replicas=2,
            dtype="float64",
            model={"depth": 2, "width": 5},
        ),
        is_training=False,
    )


@pytest.mark.parametrize("activation", ["tanh", "swiglu", "rrelu"])
@pytest.mark.parametrize("norm", ["batch", "layer", "rms"])
def test_in_single_precision_it_is_torchs_network_to_single_precision(activation, norm):
    config = configure(
        activation=activation,
        norm={"name": norm, "place": "post"},
        residual="identity",
        replicas=2,
        model={"depth": 3, "width": 5},
    )
    assert_is_torchs(config, tolerance=1e-4)


@pytest.mark.parametrize("block", ["linear", "ffn"])
@pytest.mark.parametrize("activation", ["relu", "geglu"])
def test_without_biases_no_map_has_one(block, activation):
    model = {"depth": 2, "width": 5, "block": block, "bias": False}
    config = configure(activation=activation, replicas=2, dtype="float64", model=model)
    assert_is_torchs(config)
    assert not any(name.endswith("bias") for name, _ in build(config, FEATURES, CLASSES).named_parameters())


@pytest.mark.parametrize("norm", ["batch", "layer", "rms"])
@pytest.mark.parametrize("place", ["pre", "inner", "post"])
def test_a_norm_without_gain_and_shift_is_torchs(norm, place):
    norm = {"name": norm, "place": place, "affine": False}
    config = configure(norm=norm, residual="identity", replicas=2, dtype="float64", model={"depth": 2, "width": 5})
    assert_is_torchs(config)
    assert not any("affine" in name for name, _ in build(config, FEATURES, CLASSES).named_parameters())


def shapes(**choices):
    config = configure(replicas=2, **choices)
    return {name: tuple(parameter.shape) for name, parameter in build(config, 7, CLASSES).named_parameters()}


def test_a_plain_stack_takes_the_data_in_layer_0_and_a_residual_one_through_an_embedding():
    plain = shapes(model={"depth": 3, "width": 5})
    assert plain["blocks.0.up.weight"] == (2, 7, 5)
    assert not any("embedding" in name or "final" in name for name in plain)
    for choices in ({"residual": "identity", "model": {"depth": 3}}, {"model": {"depth": 3, "block": "ffn"}}):
        found = shapes(**choices)
        assert found["embedding.weight"] == (2, 7, 128)
        assert found["blocks.0.up.weight"] == found["blocks.2.up.weight"]
    assert plain["readout.weight"] == (2, 5, CLASSES)


@pytest.mark.parametrize("place", ["pre", "inner", "post"])
@pytest.mark.parametrize("residual", ["none", "identity"])
def test_only_a_pre_norm_residual_stack_ends_with_a_norm(place, residual):
    found = shapes(residual=residual, norm={"name": "layer", "place": place}, model={"depth": 2, "width": 5})
    assert ("final_norm.affine.gain" in found) == (place == "pre" and residual == "identity")


def test_a_gated_feed_forward_block_has_as_many_weights_as_a_plain_one():
    plain, gated = (
        shapes(activation=activation, model={"depth": 1, "width": 12, "block": "ffn"})
        for activation in ("gelu", "geglu")
    )
    assert plain["blocks.0.up.weight"] == (2, 12, 48)
    assert gated["blocks.0.up.weight"] == (2, 12, 2 * 32)  # value and gate, 2/3 of 48 each
    assert gated["blocks.0.down.weight"] == (2, 32, 12)
    count = [sum(np.prod(found[f"blocks.0.{part}.weight"]) for part in ("up", "down")) for found in (plain, gated)]
    assert count[0] == count[1]


def test_an_unresolved_critical_init_is_refused():
    with pytest.raises(TypeError, match="resolve_critical"):
        build(configure(init="critical"), FEATURES, CLASSES)


@pytest.mark.parametrize(
    ("activation", "expansion", "width", "expected"),
    [("relu", None, 10, 40), ("reglu", None, 10, 27), ("relu", 0.5, 5, 3), ("relu", 1e-6, 5, 1), ("glu", 3.0, 9, 18)],
)
def test_hidden_units_of_a_feed_forward_block(activation, expansion, width, expected):
    config = configure(activation=activation, model={"width": width, "block": "ffn", "expansion": expansion})
    assert schema.hidden_units(config.model, config.activation) == expected


def test_inputs_of_one_replica_move_no_bit_of_another():
    config = configure(norm={"name": "batch", "place": "inner"}, replicas=3, model={"depth": 3, "width": 5})
    network = build(config, FEATURES, CLASSES)
    x = draw(3)[0].float()
    before = network(x)
    x[1] = torch.nan
    after = network(x)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].isnan().all()


def test_the_gradient_of_one_replicas_loss_by_anothers_parameters_is_0():
    network = build(configure(norm={"name": "batch"}, replicas=3, model={"depth": 2, "width": 5}), FEATURES, CLASSES)
    network(draw(3)[0].float())[1].sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[[0, 2]].any()


def test_sections_hold_every_parameter_once_from_input_to_output():
    config = configure(
        residual="identity", norm={"name": "rms", "place": "pre"}, replicas=1, model={"depth": 3, "width": 5}
    )
    network = build(config, FEATURES, CLASSES)
    sections = network.sections()
    assert sections == [network.embedding, *network.blocks, network.final_norm, network.readout]
    held = [parameter for section in sections for parameter in section.parameters()]
    assert [id(parameter) for parameter in held] == [id(parameter) for parameter in network.parameters()]


def test_a_norm_without_parameters_is_no_section():
    norm = {"name": "rms", "place": "pre", "affine": False}
    network = build(configure(residual="identity", norm=norm, model={"depth": 1, "width": 5}), FEATURES, CLASSES)
    assert network.final_norm is not None
    assert network.final_norm not in network.sections()


def test_evaluating_leaves_running_statistics_and_random_slopes_as_they_were():
    config = configure(activation="rrelu", norm="batch", replicas=2, model={"depth": 2, "width": 5})
    network, unseen = (build(config, FEATURES, CLASSES) for _ in range(2))
    x = draw(2)[0].float()
    with network.evaluating(batch_statistics=True):
        network(x)
    for (name, buffer), other in zip(network.named_buffers(), unseen.buffers(), strict=True):
        assert torch.equal(buffer, other), name
    assert torch.equal(network(x), unseen(x))  # so the same slopes were drawn by both
    assert all(module.training for module in network.modules())


def test_evaluating_can_normalize_by_the_batch():
    config = configure(norm={"name": "batch", "affine": False}, replicas=1, model={"depth": 1, "width": 5})
    network = build(config, FEATURES, CLASSES)
    seen = []
    blocks(network)[0].inner_norm.register_forward_hook(lambda module, args, output: seen.append(output))
    with network.evaluating(batch_statistics=True):
        network(3 + draw(1)[0].float())
    torch.testing.assert_close(seen[0].mean(1), torch.zeros(1, 5), rtol=0, atol=1e-6)


def test_evaluation_ends_with_the_block_even_after_an_error():
    network = build(configure(activation="rrelu", norm="batch", model={"depth": 1, "width": 5}), FEATURES, CLASSES)
    for batch_statistics in (False, True):
        with pytest.raises(RuntimeError, match="within"), network.evaluating(batch_statistics):
            raise RuntimeError("within")
        assert blocks(network)[0].activation.training
        assert blocks(network)[0].inner_norm.training
        assert blocks(network)[0].inner_norm.is_tracking


@pytest.mark.parametrize("init", ["he_normal", "orthogonal", "torch_default"])
@pytest.mark.parametrize("activation", ["tanh", "swiglu"])
def test_a_replica_has_the_weights_it_has_alone(init, activation):
    choices = {"init": init, "activation": activation, "seed": 5, "model": {"depth": 2, "width": 5, "block": "ffn"}}
    many = build(configure(replicas=4, first_replica=2, **choices), FEATURES, CLASSES)
    for replica in range(4):
        alone = build(configure(replicas=1, first_replica=2 + replica, **choices), FEATURES, CLASSES)
        for mine, theirs in zip(many.parameters(), alone.parameters(), strict=True):
            assert torch.equal(mine[replica], theirs[0])
    for parameter in many.parameters():
        if parameter.any():
            assert not torch.equal(parameter[0], parameter[1])


def test_a_replicas_random_slopes_do_not_depend_on_how_many_replicas_there_are():
    choices = {"activation": "rrelu", "model": {"depth": 3, "width": 5}}
    many = build(configure(replicas=3, **choices), FEATURES, CLASSES)
    x = draw(3)[0].float()
    many(x)
    for replica in range(3):
        alone = build(configure(replicas=1, first_replica=replica, **choices), FEATURES, CLASSES)
        alone(x[replica : replica + 1])
        for mine, theirs in zip(blocks(many), blocks(alone), strict=True):
            assert torch.equal(mine.activation.drawn[replica], theirs.activation.drawn[0])
    first, second = (block.activation.drawn for block in blocks(many)[:2])
    assert not torch.equal(first[0], first[1])  # neither do replicas share slopes,
    assert not torch.equal(first[0], second[0])  # nor layers


def test_the_streams_of_a_replica_are_drawn_from_independently():
    first, second = streams(3, 1), streams(3, 1)
    first.weights.normal(size=1000)
    assert np.array_equal(first.batches.integers(2**60, size=5), second.batches.integers(2**60, size=5))
    assert np.array_equal(first.noise.integers(2**60, size=5), second.noise.integers(2**60, size=5))
    numbers = [tuple(stream.integers(2**60, size=3)) for pair in ((3, 1), (1, 3), (3, 2)) for stream in streams(*pair)]
    assert len(set(numbers)) == 3 * 4


# --- identities that hold at every width, to rounding ---------------------------------------------------------------


def weight_gradients(config):
    """(weight, gradient) of every map, each (R, fan_in, fan_out)."""
    network = build(config, FEATURES, CLASSES)
    x, cotangent = draw(config.replicas)
    maps = [*(block.up for block in blocks(network)), network.readout]
    weights = [linear.weight for linear in maps]
    return list(zip(weights, torch.autograd.grad(network(x), weights, cotangent), strict=True))


def inner(weight, gradient):
    return (weight * gradient).sum((1, 2)).detach()


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "prelu", "rrelu"])
def test_without_biases_a_positively_homogeneous_network_has_one_inner_product_of_weight_and_gradient(activation):
    # Scaling any one W_l scales the logits as scaling any other does: <W_l, dL/dW_l> is the same for all l.
    model = {"depth": 6, "width": 9, "bias": False}
    found = [inner(*pair) for pair in weight_gradients(configure(activation=activation, dtype="float64", model=model))]
    assert found[0].abs().min() > 1e-3
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-13)


def test_a_saturating_network_has_no_such_inner_product():
    model = {"depth": 6, "width": 9, "bias": False}
    found = [inner(*pair) for pair in weight_gradients(configure(activation="tanh", dtype="float64", model=model))]
    assert (found[0] - found[-1]).abs().min() > 1e-3


@pytest.mark.parametrize("norm", ["batch", "layer", "rms"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_before_a_norm_the_gradient_is_orthogonal_to_the_weights(norm, activation):
    # With eps = 0 the norm undoes every rescaling of W, so the loss does not change along W.
    norm = {"name": norm, "place": "inner", "eps": 0.0}
    config = configure(activation=activation, norm=norm, dtype="float64", model={"depth": 3, "width": 9, "bias": False})
    for weight, gradient in weight_gradients(config)[:-1]:  # nothing normalizes the readout
        size = weight.flatten(1).norm(dim=1) * gradient.flatten(1).norm(dim=1)
        assert (inner(weight, gradient).abs() < 1e-11 * size).all()
        assert (size > 1e-6).all()


def test_with_an_eps_it_is_orthogonal_no_more():
    config = configure(norm={"name": "rms", "eps": 0.1}, dtype="float64", model={"depth": 3, "width": 9, "bias": False})
    for weight, gradient in weight_gradients(config)[:-1]:
        assert (inner(weight, gradient).abs() > 1e-6).all()
