"""Locks between processes."""

import stat
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from lab.machine.locks import file_lock, is_locked


def test_a_lock_is_seen_as_long_as_it_is_held_and_its_file_removed(tmp_path: Path):
    path = tmp_path / ".lock"
    assert not is_locked(path)
    with file_lock(path):
        assert is_locked(path)
        with pytest.raises(Timeout), file_lock(path, 0):
            pass
    assert not is_locked(path)
    assert list(tmp_path.iterdir()) == []


def test_inspecting_a_lock_changes_nothing_and_needs_no_permission_to_write(tmp_path: Path):
    path = tmp_path / ".lock"
    path.touch()
    path.chmod(stat.S_IRUSR)
    before = path.stat()
    assert not is_locked(path)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    with FileLock(path, timeout=0):
        assert is_locked(path)
