"""`gradlab phase`: the order-to-chaos map of an activation, with measured and trained networks on it if asked for."""

from __future__ import annotations

import argparse
import math
import operator
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import Parser
from lab import compose, schema
from lab.machine.files import atomic_write, refuse_to_write
from lab.schema import Config, ConfigError

if TYPE_CHECKING:
    import xarray as xr

PICTURE, TABLE = "phase.png", "phase.nc"

MEASURED_DEFAULTS = ("model.depth=30", "data=gaussian", "batch_size=32", "dtype=float64", "threads=1")
"""Defaults of measured networks: inputs of variance 1, as the map assumes, and the larger range of float64."""

TRAINED_DEFAULTS = ("model.width=100", "steps=600", "batch_size=32", "optimizer.lr=0.005", "threads=1")
"""Defaults of trained networks: small steps of plain SGD, which do not repair a bad initialization."""

PLAIN = {"norm": "none", "residual": "none", "model.block": "linear", "model.bias": True}
"""The plain networks whose theory the map is."""

MAP_KEYS = ("activation", "init", "model.width", "output_dir", "overwrite", "experiment", *PLAIN)
NETWORK_KEYS = ("data", "batch_size", "seed", "first_replica", "dtype", "device", "threads")
FLAG_KEYS = {
    "measured": (*NETWORK_KEYS, "model.depth"),
    "trained": (*NETWORK_KEYS, "optimizer", "clip", "steps"),
}
"""Flag -> keys that have an effect with it only."""
INSTEAD = {"replicas": "--replicas-per-point", "model.depth": "--depths with --trained"}
"""Key -> the flag that sets what a user of the key may mean."""


def main(arguments: Sequence[str]) -> int:
    """Draw the map into phase.png and write its numbers to phase.nc.

    Raises:
        ConfigError: an override or a flag that cannot be used; nothing has been written then.
    """
    started = time.perf_counter()
    options = _parse(arguments)
    config = _composed(options)
    folder = Path(config.output_dir)
    refuse_to_write(folder)
    if not config.overwrite and any((folder / name).exists() for name in (PICTURE, TABLE)):
        raise ConfigError(
            f"output_dir={folder}: this folder holds a map already; choose another, or add overwrite=true."
        )
    try:
        table = _table(config, options)
        from lab.plot import phase, style

        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / TABLE) as table_draft, atomic_write(folder / PICTURE) as picture_draft:
            table.to_netcdf(table_draft, engine="h5netcdf")
            style.save(phase.draw(table), picture_draft)
    except KeyboardInterrupt:
        from experiments.main import INTERRUPTED

        print(f"Interrupted; nothing was written to {folder}.", file=sys.stderr)
        return INTERRUPTED
    print(folder / PICTURE)
    print(folder / TABLE)
    _report(table)
    print(f"{time.perf_counter() - started:.1f} s")
    return 0


def _table(config: Config, options: argparse.Namespace) -> xr.Dataset:
    """Compute the map, and measure and train the networks asked for."""
    import numpy as np
    import xarray as xr

    from experiments.phase_map import measured, table, trained

    default_weight_var, default_bias_var = table.default_ranges(config.activation)
    weight_var = table.Range(*options.weight_var) if options.weight_var else default_weight_var
    bias_var = table.Range(*options.bias_var) if options.bias_var else default_bias_var
    bias_var_of_trained = table.trained_bias_var(config, bias_var)
    columns, replicas = weight_var.centres(options.columns), options.replicas_per_point
    tasks: list[partial[Any]] = []  # the heaviest last
    if options.trained:
        networks = _with_defaults(TRAINED_DEFAULTS, options.overrides)
        rest = (columns, bias_var_of_trained, replicas)
        tasks += [partial(trained.accuracy, networks, depth, *rest) for depth in options.depths]
        tabulate = partial(trained.trained_table, networks, options.depths, weight_var, columns, bias_var_of_trained)
    if options.measured:
        networks = _with_defaults(MEASURED_DEFAULTS, options.overrides)
        if networks.model.depth < measured.LEAST_DEPTH:
            raise ConfigError(
                f"model.depth={networks.model.depth}: a rate is fitted to layers away from both ends; choose"
                f" {measured.LEAST_DEPTH} or more."
            )
        weight_vars, bias_vars = np.meshgrid(*map(table.Range.centres, (weight_var, bias_var), options.grid))
        tasks.append(partial(measured.measure, networks, weight_vars.ravel(), bias_vars.ravel(), replicas))
    parts = [table.phase_table(config, weight_var, bias_var, options.points)]
    results = _compute(tasks)
    if options.measured:
        parts.append(results.pop())
    if options.trained:
        parts.append(tabulate(results))
    return xr.merge(parts, combine_attrs="no_conflicts")


def _compute(tasks: Sequence[partial[Any]]) -> list[Any]:
    """Return the results of tasks in their order, computed from the last to the first, in a process per core."""
    from rich.console import Console
    from rich.progress import track

    from lab.machine.pool import available_cores, run_tasks

    console = Console(stderr=True)
    workers = min(available_cores(), len(tasks))
    results: dict[int, Any] = {}
    with closing(run_tasks(operator.call, tasks[::-1], workers if workers > 1 else 0)) as outcomes:
        display: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
        for task, outcome in track(outcomes, "Batches of networks", len(tasks), **display):
            if isinstance(outcome, Exception):
                raise outcome
            results[id(task)] = outcome
    return [results[id(task)] for task in tasks]


