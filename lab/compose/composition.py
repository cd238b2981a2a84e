"""From files and overrides to one frozen `Config`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab import schema
from lab.compose import untrusted
from lab.compose.config_store import HYDRA_ERRORS, _compose, register
from lab.compose.errors import _names, _no_such_key, explain
from lab.compose.overrides import expand_home, parse
from lab.schema import Config, ConfigError


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that these overrides make, checked.

    Raises:
        ConfigError: an override that cannot be read, a wrong name, type or range, or choices that exclude each other.
    """
    return to_config(compose_tree(overrides))


def compose_job(overrides: Sequence[str], number: int | None = None) -> tuple[Config, Path]:
    """The configuration of a run and the folder that Hydra will make for it; `number` is its place in a sweep.

    Raises:
        ConfigError: as `compose`.
    """
    is_swept = number is not None
    tree = compose_tree([*overrides, f"hydra.job.num={number}"] if is_swept else overrides, with_hydra=True)
    try:
        if is_swept:
            untrusted.check_run_folder(tree.hydra.sweep.subdir)
        folder = Path(tree.hydra.sweep.dir, tree.hydra.sweep.subdir) if is_swept else Path(tree.hydra.run.dir)
    except ConfigError:
        raise
    except HYDRA_ERRORS as error:
        raise explain(error, overrides) from error
    with open_dict(tree):
        del tree["hydra"]
    return to_config(tree), folder


def with_numbers(config: Config, overrides: Sequence[str]) -> Config | None:
    """The configuration with other numbers, checked, without asking Hydra; None if one of them is no plain number.

    Args:
        overrides: of keys that hold a number.

    Raises:
        ConfigError: as `check`, or an override that cannot be read.
    """
    for override in parse(overrides):
        *groups, name = override.key_or_group.split(".")
        owners: list[Any] = [config]
        for group in groups:
            owners.append(getattr(owners[-1], group))
        kind, value = type(getattr(owners[-1], name)), override.value()
        if type(value) is not kind and not (kind is float and type(value) is int and abs(value) <= schema.LARGEST):
            return None
        changed = replace(owners.pop(), **{name: kind(value)})
        for group, owner in zip(reversed(groups), reversed(owners), strict=True):
            changed = replace(owner, **{group: changed})
        config = changed
    return check(config)


def compose_tree(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The composed tree before it becomes a `Config`; `with_hydra` keeps Hydra's own part (folders, job name)."""
    register()
    overrides = expand_home(overrides)
    try:
        tree = _compose(overrides)
        own = _own_hydra(str(tree.hydra.runtime.choices["hydra/launcher"]))
        plain = _plain(tree)
        untrusted.check_hydra({"hydra": plain.pop("hydra")}, {"hydra": own})
        untrusted.check_values(plain)
    except ConfigError:
        raise
    except (*HYDRA_ERRORS, OSError) as error:  # an option's name is looked for as a file's, which may be too long
        raise explain(error, overrides) from error
    if not with_hydra:
        with open_dict(tree):
            del tree["hydra"]
    return tree


def to_config(tree: DictConfig) -> Config:
    """The frozen dataclasses of a composed tree, checked."""
    try:
        for key in _unknown_keys(tree, Config):
            raise ConfigError(_no_such_key(key, _owner(tree, key)))
        config = OmegaConf.to_object(tree)
    except ConfigError:
        raise
    except HYDRA_ERRORS as error:
        raise explain(error, ()) from error
    assert isinstance(config, Config)
    return check(config)


def check(config: Config) -> Config:
    """The configuration itself, if it makes sense.

    Raises:
        ConfigError: a value out of range, choices that exclude each other, or init=critical where nothing is critical.
    """
    schema.check(config)
    if isinstance(config.init, schema.Critical):
        from lab.theory import critical_weight_var_of  # NumPy is imported only where there is something to solve

        critical_weight_var_of(config)  # refuses where there is no critical point
    return config


@functools.cache
def _own_hydra(launcher: str) -> dict[str, Any]:
    """Hydra's own part as conf/ has it, with nothing resolved in it."""
    untrusted.check_override(f"hydra/launcher={launcher}", "hydra/launcher", launcher, is_deletion=False)
    return _plain(_compose([f"hydra/launcher={launcher}"]).hydra)


def _plain(tree: DictConfig) -> dict[str, Any]:
    """Dictionaries and lists with nothing resolved in them."""
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _unknown_keys(tree: DictConfig, owner: type, prefix: str = "") -> Iterator[str]:
    """Keys that were added to a tree (with + or ++) and that its dataclass does not have."""
    for key in tree:
        if key not in _names(owner):
            yield f"{prefix}{key!s}"
        elif isinstance(tree[key], DictConfig):
            yield from _unknown_keys(tree[key], OmegaConf.get_type(tree[key]) or Config, f"{prefix}{key}.")


def _owner(tree: DictConfig, key: str) -> type:
    parent = key.rpartition(".")[0]
    return (OmegaConf.get_type(OmegaConf.select(tree, parent)) if parent else None) or Config
