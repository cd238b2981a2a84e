"""Data sets as tensors on the device, and each replica's own endless sequence of batches from them.

Everything is drawn and standardized by NumPy in float64, so that dtype and device change only the precision.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab import memory, npz, schema
from lab.schema import ConfigError


@dataclass(frozen=True)
class Dataset:
    """Training and held-out examples: x (n, features) in the network's dtype, y (n,) int64 labels below `classes`."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def features(self) -> int:
        return self.train_x.shape[1]


def load(config: schema.Data, dtype: torch.dtype, device: torch.device) -> Dataset:
    """The data set that `config` names.

    Raises:
        ConfigError: it cannot be fetched, or the user's file is not what it should be.
    """
    split, classes = SOURCES[config.name](config)
    train_x, test_x = (torch.from_numpy(x).to(dtype).to(device) for x in (split.train_x, split.test_x))
    train_y, test_y = (torch.from_numpy(y).to(device) for y in (split.train_y, split.test_y))
    return Dataset(train_x, train_y, test_x, test_y, classes)


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


# --- sources --------------------------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Examples (n, features) in float64 and labels (n,), for training and held out."""

    train_x: NDArray[np.float64]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float64]
    test_y: NDArray[np.int64]


def _digits(config: schema.Data) -> tuple[Split, int]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=DIGITS_HELD_OUT, stratify=y, random_state=0)
    return _standardize(Split(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))), 10


@functools.lru_cache(maxsize=1)  # a sweep would parse the same 70,000 images again for every run
def _openml(config: schema.OpenML) -> tuple[Split, int]:
    """MNIST (LeCun et al. 1998) or Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 images of 28x28 pixels.

    Standardized with one mean and deviation for all pixels, which takes their scale of 0 to 255 out too: some at the
    rim are hardly ever set, and a deviation of their own would make those few values a hundred times the others.
    """
    from sklearn.datasets import fetch_openml

    cache = Path(config.cache).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data.cache={config.cache}: {error.strerror}; give a folder that can be written.") from error
    try:
        with warnings.catch_warnings():
            # It announces each new attempt with a warning; whether one succeeded is all that matters.
            warnings.filterwarnings("ignore", message="A network error occurred")
            found = fetch_openml(data_id=OPENML_IDS[config.name], data_home=str(cache), as_frame=False)
    except (OSError, HTTPException, EOFError, ValueError) as error:  # no connection, broken off, refused by OpenML
        raise ConfigError(
            f"data={config.name}: it could not be fetched from OpenML ({' '.join(str(error).split())}) and is not in"
            f" {cache}; connect once, after which it stays there, or use a file of your own with data=npz"
            " data.path=FILE.npz."
        ) from error
    x, y = found.data.astype(np.float64), found.target.astype(np.int64)
    split = Split(x[:MNIST_TRAIN], y[:MNIST_TRAIN], x[MNIST_TRAIN:], y[MNIST_TRAIN:])
    mean, deviation = split.train_x.mean(), split.train_x.std()
    x -= mean  # in place, and seen through both parts: the images are large
    x /= deviation
    return split, 10


def _spirals(config: schema.Spirals) -> tuple[Split, int]:
    """Arm k of K: radius t and angle 2 pi (turns t + k / K), t uniform in [0, 1]; both coordinates get noise."""
    generator = np.random.default_rng(config.seed)
    y = generator.permutation(np.arange(config.examples) % config.classes)
    t = generator.uniform(size=config.examples)
    angle = 2 * np.pi * (config.turns * t + y / config.classes)
    x = np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1)
    x += config.noise * generator.standard_normal(x.shape)
    return _standardize(_hold_out(x, y)), config.classes


def _circles(config: schema.Circles) -> tuple[Split, int]:
    from sklearn.datasets import make_circles

    # A RandomState made this way takes a seed of any size; as a plain number it would have to be below 2**32.
    random_state = np.random.RandomState(np.random.MT19937(config.seed))
    x, y = make_circles(config.examples, noise=config.noise, factor=config.factor, random_state=random_state)
    return _standardize(_hold_out(x, y.astype(np.int64))), 2


def _gaussian(config: schema.GaussianData) -> tuple[Split, int]:
    """Not standardized: the variance is what was asked for."""
    generator = np.random.default_rng(config.seed)
    x = np.sqrt(config.variance) * generator.standard_normal((config.examples, config.features))
    return _hold_out(x, generator.integers(config.classes, size=config.examples)), config.classes


def _npz(config: schema.Npz) -> tuple[Split, int]:
    path = config.path
    arrays = npz.read(path, most_numbers=memory.available() // (8 * npz.COPIES))
    x, y = npz.examples(path, arrays, "train")
    if {"x_test", "y_test"} & arrays.keys():
        split = Split(x, y, *npz.examples(path, arrays, "test"))
        if split.test_x.shape[1] != x.shape[1]:
            raise npz.fault(
                path, f"x_test has {split.test_x.shape[1]} features and x_train {x.shape[1]}", "give both the same"
            )
    elif len(x) < HOLD_OUT_EVERY:
        raise npz.fault(
            path,
            f"x_train has {len(x)} examples, too few to hold every {HOLD_OUT_EVERY}th out",
            f"give x_test and y_test, or at least {HOLD_OUT_EVERY} examples",
        )
    else:
        split = _hold_out(x, y)
    classes = npz.count_classes(path, split.train_y, split.test_y)
    if len(split.train_y) < 2:
        raise npz.fault(path, "there is one training example, and one has no deviation", "give at least 2")
    if config.standardize:
        split = _standardize(split)
        for part, inputs in (("train", split.train_x), ("test", split.test_x)):
            npz.refuse_large(path, part, inputs, "standard deviations from the mean")
    return split, classes


def _hold_out(x: NDArray[np.float64], y: NDArray[np.int64]) -> Split:
    is_held_out = np.arange(len(x)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    return Split(x[~is_held_out], y[~is_held_out], x[is_held_out], y[is_held_out])


def _standardize(split: Split) -> Split:
    """Each feature by its mean and deviation over the training examples; one that is constant there becomes 0."""
    x = split.train_x
    is_constant = x.min(0) == x.max(0)  # its computed deviation may differ from 0 by rounding
    # By a power of two, which changes no digit: the squares of 1e-200 would be 0.
    exponent = np.where(is_constant, 0, np.frexp(np.abs(x).max(0))[1])
    x = np.ldexp(x, -exponent)
    mean, deviation = x.mean(0), np.where(is_constant, 1.0, x.std(0))
    with np.errstate(
        over="ignore"
    ):  # a held-out example may be further off than any number; `npz.refuse_large` refuses it
        test_x = np.ldexp(split.test_x, -exponent)
        train_x, test_x = (np.where(is_constant, 0.0, (x - mean) / deviation) for x in (x, test_x))
    return split._replace(train_x=train_x, test_x=test_x)


BLOCK_INDICES = 2**18
"""How many indices are drawn ahead, over all replicas: 2 MiB of them."""

DIGITS_HELD_OUT = 359
HOLD_OUT_EVERY = 5
MNIST_TRAIN = 60_000
OPENML_IDS = {"mnist": 554, "fashion_mnist": 40996}

SOURCES: Mapping[str, Callable[[Any], tuple[Split, int]]] = {
    "digits": _digits,
    "mnist": _openml,
    "fashion_mnist": _openml,
    "spirals": _spirals,
    "circles": _circles,
    "gaussian": _gaussian,
    "npz": _npz,
}
