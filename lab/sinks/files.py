"""Files that appear whole or not at all: written beside their place, then moved there in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to; afterwards the file stands at `path`, or after an exception nothing does.

    The temporary name keeps the ending, by which matplotlib and others choose the format.
    """
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
