"""One run, whole: from a configuration to a folder that keeps the contract, or to a table in memory."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lab import config as configuration
from lab import data, overlay, schema
from lab.files import SUMMARY, clear, refuse_to_overwrite, whole
from lab.overlay import Overlay
from lab.readings import to_dataset
from lab.schema import ConfigError
from lab.summary import Summary, describe_device, versions
from lab.training import train

if TYPE_CHECKING:
    import xarray as xr

    from lab.sinks import Sink


def simulate(*overrides: str) -> xr.Dataset:
    """Run a configuration without touching the disk.

    Args:
        overrides: what the command line takes, for example "activation=tanh", "model.depth=50".

    Returns:
        The readings, with dimensions (step, layer, replica).

    Raises:
        ConfigError: the configuration cannot be used.
    """
    config = configuration.compose(overrides)
    device = choose_device(config.device)
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
    config = replace(configs[0], replicas=len(configs))
    shared = _without_own_numbers(configs[0])
    for other in configs:
        if other.replicas != 1:
            raise ConfigError(f"replicas={other.replicas}: runs side by side are one replica each; give replicas=1.")
        keys = [key for key, value in _without_own_numbers(other).items() if shared.get(key) != value]
        if keys:
            raise ConfigError(f"{keys[0]}: replicas of one network cannot differ in it; run them one by one.")
    device = choose_device(config.device)
    with thread_budget(config.threads):
        dataset = data.load(config.data, getattr(torch, config.dtype), device)
        records = list(train(config, dataset, device, configs))
        return to_dataset(records, 0, attributes(config, device))


def run(config: schema.Config, folder: Path, title: str = "", is_quiet: bool = False) -> dict[str, Any]:
    """Train a configuration into a folder and return its summary, which summary.json holds too.

    Raises:
        ConfigError: the folder holds a run already and `overwrite` is false, or data or device cannot be had.
    """
    from lab.sinks.console import Console
    from lab.sinks.table import Table
    from lab.sinks.tensorboard import TensorBoard

    refuse_to_overwrite(folder, config.overwrite)
    device = choose_device(config.device)
    with thread_budget(config.threads):
        dataset = data.load(config.data, getattr(torch, config.dtype), device)
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder)
        title = title or folder.name
        theory = overlay.expect(config, dataset)
        expected = theory if isinstance(theory, Overlay) else None
        heading = f"{title}\n{describe(config)}"
        table = Table(folder, config.first_replica, attributes(config, device), heading, expected)
        sinks: list[Sink] = [table, TensorBoard(folder, config, expected)]
        if not is_quiet:
            sinks.append(Console(title, config.steps))
        started = time.perf_counter()
        status, error = "failed", ""
        try:
            with ExitStack() as stack:
                for sink in reversed(sinks):
                    stack.callback(sink.close)  # each is closed, even if another cannot be
                for record in train(config, dataset, device):
                    for sink in sinks:
                        sink.write(record)
            status = "diverged" if (record.diverged_at >= 0).all() else "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception:
            error = traceback.format_exc()
            raise
        finally:
            summary = Summary(config, device)
            for record in table.records:  # not as a sink of its own: Ctrl-C between two sinks would set them apart
                summary.write(record)
            comparison = overlay.judge(theory, table.records[0] if table.records else None)
            result = summary.result(status, time.perf_counter() - started, comparison, error)
            with whole(folder / SUMMARY) as draft:
                draft.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _without_own_numbers(config: schema.Config) -> dict[str, Any]:
    flat = schema.flatten(configuration.as_dict(config))
    return {key: value for key, value in flat.items() if key not in schema.PER_REPLICA}


def describe(config: schema.Config) -> str:
    """The choices that matter most, for a picture's title."""
    parts = [f"{config.activation.name}, {config.init.name}"]
    parts += [f"{group} {name}" for group in ("norm", "residual") if (name := getattr(config, group).name) != "none"]
    parts += [f"depth {config.model.depth}, width {config.model.width}", f"{config.replicas} replicas"]
    return ", ".join(parts)


def choose_device(name: str) -> torch.device:
    """The device that `device` names; auto takes a GPU if there is one.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no CUDA device here; choose device=cpu or device=auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def thread_budget(threads: int) -> Iterator[None]:
    """Let torch use this many CPU threads within the block; 0 leaves its own choice."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attributes(config: schema.Config, device: torch.device) -> Mapping[str, str]:
    """What a table says of its origin: config and versions as JSON, fingerprint and device."""
    return {
        "config": json.dumps(configuration.as_dict(config)),
        "fingerprint": configuration.fingerprint(config),
        "versions": json.dumps(versions()),
        "device": describe_device(device),
    }
