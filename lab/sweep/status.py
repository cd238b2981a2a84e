"""The state of every run below a folder, determined from its files alone."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.machine.locks import is_locked
from lab.record.files import BATCHES, CHECKPOINTS, LOCK, PROGRESS, READINGS, SUMMARY, SWEEP
from lab.record.states import DONE, IN_TROUBLE, STATES
from lab.record.stored.json_values import amount, count, mapping, printable, read_json
from lab.record.stored.summaries import StoredSummary, read_summary
from lab.sweep.listing import ListedRun, listed_runs

CHECKPOINT = re.compile(r"step-(\d{12})\.ckpt", re.ASCII)
"""The name of a checkpoint: updates made."""
STARTING = 60.0
"""Seconds from a run's folder to its lock, in which the process imports torch: such a run still counts as waiting."""


@dataclass(frozen=True)
class RunState:
    """The state of a run, one of `STATES`, in a folder that may not exist yet; what is not known is None.

    Attributes:
        name: the folder relative to the one searched, printable.
        step, steps: updates made, and in total.
        seconds, left: time spent, and that a running one still needs.
        error: the last line of its traceback.
        overrides: key -> text, from the sweep's list, also before the run starts.
    """

    folder: Path
    name: str
    state: str
    summary: StoredSummary | None = None
    step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    left: float | None = None
    error: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)


def find_runs(folder: Path, now: float | None = None) -> list[RunState]:
    """All runs at or below a folder at a time (seconds since the epoch), by name, also those that have not started."""
    now = time.time() if now is None else now
    listed: dict[Path, ListedRun] = {}
    started: set[Path] = set()
    if folder.name and (run := listed_runs(folder.parent).get(folder.name)):  # the folder is a run of a sweep
        listed[folder] = run
    for place, folders, files in os.walk(folder):
        path = Path(place)
        if SWEEP in files:
            listed |= {path / name: run for name, run in listed_runs(path).items()}
        if {SUMMARY, READINGS, PROGRESS} & set(files) or (path / ".hydra" / "config.yaml").is_file():
            started.add(path)
        folders[:] = [name for name in folders if name not in (".hydra", CHECKPOINTS, BATCHES)]
    return [_examine(path, folder, listed.get(path), now) for path in sorted(started | listed.keys())]


def count_states(runs: Sequence[RunState]) -> dict[str, int]:
    """Number of runs in each state, for all states in their order."""
    states = [run.state for run in runs]
    return {state: states.count(state) for state in STATES}


def time_left(runs: Sequence[RunState]) -> float | None:
    """Estimate the seconds until the last run ends, with as many running at a time as now; None if unknown.

    A running one continues at its own speed. A waiting one takes as long as the completed runs took on average, or,
    before any has completed, as long as the running ones will take; per step where all numbers of steps are known.
    """
    running = [run for run in runs if run.state == "running"]
    waiting = [run for run in runs if run.state == "waiting"]
    if not running:
        return None if waiting else 0.0
    done = [(run.seconds, run.steps) for run in runs if run.state in DONE and run.seconds is not None]
    durations = done or [
        (run.seconds / run.step * run.steps, run.steps) for run in running if run.seconds and run.step and run.steps
    ]
    mean = statistics.fmean(seconds for seconds, _ in durations) if durations else None
    remaining = [mean if run.left is None else run.left for run in running]
    to_come = [mean] * len(waiting)
    if mean is not None and all(run.steps for run in waiting) and all(steps for _, steps in durations):
        per_step = sum(seconds / (steps or 1) for seconds, steps in durations) / len(durations)
        to_come = [per_step * (run.steps or 1) for run in waiting]
    known = [seconds for seconds in (*remaining, *to_come) if seconds is not None]
    if len(known) < len(running) + len(waiting):
        return None
    return max(*known[: len(running)], sum(known) / len(running))


def newest_step(run: Path) -> int | None:
    """The step of a run's newest checkpoint, from its name."""
    names = [CHECKPOINT.fullmatch(path.name) for path in (run / CHECKPOINTS).glob("*")]
    return max((int(name[1]) for name in names if name), default=None)


def _examine(path: Path, top: Path, listed: ListedRun | None, now: float) -> RunState:
    name = printable(path.relative_to(top).as_posix())
    overrides = listed.overrides if listed else {}
    summary = read_summary(path / SUMMARY)
    if listed and listed.fingerprint and summary and summary.fingerprint not in (None, listed.fingerprint):
        summary = None  # of another run, which this one will overwrite
        if not is_locked(path / LOCK):
            return RunState(path, name, "waiting", steps=listed.steps, overrides=overrides)
    state = _state(path, summary, bool(listed), now)
    progress = mapping(read_json(path / PROGRESS))
    step, seconds = count(progress.get("step")), amount(progress.get("seconds"))
    totals = (
        listed.steps if listed else None,
        count(progress.get("steps")) if state == "running" else None,
        count(summary.settings.get("steps")) if summary else None,
    )
    steps, left = next((total for total in totals if total is not None), None), None
    if state == "running" and step and steps is not None and seconds is not None:  # at its mean speed so far
        since = max(0.0, now - (amount(progress.get("time")) or now))  # the progress was written
        left = max(0.0, seconds / step * max(0, steps - step) - since)
    elif state != "running" and summary and (step is None or (summary.steps_done is not None and state != "killed")):
        step, seconds = summary.steps_done, summary.seconds
    if state in ("interrupted", "killed"):
        step = max(filter(None, (step, newest_step(path))), default=step)
    error = summary.last_line if summary and state in IN_TROUBLE else ""
    return RunState(path, name, state, summary, step, steps, seconds, left, error, overrides)


def _state(path: Path, summary: StoredSummary | None, is_listed: bool, now: float) -> str:
    if summary and summary.status in DONE:
        return summary.status
    if is_locked(path / LOCK):
        return "running"
    if summary:
        return summary.status if summary.status in IN_TROUBLE else "killed"
    try:
        is_starting = now - path.stat().st_mtime < STARTING and set(os.listdir(path)) <= {".hydra"}
    except OSError:  # there is no folder yet
        is_starting = True
    return "waiting" if is_listed and is_starting else "killed"
