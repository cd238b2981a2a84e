"""Gradient clipping, each replica by itself: a replica's large gradient never shortens its neighbour's step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab import schema
from lab.measure import ParameterStack, probes


def total_norm(stacks: Sequence[ParameterStack]) -> Tensor:
    """Compute the L2 norm of each replica's whole gradient, (R,) in float64."""
    norms = torch.cat([probes.norm(stack.gradients[..., None, :]) for stack in stacks])  # (sections, R)
    return probes.joint_norm(norms)


@torch.no_grad()
def clip(config: schema.Clip, stacks: Sequence[ParameterStack], max_norm: Tensor | None = None) -> None:
    """Clip the gradients in place.

    norm:     g <- g min(1, c / |g|) over all of a replica's parameters (Pascanu et al. 2013, algorithm 1).
    value:    each entry to [-v, v].
    adaptive: each unit's g to factor * max(|w|, eps), w being the unit's incoming weights (Brock et al. 2021, eq. 3);
              biases, gains and slopes are units of one weight each. The readout is not clipped (section 4.1 there).

    `stacks` run from input to output, so the last one holds the readout; `max_norm` (R,) replaces `config.max_norm`.
    """
    if isinstance(config, schema.ClipNorm):
        limit = config.max_norm if max_norm is None else max_norm
        # Not a reading's norm, whose summation order differs in the last bit: a reading must not change the step.
        scale = torch.clamp(limit / total_norm(stacks), max=1.0)  # a norm of 0 gives Inf, and so 1
        for stack in stacks:
            stack.gradients.mul_(scale.to(stack.gradients.dtype)[:, None])
    elif isinstance(config, schema.ClipValue):
        for stack in stacks:
            stack.gradients.clamp_(-config.max_value, config.max_value)
    elif isinstance(config, schema.ClipAdaptive):
        for stack in stacks[:-1]:
            _clip_units(config, stack)


def _clip_units(config: schema.ClipAdaptive, stack: ParameterStack) -> None:
    for part in stack.segments:
        shape = (len(stack.values), *part.shape)  # (layers, R, fan_in, fan_out), or (layers, R, 1, N)
        values = stack.values[..., part.start : part.stop].view(shape)
        gradients = stack.gradients[..., part.start : part.stop].view(shape)
        allowed = config.factor * _unit_norms(values).clamp(min=config.eps)
        gradients.mul_(torch.clamp(allowed / _unit_norms(gradients), max=1.0).to(gradients.dtype))


def _unit_norms(x: Tensor) -> Tensor:
    """Compute L2 norms of the incoming weights: (layers, R, fan_in, fan_out) -> (layers, R, 1, fan_out), float64."""
    return probes.norm(x.transpose(2, 3)[..., None, :]).unsqueeze(2)
