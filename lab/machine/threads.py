"""The threads of worker processes: each core is given away once, for more threads than cores make a step crawl."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that torch, NumPy and others take the number of their threads from, when a process starts."""


@contextmanager
def thread_share(share: int) -> Iterator[None]:
    """Give processes that start within the block this many threads, or fewer where the environment says so."""
    before = {name: os.environ.get(name) for name in THREADS}
    for name, value in before.items():
        own = int(value) if value and value.isdecimal() else share
        os.environ[name] = str(max(1, min(own, share)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
