"""All parameters of a network in a few large tensors, and their gradients in as many.

Neighbouring sections with the same shapes form a run: one tensor (layers, R, P), whose rows are the parameters of one
section of one replica, end to end. Module parameters become views into it, so that an optimizer, a norm or a finite
check is a handful of operations however deep the network is, and always knows which replica and layer it looks at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Segment:
    """Where one parameter of a section lies in its row: [start, stop), and its shape in the section."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]  # (R, ...)

    @property
    def kind(self) -> str:
        """The last word of its name: weight and bias of a map, or gain, shift, alpha, beta, negative_slope."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class ParameterStack:
    """Consecutive sections of the same shapes: `values` and `gradients` (layers, R, P)."""

    first_section: int
    segments: tuple[Segment, ...]
    values: Tensor
    gradients: Tensor


class Parameters:
    """Moves the parameters of `sections` into runs; afterwards each `parameter.grad` is a view of its run's gradients.

    Attributes:
        runs: the runs, in the order of the sections.
        tensors: the module parameters, now views.
    """

    def __init__(self, sections: Sequence[nn.Module]) -> None:
        self.runs: list[ParameterStack] = []
        self.tensors: list[nn.Parameter] = []
        self._gradient_views: list[Tensor] = []
        first = 0
        for _, group in itertools.groupby(sections, key=_shapes):
            members = list(group)
            self.runs.append(self._pack(first, members))
            first += len(members)

    def _pack(self, first: int, members: Sequence[nn.Module]) -> ParameterStack:
        segments, stop = [], 0
        for name, parameter in members[0].named_parameters():
            start, stop = stop, stop + parameter[0].numel()
            segments.append(Segment(name, start, stop, tuple(parameter.shape)))
        replicas = segments[0].shape[0]
        example = next(members[0].parameters())
        values = torch.empty(len(members), replicas, stop, dtype=example.dtype, device=example.device)
        gradients = torch.zeros_like(values)
        for layer, member in enumerate(members):
            for segment, parameter in zip(segments, member.parameters(), strict=True):
                here = (layer, slice(None), slice(segment.start, segment.stop))
                view = values[here].view(segment.shape)
                view.copy_(parameter.detach())
                parameter.data = view
                parameter.grad = gradients[here].view(segment.shape)
                self.tensors.append(parameter)
                self._gradient_views.append(parameter.grad)
        return ParameterStack(first, tuple(segments), values, gradients)

    def take(self, gradients: Sequence[Tensor]) -> None:
        """Copy freshly computed gradients, in the order of `tensors`, into the runs."""
        # One call for all: torch's own optimizers rely on the same family of functions, which has no public name.
        torch._foreach_copy_(self._gradient_views, list(gradients))


def chunks(run: ParameterStack, most_bytes: int) -> Iterator[slice]:
    """Slices of a run's layers, none of them larger than `most_bytes` unless a single layer is."""
    layers = len(run.values)
    layer_bytes = run.values[0].numel() * run.values.element_size()
    size = max(1, most_bytes // layer_bytes)
    for start in range(0, layers, size):
        yield slice(start, min(start + size, layers))


def _shapes(section: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, parameter.shape) for name, parameter in section.named_parameters())
