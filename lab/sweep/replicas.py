"""hydra/launcher=replicas: trains runs that differ only in certain numbers as replicas of one network.

Runs that are trained together share one folder of checkpoints below the sweep's folder. The checkpoints are used when
the same runs are trained together again; otherwise the runs start again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.compose import launching
from lab.machine.locks import is_locked
from lab.record.files import BATCHES, LOCK
from lab.record.folder import LockedError, Task, print_status, report_failure
from lab.record.states import batch_label
from lab.schema import PER_REPLICA, ConfigError, as_dict, flatten
from lab.sweep.plan import PlannedRun


def batches(runs: Sequence[PlannedRun]) -> Iterator[list[PlannedRun]]:
    """Group remaining runs that differ only in `PER_REPLICA` and the number of replicas, as many as fit into memory.

    A run that has a checkpoint of its own resumes alone.
    """
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        settings = flatten(as_dict(run.config))
        shared = {key: value for key, value in settings.items() if key not in PER_REPLICA and key != "replicas"}
        alone = run.name if run.task is Task.CONTINUE else ""
        groups.setdefault(json.dumps([shared, alone]), []).append(run)
    for group in groups.values():
        for part in _parts_that_fit(group):  # of all runs, so that the batches of a repeated sweep are the same
            if batch := [run for run in part if run.task is not Task.SKIP]:
                yield batch


def checkpoint_folder(batch: Sequence[PlannedRun]) -> Path:
    """The folder that holds the checkpoints of a batch; of a single run it is its own."""
    first, *others = batch
    return first.sweep / BATCHES / batch_label([run.fingerprint for run in batch]) if others else first.folder


def train(batch: Sequence[PlannedRun]) -> None:
    """Train runs as replicas of one network, except those that another process works on, which are named.

    A failure is written to their summaries and printed, not raised.
    """
    from lab.run import execution

    locked = [run for run in batch if is_locked(run.folder / LOCK)]
    for run in locked:
        print(f"{run.folder}: another process is working on this run; skipped.", file=sys.stderr)
    batch = [run for run in batch if run not in locked]
    if not batch:
        return
    folder = checkpoint_folder(batch)
    title = batch[0].name if len(batch) == 1 else f"{len(batch)} runs together"
    try:
        for run in batch:
            launching.save_configs(run.overrides, run.number, run.folder)
        execution.run_together([run.config for run in batch], [run.folder for run in batch], folder, title)
    except LockedError:  # by a process that started a moment ago
        train(batch)  # the remaining runs
        return
    except Exception as error:
        report_failure(error, {run.folder: run.config for run in batch})
    for run in batch:
        print_status(run.folder.absolute())


def _parts_that_fit(group: list[PlannedRun]) -> Iterator[list[PlannedRun]]:
    """Halve a group until each part fits into memory; a ConfigError if a single run does not."""
    from lab.machine import devices
    from lab.run import memory, simulation

    config, _ = simulation.merged([run.config for run in group])
    try:
        memory.refuse_too_large(config, devices.choose_device(config.device))
    except ConfigError:
        if len(group) == 1:
            raise
        half = len(group) // 2
        yield from _parts_that_fit(group[:half])
        yield from _parts_that_fit(group[half:])
    else:
        yield group
