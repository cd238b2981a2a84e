"""Rules of a configuration: ranges, allowed words, and choices that exclude each other."""

import math
import operator
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lab.schema.config import CHOICES, DEFAULT_EXPANSION, Config, Probe
from lab.schema.errors import ConfigError
from lab.schema.options import GATED, SGD, LayerNorm, Npz, RReLU, ScaledResidual

LARGEST = 1e30
"""Largest number of a configuration: float32 ends at 3e38, and products must have room."""

LONGEST_NAME, LONGEST_PATH = 255, 3000
"""Bytes of a file's name, and of a path that files are put below; file systems end at 255 and 4096."""

INSIDE = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


def check(config: Config, explicit: Collection[str] = ()) -> Config:
    """Return `config` unchanged if it makes sense.

    A default cadence of evaluations is accepted with any `probe.every`; one among the `explicit` keys, which the user
    has given even if their value is the default, must be met.

    Raises:
        ConfigError: a value out of range, or choices that exclude each other.
    """
    for group, options in CHOICES.items():
        chosen = getattr(config, group)
        if chosen.name not in options:
            raise ConfigError(f"{group}={chosen.name}: choose one of {', '.join(options)}.")
        if type(chosen) is not options[chosen.name]:
            raise ConfigError(f"{group}.name={chosen.name}: choose it with {group}={chosen.name} instead.")
    for key, value, metadata in _values(config):
        if value not in metadata.get("allowed", [value]):
            raise ConfigError(f"{key}={value}: choose one of {', '.join(metadata['allowed'])}.")
        if "path" in metadata:
            _check_path(key, value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(key, value, metadata.get("bounds", {}))
    for conflict in _conflicts(config, explicit):
        raise ConfigError(conflict)
    return config


def _values(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield (dotted key, value, metadata of its field)."""
    for part in fields(node):
        value = getattr(node, part.name)
        if is_dataclass(value):
            yield from _values(value, f"{prefix}{part.name}.")
        else:
            yield f"{prefix}{part.name}", value, part.metadata


def _check_number(key: str, value: float, bounds: Mapping[str, float]) -> None:
    if value != value or abs(value) == math.inf:  # math.isfinite fails for integers that no float can hold
        raise ConfigError(f"{key}={value}: give a finite number.")
    if abs(value) > LARGEST:
        raise ConfigError(f"{key}={value}: give a number of at most {LARGEST:g} in size, which float32 can hold.")
    if not all(INSIDE[word](value, bound) for word, bound in bounds.items()):
        wanted = " and ".join(f"{word.replace('at_', 'of at ')} {bound:g}" for word, bound in bounds.items())
        raise ConfigError(f"{key}={value}: give a number {wanted}.")


def _check_path(key: str, value: str) -> None:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(f"{key}={value}: it contains a control or surrogate character; leave it out.")
    longest = max(len(name.encode()) for name in value.split("/"))
    if longest > LONGEST_NAME or len(value.encode()) > LONGEST_PATH:
        limits = f"no name in it may be longer than {LONGEST_NAME} bytes, nor the path than {LONGEST_PATH}"
        raise ConfigError(f"{key}={value}: {limits}; choose a shorter one.")


def _conflicts(config: Config, explicit: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each combination that makes no sense."""
    model, norm, activation, optimizer = config.model, config.norm, config.activation, config.optimizer
    is_inner = isinstance(norm, LayerNorm) and norm.place == "inner"
    if not config.output_dir:
        yield "output_dir: it is empty; name the folder, for example output_dir=runs/mine."
    if config.output_dir.startswith("~"):  # in a file; an override's has been expanded
        yield f"output_dir={config.output_dir}: there is no such home folder; write the full path."
    if model.block == "linear" and model.expansion is not None:
        yield "model.expansion: only model.block=ffn has hidden units to expand; leave it out or choose ffn."
    if activation.name in GATED and is_inner:
        reason = f"activation={activation.name} multiplies two maps and has no single pre-activation to normalize"
        yield f"norm.place=inner: {reason}; choose norm.place=pre or norm.place=post."
    for key, examples in (("batch_size", config.batch_size), ("probe.examples", config.probe.examples)):
        if norm.name == "batch" and examples < 2:
            yield f"{key}={examples}: norm=batch needs at least 2 examples; choose {key}=2 or more."
    if norm.name == "layer" and model.width < 2:
        yield "model.width=1: norm=layer turns a single unit into 0; choose model.width=2 or more."
    expansion = DEFAULT_EXPANSION if model.expansion is None else model.expansion
    if norm.name == "layer" and is_inner and model.block == "ffn" and expansion * model.width < 1.5:
        reason = "norm=layer turns a single hidden unit into 0"
        yield f"model.expansion={expansion:g}: {reason}; choose a larger model.expansion or model.width."
    if isinstance(activation, RReLU) and activation.lower > activation.upper:
        reason = f"the lower slope is above activation.upper={activation.upper}"
        yield f"activation.lower={activation.lower}: {reason}; exchange them."
    if isinstance(optimizer, SGD) and optimizer.nesterov and optimizer.momentum == 0:
        yield "optimizer.nesterov=true: it needs momentum; give optimizer.momentum a value above 0."
    if isinstance(config.data, Npz) and not config.data.path:
        yield "data.path: data=npz needs the file; give data.path=FILE.npz."
    if isinstance(config.residual, ScaledResidual) and config.residual.alpha == 0:
        yield "residual.alpha=0: nothing would pass the branch; give another value or choose residual=rezero."
    yield from _missed_cadences(config.probe, explicit)


def _missed_cadences(probe: Probe, explicit: Collection[str]) -> Iterator[str]:
    if probe.jacobian_every and not probe.jacobian:
        yield f"probe.jacobian_every={probe.jacobian_every}: no Jacobian is measured; add probe.jacobian=true."
    for name in ("eval_every", "jacobian_every"):
        period, key = getattr(probe, name), f"probe.{name}"
        is_default = period == getattr(Probe(), name) and key not in explicit
        if period and not is_default and (not probe.every or period % probe.every):
            remedy = f"a multiple of {probe.every} or change probe.every" if probe.every else "0 or set probe.every"
            yield f"{key}={period}: it is due only at readings, and probe.every={probe.every}; choose {remedy}."
