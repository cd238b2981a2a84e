"""The user's own data, in an .npz file of plain arrays that may come from anybody: reading one executes nothing."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from lab.schema import ConfigError

NAMES = ("x_train", "y_train", "x_test", "y_test")

COPIES = 6
"""Copies of the numbers in memory, as float64, while they are split and standardized."""


class Extent(NamedTuple):
    """The size of a data set: training and held-out examples, features of each, and classes."""

    train: int
    test: int
    features: int
    classes: int


def read(path: str, most_numbers: int) -> dict[str, Any]:
    """Read those arrays of `NAMES` that the user's file has.

    Raises:
        ConfigError: there is no such file, it is no .npz of plain numbers, or unpacks to more than `most_numbers`.
    """
    name = ""
    try:
        file = Path(path).expanduser()
        if file.exists() and not file.is_file() and not file.is_dir():  # opening a pipe would block
            raise fault(path, "it is no ordinary file", "give the path of an npz file")
        # Not np.load, which also opens other formats.
        with file.open("rb") as opened, NpzFile(opened, allow_pickle=False) as archive:
            numbers = 0
            for name in _names(archive):
                numbers += math.prod(_shape(archive, name))
            if numbers > most_numbers:
                what = f"it unpacks to {numbers} numbers, and there is memory for {most_numbers}"
                raise fault(path, what, "give fewer examples or features")
            arrays = {}
            for name in _names(archive):
                arrays[name] = archive[name]
            return arrays
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise fault(path, "there is no such file", "give the path of an npz file") from error
    except Exception as error:  # a damaged file, or an impossible header, raises a dozen kinds
        what = f"{name} cannot be read as an array of numbers" if name else "it cannot be read as an npz file"
        remedy = "write it with numpy.savez(FILE, x_train=..., y_train=...), all of them plain arrays of numbers"
        raise fault(path, what, remedy) from error


def extent(path: str, most_numbers: int) -> Extent | None:
    """Read the size of a file's data from its headers and labels; None if it cannot be read, which `read` reports."""
    try:
        with Path(path).expanduser().open("rb") as opened, NpzFile(opened, allow_pickle=False) as archive:
            shapes = {name: _shape(archive, name) for name in _names(archive)}
            train, *rest = shapes["x_train"]
            test, *_ = shapes.get("x_test", (0,))
            classes = 2
            if shapes["y_train"] == (train,) and train <= most_numbers:
                classes = max(2, min(int(archive["y_train"].max()) + 1, train + test))
            return Extent(train, test, math.prod(rest), classes)
    except Exception:
        return None


def examples(path: str, arrays: Mapping[str, Any], part: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return x (n, features) and y (n,) of "train" or "test" after checking them.

    Raises:
        ConfigError: an array is missing, or its shape, type or values cannot be used.
    """
    for name in (f"x_{part}", f"y_{part}"):
        if name not in arrays:
            names = ", ".join(arrays) or "none of x_train, y_train, x_test, y_test"
            raise fault(path, f"there is no {name} in it (it holds {names})", "add an array of that name to the file")
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if x.dtype.kind not in "biuf":
        raise fault(path, f"x_{part} holds {x.dtype}, not real numbers", f"convert it with x_{part}.astype(float)")
    if x.ndim < 2 or x.size == 0:
        raise fault(path, f"x_{part} has shape {x.shape}", "give it shape (examples, features) or (examples, ...)")
    if y.dtype.kind not in "iu" or y.ndim != 1:
        what = f"y_{part} has shape {y.shape} and holds {y.dtype}"
        raise fault(path, what, "give it shape (examples,) and integers, one class number for each example")
    if len(x) != len(y):
        raise fault(path, f"x_{part} has {len(x)} examples and y_{part} {len(y)}", "give one label for each example")
    x = x.reshape(len(x), -1).astype(np.float64)
    refuse_large(path, part, x)
    return x, y.astype(np.int64)


def refuse_large(path: str, part: str, x: NDArray[np.float64], unit: str = "") -> None:
    """Refuse NaN and what float32 cannot hold, which would become Inf on the device."""
    bad = np.argwhere(~(np.abs(x) <= np.finfo(np.float32).max))  # true for NaN
    if len(bad):
        value = f"{x[tuple(bad[0])]} {unit}".strip()
        what = f"x_{part} holds {value} in example {bad[0, 0]}, one of {len(bad)} entries that are no finite float32"
        raise fault(path, what, "take those examples out or replace the entries")


def count_classes(path: str, *parts: NDArray[np.int64]) -> int:
    """Count the classes of labels (n,), which must be numbered from 0 without a gap."""
    labels = np.unique(np.concatenate(parts))
    if not np.array_equal(labels, np.arange(len(labels))):
        remedy = "number the classes 0, 1, 2 and so on without a gap, as numpy.unique(y, return_inverse=True)[1] does"
        raise fault(path, f"the {len(labels)} labels in use run from {labels[0]} to {labels[-1]}", remedy)
    if len(labels) < 2:
        raise fault(path, "all examples have the same label", "give examples of at least 2 classes")
    return len(labels)


def fault(path: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"data.path={path}: {what}; {remedy}.")


def _names(archive: NpzFile) -> list[str]:
    return [name for name in NAMES if name in archive]


def _shape(archive: NpzFile, name: str) -> tuple[int, ...]:
    """Read the shape in an array's header.

    Raises:
        ValueError: it is no array of plain numbers, or has not as many bytes as its shape takes.
    """
    zipped = archive.zip
    assert zipped is not None
    entry = zipped.getinfo(f"{name}.npy" if f"{name}.npy" in zipped.namelist() else name)
    with zipped.open(entry) as file:
        read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        size = math.prod(map(int, shape)) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size != entry.file_size - file.tell():
            raise ValueError(f"{name} holds no plain numbers, or not as many bytes as its shape {shape} takes.")
    return tuple(map(int, shape))
