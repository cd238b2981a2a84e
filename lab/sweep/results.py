"""Reading what runs left: one run's table, or all runs of a sweep, ended or not, as one dataset and one list."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lab.machine.files import atomic_write
from lab.record import netcdf
from lab.record.files import COLLECTED, READINGS, SUMMARIES, SUMMARY
from lab.record.netcdf import UnreadableError, Variable
from lab.record.states import DONE
from lab.schema import flatten
from lab.sweep import status
from lab.sweep.status import RunState, StoredSummary, printable

if TYPE_CHECKING:
    import pandas as pd

SWEPT_KEYS, SOURCES = "swept_keys", "sources"
"""What a collected dataset says of itself: the keys in which its runs differ or will, a hash of the files behind it."""
OWN_COORDINATES = ("folder", "status", "last_step")
DIMENSIONS = {"step", "layer", "replica", "singular_value"}

SHARE_OF_MEMORY = 0.5
"""A collected dataset that would take more of the machine's memory is refused."""

Table = Mapping[str, Variable]


def load(path: str | Path) -> xr.Dataset:
    """The readings of a run, or of a sweep.

    Args:
        path: a run's folder, its readings.nc, a sweep's folder or its collected.nc. A sweep's folder that was not
            collected yet, or whose runs have changed since, is read run by run, and nothing is written.

    Returns:
        A run's dataset has dimensions (step, layer, replica); a sweep's also `run`, whose index holds the swept
        keys: `dataset.sel(activation="relu")` picks runs, `dataset.unstack("run")` makes each key a dimension.

    Raises:
        FileNotFoundError: there is no run at or below the path, or none has readings.
        UnreadableError: a file is damaged, or not what this lab writes.
    """
    path = Path(path)
    if path.is_dir() and (path / READINGS).is_file():
        path = path / READINGS
    elif path.is_dir():
        dataset = read(path)
        is_run = dataset["folder"].values.tolist() == ["."]  # itself, and it has not come to its end
        return dataset.isel(run=0, drop=True) if is_run else _indexed(dataset)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such run; give a run's folder or a sweep's.")
    return _indexed(_safely(path))


def read(folder: Path) -> xr.Dataset:
    """All runs below a folder as `Collected.dataset`, from collected.nc as long as that is up to date.

    Raises:
        FileNotFoundError: no run lies below it, or none has readings.
    """
    runs = status.find(folder)
    try:
        collected = folder / COLLECTED
        if collected.is_file() and (not runs or netcdf.attribute(collected, SOURCES) == _sources(runs)):
            return _safely(collected)
    except UnreadableError:
        if not runs:
            raise
    return collect(folder, runs).dataset


@dataclass(frozen=True)
class Collected:
    """All runs below a folder.

    Attributes:
        dataset: the runs that have readings, along a dimension `run` with the swept keys as coordinates; those that
            have not come to their end reach as far as their last checkpoint.
        summaries: one row a run, also of those without readings, but not of those that still wait.
        failed: folders of the runs that have not come to their end, with what became of them.
        waiting: how many runs of a sweep have not begun.
    """

    dataset: xr.Dataset
    summaries: pd.DataFrame
    failed: Mapping[str, str]
    waiting: int = 0


def collect(folder: Path, found: Sequence[RunState] | None = None) -> Collected:
    """Read every run below a folder, also while they run.

    Args:
        found: the runs, if they are known already.

    Raises:
        FileNotFoundError: no run lies below it, or none has readings.
        UnreadableError: the readings do not fit into one dataset that fits into memory.
    """
    import pandas as pd

    found = status.find(folder) if found is None else found
    if not found:
        raise FileNotFoundError(f"{folder}: no run lies below this folder; give the output_dir of a run or a sweep.")
    sources = _sources(found)  # before the files are read: what changes from now on counts as changed
    runs = [run for run in found if run.state != "waiting"]
    outcomes = {run.name: run.outcome or StoredSummary() for run in runs}
    settings = {run.name: outcomes[run.name].settings for run in runs}
    tables: dict[str, Table] = {}
    failed: dict[str, str] = {}
    dims: dict[str, tuple[str, ...]] = {}
    kept: dict[Path, Mapping[str, Table]] = {}
    for run in runs:
        table, damage = _table(run, dims, kept)
        if table is not None and any(dims.get(name, part.dims) != part.dims for name, part in table.items()):
            table, damage = None, f"{READINGS} has other dimensions than the runs before"
        if run.state not in DONE:
            failed[run.name] = run.state
        elif damage and table is None:
            failed[run.name] = damage
        if table is not None:
            tables[run.name] = table
            dims |= {name: part.dims for name, part in table.items()}
    differing = {*_differing(list(settings.values())), *_differing([run.given for run in found])}
    known = dict.fromkeys(key for flat in settings.values() for key in flat)
    keys = [key for key in known if key in differing and _can_name_a_coordinate(key) and key not in dims]
    if not tables:
        states = ", ".join(sorted(set(failed.values()))) or "none has begun"
        raise FileNotFoundError(f"{folder}: no run below this folder has readings yet ({states}); look again later.")
    state_of = {run.name: run.state for run in runs}
    dataset = concatenate(list(tables.values()))
    names = list(tables)
    dataset.coords["folder"] = ("run", names)
    dataset.coords["status"] = ("run", [state_of[name] for name in names])
    for key in keys:
        dataset.coords[key] = ("run", _column([settings[name].get(key) for name in names]))
    dataset.attrs = {SWEPT_KEYS: json.dumps(keys), SOURCES: sources}
    rows = [
        {
            "run": run.name,
            "status": run.state,
            **{key: _cell(settings[run.name].get(key)) for key in keys},
            **_metrics(outcomes[run.name]),
        }
        for run in runs
    ]
    return Collected(dataset, pd.DataFrame(rows), failed, len(found) - len(runs))


