"""A sweep: which runs it has, which of them are done already, and who does the others.

Hydra's launchers distribute the runs; with `sweep.batch` those that differ in numbers alone are replicas of one network
in this process. Either way each run leaves a folder of its own, and the sweep's folder lists them all in sweep.json.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lab import config as configuration
from lab import launchers
from lab.files import BATCHES, CHECKPOINTS, COLLECTED, LOCK, MEMBERS, SUMMARIES, SWEEP, whole
from lab.folder import Task, locked, summary_of, task
from lab.schema import PER_REPLICA, Config, ConfigError, flatten
from lab.stopping import stoppable
from lab.sweeps import DONE, Member, batch_label, is_held, kept_step, members

LONGEST_NAME = 200
"""Bytes of a run folder's name; most file systems stop at 255."""
MULTIRUN = "multirun.yaml"
TAKEN = (CHECKPOINTS, SWEEP, MULTIRUN, COLLECTED, SUMMARIES)
"""Names that something else in a sweep's folder has."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep: `name` is its folder below `sweep`, `overrides` are all that Hydra needs to compose it."""

    overrides: tuple[str, ...]
    name: str
    sweep: Path
    config: Config
    task: Task = Task.BEGIN
    reason: str = ""
    number: int = 0

    @property
    def folder(self) -> Path:
        return self.sweep / self.name


def plan(overrides: Sequence[str]) -> list[Job]:
    """The runs of a sweep with what is to be done for each; nothing is written.

    Raises:
        ConfigError: a configuration or a folder that cannot be used, or two runs that would share a folder.
    """
    if "output_dir" in configuration.swept_keys(overrides):
        raise ConfigError("output_dir: a sweep has one folder, with a folder a run below it; give one value.")
    _refuse_repeated(overrides)
    combinations = configuration.jobs_of_sweep(overrides)
    names = _names(overrides, combinations)
    found = _composed(overrides, combinations, names)
    sweep = found[0][1].parent
    for _, folder in found:
        has_slash = any(text.startswith(SUBDIR) and "/" in text for text in overrides)
        if has_slash or folder.parent != sweep or not _is_good(folder.name):
            raise ConfigError(
                f"hydra.sweep.subdir: {folder} is no folder of its own right below one for all; give a name without a"
                " slash, such as 'run ${seed}', or leave it out."
            )
    if (sweep / SWEEP).is_dir():
        raise ConfigError(f"output_dir={sweep}: {SWEEP} in it is a folder; choose another output_dir.")
    known = _known(sweep, {folder.name for _, folder in found})
    jobs = []
    for number, (words, (config, folder)) in enumerate(zip(combinations, found, strict=True)):
        name = known.pop(configuration.fingerprint(config), folder.name)
        given = (*words, *_fixed(overrides, folder.parent), _subdir(name))
        jobs.append(Job(given, name, folder.parent, config, number=number))
    _refuse_sharing(jobs)
    return [_with_task(job) for job in jobs]


def _refuse_repeated(overrides: Sequence[str]) -> None:
    """A key that is swept twice would be swept over itself."""
    given = [_key(text) for text in overrides]
    for key in configuration.swept_keys(overrides):
        if given.count(key) > 1:
            raise ConfigError(f"{key}: it is given {given.count(key)} times; give all its values in one list.")


def _composed(
    overrides: Sequence[str], combinations: Sequence[Sequence[str]], names: Sequence[str]
) -> list[tuple[Config, Path]]:
    """Each run's configuration and folder.

    Composing takes Hydra its time. Runs that differ in plain numbers alone are composed once, unless something else may
    follow such a number or write over it: an interpolation, a dictionary, a file of the user's.
    """
    keys = set(configuration.swept_keys(overrides)) & PER_REPLICA
    is_followed = any("{" in text or text.startswith("hydra.searchpath") for text in overrides)
    found: list[tuple[Config, Path]] = []
    begun: dict[tuple[str, ...], Config] = {}
    for number, (words, name) in enumerate(zip(combinations, names, strict=True)):
        own = [text for text in words if _key(text) in keys]
        shared = tuple(text for text in words if _key(text) not in keys)
        first = begun.get(shared)
        config = configuration.with_numbers(first, own) if first and name and not is_followed else None
        if config is not None:
            found.append((config, found[0][1].parent / name))
            continue
        here = _fixed(overrides, found[0][1].parent if found else None)
        found.append(configuration.compose_job([*words, *here, *([_subdir(name)] if name else [])], number))
        begun[shared] = found[-1][0]
    return found


def announce(folder: Path, what: Task, reason: str) -> None:
    """Say what will be done in a folder where something has been done before."""
    if what is not Task.BEGIN:
        print(f"{folder.absolute()}  {what}{f': {reason}' if reason else ''}", flush=True)


