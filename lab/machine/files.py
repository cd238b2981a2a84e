"""Atomic writes and writable folders."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.schema import ConfigError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What stops a run for a reason that is not its own; it goes on from its checkpoint once there is room."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
