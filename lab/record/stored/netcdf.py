"""NetCDF files of unknown origin: tables of numbers, read without executing code or exhausting memory.

A file is refused before its values are read if it is truncated or not HDF5, if it holds links, groups, objects, filters
that HDF5 would load a library for, or values in other files, or if it declares more than a file of its size can hold.
xarray opens such a table ten times slower, which matters for a sweep of many runs.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

LARGEST_EXPANSION = 20
"""Largest accepted compression ratio: below 5 for measurements, 1000 for a decompression bomb."""
SLACK = 2**16
"""Bytes that any file may declare."""
DIMENSION, DIMENSIONS = "_Netcdf4Dimid", "_Netcdf4Coordinates"
"""Attributes of the NetCDF-4 format: the number of a dimension, and those of an array's dimensions."""
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


class UnreadableError(ValueError):
    """A file that is not a table of readings; the message is one sentence."""


def read(path: Path) -> xr.Dataset:
    """Read a table, as xarray writes it with h5netcdf, whose dimensions have ascending integer coordinates.

    Of the attributes, only the long_name and units of variables are read.

    Raises:
        UnreadableError: the file does not hold such a table.
    """
    variables = {}
    with _opened(path) as file:
        arrays = _arrays(file, path)
        scales = {int(array.attrs[DIMENSION]): name for name, array in arrays.items() if _is_scale(array)}
        for name, array in arrays.items():
            dims = _dims(name, array, scales)
            if array.dtype.kind not in "iuf" or len(set(dims)) < len(dims):
                raise UnreadableError(f"{path}: {name} holds no numbers, or has a dimension twice.")
            attrs = {key: array.attrs.get(key) for key in ("long_name", "units")}
            variables[name] = xr.Variable(dims, array[()], {k: v for k, v in attrs.items() if isinstance(v, str)})
        table = xr.Dataset(variables)  # raises a ValueError if the shapes contradict each other
    for dim in table.dims:
        values = table[dim].to_numpy()
        if dim not in table.coords or values.dtype.kind not in "iu" or (values[1:] <= values[:-1]).any():
            raise UnreadableError(f"{path}: {dim} does not count upwards in whole numbers.")
    return table


def check(path: Path) -> None:
    """Raise an `UnreadableError` unless xarray can safely read the file, which may hold numbers and strings."""
    with _opened(path) as file:
        for name, array in _arrays(file, path).items():
            if array.dtype.kind in "iufb":
                continue
            if h5py.check_string_dtype(array.dtype) is None:
                raise UnreadableError(f"{path}: {name} holds neither numbers nor texts.")
            room = LARGEST_EXPANSION * path.stat().st_size
            for index in np.ndindex(array.shape):
                room -= len(array[index])
                if room < 0:  # many references to one long text, which expand in memory
                    raise UnreadableError(f"{path}: {name} holds more text than a file of its size can.")


def attribute(path: Path, name: str) -> str:
    """Return a text attribute of a file; empty if there is none.

    Raises:
        UnreadableError: it is not a NetCDF-4 file.
    """
    with _opened(path) as file:
        value = file.attrs.get(name, "")
    return value if isinstance(value, str) else ""


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
        detail = " ".join(str(error).split())
        raise UnreadableError(f"{path}: it is damaged, or no NetCDF-4 file ({detail}).") from error


def _arrays(file: Any, path: Path) -> dict[str, Any]:
    """Return the datasets of a file, after checking that their values are in it and fit into it."""
    arrays, declared = {}, 0
    for name in file:
        is_link = file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD
        array = None if is_link else file[name]
        if not isinstance(array, h5py.Dataset) or array.shape is None:
            raise UnreadableError(f"{path}: {name} is a link, a group or empty, and no array.")
        created = array.id.get_create_plist()
        if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
            raise UnreadableError(f"{path}: the values of {name} lie in another file.")
        if any(created.get_filter(i)[0] not in FILTERS for i in range(created.get_nfilters())):
            raise UnreadableError(f"{path}: {name} is packed in an unusual way.")
        declared += math.prod(array.shape) * array.dtype.itemsize
        arrays[name] = array
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
