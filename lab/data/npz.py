"""The user's own arrays, from a file that anybody may have made: nothing is unpickled, and nothing is believed.

What an array's header says is held against the bytes that are there before any memory is taken for it.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from lab.schema import ConfigError

NAMES = ("x_train", "y_train", "x_test", "y_test")

COPIES = 6
"""How many times the numbers are in memory as float64 while they are split and standardized."""

UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
)
"""What NumPy and zipfile raise on a file that is damaged, or whose header claims what cannot be."""

HEADERS: Mapping[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""By version of the npy format; 3.0 is for names of fields that are not Latin, which plain numbers do not have."""


class Extent(NamedTuple):
    """How much there is in a file: examples in training and held out, features of each, and classes."""

    train: int
    test: int
    features: int
    classes: int


def read(path: str, most_numbers: int) -> dict[str, Any]:
    """The arrays in the user's file, those of `NAMES` that it has.

    Raises:
        ConfigError: there is no such file, it is no npz file of plain numbers, or unpacks to more than `most_numbers`.
    """
    remedy = "write it with numpy.savez(FILE, x_train=..., y_train=...), all of them plain arrays of numbers"
    name = ""
    try:
        place = Path(path).expanduser()
        if place.exists() and not place.is_file() and not place.is_dir():  # a pipe would be waited for
            raise fault(path, "it is no ordinary file", "give the path of an npz file")
        # Not np.load, which takes whatever it finds, a single array of any size too, and leaves it open.
        with place.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            numbers = 0
            with zipfile.ZipFile(file) as headers:
                for name in _names(headers):
                    numbers += math.prod(int(length) for length in _shape(headers, name))
            if numbers > most_numbers:
                raise fault(
                    path,
                    f"it unpacks to {numbers} numbers, and there is memory for {most_numbers}",
                    "give fewer examples or features",
                )
            arrays = {}
            for name in NAMES:
                if name in archive:
                    arrays[name] = archive[name]
            return arrays
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise fault(path, "there is no such file", "give the path of an npz file") from error
    except UNREADABLE as error:
        what = f"{name} cannot be read as an array of numbers" if name else "it cannot be read as an npz file"
        raise fault(path, what, remedy) from error


def extent(path: str, most_numbers: int) -> Extent | None:
    """What a file holds, from its headers and its labels; None if it cannot be read, and `read` says why."""
    try:
        place = Path(path).expanduser()
        if not place.is_file():
            return None
        with place.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            with zipfile.ZipFile(file) as headers:
                shapes = {name: _shape(headers, name) for name in _names(headers)}
            train, *rest = shapes["x_train"]
            test, *_ = shapes.get("x_test", (0,))
            features = math.prod(int(length) for length in rest)
            if shapes["y_train"] != (train,) or train > most_numbers:
                return Extent(train, test, features, 2)
            classes = int(archive["y_train"].max()) + 1
            return Extent(train, test, features, max(2, min(classes, train + test)))
    except UNREADABLE:
        return None


def examples(path: str, arrays: Mapping[str, Any], part: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """x (n, features) and y (n,) of one part of the user's file, once nothing is wrong with them."""
    for name in (f"x_{part}", f"y_{part}"):
        if name not in arrays:
            found = ", ".join(arrays) or "none of x_train, y_train, x_test, y_test"
            raise fault(path, f"there is no {name} in it (it holds {found})", "add an array of that name to the file")
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if x.dtype.kind not in "biuf":
        raise fault(path, f"x_{part} holds {x.dtype}, not real numbers", f"convert it with x_{part}.astype(float)")
    if x.ndim < 2 or x.size == 0:
        raise fault(path, f"x_{part} has shape {x.shape}", "give it shape (examples, features) or (examples, ...)")
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise fault(
            path,
            f"y_{part} has shape {y.shape} and holds {y.dtype}",
            "give it shape (examples,) and integers, one class number for each example",
        )
    if len(x) != len(y):
        raise fault(path, f"x_{part} has {len(x)} examples and y_{part} {len(y)}", "give one label for each example")
    x = x.reshape(len(x), -1).astype(np.float64)
    refuse_large(path, part, x)
    return x, y.astype(np.int64)


def refuse_large(path: str, part: str, x: NDArray[np.float64], unit: str = "") -> None:
    """Refuse what float32 cannot hold, which would become Inf on its way to the device, and NaN."""
    bad = np.argwhere(~(np.abs(x) <= np.finfo(np.float32).max))  # NaN is not below anything
    if len(bad):
        row, column = bad[0]
        what = f"{x[row, column]} {unit}".strip()
        raise fault(
            path,
            f"x_{part} holds {what} in example {row}, one of {len(bad)} entries that are no finite float32",
            "take those examples out or replace the entries",
        )


def count_classes(path: str, *parts: NDArray[np.int64]) -> int:
    """The number of classes of labels (n,), which are numbered from 0 without a gap."""
    labels = np.unique(np.concatenate(parts))
    if not np.array_equal(labels, np.arange(len(labels))):
        raise fault(
            path,
            f"the {len(labels)} labels in use run from {labels[0]} to {labels[-1]}",
            "number the classes 0, 1, 2 and so on without a gap, as numpy.unique(y, return_inverse=True)[1] does",
        )
    if len(labels) < 2:
        raise fault(path, "all examples have the same label", "give examples of at least 2 classes")
    return len(labels)


def fault(path: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"data.path={path}: {what}; {remedy}.")


def _names(archive: zipfile.ZipFile) -> list[str]:
    inside = {name.removesuffix(".npy") for name in archive.namelist()}
    return [name for name in NAMES if name in inside]


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Read the shape in an array's header.

    Raises:
        ValueError: it is no array of plain numbers, or has not as many bytes as its shape takes.
    """
    entry = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
    with archive.open(entry) as file:
        read_header = HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
        size = math.prod(int(length) for length in shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size != entry.file_size - file.tell():
            raise ValueError(f"{name} holds no plain numbers, or not as many bytes as its shape {shape} takes.")
    return tuple(shape)
