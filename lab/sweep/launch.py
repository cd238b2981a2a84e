"""Hands the runs of a sweep to Hydra's launchers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from lab import compose
from lab.machine.files import atomic_write
from lab.machine.locks import is_locked
from lab.machine.signals import catch_stop_requests
from lab.record.files import LOCK
from lab.record.folder import Task
from lab.record.states import DONE
from lab.sweep import launchers
from lab.sweep.batches import _forget_batches, _interrupted_batches, _together, _train
from lab.sweep.plan import MULTIRUN, SUBDIR, PlannedRun, _excuse, _is_hydras, _key, _list, _status, announce


def run(jobs: Sequence[PlannedRun], overrides: Sequence[str], job: Callable[[DictConfig], Any]) -> int:
    """Do what is left of a sweep; 0, or 1 if a run failed, which is named.

    Args:
        jobs: what `plan` returned.
        overrides: of the sweep.
        job: does one run; it must be found by its name in other processes.
    """
    waiting = [one for one in jobs if one.task is not Task.SKIP]
    _forget_batches(jobs)
    interrupted = _interrupted_batches(jobs)
    kept = {one.name for batch in interrupted for one in batch if one.task is not Task.SKIP}
    told = [replace(one, task=Task.CONTINUE, reason="") if one.name in kept else one for one in jobs]
    for one in told:
        if one.task is Task.SKIP or not is_locked(one.folder / LOCK):  # else what is said of it comes at its turn
            announce(one.folder, one.task, one.reason)
    if not waiting:
        return 0
    _list(jobs)
    with catch_stop_requests() if launchers.of_sweep(jobs[0].overrides).name == "basic" else nullcontext():
        left = [one for one in waiting if one.name not in kept]
        if jobs[0].config.sweep.batch:
            _together(interrupted, left)
        else:
            for batch in interrupted:
                _train(batch)
            if left:
                _launch(left, overrides, job)
    _forget_batches(jobs)
    return _tell(waiting)


def _tell(jobs: Sequence[PlannedRun]) -> int:
    """Name the runs that did not come to an end, but for those that another process works on; 1 if there are any."""
    left = {one.name: _status(one) for one in jobs if not is_locked(one.folder / LOCK)}
    failed = [name for name, status in left.items() if status == "failed"]
    stopped = [name for name, status in left.items() if status not in (*DONE, "failed")]
    if failed:
        names = ", ".join(failed)
        print(
            f"{len(failed)} of {len(jobs)} runs failed: {names}. Each summary.json has its traceback.", file=sys.stderr
        )
    if stopped:
        names = ", ".join(stopped)
        print(f"Not finished: {names}; the same command goes on with them.", file=sys.stderr)
    return 1 if failed or stopped else 0


def _launch(jobs: Sequence[PlannedRun], overrides: Sequence[str], job: Callable[[DictConfig], Any]) -> None:
    """Hand the runs to Hydra's launcher, as its own sweeper would hand it all of them."""
    launcher = launchers.of_sweep(jobs[0].overrides)
    swept = set(compose.swept_keys(overrides))
    common = [word for word in jobs[0].overrides if _key(word) not in swept and not word.startswith(SUBDIR)]
    with initialize_config_dir(str(compose.conf_dir()), version_base="1.3", job_name="run"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        tree = hydra.compose_config(
            "config", [*common, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, from_shell=False
        )
        from hydra._internal.callbacks import Callbacks  # what a launcher's context is made of has no public name

        with atomic_write(jobs[0].sweep / MULTIRUN) as draft:
            OmegaConf.save(tree, draft)
        chosen = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(hydra.config_loader, Callbacks(tree)), task_function=job, config=tree
        )
        own = [[word for word in one.overrides if not _is_hydras(word)] for one in jobs]
        with launcher.ready():
            try:
                for returned in chosen.launch(own, initial_job_idx=0):
                    _ = returned.return_value  # raises what a job raised, which none of ours should
            except Exception as error:
                _excuse(error)
