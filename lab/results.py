"""Reading what runs left: one run's table, or all runs of a sweep as one dataset and one list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lab.files import READINGS, SUMMARY, whole
from lab.schema import flatten

if TYPE_CHECKING:
    import pandas as pd

COLLECTED = "collected.nc"
SUMMARIES = "summaries.csv"


def load(path: str | Path) -> xr.Dataset:
    """The readings of a run, or of a sweep.

    Args:
        path: a run's folder, its readings.nc, a sweep's folder or its collected.nc. A sweep's folder that was not
            collected yet is read run by run, and nothing is written.

    Returns:
        A run's dataset has dimensions (step, layer, replica); a sweep's also `run`, whose index holds the swept
        keys: `dataset.sel(activation="relu")` picks runs, `dataset.unstack("run")` makes each key a dimension.

    Raises:
        FileNotFoundError: there is no readings.nc at or below the path.
    """
    path = Path(path)
    if path.is_dir() and (path / READINGS).is_file():
        path = path / READINGS
    elif path.is_dir() and (path / COLLECTED).is_file():
        path = path / COLLECTED
    elif path.is_dir():
        return _indexed(collect(path).dataset)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such run; give a run's folder or a sweep's.")
    table = xr.load_dataset(path, engine="h5netcdf")
    return _indexed(table) if "run" in table.dims else table


@dataclass(frozen=True)
class Collected:
    """All runs below a folder.

    Attributes:
        dataset: the runs that left readings, along a dimension `run` with the swept keys as coordinates.
        summaries: one row a run, also of those that left no readings.
        failed: folders of the runs that did not come to an end, with what became of them.
    """

    dataset: xr.Dataset
    summaries: pd.DataFrame
    failed: Mapping[str, str]


def collect(folder: Path) -> Collected:
    """Read every run below a folder.

    Raises:
        FileNotFoundError: no run lies below it, or none left readings.
    """
    import pandas as pd

    folders = sorted(_run_folders(folder))
    if not folders:
        raise FileNotFoundError(f"{folder}: no run lies below this folder; give the output_dir of a run or a sweep.")
    summaries = {run: _summary(run) for run in folders}
    keys = swept_keys([summary["config"] for summary in summaries.values() if "config" in summary])
    rows, tables, swept, failed = [], [], [], {}
    for run, summary in summaries.items():
        name = str(run.relative_to(folder))
        config = flatten(summary.get("config", {}))
        values = {key: config.get(key) for key in keys}
        table = _readings(run)
        if summary["status"] not in ("finished", "diverged"):
            failed[name] = summary["status"]
        rows.append({"run": name, "status": summary["status"], **values, **_metrics(summary)})
        if table is None and (run / READINGS).is_file():
            failed[name] = f"{READINGS} cannot be read"
        if table is not None:
            table.attrs = {}
            where = {"folder": ("run", [name]), "status": ("run", [summary["status"]])}
            tables.append(table.expand_dims("run").assign_coords(where))
            swept.append(values)
    if not tables:
        raise FileNotFoundError(f"{folder}: no run below this folder left readings ({', '.join(failed.values())}).")
    dataset = xr.concat(tables, dim="run", join="outer", coords="minimal", compat="override", combine_attrs="override")
    dataset = dataset.assign_coords({key: ("run", _column([values[key] for values in swept])) for key in keys})
    dataset.attrs = {"swept_keys": json.dumps(keys)}
    return Collected(dataset, pd.DataFrame(rows), failed)


def write(collected: Collected, folder: Path) -> tuple[Path, Path]:
    """Write collected.nc and summaries.csv into the folder and return where they are."""
    table, rows = folder / COLLECTED, folder / SUMMARIES
    with whole(table) as draft:
        collected.dataset.to_netcdf(draft, engine="h5netcdf")
    with whole(rows) as draft:
        collected.summaries.to_csv(draft, index=False)
    return table, rows


def swept_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys in which those configurations differ that have them; a group's name stands for the group."""
    flat = [flatten(config) for config in configs]
    every = dict.fromkeys(key for config in flat for key in config)
    return [key for key in every if len({json.dumps(config[key]) for config in flat if key in config}) > 1]


def _column(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Numbers as numbers with NaN where a run has no such key, everything else as text."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        if all(isinstance(value, int) for value in values):
            return np.array(values, dtype=np.int64)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array(
        ["" if value is None else str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    )


def _indexed(table: xr.Dataset) -> xr.Dataset:
    keys = json.loads(table.attrs.get("swept_keys", "[]"))
    if not keys:
        return table
    import pandas as pd

    index = pd.MultiIndex.from_arrays([table[key].to_numpy() for key in keys], names=keys)  # also for a single key
    return table.drop_vars(keys).assign_coords(xr.Coordinates.from_pandas_multiindex(index, "run"))


def _run_folders(folder: Path) -> Iterator[Path]:
    found = {path.parent for path in folder.rglob(SUMMARY)} | {path.parent for path in folder.rglob(READINGS)}
    yield from found
    for hydra in folder.rglob(".hydra"):
        if hydra.parent not in found and (hydra / "config.yaml").is_file():
            yield hydra.parent


def _readings(run: Path) -> xr.Dataset | None:
    """A run's table, None if there is none or it is damaged."""
    try:
        table = xr.load_dataset(run / READINGS, engine="h5netcdf")
    except (OSError, ValueError):
        return None
    return table if {"step", "replica"} <= set(table.dims) else None


def _summary(run: Path) -> dict[str, Any]:
    try:
        summary = json.loads((run / SUMMARY).read_text())
    except FileNotFoundError:
        return {"status": "unfinished"}
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {"status": "unreadable"}
    return summary if isinstance(summary, dict) and "status" in summary else {"status": "unreadable"}


def _metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    last = {f"last_{name}": value for name, value in summary.get("last", {}).items()}
    best = {f"best_{name}": found["value"] for name, found in summary.get("best", {}).items()}
    return {
        **last,
        **best,
        "diverged_replicas": sum(fate["status"] == "diverged" for fate in summary.get("replicas", [])),
        "steps_done": summary.get("steps_done"),
        "seconds": summary.get("seconds"),
        "fingerprint": summary.get("fingerprint"),
    }
