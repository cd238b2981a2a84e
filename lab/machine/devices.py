"""Devices: the CPU, or the GPU with the most free memory, shared by a limited number of runs."""

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from lab.schema import ConfigError

PAUSE = 0.5
"""Seconds between two attempts to get a place on a GPU."""


@contextmanager
def reserve(name: str, runs_per_gpu: int) -> Iterator[torch.device]:
    """Reserve a device for one run within the block.

    Args:
        name: the value of `device`.
        runs_per_gpu: how many runs of this user may share a GPU of this machine at a time; 0: any number. If all
            places are taken, this reports it once and waits. A process that dies releases its place.

    Raises:
        ConfigError: as `choose_device`, or the folder of the lock files is not private to this user.
    """
    device = choose_device(name)
    if device.type == "cpu" or not runs_per_gpu:
        yield device
        return
    folder = _lock_folder()
    if (place := _take_place(folder, runs_per_gpu)) is None:
        print(f"runs_per_gpu={runs_per_gpu}: all places on the GPUs here are taken; waiting.", file=sys.stderr)
    while place is None:
        time.sleep(PAUSE)
        place = _take_place(folder, runs_per_gpu)
    device, lock = place
    try:
        yield device
    finally:
        lock.release()


def choose_device(name: str) -> torch.device:
    """Choose the device that `device` names; `auto` prefers a GPU, and of several the one with the most free memory.

    Raises:
        ConfigError: `cuda` without a CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no CUDA device here; choose device=cpu or device=auto.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _by_free_memory()[0])


def _by_free_memory() -> Sequence[int]:
    """Order the indices of the visible GPUs, the one with the most free bytes first, of equals the lowest."""
    indices = range(torch.cuda.device_count())
    if len(indices) < 2:  # a query creates a CUDA context, which takes memory, so a single GPU is not queried
        return indices
    return sorted(indices, key=lambda index: -torch.cuda.mem_get_info(index)[0])


def _take_place(folder: Path, runs_per_gpu: int) -> tuple[torch.device, FileLock] | None:
    """Lock a free place, None if there is none; every GPU gets one run before any gets two."""
    # By its UUID all processes know a GPU; CUDA_VISIBLE_DEVICES gives each process an order of its own.
    uuids = [(index, str(torch.cuda.get_device_properties(index).uuid)) for index in _by_free_memory()]
    for row in range(runs_per_gpu):
        for index, uuid in uuids:
            with suppress(Timeout):
                lock = FileLock(folder / f"{uuid}-{row}.lock", mode=0o600)
                lock.acquire(timeout=0)
                return torch.device("cuda", index), lock
    return None


def _lock_folder() -> Path:
    """Make and return the folder of this user's lock files, which nobody else may own or write to."""
    folder = Path(tempfile.gettempdir(), f"gradlab-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    if not is_private:
        raise ConfigError(f"runs_per_gpu: {folder} is not a folder of yours alone; remove it, or set runs_per_gpu=0.")
    return folder
