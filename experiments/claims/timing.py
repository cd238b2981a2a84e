"""Timing of an activation, alone and in a training step: all sides take turns in one process and thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lab.typing import Array

if TYPE_CHECKING:
    from torch import Tensor, device

    from lab.train.trainer import Trainer

SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Entries of a tensor; a layer of the lab's default run has 128 * 128 per replica."""
REPEATS = (100, 30, 5, 1)
"""Calls timed together at each size, a few tenths of a millisecond: far above the clock's resolution."""

WIDTHS = (32, 128, 512)
DEPTH, BATCH = 4, 128
STEP = (f"model.depth={DEPTH}", f"batch_size={BATCH}", "data=digits", "replicas=1", "optimizer.lr=0.001")
"""Overrides of the timed training steps, which have no reading."""
STEP_REPEATS = (8, 3, 1)

WARM_UP = 3
"""Uncounted turns at the start: allocations, caches, and on a GPU the compilation of kernels."""

Call = Callable[[], object]


def elementwise(names: Sequence[str], turns: int, on: device) -> dict[str, Array]:
    """Return `forward_NAME` and `both_NAME` (SIZES, turns): seconds per call, without and with its backward pass.

    Names are the lab's activations, and `copy` for writing the input to a new tensor and nothing else.
    """
    import torch

    calls: dict[str, list[Call]] = {}
    guard = reserve(max(SIZES))
    for size in SIZES:
        z = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(on)
        upstream = torch.ones_like(z)
        for name in names:
            function = _function(name)
            calls.setdefault(f"forward_{name}", []).append(_forward(function, z))
            calls.setdefault(f"both_{name}", []).append(_both(function, z, upstream))
    seconds = _turns(calls, REPEATS, turns, on, has_lead=True)
    del guard
    return seconds


def steps(names: Sequence[str], turns: int, on: device) -> dict[str, Array]:
    """Return `step_NAME` (WIDTHS, turns): seconds per training step of a network with that activation."""
    import torch

    from lab import compose, data
    from lab.train.trainer import Trainer

    calls: dict[str, list[Call]] = {f"step_{name}": [] for name in names}
    for width in WIDTHS:
        for name in names:
            configuration = compose.compose([*STEP, f"activation={name}", f"model.width={width}"])
            trainer = Trainer(configuration, data.load(configuration.data, torch.float32, on), on)
            calls[f"step_{name}"].append(_step(trainer))
    return _turns(calls, STEP_REPEATS, turns, on, has_lead=False)


def reserve(entries: int) -> Tensor:
    """Leave free memory for tensors of that size in the process, as long as the result is referenced.

    glibc returns the upper end of its heap to the system when much of it is free, and one side's result lies there by
    chance. That side would pay for fresh pages at every call, more than for the computation. So some blocks are freed
    below one that stays. (A block gets pages of its own only if it is larger than every one freed before.)
    """
    import torch

    largest = torch.empty(4 * entries)
    del largest
    blocks = [torch.empty(entries) for _ in range(8)]
    return blocks[-1]


def _turns(
    calls: Mapping[str, Sequence[Call]], repeats: Sequence[int], turns: int, on: device, has_lead: bool
) -> dict[str, Array]:
    """Return seconds per call of each side, (calls, turns).

    In a turn the same call of all sides is timed in immediate succession, so that other load of the machine affects all
    of them; the first side changes from turn to turn. With `has_lead` an untimed call precedes the timed ones, so that
    caches and the allocator's free memory are as the same side leaves them.
    """
    sides = list(calls)
    seconds = {side: np.empty((len(repeats), turns)) for side in sides}
    for turn in range(-WARM_UP, turns):
        first = turn % len(sides)
        for place, times in enumerate(repeats):
            for side in sides[first:] + sides[:first]:
                call = calls[side][place]
                if has_lead:
                    call()
                spent = _seconds(call, times, on)
                if turn >= 0:
                    seconds[side][place, turn] = spent
    return seconds


def _seconds(call: Call, repeats: int, on: device) -> float:
    """Return seconds per call; on a CPU the thread's own time, which excludes other processes on the core."""
    import torch

    is_cuda = on.type == "cuda"
    clock = time.perf_counter if is_cuda else time.thread_time
    wait: Call = torch.cuda.synchronize if is_cuda else lambda: None
    wait()
    start = clock()
    for _ in range(repeats):
        call()
    wait()
    return (clock() - start) / repeats


def _function(name: str) -> Callable[[Tensor], Tensor]:
    import torch

    from lab import schema
    from lab.network import activations

    if name == "copy":
        return torch.clone
    layer = activations.build(schema.ACTIVATIONS[name](name), 1, ())
    assert isinstance(layer, activations.ElementwiseLayer)
    return layer.function.function


def _forward(function: Callable[[Tensor], Tensor], z: Tensor) -> Call:
    return lambda: function(z)


def _both(function: Callable[[Tensor], Tensor], z: Tensor, upstream: Tensor) -> Call:
    import torch

    leaf = z.clone().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, upstream)


def _step(trainer: Trainer) -> Call:
    return lambda: trainer.step()
