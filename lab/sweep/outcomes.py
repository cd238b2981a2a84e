"""Outcomes of runs: their status, and failures that are reported instead of raised, so that other runs continue."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from lab.machine.files import NO_ROOM
from lab.record.folder import note_failure, summary_of
from lab.schema import Config


def report_failure(error: Exception, runs: Mapping[Path, Config]) -> None:
    """Report an exception.

    Args:
        error: raised in training.
        runs: folder -> configuration, of the runs that it ended.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        print(no_room(next(iter(runs)), error), file=sys.stderr)
        return
    traceback.print_exception(error)
    for folder, config in runs.items():
        note_failure(config, folder, error)


def no_room(folder: Path, error: OSError) -> str:
    """The message for a full disk."""
    return f"{folder}: {error.strerror}; make room and repeat the same command to resume from the last checkpoint."


def stored_status(folder: Path) -> str:
    """The status in a run's summary.json."""
    return str((summary_of(folder) or {}).get("status", "not started"))


def print_status(folder: Path) -> None:
    print(f"{folder}  {stored_status(folder)}", flush=True)
