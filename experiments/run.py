"""`gradlab run`: one configuration, or a Hydra sweep of them with -m."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser  # the parser hydra.main uses, so that both agree on every flag
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lab import compose, schema
from lab.compose import untrusted
from lab.machine.files import NO_ROOM
from lab.record.folder import LockedError, Task, note_failure, task
from lab.schema import Config, ConfigError, Npz, OpenML
from lab.sweep import launch, launchers, plan


def main(arguments: Sequence[str]) -> int:
    """Check everything that can be checked, then do it: 0, or 1 if a run of a sweep failed.

    Raises:
        ConfigError: an override, a combination, a file or a folder that cannot be used; nothing has been written then.
    """
    _strip_command_from_completion()
    flags, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such flag; write key=value, or see gradlab run --hydra-help.")
    untrusted.check_flags(flags)
    searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
    overrides = [*searched, *compose.expand_home(flags.overrides)]
    if _is_run(flags) and flags.multirun:
        return _sweep(overrides)
    if _is_run(flags):
        launchers.refuse_without_sweep(overrides)
        config, folder = compose.compose_job(overrides)
        what, reason = task(folder, schema.fingerprint(config), config.overwrite)
        if what is not Task.SKIP:
            _check_machine([config])
        plan.announce(folder, what, reason)
        if what is Task.SKIP:
            return 0
    elif flags.cfg == "job":
        compose.compose(overrides)
    compose.register()
    given = [word for word in arguments if word not in flags.overrides]  # Hydra wants the flags first
    program = "gradlab" if flags.shell_completion else "gradlab run"
    sys.argv = [program, *given, *overrides[len(searched) :]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us as they are instead of being printed and swallowed
    entry = hydra.main(version_base="1.3", config_path=str(compose.conf_dir()), config_name="config")(_job)
    with _explaining(flags.overrides):
        entry()
    return 0


def _sweep(overrides: Sequence[str]) -> int:
    jobs = plan.plan(overrides)
    configs = [job.config for job in jobs]
    launcher = launchers.of_sweep(jobs[0].overrides)
    launcher.check()
    launcher.check_threads(max(config.threads for config in configs))
    if not launcher.is_elsewhere:
        _check_machine(configs)
    compose.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _explaining(overrides):
        return launch.run(jobs, overrides, _job)


def _job(tree: DictConfig) -> str | None:
    """One run, in the folder that Hydra made for it, and its status. In a sweep a run that fails lets the others go on.

    Raises:
        whatever a single run raises.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    config = compose.to_config(tree)
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        config = replace(config, overwrite=False)  # requeued: what it would overwrite now is its own
    from lab.run import execution

    def one() -> str:
        status = str(execution.run(config, folder)["status"])
        print(f"{folder}  {status}", flush=True)
        return status

    if hydra_config.mode != RunMode.MULTIRUN:
        try:
            return one()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            print(_no_room(folder, error), file=sys.stderr)
            raise SystemExit(1) from None

    def one_of_many() -> str:
        try:
            return one()
        except LockedError as error:
            print(error, file=sys.stderr)
            return "held"
        except OSError as error:
            if error.errno not in NO_ROOM:
                return failed(error)
            print(_no_room(folder, error), file=sys.stderr)
            return "interrupted"
        except Exception as error:
            return failed(error)

    def failed(error: Exception) -> str:
        traceback.print_exception(error)
        note_failure(config, folder, error)
        print(f"{folder}  failed", flush=True)
        return "failed"

    is_joblib = hydra_config.runtime.choices.get("hydra/launcher") == "joblib"
    return launchers.work(one_of_many) if is_joblib else one_of_many()


def _no_room(folder: Path, error: OSError) -> str:
    return f"{folder}: {error.strerror}; make room, and the same command goes on from the last checkpoint."


@contextmanager
def _explaining(overrides: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra raises into a sentence."""
    try:
        yield
    except compose.HYDRA_ERRORS as error:
        if isinstance(error, ConfigError) or not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise compose.explain(error, overrides) from error


def _is_run(flags: Namespace) -> bool:
    """Whether these flags ask for a run, and not for help, the composed config or shell completion."""
    return not (flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion)


def _check_machine(configs: Sequence[Config]) -> None:
    """Refuse a device or a file of the user's that is not there, and what does not fit the memory."""
    import torch

    from lab import data
    from lab.machine import devices
    from lab.run import memory

    for config in configs:
        device = devices.choose_device(config.device)
        memory.refuse_too_large(config, device)
        if isinstance(config.data, Npz | OpenML):
            data.load(config.data, getattr(torch, config.dtype), device)


def _strip_command_from_completion() -> None:
    """Hydra completes `program key=...`; what a person types here is `gradlab run key=...`."""
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    if rest.split(" ", 1)[0] == "run":
        os.environ["COMP_LINE"] = f"{program} {rest.partition(' ')[2]}"
