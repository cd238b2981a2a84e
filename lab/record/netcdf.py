"""Reading .nc files that anybody may have made: tables of numbers, and nothing that a reader could be hurt by.

A file is refused before anything large is read if it is cut short or no HDF5, if it holds links, groups, objects or
filters, or if it declares more than a file of its size can hold. xarray opens such a table ten times slower, which is
why many runs are read here.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

LARGEST_EXPANSION = 20
"""Bytes that a byte of a file may stand for: measurements do not compress five times, a bomb a thousand times."""
SLACK = 2**16
"""Bytes that any file may declare."""
DIMENSION, DIMENSIONS = b"_Netcdf4Dimid", b"_Netcdf4Coordinates"
"""Attributes of the NetCDF-4 format: the number of a dimension, and those of an array's dimensions."""
MOST_DIMENSIONS = 32
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
"""Others would have HDF5 look for a library and load it."""


class UnreadableError(ValueError):
    """A file that is no table of readings; the message is one sentence."""


class Variable(NamedTuple):
    """A named array: its dimensions, values, and, where they were asked for, long_name and units."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Mapping[str, str]


def read(path: Path, without_attrs: Container[str] = ()) -> dict[str, Variable]:
    """The variables of a table, coordinates among them, each dimension with whole numbers that rise.

    Args:
        path: a file as xarray writes it by h5netcdf.
        without_attrs: names whose attributes are not wanted, since reading them takes as long as reading the values.

    Raises:
        UnreadableError: there is no such table in it.
    """
    table = {}
    with _opened(path) as file:
        arrays = _arrays(file, path)
        scales = {_integers(array.id, DIMENSION)[:1]: name for name, array in arrays.items() if array.is_scale}
        for name, array in arrays.items():
            if array.dtype.kind not in "iuf":
                raise UnreadableError(f"{path}: {name} holds no numbers.")
            values = np.empty(array.shape, array.dtype)
            array.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            attrs = {} if name in without_attrs else _attrs(array.id)
            table[name] = Variable(_dims(array, name, scales, file), values, attrs)
    check_shapes(table, path)
    return table


def check(path: Path) -> None:
    """Raise an `UnreadableError` unless it is safe to have xarray read a file of numbers and texts."""
    with _opened(path) as file:
        for name, array in _arrays(file, path).items():
            if h5py.check_string_dtype(array.dtype) is not None:
                _check_texts(h5py.Dataset(array.id), name, path)
            elif array.dtype.kind not in "iufb":
                raise UnreadableError(f"{path}: {name} holds neither numbers nor texts.")


def attribute(path: Path, name: str) -> str:
    """A text that a file says of itself; empty if it does not.

    Raises:
        UnreadableError: it is no NetCDF-4 file.
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
        raise UnreadableError(
            f"{path}: it is damaged, or no NetCDF-4 file ({' '.join(str(error).split())})."
        ) from error


class _Array(NamedTuple):
    """A dataset of the file, in h5py's low-level terms: its high-level ones double the time of reading small ones."""

    id: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_scale: bool


def _arrays(file: Any, path: Path) -> dict[str, _Array]:
    """The datasets of a file, once it is known that their values lie in it and fit into it."""
    found, declared = {}, 0
    for raw in file.id:
        name = raw.decode()
        if file.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            raise UnreadableError(f"{path}: {name} is a link to elsewhere.")
        identifier = h5py.h5o.open(file.id, raw)
        if not isinstance(identifier, h5py.h5d.DatasetID):
            raise UnreadableError(f"{path}: {name} is no array.")
        created = identifier.get_create_plist()
        if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
            raise UnreadableError(f"{path}: the values of {name} lie in another file.")
        if any(created.get_filter(i)[0] not in FILTERS for i in range(created.get_nfilters())):
            raise UnreadableError(f"{path}: {name} is packed in an unusual way.")
        shape, dtype = identifier.shape, identifier.dtype
        if shape is None:
            raise UnreadableError(f"{path}: {name} is empty.")
        declared += math.prod(shape) * dtype.itemsize
        found[name] = _Array(identifier, shape, dtype, len(shape) == 1 and h5py.h5ds.is_scale(identifier))
    if declared > LARGEST_EXPANSION * path.stat().st_size + SLACK:
        raise UnreadableError(
            f"{path}: it declares {declared:,} bytes of values, more than a file of its size can hold."
        )
    return found


def _dims(array: _Array, name: str, scales: Mapping[tuple[int, ...], str], file: Any) -> tuple[str, ...]:
    """The names of an array's dimensions; a scale is its own."""
    if array.is_scale:
        return (name,)
    if not array.shape:
        return ()
    if numbers := _integers(array.id, DIMENSIONS):
        return tuple(scales.get((number,), "") for number in numbers)
    references = h5py.Dataset(array.id).attrs["DIMENSION_LIST"]  # five times slower
    names = [h5py.h5r.get_name(of_dimension[0], file.id) or b"" for of_dimension in references]
    return tuple(found.decode().removeprefix("/") for found in names)


def _integers(identifier: Any, attribute: bytes) -> tuple[int, ...]:
    """An attribute of a few whole numbers; empty if there is none."""
    if not h5py.h5a.exists(identifier, attribute):
        return ()
    found = h5py.h5a.open(identifier, attribute)
    if math.prod(found.shape) > MOST_DIMENSIONS:
        return ()
    values = np.empty(found.shape, np.int64)
    found.read(values, mtype=h5py.h5t.NATIVE_INT64)
    return tuple(values.ravel().tolist())


def _attrs(identifier: Any) -> dict[str, str]:
    attributes = h5py.Dataset(identifier).attrs
    found = {name: attributes.get(name) for name in ("long_name", "units")}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def check_shapes(table: Mapping[str, Variable], path: Path) -> None:
    """Raise an `UnreadableError` unless every dimension has a coordinate that rises, and every variable its shape."""
    for name, variable in table.items():
        if len(set(variable.dims)) < len(variable.dims) or any(dim not in table for dim in variable.dims):
            raise UnreadableError(f"{path}: {name} has dimensions without coordinates.")
        if variable.values.shape != tuple(table[dim].values.size for dim in variable.dims):
            raise UnreadableError(f"{path}: {name} has not the shape of its dimensions.")
    for name in {dim for variable in table.values() for dim in variable.dims}:
        values = table[name].values
        if table[name].dims != (name,) or values.dtype.kind not in "iu" or (values[1:] <= values[:-1]).any():
            raise UnreadableError(f"{path}: {name} does not count upwards in whole numbers.")


def _check_texts(dataset: Any, name: str, path: Path) -> None:
    """Texts can all be the same one in the file and many in memory."""
    total, largest = 0, LARGEST_EXPANSION * path.stat().st_size
    for index in np.ndindex(dataset.shape or ()):
        total += len(dataset[index])
        if total > largest:
            raise UnreadableError(f"{path}: {name} holds more text than a file of its size can.")
