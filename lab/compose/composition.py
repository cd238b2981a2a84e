"""From files and overrides to one frozen `Config`."""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab import schema
from lab.compose import untrusted
from lab.compose.config_store import compose_with_hydra
from lab.compose.errors import explaining, no_such_key
from lab.compose.overrides import expand_home, parse
from lab.schema import Config, ConfigError, did_you_mean


def compose(overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that these overrides make, checked.

    Raises:
        ConfigError: an override that cannot be read, a wrong name, type or range, or choices that exclude each other.
    """
    return compose_job(overrides)[0]


def compose_job(overrides: Sequence[str], number: int | None = None) -> tuple[Config, Path]:
    """Return the configuration of a run and its folder; `number` is its place in a sweep, None for a single run.

    Raises:
        ConfigError: as `compose`.
    """
    is_swept = number is not None
    tree = compose_tree([*overrides, f"hydra.job.num={number}"] if is_swept else overrides)
    with explaining(overrides), open_dict(tree):
        hydra = tree.hydra
        folder = Path(hydra.run.dir)
        if is_swept:
            untrusted.check_run_folder(hydra.sweep.subdir)
            folder = Path(hydra.sweep.dir, hydra.sweep.subdir)
        del tree["hydra"]
    return to_config(tree, _keys(overrides)), folder


def compose_tree(overrides: Sequence[str]) -> DictConfig:
    """Return the composed tree before it becomes a `Config`, with Hydra's own part (folders, job name).

    Raises:
        ConfigError: an override or a file that cannot be used.
    """
    overrides = expand_home(overrides)
    with explaining(overrides):
        tree = compose_with_hydra(overrides)
        _check_untrusted(tree, overrides)
    return tree


def to_config(tree: DictConfig, explicit: Collection[str] = ()) -> Config:
    """Return the frozen dataclasses of a tree from `compose_tree`; `explicit` are the keys that the user has given.

    Raises:
        ConfigError: an unknown key, a wrong type, or as `schema.check`.
    """
    with explaining(()):
        for key, owner in _unknown_keys(tree, Config):
            raise ConfigError(no_such_key(key, owner))
        config = OmegaConf.to_object(tree)
    if not isinstance(config, Config):
        raise ConfigError("schema.yaml: a file of this name hides the lab's own schema; rename it.")
    return schema.check(config, explicit)


def with_numbers(config: Config, overrides: Sequence[str]) -> Config | None:
    """Return `config` with overrides of keys that hold numbers, checked, without Hydra; None if one is no plain number.

    Raises:
        ConfigError: as `compose`.
    """
    for override in parse(overrides):
        group, _, name = override.key_or_group.rpartition(".")
        owner: Any = getattr(config, group) if group else config
        kind, value = type(getattr(owner, name)), override.value()
        if type(value) is not kind and not (kind is float and type(value) is int and abs(value) <= schema.LARGEST):
            return None
        owner = replace(owner, **{name: kind(value)})
        config = replace(config, **{group: owner}) if group else owner
    return schema.check(config)


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.key_or_group for override in parse(overrides)]


def _check_untrusted(tree: DictConfig, overrides: Sequence[str]) -> None:
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    hydra = plain.pop("hydra")
    untrusted.check_values(plain)
    launcher = hydra["runtime"]["choices"]["hydra/launcher"]
    if launcher not in untrusted.LAUNCHERS:
        raise ConfigError(f"hydra/launcher={launcher}: {did_you_mean(launcher, untrusted.LAUNCHERS)}.")
    keys = dict(zip(overrides, _keys(overrides), strict=True))
    if "hydra.searchpath" in keys.values():  # else all files are the lab's own
        apart = ("hydra.searchpath", "hydra.job.num", "hydra/launcher")
        passed = [text for text, key in keys.items() if key.startswith("hydra") and key not in apart]
        untrusted.check_hydra({"hydra": hydra}, _trusted_hydra(f"hydra/launcher={launcher}", *passed))


@functools.cache
def _trusted_hydra(*overrides: str) -> dict[str, Any]:
    """Return {"hydra": ...} as conf/ and these overrides alone make it, with nothing resolved in it."""
    return {"hydra": OmegaConf.to_container(compose_with_hydra(overrides).hydra, resolve=False)}


def _unknown_keys(tree: DictConfig, owner: Any, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield each key that was added to a tree (with + or ++) and that its dataclass does not have, with that class."""
    names = [part.name for part in fields(owner)]
    for key in map(str, tree):
        if key not in names:
            yield f"{prefix}{key}", owner
        elif isinstance(tree[key], DictConfig):
            yield from _unknown_keys(tree[key], OmegaConf.get_type(tree[key]) or Config, f"{prefix}{key}.")
