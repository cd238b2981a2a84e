"""The anatomy of the lab's own networks."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from lab.measure import Anatomy, Site
from lab.network import Network
from lab.train.parameters import Parameters


def of_network(network: Network, parameters: Parameters) -> Anatomy:
    """Describe a network and its packed parameters to the instrument."""
    layers, sections = network.layers(), network.sections()
    first, activation = sections.index(layers[0]), layers[0].activation
    return Anatomy(
        sites=tuple(
            Site(f"layer {index}", layer.activation, layer.activation, layer) for index, layer in enumerate(layers)
        ),
        shared_facts=activation if activation.is_shared else None,
        stacks=tuple(parameters.stacks),
        layers=slice(first, first + len(layers)),
        readout=sections.index(network.readout),
        replicas=len(network.noise),
        activations=partial(_activations, network),
    )


def _activations(network: Network, x: Tensor) -> Iterator[Tensor]:
    with network.evaluating(batch_statistics=True):
        yield from network.activations(x)
