"""The runs of a sweep with their folders."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from lab import compose, schema
from lab.machine.files import atomic_write
from lab.machine.locks import file_lock
from lab.record.files import CHECKPOINTS, COLLECTED, SUMMARIES, SWEEP
from lab.record.folder import Task, summary_of, task
from lab.schema import PER_REPLICA, Config, ConfigError

LONGEST_NAME = 200
"""Bytes of a run folder's name; most file systems stop at 255."""


MULTIRUN = "multirun.yaml"
TAKEN = (CHECKPOINTS, SWEEP, MULTIRUN, COLLECTED, SUMMARIES)
"""Names that something else in a sweep's folder has."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: `name` is its folder below `sweep`, `overrides` are all that Hydra needs to compose it."""

    overrides: tuple[str, ...]
    name: str
    sweep: Path
    config: Config
    task: Task = Task.BEGIN
    reason: str = ""
    number: int = 0

    @property
    def folder(self) -> Path:
        return self.sweep / self.name


def plan(overrides: Sequence[str]) -> list[PlannedRun]:
    """The runs of a sweep with what is to be done for each; nothing is written.

    Raises:
        ConfigError: a configuration or a folder that cannot be used, or two runs that would share a folder.
    """
    if "output_dir" in compose.swept_keys(overrides):
        raise ConfigError("output_dir: a sweep has one folder, with a folder a run below it; give one value.")
    _refuse_repeated(overrides)
    combinations = compose.jobs_of_sweep(overrides)
    names = _names(overrides, combinations)
    found = _composed(overrides, combinations, names)
    sweep = found[0][1].parent
    for _, folder in found:
        has_slash = any(text.startswith(SUBDIR) and "/" in text for text in overrides)
        if has_slash or folder.parent != sweep or not _is_good(folder.name):
            raise ConfigError(
                f"hydra.sweep.subdir: {folder} is no folder of its own right below one for all; give a name without a"
                " slash, such as 'run ${seed}', or leave it out."
            )
    if (sweep / SWEEP).is_dir():
        raise ConfigError(f"output_dir={sweep}: {SWEEP} in it is a folder; choose another output_dir.")
    known = _known(sweep, {folder.name for _, folder in found})
    jobs = []
    for number, (words, (config, folder)) in enumerate(zip(combinations, found, strict=True)):
        name = known.pop(schema.fingerprint(config), folder.name)
        given = (*words, *_fixed(overrides, folder.parent), _subdir(name))
        jobs.append(PlannedRun(given, name, folder.parent, config, number=number))
    _refuse_sharing(jobs)
    return [_with_task(job) for job in jobs]


def _refuse_repeated(overrides: Sequence[str]) -> None:
    """A key that is swept twice would be swept over itself."""
    given = [_key(text) for text in overrides]
    for key in compose.swept_keys(overrides):
        if given.count(key) > 1:
            raise ConfigError(f"{key}: it is given {given.count(key)} times; give all its values in one list.")


def _composed(
    overrides: Sequence[str], combinations: Sequence[Sequence[str]], names: Sequence[str]
) -> list[tuple[Config, Path]]:
    """Each run's configuration and folder.

    Composing takes Hydra its time. Runs that differ in plain numbers alone are composed once, unless something else may
    follow such a number or write over it: an interpolation, a dictionary, a file of the user's.
    """
    keys = set(compose.swept_keys(overrides)) & PER_REPLICA
    is_followed = any("{" in text or text.startswith("hydra.searchpath") for text in overrides)
    found: list[tuple[Config, Path]] = []
    begun: dict[tuple[str, ...], Config] = {}
    for number, (words, name) in enumerate(zip(combinations, names, strict=True)):
        own = [text for text in words if _key(text) in keys]
        shared = tuple(text for text in words if _key(text) not in keys)
        first = begun.get(shared)
        config = compose.with_numbers(first, own) if first and name and not is_followed else None
        if config is not None:
            found.append((config, found[0][1].parent / name))
            continue
        here = _fixed(overrides, found[0][1].parent if found else None)
        found.append(compose.compose_job([*words, *here, *([_subdir(name)] if name else [])], number))
        begun[shared] = found[-1][0]
    return found


