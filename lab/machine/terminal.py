"""Terminal output: numbers in words, and streams that survive a closed pipe."""

import math
import os
import sys
from typing import IO, Any

SIZE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def duration(seconds: float) -> str:
    """Format a duration in at most two units: `2.3 s`, `45 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    rounded = round(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if rounded >= size:
            rest = rounded % size // smaller
            return f"{rounded // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{rounded} s"


def file_size(size: int) -> str:
    """Format a number of bytes, of a file or of memory: `512 bytes`, `1.5 GiB`."""
    power = min(len(SIZE_UNITS) - 1, int(math.log2(max(size, 1)) / 10))
    return f"{size / 1024**power:.3g} {SIZE_UNITS[power]}" if power else f"{size} bytes"


class PipeSafeStream:
    """A text stream that discards output after a broken pipe or a closed terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _discard(self) -> None:
        """Redirect the file descriptor to the null device, also for what is still in the buffer."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def ignore_broken_pipes() -> None:
    """Make this process's standard output and standard error pipe-safe; idempotent."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PipeSafeStream):
            setattr(sys, name, PipeSafeStream(stream))
