"""Trains configurations in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lab import compose, data, schema
from lab.machine.devices import choose_device
from lab.machine.threads import thread_budget
from lab.readings import Record, to_dataset
from lab.record import overlay
from lab.record.overlay import Overlay
from lab.record.sinks import Sink
from lab.run import memory
from lab.run.writer import attributes
from lab.schema import ConfigError
from lab.theory import resolve_critical
from lab.train.loop import train
from lab.train.trainer import alone

if TYPE_CHECKING:
    import xarray as xr


def simulate(*overrides: str, sinks: Sequence[Sink] = ()) -> xr.Dataset:
    """Train a configuration without writing to disk.

    Args:
        overrides: as on the command line, for example "activation=tanh", "model.depth=50".
        sinks: receive every reading by `write(record)` as it is taken, and a `close()` at the end.

    Returns:
        The readings, with dimensions (step, layer, replica).

    Raises:
        ConfigError: the configuration cannot be used.
    """
    config = compose.compose(overrides)
    resolved = resolve_critical(config)
    records: list[Record] = []
    with ExitStack() as stack:
        device, dataset = stack.enter_context(_prepared(resolved))
        for sink in sinks:
            stack.callback(sink.close)
        expected = overlay.expect(resolved, dataset)
        for record in train(resolved, dataset, device):
            records.append(record)
            for sink in sinks:
                sink.write(record)
        predictions = expected.variables(records[0]) if isinstance(expected, Overlay) else ()
        return to_dataset(records, config.first_replica, attributes(config, device), predictions)


def side_by_side(configs: Sequence[schema.Config]) -> xr.Dataset:
    """Train configurations as replicas of one network, without writing to disk.

    Args:
        configs: equal but for `schema.PER_REPLICA`, each with replicas=1.

    Returns:
        The readings; entry r of the dimension replica is configs[r].

    Raises:
        ConfigError: they differ in another key, or one has several replicas.
    """
    for config in configs:
        if config.replicas != 1:
            raise ConfigError(f"replicas={config.replicas}: runs side by side are one replica each; give replicas=1.")
    merged_config, variants = merged(configs)
    with _prepared(merged_config) as (device, dataset):
        records = list(train(merged_config, dataset, device, variants))
        return to_dataset(records, 0, attributes(replace(configs[0], replicas=len(configs)), device))


@contextmanager
def _prepared(config: schema.Config) -> Iterator[tuple[torch.device, data.Dataset]]:
    """Yield a device with enough memory, and the data; within the block torch has the configured threads."""
    device = choose_device(config.device)
    memory.refuse_too_large(config, device)
    with thread_budget(config.threads):
        yield device, data.load(config.data, getattr(torch, config.dtype), device)


def merged(configs: Sequence[schema.Config]) -> tuple[schema.Config, list[schema.Config] | None]:
    """Merge configurations into one with the replicas of all, and list each replica's own, None for a single one.

    In both, init=critical is resolved.

    Raises:
        ConfigError: they differ in a key that replicas of one network share, or nothing is critical.
    """
    resolved = [resolve_critical(config) for config in configs]
    if len(resolved) == 1:
        return resolved[0], None
    shared = _shared_keys(resolved[0])
    for config in resolved:
        if different := [key for key, value in _shared_keys(config).items() if shared.get(key) != value]:
            raise ConfigError(f"{different[0]}: replicas of one network cannot differ in it; run them one by one.")
    variants = [variant for config in resolved for variant in alone(config)]
    return replace(resolved[0], replicas=len(variants)), variants


def _shared_keys(config: schema.Config) -> dict[str, Any]:
    settings = schema.flatten(schema.as_dict(config))
    return {key: value for key, value in settings.items() if key not in schema.PER_REPLICA and key != "replicas"}
