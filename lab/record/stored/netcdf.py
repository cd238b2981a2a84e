"""NetCDF files of unknown origin: tables of numbers, read without executing code or exhausting memory.

A file is refused before its values are read if it is truncated or not HDF5, if it holds links, groups, objects, filters
that HDF5 would load a library for, or values in other files, or if it declares more than a file of its size can hold.
xarray opens such a table ten times slower, which matters for a sweep of many runs.
"""

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

LARGEST_EXPANSION = 20
"""Bytes that a byte of a file may stand for: measurements compress less than 5 times, a bomb 1000 times."""
SLACK = 2**16
"""Bytes that any file may declare."""
DIMENSION, DIMENSIONS = "_Netcdf4Dimid", "_Netcdf4Coordinates"
"""Attributes of the NetCDF-4 format: the number of a dimension, and those of an array's dimensions."""
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


class UnreadableError(ValueError):
    """A file that is not a table of readings; the message is one sentence."""


class Variable(NamedTuple):
    """A named array: its dimensions, values, and, where requested, long_name and units."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Mapping[str, str]


def read(path: Path, without_attrs: Container[str] = ()) -> dict[str, Variable]:
    """Read the variables and coordinates of a table whose dimensions have ascending integer coordinates.

    Args:
        path: a file as xarray writes it with h5netcdf.
        without_attrs: names whose attributes are not needed; reading them takes as long as reading the values.

    Raises:
        UnreadableError: it does not hold such a table.
    """
    table = {}
    with _opened(path) as file:
        arrays = _arrays(file, path)
        scales = {int(array.attrs[DIMENSION]): name for name, array in arrays.items() if _is_scale(array)}
        for name, array in arrays.items():
            if array.dtype.kind not in "iuf":
                raise UnreadableError(f"{path}: {name} holds no numbers.")
            attrs = {} if name in without_attrs else {key: array.attrs.get(key) for key in ("long_name", "units")}
            texts = {key: value for key, value in attrs.items() if isinstance(value, str)}
            table[name] = Variable(_dims(name, array, scales), array[()], texts)
    check_shapes(table, path)
    return table


def check(path: Path) -> None:
    """Raise an `UnreadableError` unless xarray can safely read the file, which may hold numbers and strings."""
    with _opened(path) as file:
        for name, array in _arrays(file, path).items():
            if h5py.check_string_dtype(array.dtype) is not None:
                total = 0  # many references to one long string expand in memory
                for index in np.ndindex(array.shape):
                    total += len(array[index])
                    if total > LARGEST_EXPANSION * path.stat().st_size:
                        raise UnreadableError(f"{path}: {name} holds more text than a file of its size can.")
            elif array.dtype.kind not in "iufb":
                raise UnreadableError(f"{path}: {name} holds neither numbers nor texts.")


def attribute(path: Path, name: str) -> str:
    """Return a text attribute of a file, empty if there is none; raise an `UnreadableError` if it is no NetCDF-4."""
    with _opened(path) as file:
        value = file.attrs.get(name, "")
    return value if isinstance(value, str) else ""


def check_shapes(table: Mapping[str, Variable], path: Path) -> None:
    """Raise an `UnreadableError` unless each dimension has an ascending coordinate, and each variable its shape."""
    for name, variable in table.items():
        if len(set(variable.dims)) < len(variable.dims) or any(dim not in table for dim in variable.dims):
            raise UnreadableError(f"{path}: {name} has dimensions without coordinates.")
        if variable.values.shape != tuple(table[dim].values.size for dim in variable.dims):
            raise UnreadableError(f"{path}: {name} has not the shape of its dimensions.")
    for name in {dim for variable in table.values() for dim in variable.dims}:
        values = table[name].values
        if table[name].dims != (name,) or values.dtype.kind not in "iu" or (values[1:] <= values[:-1]).any():
            raise UnreadableError(f"{path}: {name} does not count upwards in whole numbers.")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UnreadableError(f"{path}: there is no such file.")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except UnreadableError:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise UnreadableError(f"{path}: it is damaged, or no NetCDF-4 file ({cause}).") from error


def _arrays(file: Any, path: Path) -> dict[str, Any]:
    """Return the datasets of a file, after checking that their values are in it and fit into it."""
    arrays: dict[str, Any] = {}
    declared = 0
    for name in file:
        if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise UnreadableError(f"{path}: {name} is a link to elsewhere.")
        arrays[name] = array = file[name]
        if not isinstance(array, h5py.Dataset):
            raise UnreadableError(f"{path}: {name} is no array.")
        created = array.id.get_create_plist()
        if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
            raise UnreadableError(f"{path}: the values of {name} lie in another file.")
        if any(created.get_filter(i)[0] not in FILTERS for i in range(created.get_nfilters())):
            raise UnreadableError(f"{path}: {name} is packed in an unusual way.")
        if array.shape is None:
            raise UnreadableError(f"{path}: {name} is empty.")
        declared += math.prod(array.shape) * array.dtype.itemsize
    if declared > LARGEST_EXPANSION * path.stat().st_size + SLACK:
        raise UnreadableError(f"{path}: it declares {declared:,} bytes, more than a file of its size can hold.")
    return arrays


def _is_scale(array: Any) -> bool:
    return array.ndim == 1 and DIMENSION in array.attrs and h5py.h5ds.is_scale(array.id)


def _dims(name: str, array: Any, scales: Mapping[int, str]) -> tuple[str, ...]:
    """Return the names of an array's dimensions, empty names for unknown ones; a scale is its own dimension."""
    if _is_scale(array):
        return (name,)
    if DIMENSIONS in array.attrs:
        return tuple(scales.get(int(number), "") for number in array.attrs[DIMENSIONS])
    # Written for arrays of two and more dimensions; of one dimension, the reference to its scale is the only record.
    return tuple(dim[0].name.removeprefix("/") for dim in array.dims) if array.ndim else ()
