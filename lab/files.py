"""The files of a run's folder. They appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.schema import ConfigError

SUMMARY, READINGS, PICTURE, EVENTS = "summary.json", "readings.nc", "gradients.png", "events.out.tfevents.*"
PRODUCTS = (SUMMARY, READINGS, PICTURE, EVENTS)
"""What a run leaves in its folder besides .hydra/."""
LOCK, PROGRESS, CHECKPOINTS = ".lock", "progress.json", "checkpoints"
"""What is there while it works, or until it has come to its end: who works on it, how far it is, how it can go on."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What stops a run for a reason that is not its own; it goes on from its checkpoint once there is room."""
COLLECTED, SUMMARIES = "collected.nc", "summaries.csv"
"""What `gradlab collect` writes into a folder of runs."""
SWEEP = "sweep.json"
"""The runs of a sweep, in its folder."""
BATCHES, MEMBERS = ".batches", "members.json"
"""Below a sweep's folder, of runs that are trained together: a folder with their checkpoints, and whose these are."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to; afterwards the file stands at `path`, or after an exception nothing does.

    The temporary name keeps the ending, by which matplotlib and others choose the format.
    """
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def refuse_to_write(folder: Path) -> None:
    """Raise a ConfigError if the folder cannot be made or written in."""
    above = folder
    try:
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".gradlab-", dir=above))  # only trying tells: root may seem to be allowed
    except OSError as error:
        raise ConfigError(
            f"output_dir={folder}: {above} is no folder that can be written in; choose another."
        ) from error


def clear(folder: Path) -> None:
    """Remove the products of an earlier run, but for its summary, which says whose folder it is."""
    for pattern in PRODUCTS:
        for old in folder.glob(pattern) if pattern != SUMMARY else ():
            old.unlink()
