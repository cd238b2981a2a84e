"""The identity of a run: its configuration as a dictionary, and the fingerprint of what decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, get_type_hints

from lab.schema import config as config_module
from lab.schema import identity
from lab.schema.config import Config

PER_REPLICA = frozenset(
    {
        *("seed", "first_replica", "init.gain", "init.weight_var", "init.bias_var"),
        *("optimizer.lr", "clip.max_norm", "residual.alpha"),
    }
)
"""Keys that replicas of one network can differ in."""


NOT_SCIENTIFIC = frozenset(
    {
        *("device", "threads", "runs_per_gpu", "output_dir", "overwrite", "data.cache"),
        *("checkpoint.every", "checkpoint.seconds", "sweep.batch"),
    }
)
"""Keys that do not change what is computed, only where and how: no part of a run's fingerprint."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The scientific part of a configuration's dictionary with dotted keys; a group's name stands under the group."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in NOT_SCIENTIFIC:
            flat[f"{prefix}{key}".removesuffix(".name")] = value
    return flat


def from_dict(values: dict[str, Any]) -> Config:
    """The `Config` that `as_dict` was made from."""
    parts: dict[str, Any] = {}
    for name, hint in get_type_hints(Config).items():
        value = values[name]
        if name in config_module.CHOICES:
            value = config_module.CHOICES[name][value["name"]](**value)
        elif is_dataclass(hint):
            value = hint(**value)  # type: ignore[operator]  # is_dataclass narrows to an instance, and this is the class
        parts[name] = value
    return Config(**parts)


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, fit for JSON."""
    return asdict(config)


def fingerprint(config: Config) -> str:
    """A hash of all that decides the result: equal for two runs that must agree, whatever their folder or device."""
    return hashlib.sha256(json.dumps(identity.flatten(asdict(config)), sort_keys=True).encode()).hexdigest()[:16]
