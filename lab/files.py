"""The files of a run's folder. They appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.schema import ConfigError

SUMMARY, READINGS, PICTURE, EVENTS = "summary.json", "readings.nc", "gradients.png", "events.out.tfevents.*"
PRODUCTS = (SUMMARY, READINGS, PICTURE, EVENTS)
"""What a run leaves in its folder besides .hydra/."""


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


def refuse_to_overwrite(folder: Path, is_allowed: bool) -> None:
    """Raise a ConfigError if the folder cannot be written, or holds a run and nobody allowed to overwrite it."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir={folder}: {above} is no folder that can be written in; choose another.")
    if not is_allowed and any(any(folder.glob(pattern)) for pattern in PRODUCTS):
        raise ConfigError(
            f"output_dir={folder}: this folder holds a run already; choose another, or add overwrite=true."
        )


def clear(folder: Path) -> None:
    """Remove the products of an earlier run."""
    for pattern in PRODUCTS:
        for old in folder.glob(pattern):
            old.unlink()
