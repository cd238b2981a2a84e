"""Runs of a sweep side by side: a quantity in every combination of some swept keys, over replicas and runs.

The result is a table with a row a point of a curve; pictures are drawn from it and know nothing else.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lab.readings import LAYER_QUANTITIES, SCALAR_QUANTITIES, SPECTRA, Quantity

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES: Mapping[str, Quantity] = {**LAYER_QUANTITIES, **SCALAR_QUANTITIES, **SPECTRA}
"""What can be compared, as far as the runs measured it."""
FIRST, LAST = "first", "last"
PERCENTILES = {"smallest": 0, "p16": 16, "median": 50, "p84": 84, "largest": 100}
"""Columns of the table: of the finite values, with linear interpolation. From 16 to 84 lies one standard deviation to
either side if they are normal."""


def table(
    dataset: xr.Dataset, by: Sequence[str], quantity: str, at: Sequence[str | int] = (FIRST, LAST)
) -> pd.DataFrame:
    """The curves of every combination of the keys that has runs.

    Args:
        dataset: collected runs, with the keys as coordinates of the dimension `run`.
        by: swept keys.
        quantity: one of `QUANTITIES` that the dataset has.
        at: for a quantity with an axis besides the steps, which readings: `FIRST`, `LAST` (each run's own) or a step.

    Returns:
        One row a combination, reading and layer (or singular value); for a quantity that is a number at a time one row
        a combination and step at which there is a number. The columns: the keys; depth, since runs of different depth
        are never taken together; reading, where there is a choice; step, the largest where runs of a combination end at
        different ones; layer; `PERCENTILES`; finite, out of values: how many numbers over runs and replicas they are
        taken from; and runs.
    """
    import pandas as pd

    values = dataset[quantity].transpose("run", "step", ..., "replica")
    is_there = measured(dataset, values.dims).transpose(*values.dims).to_numpy()  # as values
    data = values.to_numpy()
    steps = dataset["step"].to_numpy()
    axis = next((str(dim) for dim in values.dims if dim not in ("run", "step", "replica")), None)
    rows: list[dict[str, Any]] = []
    for combination, runs in combinations(dataset, by):
        keys = dict(zip(by, combination, strict=True))
        if axis is None:
            found = _statistics(data[runs].swapaxes(0, 1), is_there[runs].swapaxes(0, 1))  # of (steps, runs, replicas)
            numbers = [(step, row) for step, row in zip(steps, found, strict=True) if row.get("finite")]
            rows += [{**keys, "step": int(step), **row} for step, row in numbers]
            continue
        for depth, members in _by_depth(is_there, axis, runs):
            for reading in at:
                places = _places(dataset, members, reading)
                parts, there = (array[members, places].swapaxes(0, 1) for array in (data, is_there))  # layers first
                where = {**depth, "reading": str(reading), "step": int(steps[places].max())}
                line = zip(dataset[axis].to_numpy(), _statistics(parts, there), strict=True)
                rows += [{**keys, **where, axis: int(x), **row} for x, row in line if row]
    return pd.DataFrame(rows)


def combinations(dataset: xr.Dataset, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[int]]]:
    """Every combination of the keys' values that has runs, with the places of those runs."""
    columns = [dataset[key].to_numpy().tolist() for key in by]
    members: dict[tuple[Any, ...], list[int]] = {}
    for run, combination in enumerate(zip(*columns, strict=True)):
        members.setdefault(tuple(map(shown, combination)), []).append(run)
    orders = [in_order(column) for column in columns]
    for combination in itertools.product(*orders):
        if combination in members:
            yield combination, members[combination]


def in_order(values: Sequence[Any]) -> list[Any]:
    """Different values, numbers by size and texts as they come; what a run has no value of stands as a dash."""
    different = list(dict.fromkeys(map(shown, values)))
    numbers = sorted(value for value in different if not isinstance(value, str))
    return [*numbers, *(value for value in different if isinstance(value, str))]


def shown(value: Any) -> Any:
    """A key's value as a person has it: whole numbers without a point, a dash for what there is not."""
    if isinstance(value, float):
        return "-" if np.isnan(value) else int(value) if value.is_integer() and abs(value) < 1e6 else value
    return value or "-" if isinstance(value, str) else value


def pooled(dataset: xr.Dataset, by: Sequence[str], swept: Sequence[str], quantity: str) -> list[str]:
    """The other keys in which runs differ that are taken together."""
    apart = ("model.depth",) if quantity in LAYER_QUANTITIES else ()
    others = [key for key in swept if key not in (*by, *apart)]
    different = set[str]()
    for _, runs in combinations(dataset, by):
        different |= {key for key in others if len(set(map(shown, dataset[key].to_numpy()[runs].tolist()))) > 1}
    return [key for key in others if key in different]


def measured(dataset: xr.Dataset, dims: Sequence[Hashable]) -> xr.DataArray:
    """Where a run has a reading, layer and replica, of these dimensions, and not the NaN that fills up shorter ones."""
    of_these = [values for name in QUANTITIES if name in dataset and set(dims) <= set((values := dataset[name]).dims)]
    each = [values.notnull().any([dim for dim in values.dims if dim not in dims]) for values in of_these]
    return functools.reduce(operator.or_, each)


def _by_depth(is_there: NDArray[Any], axis: str, runs: Sequence[int]) -> list[tuple[dict[str, int], list[int]]]:
    """Runs with as many layers, and how many: a layer of a deep network has no counterpart in a shallow one."""
    if axis != "layer":
        return [({}, list(runs))]
    depths = is_there[list(runs)].any((1, 3)).sum(-1).tolist()  # of (runs, steps, layers, replicas)
    pairs = list(zip(depths, runs, strict=True))
    return [({"depth": d}, [run for depth, run in pairs if depth == d]) for d in sorted(set(depths))]


def _places(dataset: xr.Dataset, runs: Sequence[int], reading: str | int) -> NDArray[np.intp]:
    """Each run's place of a reading on the axis of steps."""
    if reading == FIRST:
        return np.zeros(len(runs), dtype=np.intp)
    wanted = dataset["last_step"].to_numpy()[list(runs)] if reading == LAST else np.full(len(runs), reading)
    return np.searchsorted(dataset["step"].to_numpy(), wanted)


def _statistics(values: NDArray[Any], is_there: NDArray[Any]) -> list[dict[str, Any]]:
    """Of (points, runs, replicas) a row a point; empty where nothing is."""
    rows: list[dict[str, Any]] = []
    for point, there in zip(values, is_there, strict=True):
        numbers = point[there]
        finite = numbers[np.isfinite(numbers)]
        if not len(numbers):
            rows.append({})
            continue
        found = np.percentile(finite, list(PERCENTILES.values())) if len(finite) else [np.nan] * len(PERCENTILES)
        counts = {"finite": len(finite), "values": len(numbers), "runs": int(there.any(-1).sum())}
        rows.append({**dict(zip(PERCENTILES, map(float, found), strict=True)), **counts})
    return rows
