"""The lab's own networks: R replicas side by side."""

from lab.network.blocks import Block, Linear, Skip
from lab.network.network import Network
from lab.network.seeding import Streams, streams, torch_generator

__all__ = ["Block", "Linear", "Network", "Skip", "Streams", "streams", "torch_generator"]
