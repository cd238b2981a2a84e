"""`gradlab run`: one configuration, or a Hydra sweep of them with -m."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import compose, schema
from lab.compose import launching
from lab.machine.files import NO_ROOM
from lab.record.folder import Task, no_room, task
from lab.schema import Config, Npz, OpenML
from lab.sweep import launch, launchers
from lab.sweep.plan import plan


def main(arguments: Sequence[str]) -> int:
    """Check everything that can be checked before training, then train; return 1 if a run of a sweep failed.

    Raises:
        ConfigError: an override, a combination, a file or a folder that cannot be used; nothing has been written.
    """
    _strip_command_from_completion()
    flags = launching.parse_flags(arguments)
    searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
    overrides = [*searched, *compose.expand_home(flags.overrides)]
    is_run = not (flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion)
    if is_run and flags.multirun:
        runs = plan(overrides)
        configs = [run.config for run in runs]
        launcher = launchers.launcher_of(runs[0].overrides)
        launcher.check(max(config.threads for config in configs))
        if launcher.is_local:
            _check_machine(configs)
        return launch.run_sweep(runs, overrides, launcher)
    if is_run:
        launchers.refuse_without_sweep(overrides)
        config, folder = compose.compose_job(overrides)
        remaining, reason = task(folder, schema.fingerprint(config), config.overwrite)
        if remaining is not Task.SKIP:
            _check_machine([config])
        launch.announce(folder, remaining, reason)
        if remaining is Task.SKIP:
            return 0
    elif flags.cfg == "job":
        compose.compose(overrides)
    program = "gradlab" if flags.shell_completion else "gradlab run"
    flag_words = [word for word in arguments if word not in flags.overrides]  # Hydra wants the flags first
    launching.run_alone([program, *flag_words, *overrides[len(searched) :]], flags.overrides, _train)
    return 0


def _train(config: Config, folder: Path) -> None:
    try:
        launch.train(config, folder)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(no_room(folder, error), file=sys.stderr)
        raise SystemExit(1) from None


def _check_machine(configs: Sequence[Config]) -> None:
    """Refuse a missing device or data file of the user's, and a run that does not fit into memory."""
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
    """Change `gradlab run key=...` to `gradlab key=...`, the form that Hydra completes."""
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    if rest.split(" ", 1)[0] == "run":
        os.environ["COMP_LINE"] = f"{program} {rest.partition(' ')[2]}"
