"""Batch, layer and RMS norm with a replica axis: inputs (R, B, N), gain and shift (R, 1, N) per replica."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab import schema


def build(config: schema.Norm, replicas: int, units: int) -> nn.Module:
    """Build the norm layer of a configuration other than norm=none."""
    assert isinstance(config, schema.LayerNorm)
    if isinstance(config, schema.BatchNorm):
        return BatchNormLayer(replicas, units, config.eps, config.affine, config.momentum)
    return LayerNormLayer(replicas, units, config.eps, config.affine, is_centred=config.name == "layer")


class Affine(nn.Module):
    """gain * x + shift per replica and unit; gain starts at 1, shift (if `has_shift`) at 0."""

    def __init__(self, replicas: int, units: int, has_shift: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(replicas, 1, units, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(replicas, 1, units, dtype=torch.float64)) if has_shift else None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain if self.shift is None else torch.addcmul(self.shift, x, self.gain)


class LayerNormLayer(nn.Module):
    """Layer norm over the units of an example (Ba et al. 2016, eq. 4), or RMS norm (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, replicas: int, units: int, eps: float, is_affine: bool, is_centred: bool) -> None:
        super().__init__()
        self.eps, self.is_centred = eps, is_centred
        self.affine = Affine(replicas, units, has_shift=is_centred) if is_affine else None

    def forward(self, x: Tensor) -> Tensor:
        normalize = F.layer_norm if self.is_centred else F.rms_norm
        normalized = normalize(x, x.shape[-1:], eps=self.eps)  # (R, B, N)
        return normalized if self.affine is None else self.affine(normalized)


class BatchNormLayer(nn.Module):
    """Batch norm per unit and replica (Ioffe and Szegedy 2015, algorithm 1); running statistics in evaluation.

    With `is_tracking` off, a training pass does not update the running statistics.
    """

    def __init__(self, replicas: int, units: int, eps: float, is_affine: bool, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.is_tracking = True
        self.affine = Affine(replicas, units, has_shift=True) if is_affine else None
        self.running_mean = nn.Buffer(torch.zeros(replicas, 1, units, dtype=torch.float64))
        self.running_var = nn.Buffer(torch.ones(replicas, 1, units, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = x.mean(1, keepdim=True)  # (R, 1, N)
            centred = x - mean
            var = centred.square().mean(1, keepdim=True)
            if self.is_tracking:
                unbiased = var.detach() * (x.shape[1] / (x.shape[1] - 1))  # as in torch.nn.BatchNorm1d
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        else:
            centred, var = x - self.running_mean, self.running_var
        normalized = centred * torch.rsqrt(var + self.eps)  # (R, B, N)
        return normalized if self.affine is None else self.affine(normalized)
