"""`gradlab run`: one configuration, or a Hydra sweep of them with -m."""

from __future__ import annotations

import io
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser  # the parser hydra.main uses, so that both agree on every flag
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lab import config as configuration
from lab.schema import Config, ConfigError, Npz, OpenML

LONGEST_NAME = 200
"""Bytes of a run folder's name; most file systems stop at 255."""


def main(arguments: Sequence[str]) -> int:
    """Check everything that can be checked, then let Hydra run it.

    Raises:
        ConfigError: an override, a combination, a file or a folder that cannot be used; nothing has been written then.
    """
    _strip_command_from_completion()
    flags, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such flag; write key=value, or see gradlab run --hydra-help.")
    searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
    names: list[str] = []
    if _is_run(flags):
        jobs = configuration.jobs_of_sweep(flags.overrides) if flags.multirun else [flags.overrides]
        names = _folder_names(flags.overrides, jobs) if flags.multirun else []
        _check([[*searched, *job, *names] for job in jobs], is_sweep=flags.multirun)
    elif flags.cfg == "job":
        configuration.compose([*searched, *flags.overrides])
    configuration.register()
    given = [word for word in arguments if word not in flags.overrides]  # Hydra wants the flags first
    program = "gradlab" if flags.shell_completion else "gradlab run"
    sys.argv = [program, *given, *flags.overrides, *names]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us as they are instead of being printed and swallowed
    entry = hydra.main(version_base="1.3", config_path=str(configuration.conf_dir()), config_name="config")(_job)
    try:
        with _without_schema(flags):
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


def _check(jobs: Sequence[Sequence[str]], is_sweep: bool) -> None:
    """Refuse before anything is written: every configuration first, then every folder, then what needs torch."""
    from lab.files import refuse_to_overwrite

    found = [configuration.compose_job(job, number if is_sweep else None) for number, job in enumerate(jobs)]
    taken: set[Path] = set()
    for config, folder in found:
        refuse_to_overwrite(folder, config.overwrite)
        if folder in taken:
            raise ConfigError(
                f"output_dir={folder}: two runs of this sweep would share this folder; list each value once."
            )
        taken.add(folder)
    for config, _ in found:
        _check_machine(config)


def _check_machine(config: Config) -> None:
    """Refuse a device or a file of the user's that is not there."""
    import torch

    from lab import data, runs

    device = runs.choose_device(config.device)
    if isinstance(config.data, Npz | OpenML):
        data.load(config.data, getattr(torch, config.dtype), device)


def _folder_names(overrides: Sequence[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """Hydra overrides that name each run's folder after its swept values; by number where those make no good name."""
    if any(text.startswith("hydra.sweep.subdir=") for text in overrides):
        return []
    swept = configuration.swept_keys(overrides)
    fixed = sorted({_key(text) for text in overrides} - set(swept))
    names = [",".join(text for text in job if _key(text) in swept) for job in jobs]
    if not swept or any(len(name.encode()) > LONGEST_NAME or "/" in name for name in names):
        return ["hydra.sweep.subdir=${hydra.job.num}"]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _strip_command_from_completion() -> None:
    """Hydra completes `program key=...`; what a person types here is `gradlab run key=...`."""
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    if rest.split(" ", 1)[0] == "run":
        os.environ["COMP_LINE"] = f"{program} {rest.partition(' ')[2]}"


@contextmanager
def _without_schema(flags: Namespace) -> Iterator[None]:
    """Keep the group schema/, which is there for conf/ and not for people, out of help and completion."""
    if not (flags.help or flags.shell_completion):
        yield
        return
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        lines = re.sub(r"^schema\S*: .*\n", "", printed.getvalue(), flags=re.MULTILINE)
        print(re.sub(r"(?<!\S)schema\S*\s?", "", lines), end="")
