"""Singular values of each replica's Jacobian: d(last hidden layer's output) / d(input) at one example.

The example is the first of the probe set. Under batch norm it is looked at among the others, whose share in the batch's
statistics is held to be part of the network; every other network treats it alone. Random slopes have their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lab import schema
from lab.network.network import Network

LARGEST_EXACT = 512
"""Of a Jacobian whose sides are both longer, only this many singular values, the largest, are found, by a randomized
method; their moments are exact always."""

OVERSAMPLING, POWER_ITERATIONS = 10, 4
"""Of the randomized method (Halko, Martinsson and Tropp 2011, section 4.4 and algorithm 4.4)."""

ROWS = 128
"""Rows of the Jacobian that one backward pass finds."""


def spectrum(config: schema.Config, network: Network, probe_set: Tensor) -> dict[str, Tensor]:
    """What a reading holds of the Jacobians.

    Args:
        config: of the network.
        network: R replicas.
        probe_set: (R, P, features).

    Returns:
        `jacobian_sv` (K, R), the singular values in descending order, and (R,) each `jacobian_mean` and
        `jacobian_relative_variance` of the squares of all min(units, features) of them; NaN for a replica whose
        Jacobian is not finite. float64.
    """
    with network.untouched(), torch.enable_grad():
        if config.norm.name == "batch":
            return of_matrices(_among_others(network, probe_set, config.model.width))
        return of_matrices(_alone(network, probe_set[:, :1], config.model.width))


def _alone(network: Network, x: Tensor, units: int) -> Tensor:
    """Jacobians (R, N, features) at x (R, 1, features): a backward pass over copies of x finds a row with each."""
    rows = []
    for starts in torch.eye(units, dtype=x.dtype, device=x.device).split(ROWS):  # (k, N)
        copies = x.repeat(1, len(starts), 1).requires_grad_()  # (R, k, features)
        rows.append(torch.autograd.grad(network.trunk(copies), copies, starts.expand(len(x), -1, -1))[0])
    return torch.cat(rows, 1)


def _among_others(network: Network, inputs: Tensor, units: int) -> Tensor:
    """The same at the first of the inputs (R, P, features), which batch norm joins: slower, with one graph for all."""
    x = inputs.detach().clone().requires_grad_()
    top = network.trunk(x)[:, 0]  # (R, N)
    starts = torch.eye(units, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1)  # (N, R, N)
    rows = [
        torch.autograd.grad(top, x, some, retain_graph=True, is_grads_batched=True)[0][:, :, 0]
        for some in starts.split(ROWS)
    ]
    return torch.cat(rows).transpose(0, 1)


def of_matrices(matrices: Tensor) -> dict[str, Tensor]:
    """`spectrum` of matrices (R, N, M)."""
    # Scaled, so that squares of squares neither underflow nor overflow; of a matrix of zeros nothing is changed.
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
    lost = torch.where(is_usable, 0.0, torch.nan)[:, 0, 0]
    scale = scale[:, 0, 0]
    return {
        "jacobian_sv": (values * scale[:, None] + lost[:, None]).T,
        "jacobian_mean": mean * scale**2 + lost,
        "jacobian_relative_variance": mean_square / mean**2 - 1 + lost,  # NaN for a matrix of zeros
    }


def _singular_values(matrices: Tensor) -> Tensor:
    """(R, K, M) with K <= M -> (R, min(K, LARGEST_EXACT)), in descending order."""
    if matrices.shape[1] <= LARGEST_EXACT:
        return torch.linalg.svdvals(matrices)
    devices = [matrices.device] if matrices.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # the method draws from torch's global generator, which is not ours to move
        torch.manual_seed(0)
        return torch.svd_lowrank(matrices, LARGEST_EXACT + OVERSAMPLING, POWER_ITERATIONS)[1][:, :LARGEST_EXACT]
