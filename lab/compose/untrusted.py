"""Limits on files from elsewhere: they run no code, read no environment, and write nowhere but in the output folder.

The files of --config-dir and hydra.searchpath may be anybody's, and Hydra would let them name classes, modules,
commands and folders. Therefore
- a value may point to another key or hold the date, and calls no other resolver (on the command line neither);
- the `hydra` node is what conf/ and the command line make it, except for the choice of a launcher, plain settings of
  that launcher and the names of runs;
- a run of a sweep lies below the sweep's folder.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from lab.schema import ConfigError

LAUNCHERS = ("basic", "joblib", "submitit_slurm", "replicas")
"""Launchers that the lab knows; basic runs one job after the other."""

FILLED_IN = ("hydra.overrides", "hydra.runtime", "hydra.job.num", "hydra.job.override_dirname", "hydra.searchpath")
"""Set by Hydra itself; it takes the search path from the command line only."""

NAMES_OF_RUNS = ("hydra.sweep.subdir", "hydra.job.config.override_dirname")

COMMANDS = {"_target_", "setup", "python", "srun_args", "additional_parameters"}
COMMANDS |= {"backend", "temp_folder", "mmap_mode", "pre_dispatch", "submitit_folder"}
"""Keys of a launcher that name classes, commands or folders."""

POINTER = re.compile(r"\$\{(?:now:[^${}]*|[\w.\[\]]+)\}")
"""${key.below} or ${now:FORMAT}, with nothing inside."""


def check_values(tree: Mapping[str, Any]) -> None:
    """Refuse interpolations that call a resolver, as ${oc.env:HOME} or ${${data.path}:HOME}, in an unresolved tree.

    Raises:
        ConfigError: a value calls a resolver.
    """
    for key, value in _leaves(tree):
        rest, before = str(value), ""
        while rest != before:  # pointers may be nested
            rest, before = POINTER.sub("x", rest), rest
        if "${" in rest:
            rule = (
                "a value may point to another key, as ${model.depth} does, but neither read the environment nor compute"
            )
            raise ConfigError(f"{key}={value}: {rule}; write the value itself.")


def check_hydra(composed: Mapping[str, Any], trusted: Mapping[str, Any]) -> None:
    """Refuse changes of Hydra's own part by files, other than the harmless ones.

    Args:
        composed: {"hydra": ...} with these files, unresolved.
        trusted: the same as conf/ and the command line alone make it.

    Raises:
        ConfigError: a file changes a key that it may not change, or adds one.
    """
    before, after = dict(_leaves(trusted)), dict(_leaves(composed))
    for key in {**before, **after}:
        if before.get(key) == after.get(key) or key.startswith(FILLED_IN):
            continue
        is_setting = key.startswith("hydra.launcher.") and key in before and not COMMANDS & set(key.split("."))
        if not (is_setting or key.startswith(NAMES_OF_RUNS)):
            raise ConfigError(f"{key}: a file may not change this part of Hydra; give it on the command line.")
        value = str(after.get(key, ""))
        check_values({key: value})
        if not value.isprintable():  # a line break in the script of a Slurm job would start a command
            raise ConfigError(f"{key}={value}: it contains a control character; leave it out.")


def check_run_folder(name: str) -> None:
    """Refuse the name of a sweep's run that is not below the sweep's folder.

    Raises:
        ConfigError: the name is empty, absolute or climbs out.
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        remedy = "give a name without .. that does not begin with a slash"
        raise ConfigError(f"hydra.sweep.subdir={name}: a run of a sweep lies below output_dir; {remedy}.")


def check_flags(flags: Any) -> None:
    """Refuse Hydra's flags that replace the config tree; one of them unpickles a file.

    Raises:
        ConfigError: one of them is given.
    """
    for name in ("config_path", "config_name", "experimental_rerun", "package"):
        if getattr(flags, name, None):
            flag, remedy = name.replace("_", "-"), "give --config-dir FOLDER to add files of your own"
            raise ConfigError(f"--{flag}: the lab has one configuration tree; {remedy}.")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for all that is neither dictionary nor list."""
    if not isinstance(node, Mapping | list):
        yield prefix, node
        return
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        yield from _leaves(value, f"{prefix}.{key}".lstrip("."))
