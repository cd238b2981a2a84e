"""Planning a sweep: its runs, their folders, and the task in each folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from lab import compose, schema
from lab.compose.launching import MULTIRUN, SUBDIR, key_of, quoted
from lab.record.files import CHECKPOINTS, COLLECTED, SUMMARIES, SWEEP
from lab.record.folder import Task, task
from lab.schema import PER_REPLICA, Config, ConfigError
from lab.sweep.listing import listed_runs

LONGEST_NAME = 200
"""Bytes of a run folder's name; most file systems allow 255."""
RESERVED = (CHECKPOINTS, SWEEP, MULTIRUN, COLLECTED, SUMMARIES)
"""Names in a sweep's folder that no run may have."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: all overrides that Hydra needs, its folder, and what remains to be done there, and why."""

    overrides: tuple[str, ...]
    name: str  # of its folder in the sweep's
    sweep: Path
    config: Config
    fingerprint: str
    task: Task = Task.BEGIN
    reason: str = ""
    number: int = 0  # its place in the sweep

    @property
    def folder(self) -> Path:
        return self.sweep / self.name


def plan(overrides: Sequence[str]) -> list[PlannedRun]:
    """The runs of a sweep, each with its task; nothing is written.

    Raises:
        ConfigError: a configuration or a folder that cannot be used, or two runs that would share a folder.
    """
    from lab import theory

    _refuse_mistakes(overrides)
    combinations = compose.jobs_of_sweep(overrides)
    composed = _compose_all(overrides, combinations)
    sweep = composed[0][1].parent
    former = _former_names(sweep, {folder.name for _, folder in composed})
    runs: dict[str, PlannedRun] = {}
    for number, (words, (config, folder)) in enumerate(zip(combinations, composed, strict=True)):
        theory.resolve_critical(config)  # refuses init=critical where nothing is critical
        fingerprint = schema.fingerprint(config)
        name = former.pop(fingerprint, folder.name)
        if name in runs:
            mistake = "two runs of this sweep would share this folder; list each value once"
            raise ConfigError(f"output_dir={sweep / name}: {mistake}.")
        remaining, reason = task(sweep / name, fingerprint, config.overwrite)
        all_words = (*words, *_output_dir(overrides, sweep), SUBDIR + quoted(name))
        runs[name] = PlannedRun(all_words, name, sweep, config, fingerprint, remaining, reason, number)
    return list(runs.values())


def _refuse_mistakes(overrides: Sequence[str]) -> None:
    keys, swept = [key_of(text) for text in overrides], compose.swept_keys(overrides)
    if "output_dir" in swept:
        raise ConfigError("output_dir: a sweep has one folder, with a folder per run below it; give one value.")
    for key in swept:
        if keys.count(key) > 1:
            raise ConfigError(f"{key}: it is given {keys.count(key)} times; give all its values in one list.")
    if any(text.startswith(SUBDIR) and "/" in text for text in overrides):
        raise ConfigError("hydra.sweep.subdir: give a name without a slash, such as 'run ${seed}', or leave it out.")


def _compose_all(overrides: Sequence[str], combinations: Sequence[Sequence[str]]) -> list[tuple[Config, Path]]:
    """The configuration and folder of every run.

    Composing is slow. Runs that differ in plain numbers alone are composed once, unless something else may depend on
    such a number or replace it: an interpolation, a dictionary, a file of the user's.
    """
    swept = compose.swept_keys(overrides)
    is_named = any(text.startswith(SUBDIR) for text in overrides)
    is_plain = not is_named and not any("{" in text or text.startswith("hydra.searchpath") for text in overrides)
    composed: list[tuple[Config, Path]] = []
    templates: dict[tuple[str, ...], Config] = {}
    for number, words in enumerate(combinations):
        name = "" if is_named else _name([text for text in words if key_of(text) in swept])
        own = [text for text in words if key_of(text) in PER_REPLICA.intersection(swept)]
        shared = tuple(text for text in words if text not in own)
        sweep = composed[0][1].parent if composed else None
        config = compose.with_numbers(templates[shared], own) if is_plain and shared in templates else None
        if config and sweep:
            composed.append((config, sweep / name))
            continue
        folder = [] if is_named else [SUBDIR + quoted(name)]
        composed.append(compose.compose_job([*words, *_output_dir(overrides, sweep), *folder], number))
        templates[shared] = composed[-1][0]
    return composed


def _name(swept: Sequence[str]) -> str:
    """A folder name of the swept values, or of their hash where they are no usable name."""
    name = ",".join(swept) or "run"
    return name if _is_usable(name) else f"run-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}"


def _is_usable(name: str) -> bool:
    is_plain = name.isprintable() and not set(name) & set("/\\$'\"") and not name.startswith(".")
    return is_plain and 0 < len(name.encode(errors="replace")) <= LONGEST_NAME and name not in RESERVED


def _output_dir(overrides: Sequence[str], sweep: Path | None) -> list[str]:
    """An override of the sweep's folder once it is known: a default named after the time must not change later."""
    is_given = any(key_of(text) == "output_dir" for text in overrides)
    return [f"output_dir={quoted(str(sweep))}"] if sweep and not is_given else []


def _former_names(sweep: Path, names: Set[str]) -> dict[str, str]:
    """Fingerprint -> folder name, of runs that are listed under names other than those they would get now."""
    listed = {name: run.fingerprint for name, run in listed_runs(sweep).items() if _is_usable(name)}
    current = {None, *(fingerprint for name, fingerprint in listed.items() if name in names)}
    return {fingerprint: name for name, fingerprint in listed.items() if fingerprint and fingerprint not in current}
