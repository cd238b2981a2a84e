"""All parameters in a few tensors: nothing is lost, moved or shared on the way."""

import pytest
import torch
import torch.nn.functional as F

from lab.train.parameters import Parameters
from tests.plain_torch import blocks, build, configure, randomize

FEATURES, CLASSES, BATCH = 4, 3, 6

NETWORKS = {
    "plain": {},
    "ffn": {"activation": "prelu", "model": {"depth": 3, "width": 5, "block": "ffn"}},
    "gated": {"activation": "swiglu", "norm": {"name": "layer", "place": "post"}},
    "pre-norm residual": {"residual": {"name": "rezero", "alpha": 0.5}, "norm": {"name": "rms", "place": "pre"}},
    "batch norm": {"activation": {"name": "swish", "learnable": True}, "norm": "batch"},
    "no bias": {"model": {"depth": 3, "width": 5, "bias": False}},
}
every_network = pytest.mark.parametrize("choices", NETWORKS.values(), ids=list(NETWORKS))


def make(choices, **more):
    config = configure(**{"replicas": 3, "dtype": "float64", "model": {"depth": 3, "width": 5}, **choices, **more})
    network = build(config, FEATURES, CLASSES)
    randomize(network)
    return network


def data(replicas=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(replicas, BATCH, FEATURES, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (replicas, BATCH), generator=generator)


def gradients(network, x, y):
    loss = F.cross_entropy(network(x).flatten(0, 1), y.flatten(), reduction="sum")
    return torch.autograd.grad(loss, list(network.parameters()))


@every_network
def test_packing_changes_neither_logits_nor_gradients(choices):
    network, packed = make(choices), make(choices)
    Parameters(packed.sections())
    x, y = data()
    torch.testing.assert_close(packed(x), network(x), rtol=1e-13, atol=1e-13)
    for mine, theirs in zip(gradients(packed, x, y), gradients(network, x, y), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


@every_network
def test_every_number_of_the_network_is_packed_once(choices):
    network = make(choices)
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).sort().values
    packed = Parameters(network.sections())
    assert {id(parameter) for parameter in packed.tensors} == {id(parameter) for parameter in network.parameters()}
    assert torch.equal(torch.cat([run.values.flatten() for run in packed.stacks]).sort().values, before)
    assert [run.first_section for run in packed.stacks] == [
        sum(len(run.values) for run in packed.stacks[:index]) for index in range(len(packed.stacks))
    ]
    assert sum(len(run.values) for run in packed.stacks) == len(network.sections())


@every_network
def test_a_row_holds_one_section_of_one_replica(choices):
    network = make(choices)
    packed = Parameters(network.sections())
    sections = network.sections()
    for run in packed.stacks:
        for layer in range(len(run.values)):
            for other in packed.stacks:
                other.values.zero_()
            run.values[layer, 1] = 7.0
            for index, section in enumerate(sections):
                for parameter in section.parameters():
                    is_here = index == run.first_section + layer
                    assert parameter[1].eq(7 if is_here else 0).all()
                    assert not parameter[[0, 2]].any()


@every_network
def test_segments_name_the_parameters_they_hold(choices):
    network = make(choices)
    packed = Parameters(network.sections())
    for run in packed.stacks:
        section = network.sections()[run.first_section]
        named = dict(section.named_parameters())
        assert [segment.name for segment in run.segments] == list(named)
        for segment in run.segments:
            view = run.values[0, :, segment.start : segment.stop].view(segment.shape)
            assert torch.equal(view, named[segment.name])
            assert segment.kind == segment.name.split(".")[-1]


@every_network
def test_taken_gradients_lie_where_their_parameters_do(choices):
    network = make(choices)
    packed = Parameters(network.sections())
    x, y = data()
    expected = dict(zip(network.parameters(), gradients(network, x, y), strict=True))
    loss = F.cross_entropy(network(x).flatten(0, 1), y.flatten(), reduction="sum")
    packed.take(torch.autograd.grad(loss, packed.tensors))
    sections = network.sections()
    for run in packed.stacks:
        for layer in range(len(run.values)):
            named = dict(sections[run.first_section + layer].named_parameters())
            for segment in run.segments:
                got = run.gradients[layer, :, segment.start : segment.stop].view(segment.shape)
                assert torch.equal(got, expected[named[segment.name]])
    for parameter, gradient in expected.items():
        assert torch.equal(parameter.grad, gradient)


def test_an_update_of_the_packed_values_is_an_update_of_the_network():
    network = make({})
    packed = Parameters(network.sections())
    x, _ = data()
    before = network(x)
    for run in packed.stacks:
        run.values[:, 1] *= 1.5
    after = network(x)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])


@every_network
def test_the_number_of_tensors_does_not_grow_with_depth(choices):
    counts = []
    for depth in (3, 30):
        model = {**choices.get("model", {"width": 5}), "depth": depth}
        counts.append(len(Parameters(make({**choices, "model": model}).sections()).stacks))
    assert counts[0] == counts[1] <= 4


def test_layers_of_one_shape_are_one_run_and_the_readout_is_one_of_its_own():
    network = make({"model": {"depth": 6, "width": 5}})
    packed = Parameters(network.sections())
    assert [len(run.values) for run in packed.stacks] == [1, 5, 1]
    square = make({"model": {"depth": 6, "width": FEATURES}})  # here layer 0 is like the others
    assert [len(run.values) for run in Parameters(square.sections()).stacks] == [6, 1]
    odd = build(configure(residual="identity", model={"depth": 2, "width": 3}), 3, 3)  # all maps 3 by 3
    assert [len(run.values) for run in Parameters(odd.sections()).stacks] == [1, 2, 1]
    assert blocks(odd)[0].up.weight.shape == odd.readout.weight.shape


@pytest.mark.parametrize("most_bytes", [1, 3 * 30 * 8, 2 * 3 * 30 * 8 + 5, 10**9])
def test_chunks_cover_every_layer_once_and_keep_to_their_size(most_bytes):
    run = Parameters(make({"model": {"depth": 8, "width": 5}}).sections()).stacks[1]
    assert run.values.shape == (7, 3, 30)
    parts = list(run.chunks(most_bytes))
    assert torch.equal(torch.cat([run.values[part] for part in parts]), run.values)
    for part in parts:
        chunk = run.values[part]
        assert len(chunk) == 1 or chunk.numel() * chunk.element_size() <= most_bytes
    assert len(parts) == {1: 7, 720: 7, 1445: 4, 10**9: 1}[most_bytes]
