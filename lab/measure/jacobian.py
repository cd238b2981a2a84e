"""Singular values of Jacobians, and moments of their squares."""

import torch
from torch import Tensor

LARGEST_EXACT = 512
"""Above this size of the shorter side only the largest 512 are computed, by a randomized method; moments are exact."""

OVERSAMPLING, POWER_ITERATIONS = 10, 4
"""Of the randomized method (Halko, Martinsson and Tropp 2011, section 4.4 and algorithm 4.4)."""


def of_matrices(matrices: Tensor) -> dict[str, Tensor]:
    """Compute the singular values of matrices (R, N, M).

    Returns:
        `jacobian_sv` (K, R), the singular values in descending order, and (R,) each `jacobian_mean` and
        `jacobian_relative_variance` of the squares of all min(N, M) of them; NaN where a matrix is not finite. float64.
    """
    # Scaled, so that fourth powers neither underflow nor overflow; a matrix of zeros stays as it is.
    largest = matrices.abs().amax((1, 2), keepdim=True).double()  # (R, 1, 1)
    is_usable = largest.isfinite()
    scale = torch.where(is_usable & (largest > 0), largest, 1.0)
    scaled = torch.where(is_usable, matrices / scale, 0.0)
    if scaled.shape[1] > scaled.shape[2]:
        scaled = scaled.transpose(1, 2)
    products = scaled @ scaled.transpose(1, 2)  # (R, K, K): K is the shorter side
    mean = products.diagonal(dim1=1, dim2=2).mean(1)  # of the squared singular values, (R,)
    mean_square = products.square().sum((1, 2)) / products.shape[1]
    values = _singular_values(scaled)  # (R, K)
    undefined = torch.where(is_usable, 0.0, torch.nan)[:, 0, 0]
    scale = scale[:, 0, 0]
    return {
        "jacobian_sv": (values * scale[:, None] + undefined[:, None]).T,
        "jacobian_mean": mean * scale**2 + undefined,
        "jacobian_relative_variance": mean_square / mean**2 - 1 + undefined,  # NaN for a matrix of zeros
    }


def _singular_values(matrices: Tensor) -> Tensor:
    """Compute singular values of (R, K, M), K <= M, in descending order: (R, min(K, LARGEST_EXACT))."""
    if matrices.shape[1] <= LARGEST_EXACT:
        return torch.linalg.svdvals(matrices)
    devices = [matrices.device] if matrices.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # the method draws from torch's global generator
        torch.manual_seed(0)
        return torch.svd_lowrank(matrices, LARGEST_EXACT + OVERSAMPLING, POWER_ITERATIONS)[1][:, :LARGEST_EXACT]
