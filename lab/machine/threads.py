"""Threads of this process and of worker processes: more threads than cores slow a step down."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables from which torch, NumPy and others take their number of threads when a process starts."""


@contextmanager
def thread_share(share: int) -> Iterator[None]:
    """Give processes started within the block this many threads, or fewer if the environment says so."""
    previous = {name: os.environ.get(name) for name in THREADS}
    for name, value in previous.items():
        limit = int(value) if value and value.isdecimal() else share
        os.environ[name] = str(max(1, min(limit, share)))
    try:
        yield
    finally:
        for name, value in previous.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def thread_budget(threads: int) -> Iterator[None]:
    """Let torch use this many CPU threads within the block; 0 leaves the number as it is."""
    import torch

    previous = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
