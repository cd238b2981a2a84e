"""Clipping, each replica by itself: a replica's large gradient never shortens its neighbour's step."""

from __future__ import annotations

import torch
from torch import Tensor

from lab import schema
from lab.measure import probes
from lab.network.parameters import Parameters, ParameterStack


def total_norm(parameters: Parameters) -> Tensor:
    """L2 norm of each replica's whole gradient, (R,) in float64."""
    norms = torch.cat([probes.norm(run.gradients[..., None, :]) for run in parameters.runs])  # (sections, R)
    return probes.joint_norm(norms)


@torch.no_grad()
def clip(config: schema.Clip, parameters: Parameters, max_norm: Tensor | None = None) -> None:
    """Clip the gradients in place; `max_norm` (R,), one a replica, may stand in place of the configured one.

    norm:     g <- g min(1, c / |g|) over all of a replica's parameters (Pascanu et al. 2013, algorithm 1).
    value:    each entry to [-v, v].
    adaptive: each unit's g to factor * max(|w|, eps), w being the unit's incoming weights (Brock et al. 2021, eq. 3);
              biases, gains and slopes are units of one weight each. The readout is left alone, as there (section 4.1).
    """
    if isinstance(config, schema.ClipNorm):
        limit = config.max_norm if max_norm is None else max_norm
        # Not a reading's norm, whose last bit another order of summation decides: a look must not change the step.
        scale = torch.clamp(limit / total_norm(parameters), max=1.0)  # a norm of 0 gives Inf, and so 1
        for run in parameters.runs:
            run.gradients.mul_(scale.to(run.gradients.dtype)[:, None])
    elif isinstance(config, schema.ClipValue):
        for run in parameters.runs:
            run.gradients.clamp_(-config.max_value, config.max_value)
    elif isinstance(config, schema.ClipAdaptive):
        for run in parameters.runs[:-1]:
            _clip_units(config, run)


def _clip_units(config: schema.ClipAdaptive, run: ParameterStack) -> None:
    layers = len(run.values)
    for part in run.segments:
        shape = (layers, *part.shape)  # (layers, R, fan_in, fan_out), or (layers, R, 1, N)
        values = run.values[..., part.start : part.stop].view(shape)
        gradients = run.gradients[..., part.start : part.stop].view(shape)
        allowed = config.factor * _unit_norms(values).clamp(min=config.eps)
        gradients.mul_(torch.clamp(allowed / _unit_norms(gradients), max=1.0).to(gradients.dtype))


def _unit_norms(x: Tensor) -> Tensor:
    """L2 norms over the incoming weights: (layers, R, fan_in, fan_out) -> (layers, R, 1, fan_out), float64."""
    return probes.norm(x.transpose(2, 3)[..., None, :]).unsqueeze(2)
