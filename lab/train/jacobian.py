"""Jacobians d(last hidden layer's output) / d(input) of each replica, at the first example of the probe set.

Batch norm's statistics are taken over the whole probe set, whose other examples count as part of the network. Random
slopes have their mean.
"""

import torch
from torch import Tensor

from lab.measure import jacobian
from lab.network import Network

ROWS = 128
"""Rows of the Jacobian per backward pass."""


def spectrum(network: Network, probe_set: Tensor) -> dict[str, Tensor]:
    """Measure the Jacobians' singular values as `jacobian.of_matrices` does; `probe_set` is (R, P, features)."""
    with network.evaluating(batch_statistics=True), torch.enable_grad():
        matrices = _joined(network, probe_set) if network.batch_norms else _alone(network, probe_set[:, :1])
        return jacobian.of_matrices(matrices)


def _alone(network: Network, x: Tensor) -> Tensor:
    """Compute Jacobians (R, N, features) at x (R, 1, features): one row per copy of x in a backward pass."""
    rows = []
    for starts in torch.eye(network.width, dtype=x.dtype, device=x.device).split(ROWS):  # (k, N)
        copies = x.repeat(1, len(starts), 1).requires_grad_()  # (R, k, features)
        rows.append(torch.autograd.grad(network.trunk(copies), copies, starts.expand(len(x), -1, -1))[0])
    return torch.cat(rows, 1)


def _joined(network: Network, inputs: Tensor) -> Tensor:
    """Compute the same at the first of inputs (R, P, features) that batch norm joins: slower, from a single graph."""
    x = inputs.detach().clone().requires_grad_()
    top = network.trunk(x)[:, 0]  # (R, N)
    starts = torch.eye(network.width, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1)  # (N, R, N)
    rows = [
        torch.autograd.grad(top, x, some, retain_graph=True, is_grads_batched=True)[0][:, :, 0]
        for some in starts.split(ROWS)
    ]
    return torch.cat(rows).transpose(0, 1)
