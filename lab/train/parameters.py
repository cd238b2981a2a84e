"""All parameters of a network in a few large tensors, and their gradients in as many."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.measure import ParameterStack, Segment


class Parameters:
    """Moves the parameters of `sections` into stacks; each `parameter.grad` becomes a view of a stack's gradients.

    Neighbouring sections with the same shapes form a stack: one tensor (sections, R, P), whose rows are the parameters
    of one section of one replica, end to end. Module parameters become views into it, so that an optimizer or a norm
    takes a handful of operations at any depth.
    """

    def __init__(self, sections: Sequence[nn.Module]) -> None:
        self.stacks: list[ParameterStack] = []
        self.tensors: list[nn.Parameter] = []  # of the modules, now views
        self._gradient_views: list[Tensor] = []
        first = 0
        for _, group in itertools.groupby(sections, key=_shapes):
            members = list(group)
            self.stacks.append(self._pack(first, members))
            first += len(members)

    def _pack(self, first: int, members: Sequence[nn.Module]) -> ParameterStack:
        segments, stop = [], 0
        for name, parameter in members[0].named_parameters():
            start, stop = stop, stop + parameter[0].numel()
            segments.append(Segment(name, start, stop, tuple(parameter.shape)))
        example = next(members[0].parameters())
        values = example.new_empty(len(members), len(example), stop)  # no gradient
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

    @torch.no_grad()
    def take(self, gradients: Sequence[Tensor]) -> None:
        """Copy gradients, in the order of `tensors`, into the stacks; any that follow are not used."""
        # One call for all: torch's own optimizers rely on the same family of functions, which has no public name.
        torch._foreach_copy_(self._gradient_views, list(gradients[: len(self.tensors)]))


def _shapes(section: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, parameter.shape) for name, parameter in section.named_parameters())
