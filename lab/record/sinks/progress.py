"""The progress sink: how far a run is, for whoever looks at its folder while it works."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from lab.machine.files import atomic_write
from lab.readings import Record
from lab.record.files import PROGRESS

SECONDS = 1.0
"""It is written at most this often."""


class Progress:
    """Rewrites progress.json at readings, and removes it at the end; a disk that is full does not stop the run here."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.path, self.steps = folder / PROGRESS, steps
        self.written = 0.0

    def write(self, record: Record) -> None:
        now = time.monotonic()
        if self.written and now - self.written < SECONDS:
            return
        self.written = now
        content = {"step": record.step, "steps": self.steps, "seconds": round(record.seconds, 3), "time": time.time()}
        with suppress(OSError), atomic_write(self.path) as draft:
            draft.write_text(json.dumps(content) + "\n")

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
