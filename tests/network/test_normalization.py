"""Norm layers against torch.nn's, replica by replica."""

import pytest
import torch
from torch import nn

from lab import schema
from lab.network import normalization
from tests import plain_torch

REPLICAS, BATCH, UNITS = 3, 7, 5


def build(name, **options):
    """A norm layer of the lab in float64, its gains and shifts random, and the same of torch.nn for each replica."""
    config = schema.NORMS[name](name=name, **options)
    layer = normalization.build(config, REPLICAS, UNITS).double()
    plain_torch.randomize(layer)
    references = [plain_torch.norm(config, UNITS).double() for _ in range(REPLICAS)]
    for replica, reference in enumerate(references):
        for mine, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
            theirs.data.copy_(mine.detach()[replica, 0])
    return layer, references


def draw(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return 2 + scale * torch.randn(REPLICAS, BATCH, UNITS, generator=generator, dtype=torch.float64)


def assert_equal(layer, references, x):
    """Output and gradients of input, gain and shift."""
    x = x.clone().requires_grad_()
    cotangent = draw(seed=9)
    output = layer(x)
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad(output, wanted, cotangent)
    for replica, reference in enumerate(references):
        theirs = x[replica].detach().requires_grad_()
        expected = reference(theirs)
        torch.testing.assert_close(output[replica], expected, rtol=1e-11, atol=1e-11)
        gradients = torch.autograd.grad(expected, [theirs, *reference.parameters()], cotangent[replica])
        for mine, other in zip(found, gradients, strict=True):
            # Inputs 1e-3 around 2 make a rounding error of 1e-16 one of about 2000^2 * 1e-16.
            torch.testing.assert_close(mine[replica].squeeze(0), other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["batch", "layer", "rms"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
@pytest.mark.parametrize("affine", [True, False])
def test_it_is_torchs(name, scale, eps, affine):
    layer, references = build(name, eps=eps, affine=affine)
    assert_equal(layer, references, draw(scale=scale) - (2 if name == "rms" else 0))


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.7, 1.0])
def test_running_statistics_are_torchs_batch_after_batch_and_serve_in_evaluation(momentum):
    layer, references = build("batch", momentum=momentum)
    for step in range(4):
        x = draw(seed=step)
        layer(x)
        for replica, reference in enumerate(references):
            reference(x[replica])
    for replica, reference in enumerate(references):
        torch.testing.assert_close(layer.running_mean[replica, 0], reference.running_mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(layer.running_var[replica, 0], reference.running_var, rtol=1e-13, atol=1e-13)
    kept = layer.running_mean.clone()
    layer.eval()
    for reference in references:
        reference.eval()
    assert_equal(layer, references, draw(seed=7))
    assert torch.equal(layer.running_mean, kept)


def test_without_tracking_the_batch_normalizes_and_is_forgotten():
    layer, references = build("batch")
    layer.is_tracking = False
    assert_equal(layer, references, draw())
    assert not layer.running_mean.any()
    assert (layer.running_var == 1).all()


def test_running_statistics_hold_no_graph():
    layer, _ = build("batch")
    layer(draw().requires_grad_())
    assert not layer.running_mean.requires_grad
    assert layer.running_var.grad_fn is None


def test_rms_norm_has_no_shift_and_the_others_start_as_the_bare_norm():
    for name, expected in (("batch", 2), ("layer", 2), ("rms", 1)):
        layer = normalization.build(schema.NORMS[name](name=name), REPLICAS, UNITS)
        assert len(list(layer.parameters())) == expected
        bare = normalization.build(schema.NORMS[name](name=name, affine=False), REPLICAS, UNITS)  # type: ignore[call-arg]
        torch.testing.assert_close(layer.double()(draw()), bare.double()(draw()), rtol=0, atol=0)


def test_one_replicas_batch_does_not_move_anothers_statistics():
    layer = normalization.build(schema.BatchNorm("batch"), REPLICAS, UNITS).double()
    alone = normalization.build(schema.BatchNorm("batch"), 1, UNITS).double()
    assert isinstance(layer, normalization.BatchNormLayer)
    assert isinstance(alone, normalization.BatchNormLayer)
    x = draw()
    alone(x[1:2])
    x[[0, 2]] = torch.inf
    layer(x)
    assert torch.equal(layer.running_var[1], alone.running_var[0])


def test_torchs_batch_norm_is_what_the_reference_uses():
    assert isinstance(build("batch")[1][0], nn.BatchNorm1d)
