"""Anatomy: which parts of a model the instrument reads, whatever built the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class ActivationFacts(Protocol):
    """The facts about an activation that the instrument needs."""

    zero_stops_gradient: bool  # a unit whose activation is exactly 0 for an example gets no gradient from it
    zero_is_saturated: bool  # a pre-activation is saturated exactly where the activation is 0

    def saturated(self, z: Tensor) -> Tensor:
        """Return 1 where z is saturated, else 0, in the dtype of z."""


@dataclass(frozen=True)
class Site:
    """One layer, around its activation."""

    name: str
    activation: nn.Module  # takes z and returns a, once in a forward pass
    facts: ActivationFacts  # of that activation
    layer: nn.Module  # takes the layer's input and returns its output


@dataclass(frozen=True)
class Segment:
    """The place of one parameter in a section's row: [start, stop), and its shape in the section."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]  # (R, ...)

    @property
    def kind(self) -> str:
        """The last part of the name: weight and bias of a map, or gain, shift, alpha, beta, negative_slope."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class ParameterStack:
    """Consecutive sections of the same shapes: `values` and `gradients` (sections, R, P)."""

    first_section: int
    segments: tuple[Segment, ...]
    values: Tensor
    gradients: Tensor

    def chunks(self, most_bytes: int) -> Iterator[slice]:
        """Yield slices of the sections, none of them larger than `most_bytes` unless a single section is."""
        size = max(1, most_bytes // (self.values[0].numel() * self.values.element_size()))
        for start in range(0, len(self.values), size):
            yield slice(start, min(start + size, len(self.values)))


@dataclass(frozen=True)
class Anatomy:
    """The measurable parts of a model with R replicas; layers, sections and parameters run from input to output.

    `activations` yields those of each site, (R, P, N), for inputs (R, P, features) and changes no state.
    """

    sites: tuple[Site, ...]
    shared_facts: ActivationFacts | None  # of all sites, if they are the same and can be measured together
    stacks: tuple[ParameterStack, ...]  # all parameters
    layers: slice  # the sections of the sites
    readout: int  # the section of the readout
    replicas: int
    activations: Callable[[Tensor], Iterator[Tensor]]
