"""Trains a configuration in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lab import compose, data, schema
from lab.machine.devices import choose_device
from lab.readings import to_dataset
from lab.record import overlay
from lab.record.overlay import Overlay
from lab.run import memory
from lab.run.writer import attributes
from lab.schema import ConfigError
from lab.train.loop import train
from lab.train.trainer import alone

if TYPE_CHECKING:
    import xarray as xr

from lab.machine.torch_threads import thread_budget


def simulate(*overrides: str) -> xr.Dataset:
    """Run a configuration without touching the disk.

    Args:
        overrides: what the command line takes, for example "activation=tanh", "model.depth=50".

    Returns:
        The readings, with dimensions (step, layer, replica).

    Raises:
        ConfigError: the configuration cannot be used.
    """
    config = compose.compose(overrides)
    device = choose_device(config.device)
    memory.refuse_too_large(config, device)
    with thread_budget(config.threads):
        dataset = data.load(config.data, getattr(torch, config.dtype), device)
        expected = overlay.expect(config, dataset)
        records = list(train(config, dataset, device))
        predictions = expected.variables(records[0]) if isinstance(expected, Overlay) else ()
        return to_dataset(records, config.first_replica, attributes(config, device), predictions)


def side_by_side(configs: Sequence[schema.Config]) -> xr.Dataset:
    """Run configurations as replicas of one network, without touching the disk.

    Args:
        configs: equal but for `schema.PER_REPLICA`, each with replicas=1.

    Returns:
        The readings; entry r of the dimension replica is configs[r].

    Raises:
        ConfigError: they differ in something else, or one has replicas of its own.
    """
    for other in configs:
        if other.replicas != 1:
            raise ConfigError(f"replicas={other.replicas}: runs side by side are one replica each; give replicas=1.")
    config, variants = merged(configs)
    device = choose_device(config.device)
    memory.refuse_too_large(config, device)
    with thread_budget(config.threads):
        dataset = data.load(config.data, getattr(torch, config.dtype), device)
        records = list(train(config, dataset, device, variants))
        return to_dataset(records, 0, attributes(config, device))


def merged(configs: Sequence[schema.Config]) -> tuple[schema.Config, list[schema.Config] | None]:
    """One configuration with the replicas of all, and each replica's own; None for the latter if there is but one.

    Raises:
        ConfigError: they differ in something that replicas of one network share.
    """
    if len(configs) == 1:
        return configs[0], None
    shared = _without_own_numbers(configs[0])
    for other in configs:
        keys = [
            key for key, value in _without_own_numbers(other).items() if shared.get(key) != value and key != "replicas"
        ]
        if keys:
            raise ConfigError(f"{keys[0]}: replicas of one network cannot differ in it; run them one by one.")
    variants = [variant for config in configs for variant in alone(config)]
    return replace(configs[0], replicas=len(variants)), variants


def _without_own_numbers(config: schema.Config) -> dict[str, Any]:
    flat = schema.flatten(schema.as_dict(config))
    return {key: value for key, value in flat.items() if key not in schema.PER_REPLICA}
