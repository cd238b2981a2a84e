"""The state of runs, read from their folders."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lab.machine.locks import is_locked
from lab.record.files import BATCHES, CHECKPOINTS, LOCK, MEMBERS, PROGRESS, READINGS, SUMMARY, SWEEP
from lab.record.states import DONE, IN_TROUBLE, STATES, batch_label
from lab.schema import flatten

CHECKPOINT = re.compile(r"step-(\d{12})\.ckpt", re.ASCII)
"""The name of a checkpoint: updates made."""


STARTING = 60.0
"""Seconds between a folder of a sweep and its lock, in which a process imports torch: such a run still waits."""


LARGEST_JSON = 64 * 2**20
"""Bytes; the summary of 100,000 replicas, the most there can be, is a quarter of it."""


LARGEST_AMOUNT = 10**12
"""Steps or seconds; no configuration has more steps."""


@dataclass(frozen=True)
class StoredSummary:
    """What a summary.json says, as far as it makes sense: a foreign or hand-edited one says less.

    Attributes:
        status: one of `STATES`, or unreadable.
        settings: the scientific part of the configuration, flat: dotted key -> number, text, truth value or None.
        last: metric -> its value at the last reading.
        best: metric -> its best value.
    """

    status: str = "unreadable"
    settings: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, float | None] = field(default_factory=dict)
    best: Mapping[str, float | None] = field(default_factory=dict)
    diverged_replicas: int = 0
    steps_done: int | None = None
    seconds: float | None = None
    fingerprint: str | None = None
    error: str = ""


@dataclass(frozen=True)
class RunState:
    """A run of a sweep, or of any folder.

    Attributes:
        folder: where it lies, or will lie.
        name: that folder as seen from the one that was asked for; what cannot be printed is replaced.
        state: one of `STATES`.
        outcome: what its summary says, None if it has none.
        step: updates made, if known.
        steps: updates that it makes in all, if known.
        seconds: it has worked, if known.
        left: seconds that a running one still needs, if known.
        error: the last line of its traceback.
        batch: the folder below the sweep's in which it is kept together with others, None if it is kept in its own.
        given: what the sweep says of it, key -> text, also if it has not begun.
    """

    folder: Path
    name: str
    state: str
    outcome: StoredSummary | None = None
    step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    left: float | None = None
    error: str = ""
    batch: Path | None = None
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints, which need not be there."""
        return (self.batch or self.folder) / CHECKPOINTS


@dataclass(frozen=True)
class Member:
    """A run of those that are trained together: its folder's name, its fingerprint and its replicas."""

    run: str
    fingerprint: str
    replicas: int
    first_replica: int


@dataclass(frozen=True)
class SweepEntry:
    """A line of sweep.json; `given` are its overrides, key -> text."""

    fingerprint: str | None
    steps: int | None
    given: Mapping[str, str] = field(default_factory=dict)


def find(folder: Path, now: float | None = None) -> list[RunState]:
    """Every run at or below a folder, in the order of their names; also those of a sweep that have not begun.

    Args:
        now: seconds since the epoch; the time of the call unless given.
    """
    now = time.time() if now is None else now
    planned: dict[Path, SweepEntry] = {}
    batches: dict[tuple[Path, str], Path] = {}
    begun: set[Path] = set()
    if folder.name and (folder.parent / SWEEP).is_file():  # it is one of a sweep's runs
        planned |= {path: plan for path, plan in _planned(folder.parent).items() if path == folder}
        batches |= _batches(folder.parent)
    for place, folders, files in os.walk(folder):
        path = Path(place)
        if SWEEP in files:
            planned |= _planned(path)
            batches |= _batches(path)
        if _is_run(path, folders, files):
            begun.add(path)
        folders[:] = [name for name in folders if name not in (".hydra", CHECKPOINTS, BATCHES)]
    return [_run(path, folder, planned.get(path), batches, now) for path in sorted(begun | planned.keys())]


def count(runs: Sequence[RunState]) -> dict[str, int]:
    """How many runs are in each state, all states in their order."""
    found = Counter(run.state for run in runs)
    return {state: found[state] for state in STATES}


