"""Where a run computes: on the CPU, or on the GPU with the most free memory, shared with no more runs than wanted."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from lab.schema import ConfigError

PAUSE = 0.5
"""Seconds between two looks for a free place on a GPU."""


@contextmanager
def reserve(name: str, runs_per_gpu: int) -> Iterator[torch.device]:
    """A device for one run, and a place on it until the end of the block.

    Args:
        name: what `device` says.
        runs_per_gpu: how many runs of this user may share a GPU of this machine at a time; 0: as many as come. Where
            all places are taken this says so once and waits. A process that dies gives its place back.

    Raises:
        ConfigError: as `choose_device`, or the folder of the locks is not this user's.
    """
    chosen = choose_device(name)
    if chosen.type == "cpu" or not runs_per_gpu:
        yield chosen
        return
    folder, is_first_look = _places(), True
    while (found := _take(folder, runs_per_gpu)) is None:
        if is_first_look:
            print(f"runs_per_gpu={runs_per_gpu}: all places on the GPUs here are taken; waiting.", file=sys.stderr)
        is_first_look = False
        time.sleep(PAUSE)
    device, place = found
    try:
        yield device
    finally:
        place.release()


def choose_device(name: str) -> torch.device:
    """The device that `device` names: auto takes a GPU if there is one, of several the one with the most free memory.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no CUDA device here; choose device=cpu or device=auto.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _by_free_memory()[0])


def _by_free_memory() -> Sequence[int]:
    """The numbers of the visible GPUs, the one with the most free bytes first, of equals the lowest."""
    numbers = range(torch.cuda.device_count())
    if len(numbers) < 2:  # asking a GPU for its memory takes some of it for good, so the only one is not asked
        return numbers
    return sorted(numbers, key=lambda number: -torch.cuda.mem_get_info(number)[0])


def _take(folder: Path, runs_per_gpu: int) -> tuple[torch.device, FileLock] | None:
    """A free place, held; every GPU gets one run before any gets two."""
    gpus = [(number, _identity(number)) for number in _by_free_memory()]
    for row in range(runs_per_gpu):
        for number, identity in gpus:
            place = FileLock(folder / f"{identity}-{row}.lock", mode=0o600)
            try:
                place.acquire(timeout=0)
            except Timeout:
                continue
            return torch.device("cuda", number), place
    return None


def _identity(number: int) -> str:
    """The GPU's own number, by which all processes know it; CUDA_VISIBLE_DEVICES gives each an order of its own."""
    return str(torch.cuda.get_device_properties(number).uuid)


def _places() -> Path:
    """The folder of this user's locks.

    Raises:
        ConfigError: somebody else made it, or can write there.
    """
    folder = Path(tempfile.gettempdir(), f"gradlab-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    if not is_private:
        raise ConfigError(f"runs_per_gpu: {folder} is not a folder of yours alone; remove it, or set runs_per_gpu=0.")
    return folder