def run(jobs: Sequence[Job], overrides: Sequence[str], job: Callable[[DictConfig], Any]) -> int:
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
        if one.task is Task.SKIP or not is_held(one.folder / LOCK):  # else what is said of it comes at its turn
            announce(one.folder, one.task, one.reason)
    if not waiting:
        return 0
    _list(jobs)
    with stoppable() if launchers.of_sweep(jobs[0].overrides).name == "basic" else nullcontext():
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


def _tell(jobs: Sequence[Job]) -> int:
    """Name the runs that did not come to an end, but for those that another process works on; 1 if there are any."""
    left = {one.name: _status(one) for one in jobs if not is_held(one.folder / LOCK)}
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


# --- launching ------------------------------------------------------------------------------------------------------


def _launch(jobs: Sequence[Job], overrides: Sequence[str], job: Callable[[DictConfig], Any]) -> None:
    """Hand the runs to Hydra's launcher, as its own sweeper would hand it all of them."""
    launcher = launchers.of_sweep(jobs[0].overrides)
    swept = set(configuration.swept_keys(overrides))
    common = [word for word in jobs[0].overrides if _key(word) not in swept and not word.startswith(SUBDIR)]
    with initialize_config_dir(str(configuration.conf_dir()), version_base="1.3", job_name="run"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        tree = hydra.compose_config(
            "config", [*common, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, from_shell=False
        )
        from hydra._internal.callbacks import Callbacks  # what a launcher's context is made of has no public name

        with whole(jobs[0].sweep / MULTIRUN) as draft:
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


def _excuse(error: Exception) -> None:
    """A launcher raises where a worker or a job of the cluster died; what became of the runs is in their folders."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    print(f"The launcher gave up: {reason[0]}", file=sys.stderr)


# --- side by side ---------------------------------------------------------------------------------------------------


def _together(interrupted: Sequence[Sequence[Job]], jobs: Sequence[Job]) -> None:
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


def _interrupted_batches(jobs: Sequence[Job]) -> list[list[Job]]:
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
    chosen: list[list[Job]] = []
    taken: set[str] = set()
    for _, _, group in sorted(found, key=lambda entry: entry[:2], reverse=True):
        names = {one.name for one in group if one.task is not Task.SKIP}
        if not names & taken:
            chosen.append(group)
            taken |= names
    return chosen


def _forget_batches(jobs: Sequence[Job]) -> None:
    """Remove what is kept of batches whose runs have all come to their end, in them or elsewhere."""
    named, folder = {one.name: one for one in jobs}, jobs[0].sweep / BATCHES
    for batch in folder.glob("*"):
        runs = [named.get(member.run) for member in members(batch)]
        if runs and all(one is not None and _status(one) in DONE for one in runs):
            shutil.rmtree(batch, ignore_errors=True)
    with suppress(OSError):  # there is none, or something is still kept
        folder.rmdir()


def _save_members(group: Sequence[Job], path: Path) -> None:
    """Say which runs are kept together; `lab.sweeps.members` reads it."""
    found = [
        Member(one.name, configuration.fingerprint(one.config), one.config.replicas, one.config.first_replica)
        for one in group
    ]
    with whole(path) as draft:
        draft.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")


def _label(group: Sequence[Job]) -> str:
    return batch_label([configuration.fingerprint(one.config) for one in group])


def _train(group: Sequence[Job]) -> None:
    """Train runs as replicas of one network. If that fails, it is in their summaries, and nothing is raised."""
    from lab import runs
    from lab.folder import Held

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
            runs.run_together([one.config for one in group], [one.folder for one in group], keep_in, title)
        except Held:  # since we looked: once more, with those that are left
            continue
        except Exception:
            traceback.print_exc()
        if not alone and all(_status(one) in DONE for one in group):
            shutil.rmtree(keep_in, ignore_errors=True)
        for one in group:
            if one.task is not Task.SKIP:
                print(f"{one.folder.absolute()}  {_status(one)}", flush=True)
        return


def _not_held(group: Sequence[Job]) -> list[Job]:
    """The runs of a group that no other process works on; the others are named."""
    held = [one for one in group if is_held(one.folder / LOCK)]
    for one in held:
        print(f"{one.folder}: another process is working on this run; the others go on without it.", file=sys.stderr)
    return [one for one in group if one not in held]


def _split(group: Sequence[Job], parts: int) -> Iterator[Sequence[Job]]:
    """As many parts as there are, or jobs, and as equal as can be."""
    parts = min(parts, len(group))
    ends = [len(group) * number // parts for number in range(parts + 1)]
    for start, end in itertools.pairwise(ends):
        yield group[start:end]


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs that can be trained together, as many as fit the memory."""
    found: dict[str, list[Job]] = {}
    for one in jobs:
        flat = flatten(configuration.as_dict(one.config))
        shared = {key: value for key, value in flat.items() if key not in PER_REPLICA and key != "replicas"}
        alone = one.name if one.task is Task.CONTINUE and kept_step(one.folder / CHECKPOINTS) is not None else ""
        found.setdefault(json.dumps([shared, alone]), []).append(one)
    for group in found.values():
        yield from _that_fit(group)


def _that_fit(group: list[Job]) -> Iterator[list[Job]]:
    from lab import devices, memory, runs

    config, _ = runs.merged([one.config for one in group])
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


def _save_configs(job: Job) -> None:
    """What Hydra writes into a run's folder."""
    tree = configuration.compose_tree(job.overrides, with_hydra=True)
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
        with whole(folder / f"{name}.yaml") as draft:
            OmegaConf.save(content, draft)


# --- names and folders ----------------------------------------------------------------------------------------------

SUBDIR = "hydra.sweep.subdir="


def _names(overrides: Sequence[str], combinations: Sequence[Sequence[str]]) -> list[str]:
    """Each run's folder after its swept values, or a hash of them where they make no good name."""
    if any(text.startswith(SUBDIR) for text in overrides):
        return [""] * len(combinations)
    swept = configuration.swept_keys(overrides)
    names = [",".join(text for text in words if _key(text) in swept) for words in combinations]
    return [name if _is_good(name) else _hashed(name) for name in names]


def _is_good(name: str) -> bool:
    is_short = 0 < len(name.encode(errors="replace")) <= LONGEST_NAME
    is_plain = name.isprintable() and not any(letter in name for letter in "/\\$'\"")
    return is_short and is_plain and not name.startswith(".") and name not in TAKEN


def _hashed(name: str) -> str:
    return f"run-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}" if name else "run"


def _subdir(name: str) -> str:
    return SUBDIR + QuotedString(name, Quote.single).with_quotes()


def _fixed(overrides: Sequence[str], sweep: Path | None) -> list[str]:
    """The sweep's folder, once it is known: a folder that is named after the time must not depend on who looks."""
    if any(text.startswith(("output_dir=", "hydra.sweep.dir=", "++output_dir=")) for text in overrides):
        return []
    return [f"output_dir={QuotedString(str(sweep), Quote.single).with_quotes()}"] if sweep else []


def _with_task(job: Job) -> Job:
    what, reason = task(job.folder, configuration.fingerprint(job.config), job.config.overwrite)
    return replace(job, task=what, reason=reason)


def _refuse_sharing(jobs: Sequence[Job]) -> None:
    taken: set[Path] = set()
    for one in jobs:
        if one.folder in taken:
            raise ConfigError(
                f"output_dir={one.folder}: two runs of this sweep would share this folder; list each value once."
            )
        taken.add(one.folder)


def _known(sweep: Path, names: Set[str]) -> dict[str, str]:
    """Fingerprint -> folder name, of the runs that the sweep has had so far under names that it does not give now."""
    entries = _listed(sweep).items()
    listed = {name: str(entry.get("fingerprint")) for name, entry in entries}
    again = {listed[name] for name in names & listed.keys()}
    return {printed: name for name, printed in listed.items() if name not in names and printed not in again}


def _listed(sweep: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads((sweep / SWEEP).read_text(encoding="utf-8"))["runs"]
        found = {str(entry["folder"]): dict(entry) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {name: entry for name, entry in found.items() if _is_good(name)}


def _list(jobs: Sequence[Job]) -> None:
    """Write which runs the sweep has, those of earlier calls included."""
    sweep = jobs[0].sweep
    sweep.mkdir(parents=True, exist_ok=True)
    with locked(sweep / f".{SWEEP}.lock"):  # another call may be adding its own
        entries = _listed(sweep)
        for one in jobs:
            entries[one.name] = {
                "folder": one.name,
                "overrides": [word for word in one.overrides if not _key(word).startswith("hydra")],
                "fingerprint": configuration.fingerprint(one.config),
                "steps": one.config.steps,
            }
        with whole(sweep / SWEEP) as draft:
            draft.write_text(json.dumps({"runs": list(entries.values())}, indent=1) + "\n", encoding="utf-8")


def _status(job: Job) -> str:
    return str((summary_of(job.folder) or {}).get("status", "not begun"))


def _is_hydras(word: str) -> bool:
    return _key(word).startswith("hydra") and not word.startswith(SUBDIR)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
