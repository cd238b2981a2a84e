"""Singular values of matrices and moments of their squares, at all sizes and at the ends of the number range."""

import numpy as np
import pytest
import torch

from lab.measure import jacobian


@pytest.mark.parametrize("shape", [(2, 700, 540), (1, 520, 900)])
def test_of_a_large_matrix_the_largest_values_are_found_and_the_moments_are_exact(shape):
    generator = torch.Generator().manual_seed(0)
    decay = torch.logspace(0, -6, min(shape[1:]), dtype=torch.float64)
    left, right = (
        torch.linalg.qr(torch.randn(shape[0], side, len(decay), generator=generator, dtype=torch.float64))[0]
        for side in shape[1:]
    )
    before = torch.random.get_rng_state()
    found = jacobian.of_matrices(left * decay @ right.transpose(1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert found["jacobian_sv"].shape == (512, shape[0])
    # Neighbours differ by 2.5% here, and the 10 values beyond the 512 are the method's reserve: only next to them does
    # a gap of 10 neighbours' ratio to the power of the iterations leave an error worth naming.
    expected = decay[:512, None].expand(-1, shape[0])
    np.testing.assert_allclose(found["jacobian_sv"][:450], expected[:450], 1e-8)
    np.testing.assert_allclose(found["jacobian_sv"], expected, 0.025)
    squares = decay.square()
    np.testing.assert_allclose(found["jacobian_mean"], squares.mean(), 1e-10)
    relative = squares.var(correction=0) / squares.mean() ** 2
    np.testing.assert_allclose(found["jacobian_relative_variance"], relative, 1e-10)


def test_a_replica_whose_jacobian_is_not_finite_is_nan_and_its_neighbour_is_not():
    matrices = torch.ones(3, 4, 2)
    matrices[0, 1, 1] = torch.nan
    matrices[2] = 0
    found = jacobian.of_matrices(matrices)
    assert torch.isnan(found["jacobian_sv"][:, 0]).all()
    np.testing.assert_allclose(found["jacobian_sv"][:, 1], [8**0.5, 0], atol=1e-12)
    np.testing.assert_array_equal(found["jacobian_sv"][:, 2], [0, 0])
    np.testing.assert_array_equal(found["jacobian_mean"], [np.nan, 4, 0])


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_entries_whose_fourth_power_no_float_holds_keep_their_moments(size):
    matrices = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(1))
    found, scaled = jacobian.of_matrices(matrices), jacobian.of_matrices(size * matrices)
    np.testing.assert_allclose(scaled["jacobian_sv"], size * found["jacobian_sv"], 1e-5)
    np.testing.assert_allclose(scaled["jacobian_relative_variance"], found["jacobian_relative_variance"], 1e-5)
