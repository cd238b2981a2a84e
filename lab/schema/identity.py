"""Identity of a run: its configuration as a dictionary, and the fingerprint of everything that decides its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_type_hints

from lab.schema.config import CHOICES, Config

PER_REPLICA = frozenset({"init.gain", "init.weight_var", "init.bias_var", "optimizer.lr", "clip.max_norm"})
PER_REPLICA |= {"seed", "first_replica", "residual.alpha"}
"""Keys in which replicas of one network can differ."""

NOT_SCIENTIFIC = frozenset({"device", "threads", "runs_per_gpu", "checkpoint.every", "checkpoint.seconds"})
NOT_SCIENTIFIC |= {"output_dir", "overwrite", "data.cache"}
"""Keys that change only where and how a result is computed; they are no part of the fingerprint."""


def fingerprint(config: Config) -> str:
    """Return a hash that is equal for two runs that must agree, whatever their folder or device."""
    return hashlib.sha256(json.dumps(flatten(as_dict(config)), sort_keys=True).encode()).hexdigest()[:16]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the scientific part of a configuration's dictionary with dotted keys; a group's key holds its name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in NOT_SCIENTIFIC:
            flat[f"{prefix}{key}".removesuffix(".name")] = value
    return flat


def as_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested dictionaries, fit for JSON."""
    return asdict(config)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Return the `Config` from a dictionary made by `as_dict`."""
    parts: dict[str, Any] = {}
    for key, hint in get_type_hints(Config).items():
        value = values[key]
        make = CHOICES[key][value["name"]] if key in CHOICES else hint
        parts[key] = make(**value) if isinstance(value, Mapping) else value
    return Config(**parts)
