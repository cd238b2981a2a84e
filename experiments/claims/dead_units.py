"""Units followed one by one on a fixed probe set: which are asleep at each reading, which fall asleep, which wake.

A unit is asleep where its pre-activation is 0 or below for every probe example. A sleeping ReLU unit is dead: its
output is 0 and no gradient passes. An activation with a slope below 0 can be asleep just so, and learn all the same;
one word for the state makes the two comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.claims.networks import ALONE
from lab.typing import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lab.network import Network
    from lab.train.trainer import Trainer

Flags = NDArray[np.bool_]


def start(overrides: Sequence[str], replicas: int, rates: Sequence[float] = ()) -> Trainer:
    """A trainer on the CPU; with `rates` each of them gets `replicas` of its own, one rate after the other."""
    import torch

    from lab import compose, data
    from lab.train.trainer import Trainer

    one = compose.compose([*overrides, "replicas=1", *ALONE])
    variants = [
        replace(one, first_replica=number, optimizer=replace(one.optimizer, lr=rate))
        for rate in rates or (one.optimizer.lr,)
        for number in range(replicas)
    ]
    device = torch.device("cpu")
    dataset = data.load(one.data, getattr(torch, one.dtype), device)
    return Trainer(replace(variants[0], replicas=len(variants)), dataset, device, variants)


def follow(
    trainer: Trainer,
    steps: int,
    every: int,
    sizes: Sequence[int] | None = None,
    after: Callable[[Network], None] | None = None,
) -> Flags:
    """Train and look at the units before the first step and after every `every` steps.

    Args:
        trainer: it goes on from where it is.
        steps: how many.
        every: steps from one look to the next.
        sizes: see `awake`; all of the probe set unless given.
        after: what is done to the network after each step.

    Returns:
        (looks, sizes, layers, R, N), True where the unit is awake.
    """
    import torch

    probe_set = trainer.instrument.probe_set
    sizes = sizes or (probe_set.shape[1],)
    looks = [awake(trainer.network, probe_set, sizes)]
    for step in range(1, steps + 1):
        trainer.step()
        if after is not None:
            with torch.no_grad():
                after(trainer.network)
        if step % every == 0:
            looks.append(awake(trainer.network, probe_set, sizes))
    return np.stack(looks)


def awake(network: Network, x: Tensor, sizes: Sequence[int]) -> Flags:
    """Which units have a positive pre-activation for one of the first `size` examples: (sizes, layers, R, N)."""
    layers = [z > 0 for z in pre_activations(network, x)]
    return np.stack([[on[:, :size].any(1).numpy() for on in layers] for size in sizes])


def pre_activations(network: Network, x: Tensor) -> list[Tensor]:
    """What enters each layer's activation, (R, B, N) each, for inputs (R, B, features)."""
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


def hand_over(source: Network, target: Network, first: int = 0) -> None:
    """Copy the maps of `source`, from replica `first` on, into a plain stack of the same shape."""
    import torch

    with torch.no_grad():
        for theirs, ours in zip(maps(source), maps(target), strict=True):
            for name, parameter in ours.named_parameters():
                parameter.copy_(theirs.get_parameter(name)[first : first + len(parameter)])


def maps(network: Network) -> list[nn.Module]:
    """The linear maps of a plain stack, from input to output; each has a `weight` and, as a rule, a `bias`."""
    from lab.network import Block

    return [*(block.up for block in network.blocks if isinstance(block, Block)), network.readout]


def asleep_and_woken(looks: Flags) -> tuple[Array, Array]:
    """From (looks, layers, R, N): how many units were asleep at some look, and how many of those awake at a later one.

    Returns:
        Two (layers, R) counts. A unit counts once, however often it falls asleep and wakes.
    """
    fell = np.maximum.accumulate(~looks, axis=0)  # asleep at this look or before
    woke = (fell & looks).any(0)
    return fell[-1].sum(-1).astype(np.float64), woke.sum(-1).astype(np.float64)


def share(part: Array, whole: Array) -> Array:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


# --- units put to sleep by hand -------------------------------------------------------------------------------------

SLEEPERS = (
    *("init=he_normal", "data=digits", "model.depth=3", "model.width=32", "batch_size=64", "optimizer.lr=0.03"),
    *("dtype=float64", "probe.examples=1438", "probe.set=norms"),
)
"""A network that learns well, looked at on all training examples of digits. At a larger rate prelu diverges."""


class Sleepers(NamedTuple):
    """What became of the units put to sleep, counts (R,) each; NaN for a replica that diverged.

    Attributes:
        slept: how many they were.
        moved: how many of them got a gradient that is not exactly 0 from the first batch.
        woke: how many were awake at a later look.
    """

    slept: Array
    moved: Array
    woke: Array


def sleepers(overrides: Sequence[str], replicas: int, steps: int, every: int, depth_of_sleep: float) -> Sleepers:
    """Put half of layer 0 to sleep, train, and count: the same units sleep equally deep whatever the activation.

    Args:
        overrides: on top of SLEEPERS.
        replicas: how many networks.
        steps: of training; from one look to the next are `every`.
        depth_of_sleep: a sleeping unit's bias is lowered until its largest pre-activation is this far below 0.
    """
    import torch

    from lab.train.trainer import Due

    trainer = start((*SLEEPERS, *overrides), replicas)
    first = maps(trainer.network)[0]
    half = trainer.config.model.width // 2
    with torch.no_grad():
        largest = torch.bmm(trainer.instrument.probe_set, first.get_parameter("weight")).amax(1)  # (R, N)
        first.get_parameter("bias")[:, 0, :half] = -largest[:, :half] - depth_of_sleep
    trainer.step(Due(update=False))
    gradient = first.get_parameter("weight").grad
    assert gradient is not None
    moved = (gradient[:, :, :half] != 0).any(1).sum(1).numpy()  # (R,)
    looks = follow(trainer, steps, every)[:, 0, :1, :, :half]  # (looks, 1, R, N / 2)
    slept, woke = asleep_and_woken(looks)
    alive = trainer.divergence.alive.numpy()
    return Sleepers(*(np.where(alive, count, np.nan) for count in (slept[0], moved, woke[0])))
