"""Probes against NumPy in float64 and against exact arithmetic, at the ends of the number range too."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lab.measure import probes

SHAPE = (3, 2, 7, 5)  # (layers, R, B, N)


def draw(dtype=torch.float64, seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@both_precisions
def test_moments_are_numpys_over_the_last_two_dimensions(dtype):
    x = draw(dtype)
    reference = x.numpy().astype(np.float64)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    for found, expected in [
        (probes.norm(x), np.sqrt((reference**2).sum((-2, -1)))),
        (probes.rms(x), np.sqrt((reference**2).mean((-2, -1)))),
        (probes.mean(x), reference.mean((-2, -1))),
    ]:
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


@both_precisions
@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5), (1, 2, 1, 5)])
def test_any_number_of_leading_dimensions_is_kept(dtype, shape):
    x = torch.ones(shape, dtype=dtype)
    for probe in (probes.norm, probes.rms, probes.mean, probes.zero_fraction, probes.dead_fraction):
        assert probe(x).shape == shape[:-2]
    assert probes.nonfinite(x).shape == shape[:-1]


def exact_norm(values):
    """The L2 norm by exact rational arithmetic, as a float."""
    total = sum(Fraction(value) ** 2 for value in values)
    shift = (total.numerator.bit_length() - total.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(total / Fraction(4) ** shift), shift)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.float32, size) for size in (1e-44, 1e-38, 1e-25, 1e-19, 1.0, 1e19, 1e25, 3e38)),
        *((torch.float64, size) for size in (5e-324, 1e-310, 1e-300, 1e-160, 1.0, 1e160, 1e300)),
    ],
    ids=str,
)
def test_a_norm_neither_underflows_nor_overflows(dtype, size):
    x = (draw() / draw().abs().max() * size).to(dtype)[:1, :1]
    expected = exact_norm(x.flatten().tolist())
    assert expected > 0
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    if expected < 1e-305:
        tolerance = 0.5  # such numbers lie far apart themselves
    assert abs(probes.norm(x).item() / expected - 1) < tolerance
    entry_by_entry = probes.joint_norm(probes.norm(x[0, 0].flatten()[:, None, None]))
    assert abs(entry_by_entry.item() / expected - 1) < tolerance


@both_precisions
@pytest.mark.parametrize("neighbour", [torch.nan, torch.inf, 0.0, 1e-30, 1e30])
def test_a_norm_does_not_depend_on_its_neighbour_by_one_bit(dtype, neighbour):
    x = torch.randn(2, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected = probes.norm(x)[0]
    x[1] = neighbour
    assert torch.equal(probes.norm(x)[0], expected)
    assert torch.equal(probes.norm(x[:1])[0], expected)


def test_a_float32_gradient_of_1e_minus_25_an_entry_is_reported_as_such():
    x = torch.full((2, 100, 100), 1e-25)
    assert torch.linalg.vector_norm(x) == 0  # what torch itself makes of it
    torch.testing.assert_close(probes.rms(x), torch.full((2,), 1e-25, dtype=torch.float64), rtol=1e-7, atol=0)
    torch.testing.assert_close(probes.norm(1e25 * (x / 1e-25)), torch.full((2,), 1e27).double(), rtol=1e-6, atol=0)


@both_precisions
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_norm_of_something_that_is_not_finite_is_not_finite(dtype, poison):
    x = draw(dtype)
    x[1, 0, 3, 2] = poison
    for found in (probes.norm(x), probes.rms(x)):
        assert not found[1, 0].isfinite()
        assert found.isfinite().sum() == found.numel() - 1


@both_precisions
def test_zeros_have_norm_0(dtype):
    x = torch.zeros(2, 3, 4, dtype=dtype)
    assert probes.norm(x).tolist() == probes.rms(x).tolist() == [0, 0]


@both_precisions
def test_shares_of_zeros_are_counted(dtype):
    x = draw(dtype).clamp(min=0)
    x[0, 1, :, [0, 3]] = 0
    x[1, 0, 1:, :] = 0
    reference = x.numpy()
    np.testing.assert_allclose(probes.zero_fraction(x), (reference == 0).mean((-2, -1)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(probes.dead_fraction(x), (reference == 0).all(-2).mean(-1), rtol=1e-6, atol=1e-7)
    assert 0 < probes.dead_fraction(x)[0, 1] < 1


@both_precisions
def test_a_unit_that_is_ever_different_from_0_is_not_dead(dtype):
    x = torch.zeros(1, 4, 3, dtype=dtype)
    x[0, 2, 1] = torch.finfo(dtype).smallest_normal
    x[0, 0, 2] = -1.0
    assert probes.dead_fraction(x).item() == pytest.approx(1 / 3, abs=1e-7)
    x[0, 1, 0] = torch.nan
    assert probes.dead_fraction(x).item() == 0  # NaN is not 0
    assert probes.zero_fraction(x).item() == pytest.approx(9 / 12, abs=1e-7)


@both_precisions
def test_minus_0_is_0(dtype):
    x = torch.full((1, 4, 3), -0.0, dtype=dtype)
    assert probes.zero_fraction(x).item() == probes.dead_fraction(x).item() == 1


@both_precisions
def test_nan_and_both_infinities_count_as_not_finite(dtype):
    x = torch.zeros(2, 3, 10, dtype=dtype)
    x[0, 1, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.finfo(dtype).max], dtype=dtype)
    x[1, 2, 9] = torch.nan
    assert probes.nonfinite(x).tolist() == [[0, 3, 0], [0, 0, 1]]
    assert probes.nonfinite(x).dtype == torch.float64


def test_the_norm_of_a_whole_is_that_of_its_parts_norms():
    x = draw()
    parts = torch.stack([probes.norm(x[..., :2]), probes.norm(x[..., 2:])])  # (parts, layers, R)
    torch.testing.assert_close(probes.joint_norm(parts), probes.norm(x), rtol=1e-14, atol=0)


@both_precisions
def test_no_probe_changes_what_it_looks_at(dtype):
    x = draw(dtype)
    kept = x.clone()
    for probe in (probes.norm, probes.rms, probes.mean, probes.zero_fraction, probes.dead_fraction, probes.nonfinite):
        probe(x)
        assert torch.equal(x, kept)
