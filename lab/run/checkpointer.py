"""Checkpointer: saves checkpoints between steps."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab import schema
from lab.machine.signals import StopRequest
from lab.readings import Record
from lab.record.checkpoint import Checkpoint, save
from lab.train.trainer import Trainer

if TYPE_CHECKING:
    pass


class Checkpointer:
    """Keeps checkpoints between steps at the cadence of the configuration, and when the run is asked to stop.

    Attributes:
        records: every reading until now, of all runs that are trained together.
    """

    def __init__(
        self, folder: Path, fingerprint: str, config: schema.Config, stop: StopRequest, start: Checkpoint | None
    ) -> None:
        self.folder, self.fingerprint, self.config, self.stop = folder, fingerprint, config, stop
        self.records: list[Record] = []
        self.kept_at = start.step if start else 0
        self.kept_time = time.monotonic()

    def between(self, trainer: Trainer) -> None:
        """Called before every step.

        Raises:
            Stopped: it was asked to; a checkpoint is kept.
        """
        cadence = self.config.checkpoint
        is_due = cadence.every > 0 and trainer.steps % cadence.every == 0
        is_due |= cadence.seconds > 0 and time.monotonic() - self.kept_time >= cadence.seconds
        if (is_due or self.stop.number) and trainer.steps > self.kept_at:
            self.keep(trainer)
        if self.stop.number:
            raise Stopped

    def keep(self, trainer: Trainer) -> None:
        """Write a checkpoint; where that fails the run goes on without, and says so."""
        found = Checkpoint(self.fingerprint, trainer.steps, trainer.state(), self.records, self.config.first_replica)
        try:
            save(self.folder, found)
        except OSError as error:
            print(f"{self.folder}: no checkpoint at step {trainer.steps} ({error.strerror}).", file=sys.stderr)
        self.kept_at, self.kept_time = trainer.steps, time.monotonic()


class Stopped(Exception):  # noqa: N818  # a request, no error
    """Ends the training loop between two steps."""
