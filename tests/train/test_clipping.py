"""Clipping, replica by replica: against torch.nn.utils and against plain loops over units."""

import pytest
import torch

from lab import schema
from lab.train.parameters import Parameters
from lab.train.update import clipping
from tests.plain_torch import build, configure, randomize

FEATURES, CLASSES, REPLICAS = 4, 3, 3

NETWORKS = {
    "plain": {"model": {"depth": 3, "width": 5}},
    "ffn": {"activation": "prelu", "model": {"depth": 2, "width": 5, "block": "ffn"}},
    "gated": {"activation": "swiglu", "norm": {"name": "layer", "place": "post"}, "model": {"depth": 2, "width": 5}},
    "residual": {"residual": "rezero", "norm": {"name": "rms", "place": "pre"}, "model": {"depth": 2, "width": 5}},
}
every_network = pytest.mark.parametrize("choices", NETWORKS.values(), ids=list(NETWORKS))


def make(choices, sizes=(1.0, 0.01, 30.0), dtype="float64"):
    """A packed network and its sections; replica r's gradients are normal numbers times sizes[r]."""
    network = build(configure(replicas=REPLICAS, dtype=dtype, **choices), FEATURES, CLASSES)
    randomize(network)
    packed = Parameters(network.sections())
    generator = torch.Generator().manual_seed(1)
    for run in packed.stacks:
        normal = torch.randn(run.gradients.shape, generator=generator, dtype=torch.float64)
        run.gradients.copy_(normal * torch.tensor(sizes, dtype=torch.float64)[:, None])
    return network, packed


def gradients_of(network, replica):
    return [parameter.grad[replica].clone() for parameter in network.parameters()]


def total(gradients):
    return torch.sqrt(sum((gradient.double() ** 2).sum() for gradient in gradients))


@every_network
def test_the_total_norm_is_that_of_all_gradients_of_a_replica(choices):
    network, packed = make(choices)
    expected = torch.stack([total(gradients_of(network, replica)) for replica in range(REPLICAS)])
    torch.testing.assert_close(clipping.total_norm(packed.stacks), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e-25), ("float32", 1e25), ("float64", 1e-200), ("float64", 1e200)]
)
def test_the_total_norm_neither_underflows_nor_overflows(dtype, size):
    packed = make(NETWORKS["plain"], (size,) * 3, dtype)[1]
    unit = make(NETWORKS["plain"], (1.0,) * 3)[1]
    torch.testing.assert_close(
        clipping.total_norm(packed.stacks) / size, clipping.total_norm(unit.stacks), rtol=1e-6, atol=0
    )


@every_network
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 50.0, 1e6])
def test_clipping_by_norm_is_torchs_for_every_replica_alone(choices, max_norm):
    network, packed = make(choices)
    expected = []
    for replica in range(REPLICAS):
        plain = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients_of(network, replica)]
        for parameter, gradient in zip(plain, gradients_of(network, replica), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(plain, max_norm)
        expected.append([parameter.grad for parameter in plain])
    clipping.clip(schema.ClipNorm("norm", max_norm), packed.stacks)
    for replica in range(REPLICAS):
        for mine, theirs in zip(gradients_of(network, replica), expected[replica], strict=True):
            # torch divides by the norm plus 1e-6.
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0)


@every_network
def test_after_clipping_by_norm_the_total_is_the_smaller_of_both_and_no_ratio_has_changed(choices):
    network, packed = make(choices)
    before = [gradients_of(network, replica) for replica in range(REPLICAS)]
    limit = total(before[0]).item()  # replica 1 is below, replica 2 above
    clipping.clip(schema.ClipNorm("norm", limit), packed.stacks)
    for replica in range(REPLICAS):
        after = gradients_of(network, replica)
        expected = min(total(before[replica]).item(), limit)
        assert abs(total(after).item() / expected - 1) < 1e-14
        for mine, theirs in zip(after, before[replica], strict=True):
            torch.testing.assert_close(mine / total(after), theirs / total(before[replica]), rtol=1e-13, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(gradients_of(network, 1), before[1], strict=True))