def announce(folder: Path, what: Task, reason: str) -> None:
    """Say what will be done in a folder where something has been done before."""
    if what is not Task.BEGIN:
        print(f"{folder.absolute()}  {what}{f': {reason}' if reason else ''}", flush=True)


SUBDIR = "hydra.sweep.subdir="


def _names(overrides: Sequence[str], combinations: Sequence[Sequence[str]]) -> list[str]:
    """Each run's folder after its swept values, or a hash of them where they make no good name."""
    if any(text.startswith(SUBDIR) for text in overrides):
        return [""] * len(combinations)
    swept = compose.swept_keys(overrides)
    names = [",".join(text for text in words if _key(text) in swept) for words in combinations]
    return [name if _is_good(name) else _hashed(name) for name in names]


def _is_good(name: str) -> bool:
    is_short = 0 < len(name.encode(errors="replace")) <= LONGEST_NAME
    is_plain = name.isprintable() and not any(letter in name for letter in "/\\$'\"")
    return is_short and is_plain and not name.startswith(".") and name not in TAKEN


def _hashed(name: str) -> str:
    return f"run-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}" if name else "run"


def _subdir(name: str) -> str:
    return SUBDIR + QuotedString(name, Quote.single).with_quotes()


def _fixed(overrides: Sequence[str], sweep: Path | None) -> list[str]:
    """The sweep's folder, once it is known: a folder that is named after the time must not depend on who looks."""
    if any(text.startswith(("output_dir=", "hydra.sweep.dir=", "++output_dir=")) for text in overrides):
        return []
    return [f"output_dir={QuotedString(str(sweep), Quote.single).with_quotes()}"] if sweep else []


def _with_task(job: PlannedRun) -> PlannedRun:
    what, reason = task(job.folder, schema.fingerprint(job.config), job.config.overwrite)
    return replace(job, task=what, reason=reason)


def _refuse_sharing(jobs: Sequence[PlannedRun]) -> None:
    taken: set[Path] = set()
    for one in jobs:
        if one.folder in taken:
            raise ConfigError(
                f"output_dir={one.folder}: two runs of this sweep would share this folder; list each value once."
            )
        taken.add(one.folder)


def _known(sweep: Path, names: Set[str]) -> dict[str, str]:
    """Fingerprint -> folder name, of the runs that the sweep has had so far under names that it does not give now."""
    entries = _listed(sweep).items()
    listed = {name: str(entry.get("fingerprint")) for name, entry in entries}
    again = {listed[name] for name in names & listed.keys()}
    return {printed: name for name, printed in listed.items() if name not in names and printed not in again}


def _listed(sweep: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads((sweep / SWEEP).read_text(encoding="utf-8"))["runs"]
        found = {str(entry["folder"]): dict(entry) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {name: entry for name, entry in found.items() if _is_good(name)}


def _list(jobs: Sequence[PlannedRun]) -> None:
    """Write which runs the sweep has, those of earlier calls included."""
    sweep = jobs[0].sweep
    sweep.mkdir(parents=True, exist_ok=True)
    with file_lock(sweep / f".{SWEEP}.lock"):  # another call may be adding its own
        entries = _listed(sweep)
        for one in jobs:
            entries[one.name] = {
                "folder": one.name,
                "overrides": [word for word in one.overrides if not _key(word).startswith("hydra")],
                "fingerprint": schema.fingerprint(one.config),
                "steps": one.config.steps,
            }
        with atomic_write(sweep / SWEEP) as draft:
            draft.write_text(json.dumps({"runs": list(entries.values())}, indent=1) + "\n", encoding="utf-8")


def _status(job: PlannedRun) -> str:
    return str((summary_of(job.folder) or {}).get("status", "not begun"))


def _is_hydras(word: str) -> bool:
    return _key(word).startswith("hydra") and not word.startswith(SUBDIR)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _excuse(error: Exception) -> None:
    """A launcher raises where a worker or a job of the cluster died; what became of the runs is in their folders."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    print(f"The launcher gave up: {reason[0]}", file=sys.stderr)
