"""Each replica's own endless sequence of batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.data.dataset import Dataset


class Batches:
    """Each replica's batches: it walks through the training examples in an order of its own, shuffled anew every epoch.

    A batch may reach into the next epoch, and may be larger than an epoch. The order is drawn on the host, so it is the
    same for every device, and many steps at once, so one transfer does for all of them; the examples are gathered
    on the device, which nothing waits for.

    Args:
        dataset: where from.
        batch_size: examples a batch and replica, B.
        generators: one a replica, R of them; nothing else should draw from them.
        block_steps: how many steps are drawn at once; the batches do not depend on it.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        *,
        block_steps: int | None = None,
    ) -> None:
        self._dataset, self._batch_size = dataset, batch_size
        self._walks = [_Walk(generator, len(dataset.train_y)) for generator in generators]
        self._block_steps = block_steps or max(1, BLOCK_INDICES // (batch_size * len(generators)))
        self._start_here()

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch of every replica: x (R, B, features), y (R, B)."""
        if self._position == len(self._block):
            self._draw_block()
        indices = self._block[self._position]  # (R, B)
        self._position += 1
        rows = self._dataset.train_x.index_select(0, indices.flatten())  # four times faster on the CPU than x[indices]
        return rows.view(*indices.shape, -1), self._dataset.train_y.take(indices)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the same batches, in Python's own numbers, strings, lists and dicts.

        `generators` are as they were before the epoch in which the steps now drawn begin; `taken` examples of the walk
        from there have been handed out to each replica.
        """
        generators, skipped = zip(*self._origin, strict=True)  # every replica skips equally many
        return {"generators": list(generators), "taken": skipped[0] + self._position * self._batch_size}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, on the same data with the same batch size.

        Raises:
            ValueError: the state is that of another number of replicas.
        """
        if len(state["generators"]) != len(self._walks):
            raise ValueError(f"The state is that of {len(state['generators'])} replicas, not of {len(self._walks)}.")
        for walk, generator in zip(self._walks, state["generators"], strict=True):
            walk.restore(generator, state["taken"])
        self._start_here()

    def _start_here(self) -> None:
        self._origin = [walk.state() for walk in self._walks]
        self._block = torch.empty(0, dtype=torch.int64)  # (steps, R, B)
        self._position = 0

    def _draw_block(self) -> None:
        self._start_here()
        steps, size = self._block_steps, self._batch_size
        drawn = np.stack([walk.take(steps * size).reshape(steps, size) for walk in self._walks], axis=1)
        indices, device = torch.from_numpy(drawn), self._dataset.train_x.device
        if device.type == "cuda":
            indices = indices.pin_memory()  # from ordinary memory, non_blocking would wait all the same
        self._block = indices.to(device, non_blocking=True)  # (steps, R, B)


class _Walk:
    """One replica's endless walk through the examples: one permutation of all of them after the other."""

    def __init__(self, generator: np.random.Generator, examples: int) -> None:
        self._generator, self._examples = generator, examples
        self._left = np.empty(0, np.int64)  # of the epoch begun
        self._epoch_start: Any = None  # the generator's state before it drew the epoch begun

    def take(self, count: int) -> NDArray[np.int64]:
        """The next indices of the walk, (count,)."""
        parts = [self._left]
        for missing in range(count - len(self._left), 0, -self._examples):
            if missing <= self._examples:
                self._epoch_start = _plain(self._generator.bit_generator.state)
            parts.append(self._generator.permutation(self._examples))
        order = np.concatenate(parts)
        self._left = order[count:].copy()  # not a view, which would keep all of `order`
        return order[:count]

    def state(self) -> tuple[Any, int]:
        """A state of the generator, and how many indices of the walk from there are behind us."""
        if len(self._left) == 0:
            return _plain(self._generator.bit_generator.state), 0
        return self._epoch_start, self._examples - len(self._left)

    def restore(self, generator: Any, taken: int) -> None:
        self._generator.bit_generator.state = generator
        self._left = self._left[:0]
        self.take(taken)


def _plain(state: Any) -> Any:
    """A bit generator's state without NumPy's types."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


BLOCK_INDICES = 2**18
"""How many indices are drawn ahead, over all replicas: 2 MiB of them."""
