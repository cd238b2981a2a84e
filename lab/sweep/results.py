"""Reading the results of runs: one run's table, or all runs of a sweep as one dataset and one list."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lab.machine import memory
from lab.machine.files import atomic_write
from lab.record.files import CHECKPOINTS, COLLECTED, READINGS, SUMMARIES, SUMMARY
from lab.record.states import DONE
from lab.record.stored import netcdf
from lab.record.stored.json_values import printable
from lab.record.stored.netcdf import UnreadableError
from lab.record.stored.summaries import StoredSummary
from lab.sweep.status import RunState, find_runs

if TYPE_CHECKING:
    import pandas as pd

SWEPT_KEYS, SOURCES = "swept_keys", "sources"
"""Attributes of a collected dataset: the keys in which its runs differ or will, and a hash of the files behind it."""
OWN_COORDINATES = ("run", "folder", "status", "last_step")
DIMENSIONS = {"step", "layer", "replica", "singular_value"}
COORDINATE = re.compile(r"[A-Za-z]\w*(\.\w+)*", re.ASCII)
"""The keys that NetCDF allows as names; foreign configurations may have others."""
SHARE_OF_MEMORY = 0.5
"""A collected dataset that would take more of the available memory is refused."""


def load(path: str | Path) -> xr.Dataset:
    """Load the readings of a run, or of a sweep.

    Args:
        path: a run's folder, its readings.nc, a sweep's folder or its collected.nc. A sweep's folder that was not
            collected yet, or whose runs have changed since, is read run by run, and nothing is written.

    Returns:
        A run's dataset has dimensions (step, layer, replica); a sweep's also `run`, whose index holds the swept
        keys: `dataset.sel(activation="relu")` picks runs, `dataset.unstack("run")` makes each key a dimension.

    Raises:
        FileNotFoundError: there is no run at or below the path, or none has readings.
        UnreadableError: a file is damaged, or not one of this lab.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such run; give a run's folder or a sweep's.")
    file = path / READINGS if (path / READINGS).is_file() else path
    table = read(path) if file.is_dir() else _load_checked(file)
    if file.is_dir() and table["folder"].values.tolist() == ["."]:  # the folder itself is a run that has not completed
        return table.isel(run=0, drop=True)
    keys = swept_keys_of(table)
    if not keys:
        return table
    import pandas as pd

    index = pd.MultiIndex.from_arrays([table[key].to_numpy() for key in keys], names=keys)  # also for a single key
    return table.drop_vars(keys).assign_coords(xr.Coordinates.from_pandas_multiindex(index, "run"))


def read(folder: Path) -> xr.Dataset:
    """All runs below a folder as `Collected.dataset`, from collected.nc if up to date; raises as `collect`."""
    runs = find_runs(folder)
    try:
        collected = folder / COLLECTED
        if collected.is_file() and (not runs or netcdf.attribute(collected, SOURCES) == _sources(runs)):
            return _load_checked(collected)
    except UnreadableError:
        if not runs:
            raise
    return collect(folder, runs).dataset


@dataclass(frozen=True)
class Collected:
    """All runs below a folder.

    Attributes:
        dataset: along `run`, swept keys as coordinates; of runs that have not completed, to the last checkpoint.
        summaries: one row per run, also of those without readings, but not of those that still wait.
        failed: folders of the runs that have not completed, with their state.
        waiting: number of runs of a sweep that have not started.
    """

    dataset: xr.Dataset
    summaries: pd.DataFrame
    failed: Mapping[str, str]
    waiting: int = 0


def collect(folder: Path, runs: Sequence[RunState] | None = None) -> Collected:
    """Read every run below a folder, also while they run; `runs` if they are known already.

    Raises:
        FileNotFoundError: no run lies below it, or none has readings.
        UnreadableError: the readings do not fit into one dataset that fits into memory.
    """
    import pandas as pd

    runs = find_runs(folder) if runs is None else runs
    if not runs:
        raise FileNotFoundError(f"{folder}: no run lies below this folder; give the output_dir of a run or a sweep.")
    sources = _sources(runs)  # before the files are read: later changes count as changes
    started = {run.name: run for run in runs if run.state != "waiting"}
    summaries = {name: run.summary or StoredSummary() for name, run in started.items()}
    failed = {name: run.state for name, run in started.items() if run.state not in DONE}
    tables: dict[str, xr.Dataset] = {}
    dims: dict[Any, tuple[Any, ...]] = {}
    for name, run in started.items():
        table, damage = _readings(run)
        own = {} if table is None else {variable: values.dims for variable, values in table.variables.items()}
        if any(dims.get(variable, own[variable]) != own[variable] for variable in own):
            table, damage = None, f"{READINGS} has other dimensions than the runs before"
        if table is not None:
            tables[name] = table
            dims |= own
        elif damage:
            failed.setdefault(name, damage)
    if not tables:
        states = ", ".join(sorted(set(failed.values()))) or "none has started"
        raise FileNotFoundError(f"{folder}: no run below this folder has readings yet ({states}); try again later.")
    settings = [summary.settings for summary in summaries.values()]
    swept = {*differing_keys(settings), *differing_keys([run.overrides for run in runs])}
    known = dict.fromkeys(key for of_run in settings for key in of_run)
    taken = {*OWN_COORDINATES, *DIMENSIONS, *dims}
    keys = [key for key in known if key in swept and key not in taken and COORDINATE.fullmatch(key)]
    dataset = concatenate(list(tables.values()))
    dataset.coords["folder"] = ("run", list(tables))
    dataset.coords["status"] = ("run", [started[name].state for name in tables])
    for key in keys:
        dataset.coords[key] = ("run", _column([summaries[name].settings.get(key) for name in tables]))
    dataset.attrs = {SWEPT_KEYS: json.dumps(keys), SOURCES: sources}
    rows = []
    for name, summary in summaries.items():
        own_settings = {key: _cell(summary.settings.get(key)) for key in keys}
        rows.append({"run": name, "status": started[name].state, **own_settings, **summary.metrics()})
    return Collected(dataset, pd.DataFrame(rows), failed, len(runs) - len(started))


