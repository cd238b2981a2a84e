"""The anatomy of a network: sites and parameters as the network has them, without measure knowing the network."""

import subprocess
import sys

import torch

from lab.train import anatomy
from lab.train.parameters import Parameters
from tests.plain_torch import build, configure


def test_the_instrument_knows_no_network():
    command = "import sys, lab.measure; print([m for m in sys.modules if m.startswith(('lab.network', 'lab.train'))])"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_sites_and_sections_are_the_networks():
    config = configure(
        activation="relu", norm={"name": "rms", "place": "pre"}, residual="identity", model={"depth": 3, "width": 5}
    )
    network = build(config, 4, 3)
    described = anatomy.of_network(network, Parameters(network.sections()))
    assert [site.layer for site in described.sites] == list(network.blocks)
    assert [site.activation for site in described.sites] == [block.activation for block in network.layers()]
    assert described.replicas == config.replicas
    sections = network.sections()
    assert sections[described.layers] == list(network.blocks)
    assert sections[described.readout] is network.readout
    assert sum(len(stack.values) for stack in described.stacks) == len(sections)
    assert described.shared_facts is not None
    x = torch.randn(config.replicas, 6, 4)
    for mine, theirs in zip(described.activations(x), network.activations(x), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_activations_with_parameters_of_their_own_are_not_shared():
    network = build(configure(activation="prelu", model={"depth": 2, "width": 5}), 4, 3)
    assert anatomy.of_network(network, Parameters(network.sections())).shared_facts is None
