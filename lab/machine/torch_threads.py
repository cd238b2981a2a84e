"""The number of CPU threads that torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    pass


@contextmanager
def thread_budget(threads: int) -> Iterator[None]:
    """Let torch use this many CPU threads within the block; 0 leaves its own choice."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
