"""`gradlab run`: one configuration, or a Hydra sweep of them with -m."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser  # the parser hydra.main uses, so that both agree on every flag
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lab import config as configuration
from lab.schema import Config, ConfigError

LONGEST_NAME = 200
"""Bytes of a run folder's name; most file systems stop at 255."""


def main(arguments: Sequence[str]) -> int:
    """Check everything that can be checked, then let Hydra run it.

    Raises:
        ConfigError: an override, a combination or a folder that cannot be used; nothing has been written then.
    """
    _strip_command_from_completion()
    flags = get_args_parser().parse_args(list(arguments))
    words = list(arguments)
    if _is_run(flags):
        jobs = configuration.jobs_of_sweep(flags.overrides) if flags.multirun else [flags.overrides]
        configs = [configuration.compose(job) for job in jobs]
        if flags.multirun:
            words += _folder_names(flags.overrides, jobs)
        else:
            _check_folder(flags.overrides, configs[0])
    elif flags.cfg == "job":
        configuration.compose(flags.overrides)
    configuration.register()
    sys.argv = ["gradlab run", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us as they are instead of being printed and swallowed
    entry = hydra.main(version_base="1.3", config_path=str(configuration.conf_dir()), config_name="config")(_job)
    try:
        entry()
    except configuration.HYDRA_ERRORS as error:
        if isinstance(error, ConfigError) or not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise configuration.explain(error, flags.overrides) from error
    return 0


def _job(tree: DictConfig) -> None:
    """One run, in the folder that Hydra made for it."""
    config = configuration.to_config(tree)
    from lab import runs

    summary = runs.run(config, Path(HydraConfig.get().runtime.output_dir))
    print(f"{HydraConfig.get().runtime.output_dir}  {summary['status']}")


def _is_run(flags: Namespace) -> bool:
    """Whether these flags ask for a run, and not for help, the composed config or shell completion."""
    return not (flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion)


def _check_folder(overrides: Sequence[str], config: Config) -> None:
    from lab.files import refuse_to_overwrite

    tree = configuration.compose_tree(overrides, with_hydra=True)
    refuse_to_overwrite(Path(tree.hydra.run.dir), config.overwrite)


def _folder_names(overrides: Sequence[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """Hydra overrides that name each run's folder after its swept values; by number where that would be too long."""
    if any(text.startswith("hydra.sweep.subdir=") for text in overrides):
        return []
    swept = configuration.swept_keys(overrides)
    fixed = sorted({text.lstrip("+~").partition("=")[0] for text in overrides} - set(swept))
    longest = max(sum(len(text.encode()) + 1 for text in job if text.partition("=")[0] in swept) for job in jobs)
    if not swept or longest > LONGEST_NAME:
        return ["hydra.sweep.subdir=${hydra.job.num}"]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"]


def _strip_command_from_completion() -> None:
    """Hydra completes `program key=...`; what a person types here is `gradlab run key=...`."""
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    if rest.split(" ", 1)[0] == "run":
        os.environ["COMP_LINE"] = f"{program} {rest.partition(' ')[2]}"
