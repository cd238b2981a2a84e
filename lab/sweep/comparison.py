"""Comparing the runs of a sweep: a quantity in every combination of some swept keys, over replicas and runs.

The result is a table with one row per point of a curve. Pictures are drawn from this table only.
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

from lab.readings.quantities import LAYER_QUANTITIES, QUANTITIES
from lab.readings.swept import FIRST, LAST, in_order, shown

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES: Mapping[str, int] = {"smallest": 0, "p16": 16, "median": 50, "p84": 84, "largest": 100}
"""Columns of the table, over the finite values, with linear interpolation. 16 to 84 is one standard deviation to either
side for normal values."""


def table(
    dataset: xr.Dataset, by: Sequence[str], quantity: str, at: Sequence[str | int] = (FIRST, LAST)
) -> pd.DataFrame:
    """Return the curves of every combination of the keys for which there are runs.

    Args:
        dataset: collected runs, with the keys as coordinates of the dimension `run`.
        by: swept keys.
        quantity: one of `QUANTITIES` that the dataset has.
        at: the readings of a quantity that has an axis besides the steps: `FIRST`, `LAST` (each run's own) or a step.

    Returns:
        One row per combination, reading and layer (or singular value); for a scalar quantity one row per combination
        and step with a finite value. The columns: the keys; depth, since runs of different depth are never pooled;
        reading, where there is a choice; step, the largest where runs of a combination end at different ones; layer;
        `PERCENTILES`; finite, out of values: counts over runs and replicas; and runs.
    """
    import pandas as pd

    values = dataset[quantity].transpose("run", "step", ..., "replica")
    is_there = measured(dataset, values.dims).transpose(*values.dims).to_numpy()  # of the shape of values
    data, steps = values.to_numpy(), dataset["step"].to_numpy()
    axis = next((str(dim) for dim in values.dims if dim not in ("run", "step", "replica")), None)
    rows: list[dict[str, Any]] = []
    for combination, runs in combinations(dataset, by):
        keys = dict(zip(by, combination, strict=True))
        if axis is None:
            points = _statistics(data[runs], is_there[runs])
            rows += [{**keys, "step": int(x), **row} for x, row in zip(steps, points, strict=True) if row["finite"]]
            continue
        for depth, members in _by_depth(is_there, axis, runs):
            for reading in at:
                places = _places(dataset, members, reading)
                points = _statistics(data[members, places], is_there[members, places])
                where = {**keys, **depth, "reading": str(reading), "step": int(steps[places].max())}
                coordinate = dataset[axis].to_numpy()
                rows += [
                    {**where, axis: int(x), **row} for x, row in zip(coordinate, points, strict=True) if row["values"]
                ]
    return pd.DataFrame(rows)


def combinations(dataset: xr.Dataset, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[int]]]:
    """Every combination of the keys' values that has runs, with the positions of those runs."""
    columns = [dataset[key].to_numpy().tolist() for key in by]
    members: dict[tuple[Any, ...], list[int]] = {}
    for run, combination in enumerate(zip(*columns, strict=True)):
        members.setdefault(tuple(map(shown, combination)), []).append(run)
    for combination in itertools.product(*map(in_order, columns)):
        if combination in members:
            yield combination, members[combination]


def pooled(dataset: xr.Dataset, by: Sequence[str], swept: Sequence[str], quantity: str) -> list[str]:
    """The other swept keys in which runs of a combination differ."""
    apart = ("model.depth",) if quantity in LAYER_QUANTITIES else ()
    groups = [runs for _, runs in combinations(dataset, by)]

    def differs(key: str) -> bool:
        column = list(map(shown, dataset[key].to_numpy().tolist()))
        return any(len({column[run] for run in runs}) > 1 for runs in groups)

    return [key for key in swept if key not in (*by, *apart) and differs(key)]


def measured(dataset: xr.Dataset, dims: Sequence[Hashable]) -> xr.DataArray:
    """True where a run has a reading, layer and replica, False where NaN fills up shorter runs."""
    variables = [dataset[name] for name in QUANTITIES if name in dataset and set(dims) <= set(dataset[name].dims)]
    have_values = [values.notnull().any([dim for dim in values.dims if dim not in dims]) for values in variables]
    return functools.reduce(operator.or_, have_values)


def _by_depth(is_there: NDArray[Any], axis: str, runs: Sequence[int]) -> list[tuple[dict[str, int], list[int]]]:
    """Runs grouped by depth: a layer of a deep network has no counterpart in a shallow one."""
    if axis != "layer":
        return [({}, list(runs))]
    members: dict[int, list[int]] = {}
    for run in runs:
        members.setdefault(int(is_there[run].any((0, 2)).sum()), []).append(run)  # of (steps, layers, replicas)
    return [({"depth": depth}, members[depth]) for depth in sorted(members)]


def _places(dataset: xr.Dataset, runs: Sequence[int], reading: str | int) -> NDArray[np.intp]:
    """The position of a reading on the axis of steps, for each run."""
    if reading == FIRST:
        return np.zeros(len(runs), dtype=np.intp)
    wanted = dataset["last_step"].to_numpy()[list(runs)] if reading == LAST else np.full(len(runs), reading)
    return np.searchsorted(dataset["step"].to_numpy(), wanted)


def _statistics(values: NDArray[Any], is_there: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Yield a row per point of arrays (runs, points, replicas)."""
    for point, there in zip(values.swapaxes(0, 1), is_there.swapaxes(0, 1), strict=True):
        numbers = point[there]
        finite = numbers[np.isfinite(numbers)]
        percentiles = np.percentile(finite, [*PERCENTILES.values()]).tolist() if len(finite) else [np.nan] * 5
        counts = {"finite": len(finite), "values": len(numbers), "runs": int(there.any(-1).sum())}
        yield {**dict(zip(PERCENTILES, percentiles, strict=True)), **counts}
