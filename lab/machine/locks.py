"""A file lock between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 0.5
"""Seconds until a lock counts as held: who only looks whether it is, holds it for an instant too."""


@contextmanager
def file_lock(path: Path, seconds: float = -1) -> Iterator[None]:
    """Be the only process within the block; the file is there as long as that takes.

    Raises:
        Timeout: another one is, for longer than this; below 0 waits for ever.
    """
    from filelock import FileLock

    with FileLock(path, timeout=seconds, poll_interval=PATIENCE / 20):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # who waits for it notices, and asks for a new one
