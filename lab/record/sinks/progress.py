"""The progress sink: how far a running run is, for `gradlab status`."""

import json
import time
from contextlib import suppress
from pathlib import Path

from lab.machine.files import atomic_write
from lab.readings import Record
from lab.record.files import PROGRESS

INTERVAL = 1.0
"""Least number of seconds between two writes."""


class Progress:
    """Writes progress.json at readings and removes it at the end; a full disk does not stop the run here."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.path, self.steps = folder / PROGRESS, steps
        self.written_at = -INTERVAL

    def write(self, record: Record) -> None:
        now = time.monotonic()
        if now - self.written_at < INTERVAL:
            return
        self.written_at = now
        content = {"step": record.step, "steps": self.steps, "seconds": round(record.seconds, 3), "time": time.time()}
        with suppress(OSError), atomic_write(self.path) as draft:
            draft.write_text(json.dumps(content) + "\n")

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
