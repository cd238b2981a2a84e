"""The table: the records of a run as one xarray dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
from lab.readings.quantities import LAYER_QUANTITIES, SCALAR_QUANTITIES, SPECTRA
from lab.readings.records import Record
from lab.typing import Array


def to_dataset(
    records: Sequence[Record],
    first_replica: int = 0,
    attrs: Mapping[str, str] | None = None,
    predictions: Iterable[tuple[str, Array, str, str]] = (),
) -> xr.Dataset:
    """The records as one table: dimensions (step, layer, replica), float64, each variable with long_name and units.

    Args:
        predictions: (name, values, long_name, units) of what theory says, (layer,) or a number.
    """
    import xarray as xr

    if not records:
        raise ValueError("There is no reading to put into a table.")
    first = records[0]
    table = xr.Dataset(attrs=dict(attrs or {}))
    table.coords["step"] = ("step", [record.step for record in records], {"long_name": "parameter updates made"})
    for name, what in LAYER_QUANTITIES.items():
        if name in first.layers:
            table[name] = (("step", "layer", "replica"), np.stack([record.layers[name] for record in records]))
            table[name].attrs = {"long_name": what.long_name, "units": what.units}
    for name, what in SCALAR_QUANTITIES.items():
        if name in first.scalars:
            table[name] = (("step", "replica"), np.stack([record.scalars[name] for record in records]))
            table[name].attrs = {"long_name": what.long_name, "units": what.units}
    for name, what in SPECTRA.items():
        if name in first.spectra:
            missing = np.full_like(first.spectra[name], np.nan)
            values = np.stack([record.spectra.get(name, missing) for record in records])
            table[name] = (("step", "singular_value", "replica"), values)
            table.coords["singular_value"] = (
                "singular_value",
                np.arange(values.shape[1]),
                {"long_name": "0 is largest"},
            )
            table[name].attrs = {"long_name": what.long_name, "units": what.units}
    for name, values, long_name, units in predictions:
        table[name] = (("layer",) if values.ndim else (), values, {"long_name": long_name, "units": units})
    replicas = len(first.diverged_at)
    table.coords["replica"] = ("replica", first_replica + np.arange(replicas), {"long_name": "replica of the seed"})
    if "layer" in table.dims:
        table.coords["layer"] = (
            "layer",
            np.arange(table.sizes["layer"]),
            {"long_name": "hidden layer, 0 at the input"},
        )
    return table
