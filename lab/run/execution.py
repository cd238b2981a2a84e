"""Trains a configuration into a folder."""

from __future__ import annotations

import itertools
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lab import data, schema
from lab.machine import devices
from lab.machine.files import NO_ROOM
from lab.machine.signals import ASKS_TO_STOP, catch_stop_requests
from lab.readings import split
from lab.record.checkpoint import Checkpoint, forget, latest
from lab.record.folder import Task, run_lock, summary_of, task
from lab.record.states import batch_label
from lab.run import memory
from lab.run.checkpointer import Checkpointer, Stopped
from lab.run.writer import RunWriter
from lab.train.loop import train

if TYPE_CHECKING:
    from lab.record.sinks.console import Console
from lab.machine.torch_threads import thread_budget
from lab.run.simulation import merged


def run(config: schema.Config, folder: Path, title: str = "", is_quiet: bool = False) -> dict[str, Any]:
    """Train a configuration into a folder and return its summary, which summary.json holds too.

    A run that has come to its end there before is left alone; one that was interrupted or killed goes on where it was.

    Raises:
        ConfigError: the folder holds another run and `overwrite` is false, another process works on it, it would not
            fit the memory, or data or device cannot be had; nothing has been written then.
        KeyboardInterrupt, Terminated: Ctrl-C, or SIGTERM or SIGHUP; what was measured is written, and a checkpoint.
    """
    [summary] = run_together([config], [folder], folder, title, is_quiet)
    return summary


def run_together(
    configs: Sequence[schema.Config], folders: Sequence[Path], keep_in: Path, title: str = "", is_quiet: bool = False
) -> list[dict[str, Any]]:
    """Train configurations as replicas of one network, each into a folder of its own, as `run` would one by one.

    Args:
        configs: equal but for `schema.PER_REPLICA` and the number of replicas.
        folders: one for each.
        keep_in: the folder that checkpoints are kept in; a single run's is its own.
        title: of the console; a single run's picture has it too.
        is_quiet: print nothing.

    Returns:
        Their summaries.

    Raises:
        as `run`.
    """
    from lab.record.sinks.console import Console

    config, variants = merged(configs)
    if (done := _done(_tasks(configs, folders), folders)) is not None:
        return done
    with ExitStack() as stack:
        device = stack.enter_context(devices.reserve(config.device, config.runs_per_gpu))
        memory.refuse_too_large(config, device)
        stack.enter_context(thread_budget(config.threads))
        dataset = data.load(config.data, getattr(torch, config.dtype), device)
        for folder in dict.fromkeys([*folders, keep_in]):
            stack.enter_context(run_lock(folder))
        tasks = _tasks(configs, folders)  # once more: until now another process may have worked here
        if (done := _done(tasks, folders)) is not None:
            return done
        stop = stack.enter_context(catch_stop_requests())
        if stop.number:
            stop.end()
        start = _start(keep_in, configs, tasks)
        works = [
            RunWriter(one, folder, dataset, device, title if len(configs) == 1 and title else folder.name)
            for one, folder, what in zip(configs, folders, tasks, strict=True)
            if what is not Task.SKIP  # another process has finished it, or it was done alone: its files stay
        ]
        sizes = {folder: one.replicas for one, folder in zip(configs, folders, strict=True)}
        keeper = Checkpointer(keep_in, _fingerprint(configs), config, stop, start)
        consoles = [] if is_quiet else [Console(title or keep_in.name, config.steps)]
        _train(config, variants, dataset, device, start, keeper, works, sizes, consoles)
        return [summary for folder in folders if (summary := summary_of(folder)) is not None]


def _train(
    config: schema.Config,
    variants: Sequence[schema.Config] | None,
    dataset: data.Dataset,
    device: torch.device,
    start: Checkpoint | None,
    keeper: Checkpointer,
    works: Sequence[RunWriter],
    sizes: Mapping[Path, int],
    consoles: Sequence[Console],
) -> None:
    """Train, write every reading, and come to an end in every folder, whatever happens.

    Args:
        sizes: folder -> its number of replicas, in their order, those too that no work is for.
    """
    status, error = "failed", ""
    try:
        with ExitStack() as stack:
            for work in works:
                work.begin(stack)
            for console in consoles:
                stack.callback(console.close)
            readings = train(config, dataset, device, variants, start.state if start else None, keeper.between)
            before = list(start.records) if start else []
            for console in consoles:
                console.remember(before)
            for number, record in enumerate(itertools.chain(before, readings)):
                keeper.records.append(record)
                parts = dict(zip(sizes, split(record, list(sizes.values())), strict=True))
                for work in works:
                    work.write(parts[work.folder])
                for console in consoles if number >= len(before) else ():
                    console.write(record)
        status = "finished"
    except (KeyboardInterrupt, Stopped):
        status = "interrupted"
        keeper.stop.number = keeper.stop.number or signal.SIGINT
    except OSError as problem:
        status, error = "interrupted" if problem.errno in NO_ROOM else "failed", traceback.format_exc()
        raise
    except Exception:
        error = traceback.format_exc()
        forget(keeper.folder)  # what failed begins again: a checkpoint may be what it failed of
        raise
    finally:
        for work in works:
            work.end(status, error)
    if status != "interrupted":
        for folder in {keeper.folder, *(work.folder for work in works)}:
            forget(folder)
    if status == "interrupted" or keeper.stop.number in ASKS_TO_STOP:
        keeper.stop.end()


def _tasks(configs: Sequence[schema.Config], folders: Sequence[Path]) -> list[Task]:
    return [
        task(folder, schema.fingerprint(config), config.overwrite)[0]
        for config, folder in zip(configs, folders, strict=True)
    ]


def _done(tasks: Sequence[Task], folders: Sequence[Path]) -> list[dict[str, Any]] | None:
    """The summaries, if there is nothing left to do."""
    if any(what is not Task.SKIP for what in tasks):
        return None
    return [summary for folder in folders if (summary := summary_of(folder)) is not None]


def _start(keep_in: Path, configs: Sequence[schema.Config], tasks: Sequence[Task]) -> Checkpoint | None:
    """The checkpoint to go on from: the newest that is whole and belongs to these runs. Those that are not go."""
    is_single = len(configs) == 1
    if any(config.overwrite for config in configs) or (is_single and tasks[0] is not Task.CONTINUE):
        forget(keep_in)
        return None
    damaged: list[str] = []
    found = latest(keep_in, damaged.append)
    if found is not None and found.fingerprint != _fingerprint(configs):
        found = None
    what = "the one before it is used" if found else "there is none before it that can be used, so the run begins again"
    for sentence in damaged:
        print(f"{sentence}; {what}.", file=sys.stderr)
    if found is None:
        forget(keep_in)
    else:
        forget(keep_in, after=found.step)
    return found


def _fingerprint(configs: Sequence[schema.Config]) -> str:
    """A run's fingerprint, or one of several together."""
    each = [schema.fingerprint(config) for config in configs]
    return each[0] if len(each) == 1 else batch_label(each)
