"""RunWriter: sinks and summary of one run."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from lab import schema
from lab.readings import Record
from lab.record import overlay
from lab.record.files import clear
from lab.record.folder import checksums, remove_drafts, write_summary
from lab.record.overlay import Overlay
from lab.record.sinks import Sink
from lab.record.sinks.progress import Progress
from lab.record.sinks.table import Table
from lab.record.summary import Summary, describe_device, versions
from lab.theory import NoTheory


class RunWriter:
    """Writes the folder of one run: its sinks while it is trained, and its summary.

    Args:
        config: the user's, with init=critical unresolved.
        folder: of the run.
        expected: the theory of its first reading.
        device: where it is trained.
        title: of its picture.
        sinks: the user's own.
    """

    def __init__(
        self,
        config: schema.Config,
        folder: Path,
        expected: Overlay | NoTheory,
        device: torch.device,
        title: str,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.config, self.folder, self.expected, self.device = config, folder, expected, device
        self.own_sinks = sinks
        self.sinks: list[Sink] = []
        self.curves = expected if isinstance(expected, Overlay) else None
        heading = f"{title}\n{describe(config)}"
        self.table = Table(folder, config.first_replica, attributes(config, device), heading, self.curves)
        self.progress = Progress(folder, config.steps)
        self.started = time.perf_counter()
        self.is_over = False

    def start(self, stack: ExitStack) -> None:
        """Write a first summary, remove the files of an earlier attempt, and open the sinks, which the stack closes."""
        from lab.record.sinks.tensorboard import TensorBoard

        self._summarize("running", "")
        clear(self.folder)
        remove_drafts(self.folder)
        self.sinks = [self.table, TensorBoard(self.folder, self.config, self.curves), self.progress, *self.own_sinks]
        for sink in reversed(self.sinks):
            stack.callback(sink.close)  # each is closed, even if another one fails

    def write(self, record: Record) -> None:
        """Take a reading, unless all replicas have diverged, where the run would have ended by itself."""
        if self.is_over:
            self.progress.write(record)  # the runs trained with it continue
            return
        for sink in self.sinks:
            sink.write(record)
        self.is_over = bool((record.diverged_at >= 0).all())

    def end(self, status: str, error: str) -> None:
        """Write the final summary."""
        self._summarize("diverged" if status == "finished" and self.is_over else status, error)

    def _summarize(self, status: str, error: str) -> None:
        records = self.table.records
        summary = Summary(self.config, self.device)
        for record in records:  # not as a sink: after Ctrl-C between two sinks, summary and table would differ
            summary.write(record)
        comparison = overlay.judge(self.expected, records[0] if records else None)
        seconds = max(records[-1].seconds if records else 0.0, time.perf_counter() - self.started)
        content = summary.result(status, seconds, comparison, error)
        if status != "running":
            content["files"] = checksums(self.folder)
        write_summary(self.folder, content)


def describe(config: schema.Config) -> str:
    """Name the main choices, for a picture's title."""
    parts = [config.activation.name, config.init.name]
    parts += [f"{group} {name}" for group in ("norm", "residual") if (name := getattr(config, group).name) != "none"]
    parts += [f"depth {config.model.depth}", f"width {config.model.width}", f"{config.replicas} replicas"]
    return ", ".join(parts)


def attributes(config: schema.Config, device: torch.device) -> Mapping[str, str]:
    """Return the attributes of a table: config and versions as JSON, fingerprint and device."""
    return {
        "config": json.dumps(schema.as_dict(config)),
        "fingerprint": schema.fingerprint(config),
        "versions": json.dumps(versions()),
        "device": describe_device(device),
    }