def time_left(runs: Sequence[RunState]) -> float | None:
    """Seconds until the last run has ended, if as many run at a time as now; None where nothing tells.

    A running one goes on at its own speed. A waiting one takes as long as those that are done took on average, or, as
    long as none is, as the running ones will take; where all numbers of steps are known, a step is what takes time.
    """
    running = [run for run in runs if run.state == "running"]
    waiting = [run for run in runs if run.state == "waiting"]
    if not running:
        return None if waiting else 0.0
    whole = [(run.seconds, run.steps) for run in runs if run.state in DONE and run.seconds is not None]
    if not whole:
        whole = [
            (run.seconds / run.step * run.steps, run.steps) for run in running if run.seconds and run.step and run.steps
        ]
    mean = sum(seconds for seconds, _ in whole) / len(whole) if whole else None
    if whole and all(run.steps for run in waiting) and all(steps for _, steps in whole):
        a_step = sum(seconds / (steps or 1) for seconds, steps in whole) / len(whole)
        each = [a_step * (run.steps or 1) for run in waiting]
    elif mean is not None:
        each = [mean] * len(waiting)
    else:
        each = []
    rest = [run.left if run.left is not None else mean for run in running]
    known = [seconds for seconds in rest if seconds is not None]
    if len(each) < len(waiting) or len(known) < len(running):
        return None
    return max(*known, (sum(known) + sum(each)) / len(running))


def members(batch: Path) -> list[Member]:
    """The runs that are trained together and kept in this folder, in the order of their replicas; none if unknown."""
    entries = _json(batch / MEMBERS)
    found = [_member(_mapping(entry)) for entry in entries] if isinstance(entries, list) else []
    known = [one for one in found if one is not None]
    is_ours = batch_label([one.fingerprint for one in known]) == batch.name
    return known if is_ours and len(known) == len(found) == len({one.run for one in known}) else []


