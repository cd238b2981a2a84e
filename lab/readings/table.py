"""The table: the records of a run as one xarray dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lab.readings.quantities import LAYER_QUANTITIES, SCALAR_QUANTITIES, SPECTRA
from lab.readings.records import Record
from lab.typing import Array

if TYPE_CHECKING:
    import xarray as xr

COORDINATES = {
    "singular_value": "0 is largest",
    "replica": "replica of the seed",
    "layer": "hidden layer, 0 at the input",
}
"""Dimension -> long name of its coordinate, which counts from 0."""


def to_dataset(
    records: Sequence[Record],
    first_replica: int = 0,
    attrs: Mapping[str, str] | None = None,
    predictions: Iterable[tuple[str, Array, str, str]] = (),
) -> xr.Dataset:
    """Join records into a table with dimensions (step, layer, replica), float64, with long_name and units.

    Args:
        records: in the order of their steps.
        first_replica: number of the first replica.
        attrs: attributes of the table.
        predictions: (name, values, long_name, units) of theory, with values (layer,) or ().

    Raises:
        ValueError: there are no records.
    """
    import xarray as xr

    if not records:
        raise ValueError("There is no reading to put into a table.")
    first = records[0]
    table = xr.Dataset(attrs=dict(attrs or {}))
    table.coords["step"] = ("step", [record.step for record in records], {"long_name": "parameter updates made"})
    groups = (
        (LAYER_QUANTITIES, "layers", ("step", "layer", "replica")),
        (SCALAR_QUANTITIES, "scalars", ("step", "replica")),
        (SPECTRA, "spectra", ("step", "singular_value", "replica")),
    )
    for quantities, group, dims in groups:
        for name, quantity in quantities.items():
            if name in getattr(first, group):
                missing = np.full_like(getattr(first, group)[name], np.nan)
                values = np.stack([getattr(record, group).get(name, missing) for record in records])
                table[name] = (dims, values, {"long_name": quantity.long_name, "units": quantity.units})
    for name, values, long_name, units in predictions:
        table[name] = (("layer",) if values.ndim else (), values, {"long_name": long_name, "units": units})
    starts = {"replica": first_replica}
    for dim, long_name in COORDINATES.items():
        if dim in table.dims:
            numbers = starts.get(dim, 0) + np.arange(table.sizes[dim])
            table.coords[dim] = (dim, numbers, {"long_name": long_name})
    return table
