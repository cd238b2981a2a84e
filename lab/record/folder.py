"""A run's folder before the run: what it holds, who works on it, and what is to be done."""

from __future__ import annotations

import hashlib
import json
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from lab import schema
from lab.machine.files import atomic_write, refuse_to_write
from lab.machine.locks import PATIENCE, file_lock
from lab.record.files import CHECKPOINTS, LOCK, PRODUCTS, PROGRESS, READINGS, SUMMARY
from lab.record.states import DONE
from lab.schema import ConfigError

DRAFT = re.compile(r"\.(\d+)-.+")
"""A file that `whole` was writing when its process, of this number, died."""


class Task(StrEnum):
    """What is to be done in a folder."""

    SKIP = "finished before"
    CONTINUE = "continues from its checkpoint"
    BEGIN = "begins"
    AGAIN = "begins again"


def task(folder: Path, fingerprint: str, may_overwrite: bool) -> tuple[Task, str]:
    """What is to be done in a folder for the run of this fingerprint, and why in a few words.

    Raises:
        ConfigError: the folder cannot be written, or holds another run and nobody allowed to overwrite it.
    """
    refuse_to_write(folder)
    if may_overwrite:
        return Task.BEGIN, "overwrite=true"
    summary = summary_of(folder)
    if summary is None:
        if any(any(folder.glob(pattern)) for pattern in PRODUCTS):
            raise ConfigError(
                f"output_dir={folder}: this folder holds a run already, and no summary that could be read;"
                " choose another, or add overwrite=true."
            )
        return Task.BEGIN, ""
    if summary.get("fingerprint") != fingerprint:
        raise ConfigError(
            f"output_dir={folder}: this folder holds a run already, with other settings; choose another, or add"
            " overwrite=true."
        )
    status = summary.get("status")
    if status in DONE:
        damaged = damage(folder, summary)
        return (Task.AGAIN, f"{damaged} is damaged") if damaged else (Task.SKIP, "")
    if status == "failed":
        return Task.AGAIN, "it failed before"
    if any((folder / CHECKPOINTS).glob("*.ckpt")):
        return Task.CONTINUE, ""
    return Task.AGAIN, "it was ended before its first checkpoint"


def summary_of(folder: Path) -> dict[str, Any] | None:
    """A folder's summary.json, None where there is none or it cannot be read."""
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def checksums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of what a run leaves besides its summary."""
    files = [path for pattern in PRODUCTS if pattern != SUMMARY for path in sorted(folder.glob(pattern))]
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def damage(folder: Path, summary: Mapping[str, Any]) -> str:
    """The first file that is missing or not as the summary says it was written; empty if there is none."""
    wanted = summary.get("files")
    if not isinstance(wanted, Mapping):
        return "" if (folder / READINGS).is_file() else READINGS
    found = checksums(folder)
    return next((name for name, digest in wanted.items() if found.get(name) != digest), "")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Be the only process that works on a folder, which is made if it is not there.

    The lock is the operating system's: it goes with the process, however that ends.

    Raises:
        ConfigError: another process holds it.
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


class LockedError(ConfigError):  # reads as what it says of a folder
    """Another process works on a folder."""


def note_failure(config: schema.Config, folder: Path, error: BaseException) -> None:
    """Write a summary of a run that failed before it had one; that of another run, or of an end, is left as it is."""
    fingerprint = schema.fingerprint(config)
    summary = summary_of(folder)
    if summary is not None and (summary.get("fingerprint") != fingerprint or summary.get("status") != "running"):
        return
    content = {
        "status": "failed",
        "fingerprint": fingerprint,
        "config": schema.as_dict(config),
        "error": "".join(traceback.format_exception(error)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / SUMMARY) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sweep_up(folder: Path) -> None:
    """Remove what a process that was killed left half-written in a folder that we hold."""
    for place in (folder, folder / CHECKPOINTS):
        for path in place.glob(".*-*"):
            match = DRAFT.fullmatch(path.name)
            if match and int(match[1]) != os.getpid():
                path.unlink(missing_ok=True)
    (folder / PROGRESS).unlink(missing_ok=True)
