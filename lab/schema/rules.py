"""The rules of a configuration: ranges, allowed words, and choices that exclude each other."""

from __future__ import annotations

import math
import operator
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lab.schema.config import CHOICES, Config
from lab.schema.errors import ConfigError
from lab.schema.options import GATED, SGD, LayerNorm, Npz, RReLU, ScaledResidual

LARGEST = 1e30
"""No number of a configuration may be larger: float32 ends at 3e38, and products must have room."""


LONGEST_NAME, LONGEST_PATH = 255, 3000
"""Bytes of a file's name, and of a path that files are put below; file systems end at 255 and 4096."""


def check(config: Config) -> Config:
    """Return `config` unchanged if it makes sense.

    Raises:
        ConfigError: a value out of range, or choices that exclude each other; one sentence with key and remedy.
    """
    for group, options in CHOICES.items():
        chosen = getattr(config, group)
        if chosen.name not in options:
            raise ConfigError(f"{group}={chosen.name}: choose one of {', '.join(options)}.")
        if type(chosen) is not options[chosen.name]:
            raise ConfigError(f"{group}.name={chosen.name}: choose it with {group}={chosen.name} instead.")
    for key, value, metadata in _values(config):
        _check_value(key, value, metadata)
    _check_combinations(config)
    return config


def _values(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for part in fields(node):
        value = getattr(node, part.name)
        if is_dataclass(value):
            yield from _values(value, f"{prefix}{part.name}.")
        else:
            yield f"{prefix}{part.name}", value, part.metadata


_INSIDE = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}
_WORDS = {"above": "above", "at_least": "of at least", "below": "below", "at_most": "of at most"}


def _check_value(key: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if "allowed" in metadata and value not in metadata["allowed"]:
        raise ConfigError(f"{key}={value}: choose one of {', '.join(metadata['allowed'])}.")
    if isinstance(value, str):
        _check_text(key, value, is_path="path" in metadata)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if value != value or abs(value) == math.inf:  # not math.isfinite, which fails for huge integers
        raise ConfigError(f"{key}={value}: give a finite number.")
    if abs(value) > LARGEST:
        raise ConfigError(f"{key}={value}: give a number of at most {LARGEST:g} in size, which float32 can hold.")
    bounds = metadata.get("bounds", {})
    if not all(_INSIDE[word](value, bound) for word, bound in bounds.items()):
        wanted = " and ".join(f"{_WORDS[word]} {bound:g}" for word, bound in bounds.items())
        raise ConfigError(f"{key}={value}: give a number {wanted}.")


def _check_text(key: str, value: str, is_path: bool) -> None:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(f"{key}={value}: it holds a character that ends a line or is none; leave it out.")
    longest = max(len(name.encode()) for name in value.split("/"))
    if is_path and (longest > LONGEST_NAME or len(value.encode()) > LONGEST_PATH):
        raise ConfigError(
            f"{key}={value}: no name in it may be longer than {LONGEST_NAME} bytes, nor all of it than {LONGEST_PATH};"
            " choose a shorter one."
        )


def _check_combinations(config: Config) -> None:
    model, norm, residual = config.model, config.norm, config.residual
    if not config.output_dir:
        raise ConfigError("output_dir: it is empty; name the folder, for example output_dir=runs/mine.")
    if config.output_dir.startswith("~"):  # in a file; an override's has been expanded
        raise ConfigError(f"output_dir={config.output_dir}: there is no such home folder; write the whole path.")
    if model.block == "linear" and model.expansion is not None:
        raise ConfigError(
            "model.expansion: only model.block=ffn has hidden units to expand; leave it out or choose ffn."
        )
    if config.activation.name in GATED and norm.name != "none" and getattr(norm, "place", "") == "inner":
        raise ConfigError(
            f"norm.place=inner: activation={config.activation.name} multiplies two maps and has no single"
            " pre-activation to normalize; choose norm.place=pre or norm.place=post."
        )
    for key, examples in (("batch_size", config.batch_size), ("probe.examples", config.probe.examples)):
        if norm.name == "batch" and examples < 2:
            raise ConfigError(f"{key}={examples}: norm=batch needs at least 2 examples; choose {key}=2 or more.")
    if norm.name == "layer" and model.width < 2:
        raise ConfigError("model.width=1: norm=layer turns a single unit into 0; choose model.width=2 or more.")
    expansion = 4 if model.expansion is None else model.expansion
    is_inner = isinstance(norm, LayerNorm) and norm.place == "inner"
    if norm.name == "layer" and is_inner and model.block == "ffn" and expansion * model.width < 1.5:
        raise ConfigError(
            f"model.expansion={expansion:g}: norm=layer turns a single hidden unit into 0; choose a larger"
            " model.expansion or model.width."
        )
    if isinstance(config.activation, RReLU) and config.activation.lower > config.activation.upper:
        raise ConfigError(
            f"activation.lower={config.activation.lower}: the lower slope is above activation.upper="
            f"{config.activation.upper}; exchange them."
        )
    if config.probe.jacobian_every and not config.probe.jacobian:
        raise ConfigError(
            f"probe.jacobian_every={config.probe.jacobian_every}: no Jacobian is measured; add probe.jacobian=true."
        )
    if isinstance(config.optimizer, SGD) and config.optimizer.nesterov and config.optimizer.momentum == 0:
        raise ConfigError("optimizer.nesterov=true: it needs momentum; give optimizer.momentum a value above 0.")
    if isinstance(config.data, Npz) and not config.data.path:
        raise ConfigError("data.path: data=npz needs the file; give data.path=FILE.npz.")
    if isinstance(residual, ScaledResidual) and residual.alpha == 0:
        raise ConfigError(
            "residual.alpha=0: nothing would pass the branch; give another value or choose residual=rezero."
        )
