"""Atomic writes and writable folders."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.schema import ConfigError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, which interrupt a run; it resumes from its checkpoint once there is room."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which then replaces `path`; after an exception it is removed.

    The temporary name keeps the suffix, from which matplotlib and others infer the format.
    """
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def refuse_to_write(folder: Path) -> None:
    """Raise a ConfigError if the folder cannot be created or written to."""
    ancestor = folder
    try:
        ancestor = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".gradlab-", dir=ancestor))  # for root, permissions alone say nothing
    except OSError as error:
        raise ConfigError(
            f"output_dir={folder}: {ancestor} is no folder that can be written in; choose another."
        ) from error
