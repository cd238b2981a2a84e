"""A run's folder before the run: its contents, its lock, and what remains to be done."""

import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from lab import schema
from lab.machine.files import NO_ROOM, atomic_write, refuse_to_write
from lab.machine.locks import PATIENCE, file_lock
from lab.record.files import CHECKPOINTS, LOCK, PRODUCTS, PROGRESS, READINGS, SUMMARY
from lab.record.states import DONE
from lab.record.stored.json_values import read_json
from lab.schema import ConfigError

DRAFT = re.compile(r"\.(\d+)-.+")
"""A temporary file of `atomic_write`, with the id of its process."""


class Task(StrEnum):
    """The work that remains in a folder."""

    SKIP = "finished before"
    CONTINUE = "continues from its checkpoint"
    BEGIN = "starts"
    AGAIN = "starts again"


class LockedError(ConfigError):
    """Another process works on a folder."""


def task(folder: Path, fingerprint: str, may_overwrite: bool) -> tuple[Task, str]:
    """Determine what remains to be done in a folder for the run of this fingerprint, and the reason in a few words.

    Raises:
        ConfigError: the folder cannot be written to, or holds another run and `may_overwrite` is false.
    """
    refuse_to_write(folder)
    if may_overwrite:
        return Task.BEGIN, "overwrite=true"
    summary = summary_of(folder)
    if summary is None and not any(any(folder.glob(pattern)) for pattern in PRODUCTS):
        return Task.BEGIN, ""
    if summary is None or summary.get("fingerprint") != fingerprint:
        difference = "and no summary that could be read" if summary is None else "with other settings"
        raise ConfigError(
            f"output_dir={folder}: this folder holds a run already, {difference};"
            " choose another, or add overwrite=true."
        )
    if summary.get("status") in DONE:
        damaged = damage(folder, summary)
        return (Task.AGAIN, f"{damaged} is damaged") if damaged else (Task.SKIP, "")
    if summary.get("status") == "failed":
        return Task.AGAIN, "it failed before"
    if any((folder / CHECKPOINTS).glob("*.ckpt")):
        return Task.CONTINUE, ""
    return Task.AGAIN, "it was ended before its first checkpoint"


def summary_of(folder: Path) -> dict[str, Any] | None:
    """Read a folder's summary.json, None if there is none or it cannot be read."""
    summary = read_json(folder / SUMMARY)
    return summary if isinstance(summary, dict) else None


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a folder's summary.json atomically."""
    with atomic_write(folder / SUMMARY) as draft:
        draft.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def checksums(folder: Path) -> dict[str, str]:
    """Compute file name -> SHA-256 of a run's products besides its summary."""
    digests = {}
    for pattern in PRODUCTS:
        for path in sorted(folder.glob(pattern)) if pattern != SUMMARY else ():
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def damage(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return the first file that is missing or differs from its checksum in the summary; empty if there is none."""
    expected = summary.get("files")
    if not isinstance(expected, Mapping):
        return "" if (folder / READINGS).is_file() else READINGS
    digests = checksums(folder)
    return next((name for name, digest in expected.items() if digests.get(name) != digest), "")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Be the only process that works on a folder, which is created if necessary.

    Raises:
        LockedError: another process holds the lock.
    """
    from filelock import Timeout

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / LOCK, PATIENCE))
        except Timeout:
            raise LockedError(
                f"output_dir={folder}: another process is working on this run; let it end, or choose another folder."
            ) from None
        yield


def remove_drafts(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder whose lock this process holds."""
    for path in [*folder.glob(".*-*"), *(folder / CHECKPOINTS).glob(".*-*")]:
        match = DRAFT.fullmatch(path.name)
        if match and int(match[1]) != os.getpid():
            path.unlink(missing_ok=True)
    (folder / PROGRESS).unlink(missing_ok=True)


def report_failure(error: Exception, runs: Mapping[Path, schema.Config]) -> None:
    """Report an exception raised in training `runs`, and write a summary of each that failed before it wrote one.

    The summaries of completed runs, and of other runs in their folders, are left alone.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        print(no_room(next(iter(runs)), error), file=sys.stderr)
        return
    traceback.print_exception(error)
    text = "".join(traceback.format_exception(error))
    for folder, config in runs.items():
        content = {"status": "failed", "fingerprint": schema.fingerprint(config), "config": schema.as_dict(config)}
        stored = summary_of(folder) or {"status": "running", "fingerprint": content["fingerprint"]}
        if stored.get("fingerprint") == content["fingerprint"] and stored.get("status") == "running":
            folder.mkdir(parents=True, exist_ok=True)
            write_summary(folder, content | {"error": text})


def no_room(folder: Path, error: OSError) -> str:
    """The message for a full disk."""
    return f"{folder}: {error.strerror}; make room and repeat the same command to resume from the last checkpoint."


def stored_status(folder: Path) -> str:
    """The status in a run's summary.json."""
    return str((summary_of(folder) or {}).get("status", "not started"))


def print_status(folder: Path) -> None:
    print(f"{folder}  {stored_status(folder)}", flush=True)