def write(collected: Collected, folder: Path) -> tuple[Path, Path]:
    """Write collected.nc and summaries.csv into the folder and return their paths."""
    table, rows = folder / COLLECTED, folder / SUMMARIES
    with atomic_write(table) as draft:
        collected.dataset.to_netcdf(draft, engine="h5netcdf")
    with atomic_write(rows) as draft:
        collected.summaries.to_csv(draft, index=False)
    return table, rows


def concatenate(tables: Sequence[xr.Dataset]) -> xr.Dataset:
    """Concatenate tables along a new dimension `run`, with NaN where one has no value.

    The coordinate `last_step` holds the last step of each, since NaN can be a reading as well.

    Raises:
        UnreadableError: the result would not fit into memory.
    """
    values: dict[Any, set[int]] = {}
    for table in tables:
        for dim in table.dims:
            values.setdefault(dim, set()).update(table[dim].values.tolist())
    dims = {name: variable.dims for table in tables for name, variable in table.data_vars.items()}
    size = 8 * len(tables) * sum(math.prod(len(values[dim]) for dim in own) for own in dims.values())
    if size > SHARE_OF_MEMORY * memory.available():
        needed = f"{size / 2**30:,.0f} GiB in one dataset with a place for every step, layer and replica of any of them"
        raise UnreadableError(f"{len(tables)} runs would take {needed}; collect similar runs, folder by folder.")
    options: dict[str, Any] = {"coords": "minimal", "compat": "override", "combine_attrs": "override"}
    dataset = xr.concat(tables, "run", data_vars="all", join="outer", **options)
    dataset.attrs = {}
    last = [_last_step(table) for table in tables]
    return dataset.assign_coords(last_step=("run", last, {"long_name": "step of the run's last reading"}))


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that have different values in the settings that have them."""
    values: dict[str, set[str]] = {}
    for of_run in settings:
        for key, value in of_run.items():
            values.setdefault(key, set()).add(json.dumps(value))
    return [key for key, distinct in values.items() if len(distinct) > 1]


def swept_keys_of(table: xr.Dataset) -> list[str]:
    """The keys that a collected dataset is indexed by, as far as it has them."""
    try:
        keys = json.loads(table.attrs.get(SWEPT_KEYS, "[]"))
    except (TypeError, ValueError, RecursionError):
        return []
    return [key for key in keys if isinstance(key, str) and key in table.coords] if isinstance(keys, list) else []


def _readings(run: RunState) -> tuple[xr.Dataset | None, str]:
    """Return a run's readings, None without any, and a description of damage, which is empty if the file is intact.

    The readings come from readings.nc or from the last checkpoint, whichever has the later step.
    """
    tables, damage = [], ""
    if (run.folder / READINGS).exists():
        try:
            tables.append(_checked(netcdf.read(run.folder / READINGS)))
        except UnreadableError:
            damage = f"{READINGS} cannot be read"
    if run.state not in DONE and (run.folder / CHECKPOINTS).is_dir():
        from lab.record import checkpoint  # imports torch

        with suppress(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError):
            # Any of these may come of a file in the format of a checkpoint with content that no run has.
            if (table := checkpoint.readings(run.folder)) is not None:
                tables.append(_checked(table))
    return max(tables, key=_last_step, default=None), damage


def _checked(table: xr.Dataset) -> xr.Dataset:
    """The table; an UnreadableError if it holds no readings, or a name collides with an added coordinate."""
    if not all(table.sizes.get(dim) for dim in ("step", "replica")) or (np.diff(table["step"]) <= 0).any():
        raise UnreadableError("the table has no readings")
    if any(name in table for name in OWN_COORDINATES) or not set(table.dims) <= DIMENSIONS:
        raise UnreadableError("the table has names or dimensions that no run has")
    return table


def _last_step(table: xr.Dataset) -> int:
    return int(table["step"][-1])


def _sources(runs: Sequence[RunState]) -> str:
    """A hash of the names and states of runs, and of size and time of the files they are read from."""
    parts = []
    for run in (run for run in runs if run.state != "waiting"):
        parts.append(f"{run.name} {run.state}")
        checkpoints = sorted((run.folder / CHECKPOINTS).glob("*")) if run.state not in DONE else []
        for path in (run.folder / SUMMARY, run.folder / READINGS, *checkpoints):
            with suppress(OSError):
                stat = path.stat()
                parts.append(f"{path.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()


def _column(values: Sequence[Any]) -> NDArray[Any]:
    """Numbers as numbers with NaN where a run has no such key, everything else as text."""
    types = set(map(type, values))
    if types <= {int, float, type(None)}:
        return np.array(values, dtype=np.int64 if types == {int} else np.float64)  # None becomes NaN
    return np.array(["" if value is None else str(_cell(value)) for value in values])


def _cell(value: Any) -> Any:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return printable(value) if isinstance(value, str) else value


def _load_checked(path: Path) -> xr.Dataset:
    """Load a file, once it is known that reading it does no harm."""
    netcdf.check(path)
    try:
        return xr.load_dataset(path, engine="h5netcdf")
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnreadableError(f"{path}: it is no table of this lab ({' '.join(str(error).split())}).") from error
