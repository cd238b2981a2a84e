"""Runs of a sweep trained together as replicas of one network."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from lab import compose, schema
from lab.machine.files import atomic_write
from lab.machine.locks import is_locked
from lab.record.files import BATCHES, CHECKPOINTS, LOCK, MEMBERS
from lab.record.folder import Task
from lab.record.states import DONE, batch_label
from lab.schema import PER_REPLICA, ConfigError, flatten
from lab.sweep import launchers
from lab.sweep.plan import PlannedRun, _excuse, _status
from lab.sweep.status import Member, kept_step, members


def _together(interrupted: Sequence[Sequence[PlannedRun]], jobs: Sequence[PlannedRun]) -> None:
    """Train runs that differ in `PER_REPLICA` alone as replicas of one network, or of one in each worker of joblib.

    Args:
        interrupted: batches that go on as they are.
        jobs: what else is to be done.
    """
    first = next(one for group in (*interrupted, jobs) for one in group)
    launcher = launchers.of_sweep(first.overrides)
    groups = list(_groups(jobs))
    if launcher.name != "joblib":
        for group in (*interrupted, *groups):
            _train(group)
        return
    from joblib import Parallel, delayed, effective_n_jobs

    workers = effective_n_jobs(launcher.settings["n_jobs"])
    parts = [*interrupted, *(part for group in groups for part in _split(group, workers))]
    with launcher.ready():
        try:
            pool = Parallel(n_jobs=workers, batch_size=1)
            pool(delayed(launchers.work)(partial(_train, part)) for part in parts)
        except Exception as error:
            _excuse(error)


def _interrupted_batches(jobs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """The batches that can go on, each with the runs it was begun with, finished ones too; no other run twice.

    A run may have come further since, alone or in another batch; what goes on is what saves more steps.
    """
    named, found = {one.name: one for one in jobs}, []
    for folder in (jobs[0].sweep / BATCHES).glob("*"):
        runs = [named.get(member.run) for member in members(folder)]
        group = [one for one in runs if one is not None and one.task is not Task.BEGIN]
        if not group or len(group) < len(runs) or _label(group) != folder.name:
            continue
        step, to_do = kept_step(folder / CHECKPOINTS), [one for one in group if one.task is not Task.SKIP]
        alone = sum(kept_step(one.folder / CHECKPOINTS) or 0 for one in to_do)
        if to_do and step is not None and step * len(to_do) >= alone:
            found.append((step * len(to_do), folder.name, group))
    chosen: list[list[PlannedRun]] = []
    taken: set[str] = set()
    for _, _, group in sorted(found, key=lambda entry: entry[:2], reverse=True):
        names = {one.name for one in group if one.task is not Task.SKIP}
        if not names & taken:
            chosen.append(group)
            taken |= names
    return chosen


def _forget_batches(jobs: Sequence[PlannedRun]) -> None:
    """Remove what is kept of batches whose runs have all come to their end, in them or elsewhere."""
    named, folder = {one.name: one for one in jobs}, jobs[0].sweep / BATCHES
    for batch in folder.glob("*"):
        runs = [named.get(member.run) for member in members(batch)]
        if runs and all(one is not None and _status(one) in DONE for one in runs):
            shutil.rmtree(batch, ignore_errors=True)
    with suppress(OSError):  # there is none, or something is still kept
        folder.rmdir()


def _save_members(group: Sequence[PlannedRun], path: Path) -> None:
    """Say which runs are kept together; `lab.sweep.status.members` reads it."""
    found = [
        Member(one.name, schema.fingerprint(one.config), one.config.replicas, one.config.first_replica) for one in group
    ]
    with atomic_write(path) as draft:
        draft.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")


def _label(group: Sequence[PlannedRun]) -> str:
    return batch_label([schema.fingerprint(one.config) for one in group])


def _train(group: Sequence[PlannedRun]) -> None:
    """Train runs as replicas of one network. If that fails, it is in their summaries, and nothing is raised."""
    from lab.record.folder import LockedError
    from lab.run import execution

    while group := _not_held(group):
        alone = len(group) == 1
        keep_in = group[0].folder if alone else group[0].sweep / BATCHES / _label(group)
        try:
            for one in group:
                if one.task is not Task.SKIP:
                    _save_configs(one)
            if not alone:
                keep_in.mkdir(parents=True, exist_ok=True)
                _save_members(group, keep_in / MEMBERS)
        except OSError as error:
            print(
                f"{error.filename or keep_in}: {error.strerror}; remove what is in the way, or make room.",
                file=sys.stderr,
            )
            return
        title = group[0].name if alone else f"{len(group)} runs together"
        try:
            execution.run_together([one.config for one in group], [one.folder for one in group], keep_in, title)
        except LockedError:  # since we looked: once more, with those that are left
            continue
        except Exception:
            traceback.print_exc()
        if not alone and all(_status(one) in DONE for one in group):
            shutil.rmtree(keep_in, ignore_errors=True)
        for one in group:
            if one.task is not Task.SKIP:
                print(f"{one.folder.absolute()}  {_status(one)}", flush=True)
        return


def _not_held(group: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs of a group that no other process works on; the others are named."""
    held = [one for one in group if is_locked(one.folder / LOCK)]
    for one in held:
        print(f"{one.folder}: another process is working on this run; the others go on without it.", file=sys.stderr)
    return [one for one in group if one not in held]


def _split(group: Sequence[PlannedRun], parts: int) -> Iterator[Sequence[PlannedRun]]:
    """As many parts as there are, or jobs, and as equal as can be."""
    parts = min(parts, len(group))
    ends = [len(group) * number // parts for number in range(parts + 1)]
    for start, end in itertools.pairwise(ends):
        yield group[start:end]


def _groups(jobs: Sequence[PlannedRun]) -> Iterator[list[PlannedRun]]:
    """Jobs that can be trained together, as many as fit the memory."""
    found: dict[str, list[PlannedRun]] = {}
    for one in jobs:
        flat = flatten(schema.as_dict(one.config))
        shared = {key: value for key, value in flat.items() if key not in PER_REPLICA and key != "replicas"}
        alone = one.name if one.task is Task.CONTINUE and kept_step(one.folder / CHECKPOINTS) is not None else ""
        found.setdefault(json.dumps([shared, alone]), []).append(one)
    for group in found.values():
        yield from _that_fit(group)


def _that_fit(group: list[PlannedRun]) -> Iterator[list[PlannedRun]]:
    from lab.machine import devices
    from lab.run import memory, simulation

    config, _ = simulation.merged([one.config for one in group])
    try:
        memory.refuse_too_large(config, devices.choose_device(config.device))
    except ConfigError:
        if len(group) == 1:
            raise
        half = len(group) // 2
        yield from _that_fit(group[:half])
        yield from _that_fit(group[half:])
        return
    yield group


def _save_configs(job: PlannedRun) -> None:
    """What Hydra writes into a run's folder."""
    tree = compose.compose_tree(job.overrides, with_hydra=True)
    with open_dict(tree):
        own = tree.pop("hydra")
        own.mode = RunMode.MULTIRUN
        own.overrides.hydra.insert(0, "hydra.mode=MULTIRUN")
        own.job.update({"name": "run", "id": str(job.number), "num": job.number})
        own.runtime.output_dir = str(job.folder.absolute())
    folder = job.folder / ".hydra"
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"config": tree, "hydra": OmegaConf.create({"hydra": own}), "overrides": own.overrides.task}
    for name, content in contents.items():
        with atomic_write(folder / f"{name}.yaml") as draft:
            OmegaConf.save(content, draft)
