"""The data sets that can be chosen by name."""

import functools
import warnings
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab import schema
from lab.data import npz
from lab.machine import memory
from lab.schema import ConfigError

DIGITS_HELD_OUT = 359
HOLD_OUT_EVERY = 5
MNIST_TRAIN = 60_000
OPENML_IDS = {"mnist": 554, "fashion_mnist": 40996}


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

    Standardized with one mean and deviation for all pixels: some at the rim are hardly ever set, and a deviation of
    their own would make those few values a hundred times the others.
    """
    from sklearn.datasets import fetch_openml

    cache = Path(config.cache).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data.cache={config.cache}: {error.strerror}; give a folder that can be written.") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A network error occurred")
            images = fetch_openml(data_id=OPENML_IDS[config.name], data_home=str(cache), as_frame=False)
    except (OSError, HTTPException, EOFError, ValueError) as error:  # no connection, connection lost, refused
        failure = f"it could not be fetched from OpenML ({' '.join(str(error).split())}) and is not in {cache}"
        remedy = "connect once, after which it stays there, or use a file of your own with data=npz data.path=FILE.npz"
        raise ConfigError(f"data={config.name}: {failure}; {remedy}.") from error
    x, y = images.data.astype(np.float64), images.target.astype(np.int64)
    split = Split(x[:MNIST_TRAIN], y[:MNIST_TRAIN], x[MNIST_TRAIN:], y[MNIST_TRAIN:])
    mean, deviation = split.train_x.mean(), split.train_x.std()
    x -= mean  # in place, so both parts change: the images are large
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

    # RandomState(seed) itself accepts seeds below 2**32 only.
    random_state = np.random.RandomState(np.random.MT19937(config.seed))
    x, y = make_circles(config.examples, noise=config.noise, factor=config.factor, random_state=random_state)
    return _standardize(_hold_out(x, y.astype(np.int64))), 2


def _gaussian(config: schema.GaussianData) -> tuple[Split, int]:
    """Not standardized: the inputs have the configured variance."""
    generator = np.random.default_rng(config.seed)
    x = np.sqrt(config.variance) * generator.standard_normal((config.examples, config.features))
    return _hold_out(x, generator.integers(config.classes, size=config.examples)), config.classes


def _npz(config: schema.Npz) -> tuple[Split, int]:
    path = config.path
    arrays = npz.read(path, most_numbers=memory.available() // (8 * npz.COPIES))
    x, y = npz.examples(path, arrays, "train")
    if {"x_test", "y_test"} & arrays.keys():
        split = Split(x, y, *npz.examples(path, arrays, "test"))
    elif len(x) >= HOLD_OUT_EVERY:
        split = _hold_out(x, y)
    else:
        what = f"x_train has {len(x)} examples, too few to hold every {HOLD_OUT_EVERY}th out"
        raise npz.fault(path, what, f"give x_test and y_test, or at least {HOLD_OUT_EVERY} examples")
    if split.test_x.shape[1] != x.shape[1]:
        what = f"x_test has {split.test_x.shape[1]} features and x_train {x.shape[1]}"
        raise npz.fault(path, what, "give both the same")
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
    """Subtract each feature's training mean and divide by its deviation; a constant feature becomes 0."""
    x = split.train_x
    is_constant = x.min(0) == x.max(0)  # its computed deviation may differ from 0 by rounding
    # Scaled by a power of two, which changes no digit: the squares of 1e-200 would be 0.
    exponent = np.where(is_constant, 0, np.frexp(np.abs(x).max(0))[1])
    x = np.ldexp(x, -exponent)
    mean, deviation = x.mean(0), np.where(is_constant, 1.0, x.std(0))
    with np.errstate(over="ignore"):  # a held-out example that overflows is refused by `npz.refuse_large`
        test_x = np.ldexp(split.test_x, -exponent)
        train_x, test_x = (np.where(is_constant, 0.0, (x - mean) / deviation) for x in (x, test_x))
    return split._replace(train_x=train_x, test_x=test_x)


SOURCES: dict[str, Callable[[Any], tuple[Split, int]]] = {
    "digits": _digits,
    "mnist": _openml,
    "fashion_mnist": _openml,
    "spirals": _spirals,
    "circles": _circles,
    "gaussian": _gaussian,
    "npz": _npz,
}
"""Option -> (training and held-out examples, number of classes)."""
