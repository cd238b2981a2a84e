"""Tracking of individual units on a fixed probe set: which units are inactive, become inactive, or revive.

A unit is inactive if its pre-activation is 0 or below for every probe example. An inactive ReLU unit is dead: its
output is 0 and no gradient passes. With a slope below 0 an inactive unit still learns; the common definition makes the
activations comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.claims.networks import ALONE, at_rates
from lab.typing import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lab.network import Network
    from lab.train.trainer import Trainer

Flags = NDArray[np.bool_]


def start(overrides: Sequence[str], replicas: int, rates: Sequence[float] = ()) -> Trainer:
    """Return a trainer on the CPU; with `rates`, it has `replicas` replicas per rate, ordered by rate."""
    import torch

    from lab import compose, data
    from lab.train.trainer import Trainer

    base = compose.compose([*overrides, "replicas=1", *ALONE])
    variants = at_rates(base, rates or (base.optimizer.lr,), range(replicas))
    device = torch.device("cpu")
    dataset = data.load(base.data, getattr(torch, base.dtype), device)
    return Trainer(replace(variants[0], replicas=len(variants)), dataset, device, variants)


def follow(
    trainer: Trainer,
    steps: int,
    every: int,
    sizes: Sequence[int] | None = None,
    after: Callable[[Network], None] | None = None,
) -> Flags:
    """Train, and observe the units before the first step and after every `every` steps.

    Args:
        trainer: continues from its current state.
        steps: number of training steps.
        every: steps between observations.
        sizes: see `active`; by default the whole probe set.
        after: applied to the network after each step.

    Returns:
        (observations, sizes, layers, R, N), True where the unit is active.
    """
    import torch

    probe_set = trainer.instrument.probe_set
    sizes = sizes or (probe_set.shape[1],)
    observations = [active(trainer.network, probe_set, sizes)]
    for step in range(1, steps + 1):
        trainer.step()
        if after is not None:
            with torch.no_grad():
                after(trainer.network)
        if step % every == 0:
            observations.append(active(trainer.network, probe_set, sizes))
    return np.stack(observations)


def active(network: Network, x: Tensor, sizes: Sequence[int]) -> Flags:
    """Return the units with a positive pre-activation for any of the first `size` examples: (sizes, layers, R, N)."""
    layers = [z > 0 for z in pre_activations(network, x)]
    return np.stack([[on[:, :size].any(1).numpy() for on in layers] for size in sizes])


def pre_activations(network: Network, x: Tensor) -> list[Tensor]:
    """Return each layer's pre-activations, (R, B, N), for inputs (R, B, features)."""
    import torch

    from lab.network import Block

    seen: list[Tensor] = []
    handles = [
        block.activation.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for block in network.blocks
        if isinstance(block, Block)
    ]
    try:
        with torch.no_grad(), network.evaluating(batch_statistics=True):
            network.trunk(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def copy_maps(source: Network, target: Network, first: int = 0) -> None:
    """Copy the linear maps of `source`, starting at replica `first`, into a plain stack of the same shape."""
    import torch

    with torch.no_grad():
        for origin, copy in zip(maps(source), maps(target), strict=True):
            for name, parameter in copy.named_parameters():
                parameter.copy_(origin.get_parameter(name)[first : first + len(parameter)])


def maps(network: Network) -> list[nn.Module]:
    """Return the linear maps of a plain stack from input to output, with `weight` and usually `bias`."""
    from lab.network import Block

    return [*(block.up for block in network.blocks if isinstance(block, Block)), network.readout]


def inactive_and_revived(observations: Flags) -> tuple[Array, Array]:
    """Count the units that were inactive in some observation, and those of them that were active in a later one.

    Args:
        observations: (observations, layers, R, N), True where the unit is active.

    Returns:
        Two counts, (layers, R). A unit counts once, however often it changes.
    """
    inactive = np.maximum.accumulate(~observations, axis=0)  # in this observation or before
    revived = (inactive & observations).any(0)
    return inactive[-1].sum(-1).astype(np.float64), revived.sum(-1).astype(np.float64)


def share(part: Array, whole: Array) -> Array:
    """Return part / whole, NaN where whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


# --- deactivation through biases ------------------------------------------------------------------------------------

DEACTIVATED = (
    *("init=he_normal", "data=digits", "model.depth=3", "model.width=32", "batch_size=64", "optimizer.lr=0.03"),
    *("dtype=float64", "probe.examples=1438", "probe.set=norms"),
)
"""A network that learns well, observed on all training examples of digits. At a larger rate PReLU diverges."""


class DeactivatedUnits(NamedTuple):
    """Counts of deactivated units, (R,) each; NaN for a replica that diverged.

    Attributes:
        inactive: all of them.
        moved: those with a nonzero gradient from the first batch.
        revived: those that were active in a later observation.
    """

    inactive: Array
    moved: Array
    revived: Array


def deactivated_units(
    overrides: Sequence[str], replicas: int, steps: int, every: int, distance: float
) -> DeactivatedUnits:
    """Deactivate half of layer 0, train, and count; the units are equally far below 0 whatever the activation.

    Args:
        overrides: added to `DEACTIVATED`.
        replicas: number of networks.
        steps: number of training steps; `every` of them are between observations.
        distance: biases are lowered until a unit's largest pre-activation is this far below 0.
    """
    import torch

    from lab.train.trainer import Due

    trainer = start((*DEACTIVATED, *overrides), replicas)
    first = maps(trainer.network)[0]
    half = trainer.config.model.width // 2
    with torch.no_grad():
        largest = torch.bmm(trainer.instrument.probe_set, first.get_parameter("weight")).amax(1)  # (R, N)
        first.get_parameter("bias")[:, 0, :half] = -largest[:, :half] - distance
    trainer.step(Due(update=False))
    gradient = first.get_parameter("weight").grad
    assert gradient is not None
    moved = (gradient[:, :, :half] != 0).any(1).sum(1).numpy()  # (R,)
    observations = follow(trainer, steps, every)[:, 0, :1, :, :half]  # (observations, 1, R, N / 2)
    inactive, revived = inactive_and_revived(observations)
    alive = trainer.divergence.alive.numpy()
    return DeactivatedUnits(*(np.where(alive, count, np.nan) for count in (inactive[0], moved, revived[0])))
