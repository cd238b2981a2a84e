"""What a configuration may not do: run code, look at the environment, or name folders outside the output folder.

Overrides and files are taken for things that anybody may have written. Hydra itself is open to much: classes to build
by name, modules to import for their config files, variables of the environment, folders anywhere. Here a list says what
may be set; all else is refused. This module sees only texts and plain dictionaries; `lab.compose.composition` hands
them over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lab.schema import ConfigError

LAUNCHERS = ("basic", "joblib", "replicas", "submitit_slurm")
"""What may be chosen with hydra/launcher; basic, one run after the other, is Hydra's default."""

SETTABLE = (
    *("hydra.sweep.subdir", "hydra.job.config.override_dirname.exclude_keys"),
    *("hydra.job.config.override_dirname.kv_sep", "hydra.job.config.override_dirname.item_sep", "hydra.job.num"),
)
"""Keys of Hydra's own that may be set, besides hydra.searchpath and those of the launcher."""

GROWING = ("hydra.launcher.additional_parameters", "hydra.job.config.override_dirname.exclude_keys")
"""Keys below which new ones may be."""

FILLED_IN = (
    *("hydra.overrides", "hydra.runtime", "hydra.job.name", "hydra.job.id", "hydra.job.num"),
    *("hydra.job.override_dirname", "hydra.job.config_name", "hydra.searchpath"),
)
"""What Hydra fills in itself; its search path it takes from overrides, which have been looked at, and from no file."""

COMMANDS = ("_target_", "setup", "python", "srun_args", "backend", "temp_folder", "mmap_mode", "submitit_folder")
"""Keys of a launcher that name classes, commands or folders."""

LONGEST_OVERRIDE = 20_000
"""Characters; reading one takes seconds at this length, and grows with it."""
DEEPEST = 20
"""Brackets within brackets: the reader calls itself for each."""
MOST_RUNS = 10_000
"""Runs of a sweep."""

RESOLVERS = ("now",)
"""What may stand before the colon in ${...}; the rest read the environment, or build values out of texts."""
POINTER = re.compile(r"\$\{(?:now:[^${}]*|[\w.\[\]]+)\}")
"""${key.below} or ${now:FORMAT}, with nothing inside."""


def check_text(override: str) -> None:
    """Refuse an override that no reader should be given.

    Raises:
        ConfigError: it is too long or too deeply nested.
    """
    if len(override) > LONGEST_OVERRIDE:
        raise ConfigError(
            f"{override[:40]}...: this override has {len(override)} characters, and {LONGEST_OVERRIDE} is the most;"
            " shorten it."
        )
    depth = deepest = 0
    for character in override:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ConfigError(
            f"{override[:40]}...: brackets {deepest} deep cannot be read; no value needs more than {DEEPEST}."
        )


def check_override(line: str, key: str, value: Any, is_deletion: bool) -> None:
    """Refuse an override of Hydra's own parts that is not on the list.

    Args:
        line: as it was given.
        key: with its package, without its sign.
        value: as Hydra's grammar reads it.
        is_deletion: it begins with `~`.

    Raises:
        ConfigError: it is not.
    """
    if is_deletion:
        raise ConfigError(f"~{key}: nothing can be taken out of a configuration; choose another value for {key}.")
    if "@" in key:
        raise ConfigError(f"{line}: a group has its place; leave out what follows the @.")
    if not is_harmless(line):
        raise _resolving(line)
    root = re.split(r"[./]", key)[0]
    if root != "hydra":
        return
    if key == "hydra/launcher":
        if value not in LAUNCHERS:
            raise ConfigError(f"{line}: choose one of {', '.join(LAUNCHERS)}.")
    elif key == "hydra.searchpath":
        folders = value if isinstance(value, list) else [value]
        if not all(str(folder).strip("'\"").startswith("file://") and "${" not in str(folder) for folder in folders):
            raise ConfigError(f"{line}: only folders are searched for files; give --config-dir FOLDER instead.")
    elif not _is_settable(key):
        raise _closed(key)


