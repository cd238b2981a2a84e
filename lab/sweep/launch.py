"""Runs a planned sweep with the chosen launcher, and reports the outcome."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from lab import compose
from lab.compose import launching
from lab.machine.locks import is_locked
from lab.machine.signals import catch_stop_requests
from lab.record.files import BATCHES, LOCK
from lab.record.folder import LockedError, Task, print_status, report_failure, stored_status
from lab.record.states import DONE
from lab.schema import Config, ConfigError
from lab.sweep import replicas
from lab.sweep.launchers import SweepLauncher, run_in_worker
from lab.sweep.listing import add_to_list
from lab.sweep.plan import PlannedRun
from lab.sweep.status import find_runs, newest_step


def run_sweep(runs: Sequence[PlannedRun], overrides: Sequence[str], launcher: SweepLauncher) -> int:
    """Do what remains of a planned sweep; return 0, or 1 if a run failed or did not complete, which is printed.

    Raises:
        KeyboardInterrupt, Terminated: a stop was requested.
    """
    sweep, remaining = runs[0].sweep, [run for run in runs if run.task is not Task.SKIP]
    batches = list(replicas.batches(runs)) if launcher.name == "replicas" else []
    resumed = {run.name for batch in batches if newest_step(replicas.checkpoint_folder(batch)) for run in batch}
    for run in runs:
        if run.task is Task.AGAIN and run.name in resumed:
            announce(run.folder, Task.CONTINUE, "")
        elif run.task is Task.SKIP or not is_locked(run.folder / LOCK):
            announce(run.folder, run.task, run.reason)
    if not remaining:
        return 0
    entries = []
    for run in runs:
        words = [word for word in run.overrides if not launching.is_hydras(word)]
        steps = run.config.steps
        entries.append({"folder": run.name, "overrides": words, "fingerprint": run.fingerprint, "steps": steps})
    add_to_list(sweep, entries)
    with catch_stop_requests() if launcher.name in ("basic", "replicas") else nullcontext():
        for batch in batches:
            replicas.train(batch)
        if not batches:
            _launch(remaining, overrides, launcher)
    if (sweep / BATCHES).is_dir() and all(run.state in DONE for run in find_runs(sweep)):
        shutil.rmtree(sweep / BATCHES, ignore_errors=True)  # also checkpoints of batches that were not repeated
    return _report(remaining)


def announce(folder: Path, task: Task, reason: str) -> None:
    """Print the task in a folder that has been worked on before."""
    if task is not Task.BEGIN:
        print(f"{folder.absolute()}  {task}{f': {reason}' if reason else ''}", flush=True)


def train(config: Config, folder: Path) -> None:
    """Train a configuration into a folder, and print its status; raises as `lab.run.execution.run`."""
    from lab.run import execution

    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        config = replace(config, overwrite=False)  # a requeued job: what it would overwrite is its own
    execution.run(config, folder)
    print_status(folder)


def train_one_of_many(config: Config, folder: Path) -> None:
    """Train one run of a sweep. A failure is written to its summary and printed, not raised: other runs continue."""
    try:
        train(config, folder)
    except LockedError as error:
        print(error, file=sys.stderr)
    except Exception as error:
        report_failure(error, {folder: config})
        print_status(folder)


def train_in_worker(config: Config, folder: Path) -> None:
    """Train one run of a sweep in a worker of joblib."""
    run_in_worker(partial(train_one_of_many, config, folder))


def _launch(runs: Sequence[PlannedRun], overrides: Sequence[str], launcher: SweepLauncher) -> None:
    job = train_in_worker if launcher.name == "joblib" else train_one_of_many
    with launcher.workers():
        try:
            launching.launch([run.overrides for run in runs], compose.swept_keys(overrides), runs[0].sweep, job)
        except ConfigError:
            raise
        except Exception as error:  # a worker or a job of the cluster died; the outcome of each run is in its folder
            reason = str(error).strip().splitlines() or [type(error).__name__]
            print(f"The launcher gave up: {reason[0]}", file=sys.stderr)


def _report(runs: Sequence[PlannedRun]) -> int:
    """Name the runs that did not complete, except those that another process works on; return 1 if there are any."""
    statuses = {run.name: stored_status(run.folder) for run in runs if not is_locked(run.folder / LOCK)}
    failed = [name for name, status in statuses.items() if status == "failed"]
    unfinished = [name for name, status in statuses.items() if status not in (*DONE, "failed")]
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}.", end=" ", file=sys.stderr)
        print("Each summary.json has its traceback.", file=sys.stderr)
    if unfinished:
        print(f"Not finished: {', '.join(unfinished)}; repeat the same command to resume them.", file=sys.stderr)
    return int(bool(failed or unfinished))