def _report(table: xr.Dataset) -> None:
    line = table["critical_weight_var"].dropna("bias_var")
    ends = [f"weight_var {line[i]:.5g} at bias_var {line['bias_var'][i]:.4g}" for i in (0, -1)] if line.size else []
    print("critical:", " to ".join(dict.fromkeys(ends)) or "no point that is stable and reached")
    rates = zip(table["init"].to_numpy(), table["init_chi"].to_numpy(), strict=True)
    print("chi per layer:", ", ".join(f"{name} {chi:.4g}" for name, chi in rates))
    if "measured_chi" in table:
        known = table["measured_chi"].notnull().all("measured_replica") & table["lowest_chi"].notnull()
        inside, lost = int(table["is_inside"].sum()), int((~known).sum())
        note = f"; {lost} have no rate, being out of the range of dtype or theory" if lost else ""
        print(f"measured: {inside} of {int(known.sum())} points lie within what finite width allows{note}")
    if "accuracy" in table:
        deepest = table["accuracy"].mean("trained_replica").isel(depth=-1)  # (trained_weight_var,)
        best = "no accuracy is finite"
        if deepest.notnull().any():
            best = f"weight_var {float(deepest.idxmax()):.4g} does best, {float(deepest.max()):.1%}"
        critical = table.attrs["trained_critical_weight_var"]
        known_critical = f"; critical is {critical:.5g}" if math.isfinite(critical) else ""
        print(f"trained: at depth {int(deepest['depth'])} {best}{known_critical}")


# --- the command line -----------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "gradlab phase",
        description="Draw the order-to-chaos map of an activation: where gradients vanish, explode or keep their size.",
        epilog=f"Defaults of measured networks: {' '.join(MEASURED_DEFAULTS)}; of trained ones:"
        f" {' '.join(TRAINED_DEFAULTS)}.",
    )
    add = parser.add_argument
    add("overrides", nargs="*", help="key=value as for gradlab run, for example activation=tanh model.width=256")
    for flag, end in (
        ("--weight-var", "about twice the critical one"),
        ("--bias-var", "a tenth of weight_var's, or more"),
    ):
        add(flag, metavar="LOW:HIGH", type=limits, help=f"range of {flag[2:].replace('-', '_')} (default: to {end})")
    add("--measured", action="store_true", help="measure gradients in networks all over the map, drawn as dots")
    add("--trained", action="store_true", help="train networks over depth and weight_var, drawn in a second panel")
    for flag, metavar, kind, default, words in (
        ("--points", "N", count, "200", "points of the map along each axis"),
        ("--grid", "MxN", grid, "9x5", "with --measured: number of weight_vars times number of bias_vars"),
        ("--depths", "D,D,...", depths, "5,8,13,21,34,55,90", "with --trained: hidden layers"),
        ("--columns", "N", count, "16", "with --trained: number of weight_vars"),
        ("--replicas-per-point", "N", count, "2", "with either: networks per point"),
    ):
        add(flag, metavar=metavar, type=kind, default=default, help=f"{words} (default: {default})")
    options = parser.parse_intermixed_args(list(arguments))
    if options.points < 2:
        parser.error("argument --points: a map has 2 points or more along each axis")
    return options


# Types of arguments; argparse puts their names into the sentence about a ValueError.


def count(text: str) -> int:
    """Return a whole number, 1 or more."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def grid(text: str) -> tuple[int, int]:
    """Return two counts, such as 9x5."""
    columns, rows = map(count, text.split("x"))
    return columns, rows


def depths(text: str) -> list[int]:
    """Return different counts in increasing order, such as 5,20,80."""
    return sorted(set(map(count, text.split(","))))


def limits(text: str) -> tuple[float, float]:
    """Return the ends of a range, such as 0.5:3."""
    low, high = map(float, text.split(":"))
    if not 0 <= low < high <= schema.LARGEST:
        raise ValueError
    return low, high


def _composed(options: argparse.Namespace) -> Config:
    """Return the configuration of the map.

    Raises:
        ConfigError: several values, a key that has no effect on the map, or a network that is not plain.
    """
    if swept := compose.swept_keys(options.overrides):
        raise ConfigError(f"{swept[0]}: one map is drawn at a time; give one value.")
    config = compose.compose(options.overrides)
    used = [*MAP_KEYS, *(key for flag, keys in FLAG_KEYS.items() if getattr(options, flag) for key in keys)]
    for override in compose.parse(options.overrides):
        key = _key(override)
        if not _is_among(key, used):
            remedy = f"choose {INSTEAD[key]}" if key in INSTEAD else "leave it out"
            flags = [f"--{flag}" for flag, keys in FLAG_KEYS.items() if _is_among(key, keys)]
            also = f", or add {' or '.join(flags)}" if flags else ""
            raise ConfigError(f"{override.input_line}: nothing that is drawn depends on it; {remedy}{also}.")
    flat = schema.flatten(schema.as_dict(config))
    for key, plain in PLAIN.items():
        if flat[key] != plain:
            value, wanted = (str(choice).lower() for choice in (flat[key], plain))
            raise ConfigError(f"{key}={value}: the map is of plain networks with biases; choose {key}={wanted}.")
    return config


def _with_defaults(defaults: Sequence[str], overrides: Sequence[str]) -> Config:
    """Compose a configuration with these defaults, where neither an override nor an experiment decides."""
    keys = {_key(override) for override in compose.parse(overrides)}
    if "experiment" in keys:
        return compose.compose(overrides)
    kept = [text for text in defaults if not {text.partition("=")[0], text.partition(".")[0]} & keys]
    return compose.compose([*kept, *overrides])


def _key(override: Any) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _is_among(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of these, or below one."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)
