"""RunWriter: sinks and summary of one run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lab import data, schema
from lab.machine.files import atomic_write
from lab.readings import Record
from lab.record import overlay
from lab.record.files import SUMMARY, clear
from lab.record.folder import checksums, sweep_up
from lab.record.overlay import Overlay
from lab.record.sinks.progress import Progress
from lab.record.sinks.table import Table
from lab.record.summary import Summary, describe_device, versions

if TYPE_CHECKING:
    from lab.record.sinks.sink import Sink


class RunWriter:
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
        from lab.record.sinks.tensorboard import TensorBoard

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
        with atomic_write(self.folder / SUMMARY) as draft:
            draft.write_text(json.dumps(result, indent=2) + "\n")


def describe(config: schema.Config) -> str:
    """The choices that matter most, for a picture's title."""
    parts = [f"{config.activation.name}, {config.init.name}"]
    parts += [f"{group} {name}" for group in ("norm", "residual") if (name := getattr(config, group).name) != "none"]
    parts += [f"depth {config.model.depth}, width {config.model.width}", f"{config.replicas} replicas"]
    return ", ".join(parts)


def attributes(config: schema.Config, device: torch.device) -> Mapping[str, str]:
    """What a table says of its origin: config and versions as JSON, fingerprint and device."""
    return {
        "config": json.dumps(schema.as_dict(config)),
        "fingerprint": schema.fingerprint(config),
        "versions": json.dumps(versions()),
        "device": describe_device(device),
    }
