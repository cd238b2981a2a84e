"""Anatomy: which parts of a model the instrument reads, whatever built the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class ActivationFacts(Protocol):
    """What the instrument has to know about an activation.

    Attributes:
        zero_stops_gradient: a unit whose activation is exactly 0 for an example gets no gradient from it.
        zero_is_saturated: a pre-activation is saturated exactly where the activation is 0.
    """

    zero_stops_gradient: bool
    zero_is_saturated: bool

    def saturated(self, z: Tensor) -> Tensor:
        """Return 1 where z is saturated, else 0, in the dtype of z."""


@dataclass(frozen=True)
class Site:
    """One layer, around its activation.

    Attributes:
        name: of the layer.
        activation: the module that takes z and returns a, called once in a forward pass.
        facts: of that activation.
        layer: the module that takes the layer's input and returns its output.
    """

    name: str
    activation: nn.Module
    facts: ActivationFacts
    layer: nn.Module


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
    """The measurable parts of a model with R replicas.

    Attributes:
        sites: the layers, from input to output.
        shared_facts: of the activation if all sites have the same, so that they can be measured together.
        stacks: all parameters, section by section from input to output.
        layers: the sections of the sites.
        readout: the section of the readout.
        replicas: R.
        activations: yields the activations (R, P, N) of each site for inputs (R, P, features) and changes no state.
    """

    sites: tuple[Site, ...]
    shared_facts: ActivationFacts | None
    stacks: tuple[ParameterStack, ...]
    layers: slice
    readout: int
    replicas: int
    activations: Callable[[Tensor], Iterator[Tensor]]
