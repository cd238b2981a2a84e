"""What a command prints outlives whoever reads it: a closed pager, pipe or terminal costs the words, not the run."""

from __future__ import annotations

import os
import sys
from typing import IO, Any


class PipeSafeStream:
    """A stream that, once nobody reads it any more, takes what is written and forgets it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._forget()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._forget()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _forget(self) -> None:
        """From now on the file descriptor leads nowhere, also for what is still in the buffer."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def ignore_broken_pipes() -> None:
    """Make this process's standard output and standard error patient; calling it again changes nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PipeSafeStream):
            setattr(sys, name, PipeSafeStream(stream))
