"""File locks between processes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 0.5
"""Seconds until a lock counts as held: `is_locked` holds a shared lock for an instant."""


@contextmanager
def file_lock(path: Path, seconds: float = -1) -> Iterator[None]:
    """Hold an exclusive lock within the block; its file exists only that long.

    The lock is the operating system's `flock`: it is released when the process ends, however that ends.

    Args:
        path: the lock file.
        seconds: how long to wait for another holder; below 0, indefinitely.

    Raises:
        filelock.Timeout: another process still holds it.
    """
    from filelock import FileLock

    with FileLock(path, timeout=seconds, poll_interval=PATIENCE / 20):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # a waiting process notices, and opens a new file


def is_locked(path: Path) -> bool:
    """Return True if a process holds the lock.

    Tries a shared lock on a descriptor opened read-only, so that nothing is created or written and folders of other
    users can be inspected. A process that acquires the lock at that instant must retry, see `PATIENCE`.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released as the file is closed
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        pass
    return False
