"""A run at work in its folder: where its readings go, what is kept so that it can go on, and how it ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lab import config as configuration
from lab import data, overlay, schema
from lab.checkpoint import Checkpoint, save
from lab.files import SUMMARY, clear, whole
from lab.folder import checksums, sweep_up
from lab.overlay import Overlay
from lab.readings import Record
from lab.sinks.progress import Progress
from lab.sinks.table import Table
from lab.stopping import Stop
from lab.summary import Summary, describe_device, versions
from lab.training import Trainer

if TYPE_CHECKING:
    from lab.sinks import Sink


class Work:
    """One run's folder while it is trained: its sinks, and its end."""

    def __init__(self, config: schema.Config, folder: Path, dataset: data.Dataset, device: torch.device, title: str):
        self.config, self.folder, self.device = config, folder, device
        self.theory = overlay.expect(config, dataset)
        expected = self.theory if isinstance(self.theory, Overlay) else None
        heading = f"{title}\n{describe(config)}"
        self.table = Table(folder, config.first_replica, attributes(config, device), heading, expected)
        self.expected = expected
        self.sinks: list[Sink] = []
        self.progress = Progress(folder, config.steps)
        self.started = time.perf_counter()
        self.is_over = False

    def begin(self, stack: ExitStack) -> None:
        """Clear the folder of an earlier attempt, say whose it is now, and open the sinks, which the stack closes."""
        from lab.sinks.tensorboard import TensorBoard

        self._summarize("running", "")
        clear(self.folder)
        sweep_up(self.folder)

        self.sinks = [self.table, TensorBoard(self.folder, self.config, self.expected)]
        self.sinks.append(self.progress)
        for sink in reversed(self.sinks):
            stack.callback(sink.close)  # each is closed, even if another cannot be

    def write(self, record: Record) -> None:
        """Take a reading. Once all replicas have diverged no more are taken: alone, the run would have ended then."""
        if self.is_over:
            self.progress.write(record)  # those beside it are not over yet
            return
        for sink in self.sinks:
            sink.write(record)
        self.is_over = bool((record.diverged_at >= 0).all())

    def end(self, status: str, error: str) -> None:
        """Write the summary."""
        if status == "finished" and self.is_over:
            status = "diverged"
        self._summarize(status, error)

    def _summarize(self, status: str, error: str) -> None:
        summary = Summary(self.config, self.device)
        for record in self.table.records:  # not as a sink of its own: Ctrl-C between two sinks would set them apart
            summary.write(record)
        comparison = overlay.judge(self.theory, self.table.records[0] if self.table.records else None)
        seconds = self.table.records[-1].seconds if self.table.records else 0.0
        result = summary.result(status, max(seconds, time.perf_counter() - self.started), comparison, error)
        if status != "running":
            result["files"] = checksums(self.folder)
        with whole(self.folder / SUMMARY) as draft:
            draft.write_text(json.dumps(result, indent=2) + "\n")


class Keeper:
    """Keeps checkpoints between steps at the cadence of the configuration, and when the run is asked to stop.

    Attributes:
        records: every reading until now, of all runs that are trained together.
    """

    def __init__(
        self, folder: Path, fingerprint: str, config: schema.Config, stop: Stop, start: Checkpoint | None
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


def describe(config: schema.Config) -> str:
    """The choices that matter most, for a picture's title."""
    parts = [f"{config.activation.name}, {config.init.name}"]
    parts += [f"{group} {name}" for group in ("norm", "residual") if (name := getattr(config, group).name) != "none"]
    parts += [f"depth {config.model.depth}, width {config.model.width}", f"{config.replicas} replicas"]
    return ", ".join(parts)


def attributes(config: schema.Config, device: torch.device) -> Mapping[str, str]:
    """What a table says of its origin: config and versions as JSON, fingerprint and device."""
    return {
        "config": json.dumps(configuration.as_dict(config)),
        "fingerprint": configuration.fingerprint(config),
        "versions": json.dumps(versions()),
        "device": describe_device(device),
    }