def write(collected: Collected, folder: Path) -> tuple[Path, Path]:
    """Write collected.nc and summaries.csv into the folder and return where they are."""
    table, rows = folder / COLLECTED, folder / SUMMARIES
    with atomic_write(table) as draft:
        collected.dataset.to_netcdf(draft, engine="h5netcdf")
    with atomic_write(rows) as draft:
        collected.summaries.to_csv(draft, index=False)
    return table, rows


def concatenate(tables: Sequence[Table]) -> xr.Dataset:
    """Tables along a new first dimension `run`, NaN where one has no value, as xarray's outer join has it, but quickly.

    The coordinate `last_step` says where each ends, since NaN can be a reading as well.

    Raises:
        UnreadableError: they disagree on a variable's dimensions, or would not fit into memory.
    """
    dims: dict[str, tuple[str, ...]] = {}
    attrs: dict[str, Mapping[str, str]] = {}
    for table in tables:
        for name, variable in table.items():
            attrs[name] = attrs.get(name) or variable.attrs
            if dims.setdefault(name, variable.dims) != variable.dims:
                raise UnreadableError(f"{name}: runs have it with different dimensions; collect them apart.")
    lines = {dim: _union(table[dim].values for table in tables if dim in table) for dim in _dimensions(tables)}
    quantities = [name for name in dims if name not in lines]
    size = 8 * len(tables) * sum(int(np.prod([float(len(lines[dim])) for dim in dims[name]])) for name in quantities)
    if size > SHARE_OF_MEMORY * _memory():
        raise UnreadableError(
            f"{len(tables)} runs would take {size / 2**30:,.0f} GiB in one dataset with a place for every step, layer"
            " and replica of any of them; collect runs of a kind, folder by folder."
        )
    values = {
        name: np.full((len(tables), *(len(lines[dim]) for dim in dims[name])), np.nan, np.float64)
        for name in quantities
    }
    last = np.zeros(len(tables), dtype=np.int64)
    for number, table in enumerate(tables):
        last[number] = _last_step(table)
        places = {dim: _place(table[dim].values, line) for dim, line in lines.items() if dim in table}
        for name in table.keys() - lines.keys():
            part = table[name]
            index = [places[dim] for dim in part.dims]
            target = values[name][number]
            if all(isinstance(place, slice) for place in index):
                target[...] = part.values
            else:
                target[np.ix_(*(np.arange(n)[place] for place, n in zip(index, target.shape, strict=True)))] = (
                    part.values
                )
    coords = {dim: (dim, line, dict(attrs[dim])) for dim, line in lines.items()}
    data = {name: (("run", *dims[name]), array, dict(attrs[name])) for name, array in values.items()}
    return xr.Dataset(data, {**coords, "last_step": ("run", last, {"long_name": "step of the run's last reading"})})


def swept_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys in which those configurations differ that have them; a group's name stands for the group."""
    return _differing([flatten(config) for config in configs])


def swept_keys_of(table: xr.Dataset) -> list[str]:
    """The keys that a collected dataset is indexed by; those that it does not have do not count."""
    try:
        keys = json.loads(table.attrs.get(SWEPT_KEYS, "[]"))
    except (TypeError, ValueError, RecursionError):
        return []
    return [key for key in keys if isinstance(key, str) and key in table.coords] if isinstance(keys, list) else []


# --- one run --------------------------------------------------------------------------------------------------------


def _table(run: RunState, known: Container[str], kept: dict[Path, Mapping[str, Table]]) -> tuple[Table | None, str]:
    """A run's readings, None if there are none, and what is wrong with its file.

    Args:
        known: variables whose attributes need not be read.
        kept: folder of several runs that are trained together -> what its checkpoint holds; read at the first of them.
    """
    stored, damage = None, ""
    if (run.folder / READINGS).exists():
        try:
            stored = _complete(netcdf.read(run.folder / READINGS, without_attrs=known))
        except UnreadableError:
            damage = f"{READINGS} cannot be read"
    if run.state in DONE or not run.checkpoints.is_dir():
        return stored, damage
    if run.batch is None:
        from_checkpoint = _kept(run.folder).get("")
    else:
        if run.batch not in kept:
            sizes = {one.run: (one.replicas, one.first_replica) for one in status.members(run.batch)}
            kept[run.batch] = _kept(run.batch, sizes)
        from_checkpoint = kept[run.batch].get(run.folder.name)
    reaching = [table for table in (stored, from_checkpoint) if table is not None]
    return max(reaching, key=_last_step, default=None), damage


