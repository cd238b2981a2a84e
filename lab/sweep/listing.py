"""sweep.json: the list of a sweep's runs, in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.machine.files import atomic_write
from lab.machine.locks import file_lock
from lab.record.files import SWEEP
from lab.record.stored.json_values import count, mapping, read_json, sequence, text


@dataclass(frozen=True)
class ListedRun:
    """A run as sweep.json lists it; `overrides` are key -> text."""

    fingerprint: str | None = None
    steps: int | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


def listed_runs(sweep: Path) -> dict[str, ListedRun]:
    """Folder name -> run, of the runs that a sweep's sweep.json lists; malformed entries are left out."""
    runs = {}
    for name, entry in _entries(sweep):
        words = [word.lstrip("+") for word in sequence(entry.get("overrides")) if isinstance(word, str)]
        overrides = {key: value for key, _, value in (word.partition("=") for word in words)}
        runs[name] = ListedRun(text(entry.get("fingerprint")), count(entry.get("steps")), overrides)
    return runs


def add_to_list(sweep: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add runs (`folder`, `overrides` as key=value, `fingerprint`, `steps`), replacing those of the same folder."""
    sweep.mkdir(parents=True, exist_ok=True)
    with file_lock(sweep / f".{SWEEP}.lock"):  # another process may be adding runs
        runs = {**dict(_entries(sweep)), **{entry["folder"]: entry for entry in entries}}
        with atomic_write(sweep / SWEEP) as draft:
            draft.write_text(json.dumps({"runs": list(runs.values())}, indent=1) + "\n", encoding="utf-8")


def _entries(sweep: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The entries whose folder lies below the sweep's."""
    for entry in map(mapping, sequence(mapping(read_json(sweep / SWEEP)).get("runs"))):
        name = text(entry.get("folder"))
        if name is not None and not name.startswith("/") and ".." not in name.split("/") and "\0" not in name:
            yield name, entry