def kept_step(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint, by its name."""
    try:
        found = [CHECKPOINT.fullmatch(name) for name in os.listdir(checkpoints)]
    except OSError:
        return None
    return max((int(name[1]) for name in found if name), default=None)


def read_summary(path: Path) -> StoredSummary | None:
    """What a summary.json says, None if there is none; of any shape."""
    if not path.exists():
        return None
    found = _json(path)
    if not isinstance(found, dict) or not isinstance(found.get("status"), str):
        return StoredSummary()
    replicas = found.get("replicas")
    return StoredSummary(
        status=found["status"] if found["status"] in STATES else "unreadable",
        settings=settings(found.get("config")),
        last={name: _number(value) for name, value in _mapping(found.get("last")).items()},
        best={name: _number(_mapping(value).get("value")) for name, value in _mapping(found.get("best")).items()},
        diverged_replicas=sum(
            _mapping(fate).get("status") == "diverged" for fate in (replicas if isinstance(replicas, list) else ())
        ),
        steps_done=_whole(found.get("steps_done")),
        seconds=_amount(found.get("seconds")),
        fingerprint=found["fingerprint"] if isinstance(found.get("fingerprint"), str) else None,
        error=found["error"] if isinstance(found.get("error"), str) else "",
    )


def printable(text: str) -> str:
    """Text that a terminal, a CSV and a NetCDF file can hold: a question mark for what is no printable character."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _is_run(path: Path, folders: Sequence[str], files: Sequence[str]) -> bool:
    if SUMMARY in files or READINGS in files or PROGRESS in files:
        return True
    return ".hydra" in folders and (path / ".hydra" / "config.yaml").is_file()


def _run(
    path: Path, top: Path, planned: SweepEntry | None, batches: Mapping[tuple[Path, str], Path], now: float
) -> RunState:
    outcome, progress = read_summary(path / SUMMARY), _mapping(_json(path / PROGRESS))
    if planned and outcome and outcome.fingerprint and planned.fingerprint not in (None, outcome.fingerprint):
        outcome = None  # of the run that this one will write over
        if not is_locked(path / LOCK):
            return RunState(path, _name(path, top), "waiting", steps=planned.steps, given=planned.given)
    state, given = _state(path, outcome, planned, now), planned.given if planned else {}
    steps = planned.steps if planned else None
    if steps is None:
        steps = _whole(progress.get("steps")) if state == "running" else None
    if steps is None and outcome:
        steps = _whole(outcome.settings.get("steps"))
    step, seconds = _whole(progress.get("step")), _amount(progress.get("seconds"))
    left = None
    if state == "running":
        left = _left(step, steps, seconds, _amount(progress.get("time")), now)
    elif (outcome and outcome.steps_done is not None and state != "killed") or (outcome and step is None):
        step, seconds = outcome.steps_done, outcome.seconds
    batch = batches.get((path, outcome.fingerprint or "")) if outcome and outcome.status not in DONE else None
    kept = {place: kept_step(place / CHECKPOINTS) or 0 for place in (path, batch) if place}
    if batch and kept[batch] < kept[path]:
        batch = None  # since then the run has come further alone
    if state in ("interrupted", "killed") and max(kept.values()):
        step = max(step or 0, *kept.values())
    error = _last_line(outcome.error) if outcome and state in IN_TROUBLE else ""
    return RunState(path, _name(path, top), state, outcome, step, steps, seconds, left, error, batch, given)


def _state(path: Path, outcome: StoredSummary | None, planned: SweepEntry | None, now: float) -> str:
    if outcome and outcome.status in DONE:
        return outcome.status
    if is_locked(path / LOCK):
        return "running"
    if outcome:
        return outcome.status if outcome.status in IN_TROUBLE else "killed"
    if planned:
        try:
            is_young = now - path.stat().st_mtime < STARTING
            is_untouched = set(os.listdir(path)) <= {".hydra"}
        except OSError:
            return "waiting"
        if is_young and is_untouched:
            return "waiting"
    return "killed"


def _left(
    step: int | None, steps: int | None, seconds: float | None, written: float | None, now: float
) -> float | None:
    """Seconds a running one still needs at its mean speed until now."""
    if not step or steps is None or seconds is None:
        return None
    since = max(0.0, now - written) if written is not None else 0.0
    return max(0.0, seconds / step * max(0, steps - step) - since)


def _name(path: Path, top: Path) -> str:
    return printable(path.relative_to(top).as_posix())


def _last_line(text: str) -> str:
    return printable(next((line.strip() for line in reversed(text.splitlines()) if line.strip()), ""))


def _planned(folder: Path) -> dict[Path, SweepEntry]:
    """The runs that a sweep.json lists; an entry that makes no sense or climbs out of the folder is left out."""
    runs = _mapping(_json(folder / SWEEP)).get("runs")
    return dict(_entries(folder, runs if isinstance(runs, list) else []))


def _batches(folder: Path) -> dict[tuple[Path, str], Path]:
    """(folder, fingerprint) of each run of a sweep that is trained together with others -> where they are kept."""
    return {
        (folder / one.run, one.fingerprint): batch
        for batch in sorted((folder / BATCHES).glob("*"), key=lambda batch: kept_step(batch / CHECKPOINTS) or -1)
        for one in members(batch)
    }


def _member(entry: Mapping[str, Any]) -> Member | None:
    run, fingerprint = entry.get("run"), entry.get("fingerprint")
    replicas, first = _whole(entry.get("replicas")), _whole(entry.get("first_replica"))
    if not isinstance(run, str) or not isinstance(fingerprint, str) or not replicas or first is None:
        return None
    return Member(run, fingerprint, replicas, first)


def _entries(folder: Path, runs: Sequence[Any]) -> Iterator[tuple[Path, SweepEntry]]:
    for entry in map(_mapping, runs):
        name, fingerprint = entry.get("folder"), entry.get("fingerprint")
        if not isinstance(name, str) or "\0" in name:
            continue
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            continue
        words = entry.get("overrides")
        given = (
            [word.lstrip("+").partition("=") for word in words if isinstance(word, str)]
            if isinstance(words, list)
            else []
        )
        yield (
            folder / relative,
            SweepEntry(
                fingerprint if isinstance(fingerprint, str) else None,
                _whole(entry.get("steps")),
                {key: value for key, _, value in given},
            ),
        )


def _json(path: Path) -> Any:
    """What a JSON file holds, None if it is no file, too large or no JSON."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_JSON:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def settings(config: Any) -> dict[str, Any]:
    """A configuration, flat, with plain values only."""
    try:
        flat = flatten(_mapping(config))
        return {key: value if _is_plain(value) else json.dumps(value, default=str) for key, value in flat.items()}
    except RecursionError:
        return {}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _number(value) is not None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    """A number that fits into 64 bits, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def _amount(value: Any) -> float | None:
    """Of seconds or steps: finite, not negative, and nothing beyond all reason."""
    number = _number(value)
    return number if number is not None and 0 <= number <= LARGEST_AMOUNT else None


def _whole(value: Any) -> int | None:
    number = _amount(value)
    return number if isinstance(number, int) else None