def check_values(tree: Mapping[str, Any]) -> None:
    """Refuse interpolations other than a pointer to another key.

    Args:
        tree: the composed configuration with nothing resolved in it.

    Raises:
        ConfigError: a value calls a resolver.
    """
    for key, value in leaves(tree):
        if isinstance(value, str) and not is_harmless(value):
            raise _resolving(f"{key}={value}")


def is_harmless(text: str) -> bool:
    """Whether all there is in ${...} are keys and dates: ${oc.env:HOME} is not, nor is ${${data.path}:HOME}."""
    before = ""
    while before != text:
        before, text = text, POINTER.sub("x", text)
    return "${" not in text


def check_hydra(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse what overrides and files have made of Hydra's own part, where it is not on the list.

    Args:
        found: that part of the composed configuration, {"hydra": ...}, with nothing resolved in it.
        own: the same with no overrides but the launcher's choice.

    Raises:
        ConfigError: a key that is not open has another value, or an open one a value that can do harm.
    """
    before, after = dict(leaves(own)), dict(leaves(found))
    for key in {**before, **after}:
        if before.get(key) == after.get(key) or _is_part(key, FILLED_IN):
            continue
        is_new = key not in before and not _is_part(key, GROWING)
        if is_new and key.startswith("hydra.launcher."):
            raise ConfigError(f"{key}: the chosen launcher has no such key; see its file in conf/hydra/launcher.")
        if is_new or not _is_settable(key):
            raise _closed(key)
        value = str(after.get(key, ""))
        check_values({key: value})
        if not (key + value).isprintable():  # a new line in a job's script would be a command
            raise ConfigError(f"{key}={value}: it holds a character that ends a line or is none; leave it out.")


def check_run_folder(name: str) -> None:
    """Refuse the name of a sweep's run that is not below the sweep's folder.

    Raises:
        ConfigError: it climbs out, or is not a name at all.
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(
            f"hydra.sweep.subdir={name}: a run of a sweep lies below output_dir; give a name without .. that does not"
            " begin with a slash."
        )


def check_flags(flags: Any) -> None:
    """Refuse Hydra's flags that bring a configuration from elsewhere, past what is checked.

    Raises:
        ConfigError: one of them is given.
    """
    for name in ("config_path", "config_name", "experimental_rerun", "package"):
        if getattr(flags, name, None):
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag}: the lab has one configuration tree; give --config-dir FOLDER to add files of your own."
            )


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is neither dictionary nor list."""
    if isinstance(node, Mapping | list):
        parts = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in parts:
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _resolving(what: str) -> ConfigError:
    return ConfigError(
        f"{what}: a value may point to another key, as ${{model.depth}} does, but neither look at the environment nor"
        " compute; write the value itself."
    )


def _is_settable(key: str) -> bool:
    if _is_part(key, SETTABLE):
        return True
    parts = key.split(".")
    return parts[:2] == ["hydra", "launcher"] and len(parts) > 2 and not set(parts[2:]) & set(COMMANDS)


def _is_part(key: str, wholes: Sequence[str]) -> bool:
    return any(key == whole or key.startswith(f"{whole}.") for whole in wholes)


def _closed(key: str) -> ConfigError:
    if key in ("hydra.run.dir", "hydra.sweep.dir"):
        return ConfigError(f"{key}: where runs lie is said by output_dir; give output_dir=FOLDER instead.")
    return ConfigError(
        f"{key}: this part of Hydra is closed here; what can be set is hydra/launcher with numbers and names in"
        " hydra.launcher, and hydra.sweep.subdir."
    )


def runs_of(lengths: Sequence[int]) -> int:
    """The number of runs of a sweep over so many values each.

    Raises:
        ConfigError: more than anybody waits for.
    """
    runs = 1
    for length in lengths:
        runs *= length
    if runs > MOST_RUNS:
        raise ConfigError(
            f"-m: this sweep has more than {MOST_RUNS} runs; sweep over fewer values, one part at a time."
        )
    return runs
