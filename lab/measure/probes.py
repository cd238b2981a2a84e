"""Probes: tensors in, numbers out. They do not depend on the network, on files or on the cadence.

Each takes any number of leading dimensions and reduces the last two, batch and units: (..., B, N) -> (...) in float64.
No square underflows or overflows: a float32 entry of 1e-25 still counts, and one of 1e25 does not become Inf.
"""

import math

import torch
from torch import Tensor

SAFE = {torch.float32: (1e-12, 1e18), torch.float64: (1e-140, 1e150)}
"""Norms between these were summed without loss: below, squares of entries that matter may have underflowed (they do
under 1e-19 in float32, and a million of those add up to less than 1e-16), above, they may have overflowed."""


def norm(x: Tensor) -> Tensor:
    """L2 norm over the last two dimensions: (..., B, N) -> (...), float64.

    On the CPU it is first summed in the precision of x, three times faster, and carefully only where that is not safe;
    a GPU, which the check would stall, always sums carefully. Each norm depends on its own entries alone, to the bit.
    """
    if x.device.type != "cpu":
        return _careful_norm(x)
    quick = torch.linalg.vector_norm(x, dim=(-2, -1))
    low, high = SAFE[x.dtype]
    smallest, largest = torch.aminmax(quick)
    if low < smallest.item() and largest.item() < high:  # false for a NaN
        return quick.double()
    return torch.where((quick > low) & (quick < high), quick.double(), _careful_norm(x))


def _careful_norm(x: Tensor) -> Tensor:
    if x.dtype == torch.float32:
        return torch.linalg.vector_norm(x, dim=(-2, -1), dtype=torch.float64)
    # Exact powers of two lose nothing; a largest entry of 0, Inf or NaN needs no scaling and gets none.
    largest = x.abs().amax((-2, -1))
    usable = torch.isfinite(largest) & (largest > 0)
    scale = torch.exp2(torch.floor(torch.log2(torch.where(usable, largest, 1.0))))
    return torch.linalg.vector_norm(x / scale[..., None, None], dim=(-2, -1)) * scale


def joint_norm(norms: Tensor) -> Tensor:
    """The norm of parts together, from the parts' norms: (parts, ...) -> (...)."""
    return norm(norms.movedim(0, -1).unsqueeze(-2))


def rms(x: Tensor) -> Tensor:
    """Root mean square over batch and units."""
    return norm(x) / math.sqrt(x.shape[-2] * x.shape[-1])


def mean(x: Tensor) -> Tensor:
    """Mean over batch and units; torch sums in a cascade, whose rounding grows with the logarithm of their number."""
    return x.sum((-2, -1)).double() / (x.shape[-2] * x.shape[-1])


def zero_fraction(a: Tensor) -> Tensor:
    """Share of entries that are exactly 0."""
    return 1 - mean(nonzero(a))


def dead_fraction(a: Tensor) -> Tensor:
    """Share of units that are exactly 0 for every example; a NaN is not 0."""
    return 1 - nonzero(a).amax(-2).mean(-1, dtype=torch.float64)


def nonfinite(x: Tensor) -> Tensor:
    """Count of NaN and Inf over the last dimension: (..., P) -> (...), float64."""
    return x.isfinite().logical_not_().sum(-1, dtype=torch.float64)


def nonzero(a: Tensor) -> Tensor:
    """1 where an entry is not 0, else 0, in the dtype of a (many times faster on a CPU than a bool)."""
    return torch.ne(a, 0.0, out=torch.empty_like(a))
