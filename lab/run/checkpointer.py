"""Checkpointer: saves checkpoints between steps."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lab import schema
from lab.machine.signals import StopRequest
from lab.readings import Record
from lab.record.checkpoint import Checkpoint, save
from lab.train.trainer import Trainer


class Stopped(Exception):  # noqa: N818  # a request, no error
    """Ends the training loop between two steps."""


class Checkpointer:
    """Saves checkpoints between steps at the configured cadence, and when a stop is requested.

    Attributes:
        records: every reading so far, of all runs that are trained together.
    """

    def __init__(
        self, folder: Path, fingerprint: str, config: schema.Config, stop: StopRequest, start: Checkpoint | None
    ) -> None:
        self.folder, self.fingerprint, self.config, self.stop = folder, fingerprint, config, stop
        self.records: list[Record] = []
        self.saved_step = start.step if start else 0
        self.saved_at = time.monotonic()

    def before_step(self, trainer: Trainer) -> None:
        """Save a checkpoint if one is due.

        Raises:
            Stopped: a stop was requested; a checkpoint is saved.
        """
        schedule = self.config.checkpoint
        is_due = schedule.every > 0 and trainer.steps % schedule.every == 0
        is_due |= schedule.seconds > 0 and time.monotonic() - self.saved_at >= schedule.seconds
        if (is_due or self.stop.number) and trainer.steps > self.saved_step:
            self._save(trainer)
        if self.stop.number:
            raise Stopped

    def _save(self, trainer: Trainer) -> None:
        """Write a checkpoint; a failure is reported, and the run continues without."""
        content = Checkpoint(self.fingerprint, trainer.steps, trainer.state(), self.records, self.config.first_replica)
        try:
            save(self.folder, content)
        except OSError as error:
            print(f"{self.folder}: no checkpoint at step {trainer.steps} ({error.strerror}).", file=sys.stderr)
        self.saved_step, self.saved_at = trainer.steps, time.monotonic()