def _kept(folder: Path, sizes: Mapping[str, tuple[int, int]] | None = None) -> dict[str, Table]:
    """The readings until the newest checkpoint, of a run or of several; without those that cannot be read."""
    from lab.record import checkpoint  # imports torch

    try:
        table = checkpoint.readings(folder)
        tables = {} if table is None else {"": table}
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return {}  # a file of the lab's format, with what no run of the lab has in it
    found = {}
    for run, table in tables.items():
        parts = {
            str(name): Variable(tuple(map(str, variable.dims)), variable.to_numpy(), dict(variable.attrs))
            for name, variable in table.variables.items()
        }
        try:
            netcdf.check_shapes(parts, folder)
            found[run] = _complete(parts)
        except UnreadableError:
            continue
    return found


def _complete(table: Table) -> Table:
    """The table, if it is one of readings and nothing in it takes the place of what the dataset adds."""
    if not all(dim in table and table[dim].values.size for dim in ("step", "replica")):
        raise UnreadableError("It has no reading.")
    if any(name in table for name in (*OWN_COORDINATES, "run")) or not set(_dimensions([table])) <= DIMENSIONS:
        raise UnreadableError("It has names or dimensions that no run has.")
    return table


def _metrics(outcome: StoredSummary) -> dict[str, Any]:
    return {
        **{printable(f"last_{name}"): value for name, value in outcome.last.items()},
        **{printable(f"best_{name}"): value for name, value in outcome.best.items()},
        "diverged_replicas": outcome.diverged_replicas,
        "steps_done": outcome.steps_done,
        "seconds": outcome.seconds,
        "fingerprint": printable(outcome.fingerprint or "") or None,
    }


# --- many runs ------------------------------------------------------------------------------------------------------


def _sources(runs: Sequence[RunState]) -> str:
    """A hash of which runs there are, how they stand, and of size and time of the files they are read from."""
    digest = hashlib.sha256()
    for run in runs:
        if run.state == "waiting":
            continue
        digest.update(f"{run.name}\n{run.state}\n".encode())
        for path in (run.folder / SUMMARY, run.folder / READINGS):
            digest.update(_stamp(path))
        if run.state not in DONE and run.checkpoints.is_dir():
            for path in sorted(run.checkpoints.iterdir()):
                digest.update(_stamp(path))
    return digest.hexdigest()


def _stamp(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return b"none\n"
    return f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode(errors="replace")


def _differing(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    values: dict[str, set[str]] = {}
    for config in flat:
        for key, value in config.items():
            values.setdefault(key, set()).add(json.dumps(value))
    return [key for key, different in values.items() if len(different) > 1]


def _can_name_a_coordinate(key: str) -> bool:
    """Foreign configurations may have keys that NetCDF or the dataset has another use for."""
    is_taken = key in (*OWN_COORDINATES, "run") or key in DIMENSIONS
    return re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", key, re.ASCII) is not None and not is_taken


def _column(values: Sequence[Any]) -> NDArray[Any]:
    """Numbers as numbers with NaN where a run has no such key, everything else as text."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        if all(isinstance(value, int) for value in values):
            return np.array(values, dtype=np.int64)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array(["" if value is None else str(_cell(value)) for value in values])


def _cell(value: Any) -> Any:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return printable(value) if isinstance(value, str) else value


def _dimensions(tables: Sequence[Table]) -> list[str]:
    return list(dict.fromkeys(dim for table in tables for variable in table.values() for dim in variable.dims))


def _union(lines: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """All values of a coordinate, rising."""
    different = {line.tobytes(): line for line in lines}  # mostly they are all the same
    return np.unique(np.concatenate(list(different.values())))


def _place(values: NDArray[Any], line: NDArray[Any]) -> slice | NDArray[np.intp]:
    return slice(None) if len(values) == len(line) else np.searchsorted(line, values)


def _last_step(table: Table) -> int:
    return int(table["step"].values[-1])


def _memory() -> float:
    """Bytes of the machine's memory; endless where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return float("inf")


# --- reading back ---------------------------------------------------------------------------------------------------


def _safely(path: Path) -> xr.Dataset:
    """A table, once it is known that reading it does no harm."""
    netcdf.check(path)
    try:
        return xr.load_dataset(path, engine="h5netcdf")
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnreadableError(f"{path}: it is no table of this lab ({' '.join(str(error).split())}).") from error


def _indexed(table: xr.Dataset) -> xr.Dataset:
    keys = swept_keys_of(table)
    if not keys:
        return table
    import pandas as pd

    index = pd.MultiIndex.from_arrays([table[key].to_numpy() for key in keys], names=keys)  # also for a single key
    return table.drop_vars(keys).assign_coords(xr.Coordinates.from_pandas_multiindex(index, "run"))