@every_network
def test_clipping_by_value_cuts_every_entry(choices):
    network, packed = make(choices)
    before = [gradients_of(network, replica) for replica in range(REPLICAS)]
    clipping.clip(schema.ClipValue("value", 0.02), packed.stacks)
    for replica in range(REPLICAS):
        for mine, theirs in zip(gradients_of(network, replica), before[replica], strict=True):
            assert torch.equal(mine, theirs.clamp(-0.02, 0.02))
    assert any((gradient.abs() < 0.02).any() for gradient in before[1])


@every_network
@pytest.mark.parametrize("eps", [1e-3, 0.5])
@pytest.mark.parametrize("factor", [0.05, 0.5])
def test_adaptive_clipping_holds_each_unit_to_its_weights(choices, eps, factor):
    """Unit by unit in plain loops (Brock et al. 2021, eq. 3): |g| <= factor * max(|w|, eps), w the incoming weights."""
    network, packed = make(choices, sizes=(0.1, 0.001, 3.0))
    readout = {id(parameter) for parameter in network.readout.parameters()}
    expected = {}
    was_clipped = was_left = 0
    for name, parameter in network.named_parameters():
        wanted = parameter.grad.clone()
        if id(parameter) not in readout:
            for replica in range(REPLICAS):
                for unit in range(parameter.shape[-1]):
                    weights, gradient = parameter[replica, :, unit], wanted[replica, :, unit]
                    limit = factor * max(weights.norm().item(), eps)
                    if gradient.norm() > limit:
                        gradient.mul_(limit / gradient.norm())
                        was_clipped += 1
                    else:
                        was_left += 1
        expected[name] = wanted
    clipping.clip(schema.ClipAdaptive("adaptive", factor, eps), packed.stacks)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-12, atol=0)
    assert min(was_clipped, was_left) > 5


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_adaptive_clipping_of_tiny_and_huge_gradients_neither_clears_nor_loses_them(size):
    network, packed = make(NETWORKS["plain"], (size,) * 3, "float32")
    before = [gradients_of(network, replica) for replica in range(REPLICAS)]
    clipping.clip(schema.ClipAdaptive("adaptive", 0.01), packed.stacks)
    for replica in range(REPLICAS):
        for mine, theirs in zip(gradients_of(network, replica)[:-2], before[replica], strict=False):
            assert mine.all()
            if size < 1:
                assert torch.equal(mine, theirs)
            else:
                assert (mine.double().norm(dim=0) < 1).all()


@pytest.mark.parametrize(
    "config", [schema.ClipNorm("norm", 0.1), schema.ClipValue("value", 0.1), schema.ClipAdaptive("adaptive", 0.1)]
)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_replica_whose_gradient_is_not_finite_does_not_touch_its_neighbours(config, poison):
    network, packed = make(NETWORKS["plain"])
    poisoned_network, poisoned = make(NETWORKS["plain"])
    poisoned.stacks[1].gradients[0, 1, 3] = poison
    clipping.clip(config, packed.stacks)
    clipping.clip(config, poisoned.stacks)
    for replica in (0, 2):
        for mine, theirs in zip(gradients_of(poisoned_network, replica), gradients_of(network, replica), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "config", [schema.ClipNorm("norm", 0.1), schema.ClipValue("value", 0.1), schema.ClipAdaptive("adaptive", 0.1)]
)
def test_a_gradient_of_0_stays_0(config):
    _, packed = make(NETWORKS["residual"], (0.0, 0.0, 0.0))
    clipping.clip(config, packed.stacks)
    assert not any(run.gradients.any() for run in packed.stacks)


def test_without_clipping_no_gradient_changes():
    _, packed = make(NETWORKS["plain"])
    before = [run.gradients.clone() for run in packed.stacks]
    clipping.clip(schema.Clip(), packed.stacks)
    assert all(torch.equal(run.gradients, kept) for run, kept in zip(packed.stacks, before, strict=True))
