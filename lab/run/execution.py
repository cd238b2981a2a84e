"""Trains configurations into folders."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from lab import data, schema
from lab.machine import devices
from lab.machine.files import NO_ROOM
from lab.machine.signals import STOP_SIGNALS, StopRequest, catch_stop_requests
from lab.machine.threads import thread_budget
from lab.readings import Record, split
from lab.record import overlay
from lab.record.checkpoint import Checkpoint, latest, remove, save
from lab.record.folder import Task, run_lock, summary_of, task
from lab.record.sinks import Sink
from lab.record.sinks.console import Console
from lab.record.states import batch_label
from lab.run import memory
from lab.run.simulation import merged
from lab.run.writer import RunWriter
from lab.theory import resolve_critical
from lab.train.loop import train
from lab.train.trainer import Trainer


def run(
    config: schema.Config, folder: Path, title: str = "", is_quiet: bool = False, sinks: Sequence[Sink] = ()
) -> dict[str, Any]:
    """Train a configuration into a folder and return its summary, the content of summary.json.

    A completed run is skipped; an interrupted one resumes from its checkpoint.

    Args:
        config: the run.
        folder: created if necessary.
        title: of console and picture, by default the folder's name.
        is_quiet: print nothing.
        sinks: receive every reading by `write(record)`, those before an interruption too, and a `close()` at the end.

    Raises:
        ConfigError: the folder holds another run and `overwrite` is false, another process works on it, there is not
            enough memory, or data or device are not available; nothing has been written then.
        KeyboardInterrupt, Terminated: Ctrl-C, or SIGTERM or SIGHUP; readings and a checkpoint are saved.
    """
    [summary] = run_together([config], [folder], folder, title, is_quiet, sinks)
    return summary


def run_together(
    configs: Sequence[schema.Config],
    folders: Sequence[Path],
    checkpoint_folder: Path,
    title: str = "",
    is_quiet: bool = False,
    sinks: Sequence[Sink] = (),
) -> list[dict[str, Any]]:
    """Train configurations as replicas of one network, each into its own folder, with the same files as `run`.

    Args:
        configs: equal but for `schema.PER_REPLICA` and the number of replicas.
        folders: one for each.
        checkpoint_folder: of all of them together; a single run's is its own folder.
        title, is_quiet, sinks: as in `run`; several runs have no sinks, and their pictures the names of their folders.

    Returns:
        Their summaries; errors are those of `run`.
    """
    config, variants = merged(configs)
    if all(what is Task.SKIP for what in _tasks(configs, folders)):
        return _summaries(folders)
    with ExitStack() as stack:
        device = stack.enter_context(devices.reserve(config.device, config.runs_per_gpu))
        memory.refuse_too_large(config, device)
        stack.enter_context(thread_budget(config.threads))
        dataset = data.load(config.data, getattr(torch, config.dtype), device)
        for folder in dict.fromkeys([*folders, checkpoint_folder]):
            stack.enter_context(run_lock(folder))
        tasks = _tasks(configs, folders)  # again: before the lock, another process may have completed some
        if all(what is Task.SKIP for what in tasks):
            return _summaries(folders)
        stop = stack.enter_context(catch_stop_requests())
        if stop.number:
            stop.end()
        fingerprints = [schema.fingerprint(own) for own in configs]
        fingerprint = fingerprints[0] if len(configs) == 1 else batch_label(fingerprints)
        is_new = any(own.overwrite for own in configs) or (len(configs) == 1 and tasks[0] is not Task.CONTINUE)
        if is_new:
            remove(checkpoint_folder)
        start = None if is_new else _start(checkpoint_folder, fingerprint)
        writers = {}
        for own, folder, what in zip(configs, folders, tasks, strict=True):
            if what is not Task.SKIP:
                expected = overlay.expect(resolve_critical(own), dataset)
                heading = title if title and len(configs) == 1 else folder.name
                writers[folder] = RunWriter(own, folder, expected, device, heading, sinks)
        checkpointer = Checkpointer(checkpoint_folder, fingerprint, config, stop, start)
        sizes = {folder: own.replicas for folder, own in zip(folders, configs, strict=True)}
        readings = train(config, dataset, device, variants, start.state if start else None, checkpointer.before_step)
        console = None if is_quiet else Console(title or checkpoint_folder.name, config.steps)
        _write_all(readings, start.records if start else [], checkpointer, writers, sizes, console)
        return _summaries(folders)


def _write_all(
    readings: Iterator[Record],
    earlier: Sequence[Record],
    checkpointer: Checkpointer,
    writers: Mapping[Path, RunWriter],
    sizes: Mapping[Path, int],
    console: Console | None,
) -> None:
    """Write the readings into the folders, and a final summary into each folder, no matter how the training ends.

    Args:
        readings: iterating over them trains the network.
        earlier: readings from before an interruption.
        checkpointer: saves the checkpoints between steps.
        writers: of the folders of incomplete runs.
        sizes: folder -> its number of replicas, in order, also of completed runs.
        console: shows the new readings.
    """
    stop, status, error = checkpointer.stop, "failed", ""

    def write(record: Record) -> None:
        checkpointer.records.append(record)
        for folder, part in zip(sizes, split(record, list(sizes.values())), strict=True):
            if folder in writers:
                writers[folder].write(part)

    try:
        with ExitStack() as stack:
            for writer in writers.values():
                writer.start(stack)
            if console is not None:
                stack.callback(console.close)
                console.remember(earlier)
            for record in earlier:
                write(record)
            for record in readings:
                write(record)
                if console is not None:
                    console.write(record)
        status = "finished"
    except (KeyboardInterrupt, Stopped):
        status = "interrupted"
        stop.number = stop.number or signal.SIGINT
    except OSError as problem:
        status, error = "interrupted" if problem.errno in NO_ROOM else "failed", traceback.format_exc()
        raise
    except Exception:
        error = traceback.format_exc()
        remove(checkpointer.folder)  # a failed run starts again: the checkpoint may be the cause
        raise
    finally:
        for writer in writers.values():
            writer.end(status, error)
    if status == "finished":
        for folder in {checkpointer.folder, *writers}:
            remove(folder)
    if status == "interrupted" or stop.number in STOP_SIGNALS:
        stop.end()


def _tasks(configs: Sequence[schema.Config], folders: Sequence[Path]) -> list[Task]:
    runs = zip(configs, folders, strict=True)
    return [task(folder, schema.fingerprint(config), config.overwrite)[0] for config, folder in runs]


def _summaries(folders: Sequence[Path]) -> list[dict[str, Any]]:
    return [summary for folder in folders if (summary := summary_of(folder)) is not None]


def _start(folder: Path, fingerprint: str) -> Checkpoint | None:
    """Read the newest intact checkpoint of these runs, and remove those that cannot be used."""
    damaged: list[str] = []
    checkpoint = latest(folder, damaged.append)
    if checkpoint and checkpoint.fingerprint != fingerprint:
        checkpoint = None
    remedy = "the one before it is used" if checkpoint else "no earlier one can be used, so the run starts again"
    for sentence in damaged:
        print(f"{sentence}; {remedy}.", file=sys.stderr)
    remove(folder, after=checkpoint.step if checkpoint else -1)
    return checkpoint


class Stopped(Exception):  # noqa: N818  # a request, no error
    """Ends the training loop between two steps."""


class Checkpointer:
    """Saves checkpoints between steps at the configured cadence, and when a stop is requested."""

    def __init__(
        self, folder: Path, fingerprint: str, config: schema.Config, stop: StopRequest, start: Checkpoint | None
    ) -> None:
        self.folder, self.fingerprint, self.config, self.stop = folder, fingerprint, config, stop
        self.records: list[Record] = []  # every reading so far, of all runs that are trained together
        self.saved_step = start.step if start else 0
        self.saved_at = time.monotonic()

    def before_step(self, trainer: Trainer) -> None:
        """Save a checkpoint if one is due; raise `Stopped` once one is saved on request."""
        schedule = self.config.checkpoint
        is_due = schedule.every > 0 and trainer.steps % schedule.every == 0
        is_due |= schedule.seconds > 0 and time.monotonic() - self.saved_at >= schedule.seconds
        if (is_due or self.stop.number) and trainer.steps > self.saved_step:
            content = Checkpoint(
                self.fingerprint, trainer.steps, trainer.state(), self.records, self.config.first_replica
            )
            try:
                save(self.folder, content)
            except OSError as error:  # the run continues without
                print(f"{self.folder}: no checkpoint at step {trainer.steps} ({error.strerror}).", file=sys.stderr)
            self.saved_step, self.saved_at = trainer.steps, time.monotonic()
        if self.stop.number:
            raise Stopped
