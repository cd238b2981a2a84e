"""Independent random streams for every replica, so that replica r of a large run equals the same replica run alone."""

from typing import NamedTuple

import numpy as np
import torch


class Streams(NamedTuple):
    """The generators of one replica; each purpose has its own, so that drawing more of one thing changes no other."""

    weights: np.random.Generator
    batches: np.random.Generator
    noise: np.random.Generator
    cotangents: np.random.Generator


def streams(seed: int, replica: int) -> Streams:
    """Seed the streams of one replica from the pair (seed, replica)."""
    # As a spawn key the replica cannot run into the seed: SeedSequence([2**32, 0]) would equal SeedSequence([0, 1]).
    children = np.random.SeedSequence(seed, spawn_key=(replica,)).spawn(4)
    return Streams(*(np.random.default_rng(child) for child in children))


def torch_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """Create a torch generator on `device`, seeded from a NumPy generator."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))
