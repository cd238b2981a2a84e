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

from experiments.arguments import INTERRUPTED, Parser
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
MAP_KEYS = ("activation", "init", "model.width", "output_dir", "overwrite", "experiment", *PLAIN)
MAP_FLAGS = ("--weight-var", "--bias-var", "--points", "--measured", "--trained", "--")
NETWORK_KEYS = ("data", "batch_size", "seed", "first_replica", "dtype", "device", "threads", "--replicas-per-point")
FLAG_KEYS = {
    "measured": (*NETWORK_KEYS, "model.depth", "--grid"),
    "trained": (*NETWORK_KEYS, "optimizer", "clip", "steps", "--depths", "--columns"),
}
"""Flag -> keys and further flags that have an effect with it only."""
INSTEAD = {"replicas": "--replicas-per-point", "model.depth": "--depths with --trained"}


def main(arguments: Sequence[str]) -> int:
    """Draw the map into phase.png and write its numbers to phase.nc.

    Raises:
        ConfigError: an override or a flag that cannot be used; nothing has been written then.
    """
    started = time.perf_counter()
    options = _parse(arguments)
    config = _composed(options, [word for word in arguments if word.startswith("--")])
    folder = Path(config.output_dir)
    refuse_to_write(folder)
    if not config.overwrite and any((folder / name).exists() for name in (PICTURE, TABLE)):
        taken = "this folder holds a map already; choose another, or add overwrite=true."
        raise ConfigError(f"output_dir={folder}: {taken}")
    try:
        table = _table(config, options)
        from lab.plot import phase, style

        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / TABLE) as table_draft, atomic_write(folder / PICTURE) as picture_draft:
            table.to_netcdf(table_draft, engine="h5netcdf")
            style.save(phase.draw(table), picture_draft)
    except KeyboardInterrupt:
        print(f"Interrupted; nothing was written to {folder}.", file=sys.stderr)
        return INTERRUPTED
    print(folder / PICTURE, folder / TABLE, sep="\n")
    _report(table)
    print(f"{time.perf_counter() - started:.1f} s")
    return 0


def _table(config: Config, options: argparse.Namespace) -> xr.Dataset:
    import numpy as np
    import xarray as xr

    from experiments.phase_map import measured, table, trained

    defaults = table.default_ranges(config.activation)
    chosen = zip((options.weight_var, options.bias_var), defaults, strict=True)
    weight_var, bias_var = (table.Range(*(own or default)) for own, default in chosen)
    bias_var_of_trained = table.trained_bias_var(config, bias_var)
    columns, replicas = weight_var.centres(options.columns), options.replicas_per_point
    tasks: list[partial[Any]] = []  # the heaviest last
    if options.trained:
        networks = _with_defaults(TRAINED_DEFAULTS, options.overrides)
        rest = (columns, bias_var_of_trained, replicas)
        tasks += [partial(trained.accuracy, networks, depth, *rest) for depth in options.depths]
        tabulate = partial(trained.trained_table, networks, options.depths, weight_var, *rest[:2])
    if options.measured:
        networks = _with_defaults(MEASURED_DEFAULTS, options.overrides)
        if (depth := networks.model.depth) < (least := measured.LEAST_DEPTH):
            why = f"a rate is fitted to layers away from both ends; choose {least} or more."
            raise ConfigError(f"model.depth={depth}: {why}")
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

    console, workers, results = Console(stderr=True), min(available_cores(), len(tasks)), dict[int, Any]()
    display: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
    with closing(run_tasks(operator.call, tasks[::-1], workers if workers > 1 else 0)) as outcomes:
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
        best = f"weight_var {float(deepest.idxmax()):.4g} does best, {float(deepest.max()):.1%}"
        best = best if deepest.notnull().any() else "no accuracy is finite"
        critical = table.attrs["trained_critical_weight_var"]
        note = f"; critical is {critical:.5g}" if math.isfinite(critical) else ""
        print(f"trained: at depth {int(deepest['depth'])} {best}{note}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "gradlab phase",
        description="Draw the order-to-chaos map of an activation: where gradients vanish, explode or keep their size.",
        epilog=f"Defaults of measured networks: {' '.join(MEASURED_DEFAULTS)}; of trained ones:"
        f" {' '.join(TRAINED_DEFAULTS)}.",
    )
    add = parser.add_argument
    add("overrides", nargs="*", help="key=value as for gradlab run, for example activation=tanh model.width=256")
    for name, end in (("weight", "about twice the critical one"), ("bias", "a tenth of weight_var's, or more")):
        add(f"--{name}-var", metavar="LOW:HIGH", type=limits, help=f"range of {name}_var (default: to {end})")
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


def count(text: str) -> int:  # argparse puts the names of these types into the sentence about a ValueError
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


def _composed(options: argparse.Namespace, flags: Sequence[str]) -> Config:
    """Return the configuration of the map.

    Raises:
        ConfigError: several values, a key or a flag that has no effect on the map, or a network that is not plain.
    """
    if swept := compose.swept_keys(options.overrides):
        raise ConfigError(f"{swept[0]}: one map is drawn at a time; give one value.")
    config = compose.compose(options.overrides)
    used = [*MAP_KEYS, *MAP_FLAGS, *(key for flag, keys in FLAG_KEYS.items() if getattr(options, flag) for key in keys)]
    overrides = [(override.input_line, _key(override)) for override in compose.parse(options.overrides)]
    for text, key in [*overrides, *((flag, flag.partition("=")[0]) for flag in flags)]:
        if not _is_among(key, used):
            remedy = f"choose {INSTEAD[key]}" if key in INSTEAD else "leave it out"
            needed = [f"--{flag}" for flag, keys in FLAG_KEYS.items() if _is_among(key, keys)]
            also = f", or add {' or '.join(needed)}" if needed else ""
            raise ConfigError(f"{text}: nothing that is drawn depends on it; {remedy}{also}.")
    flat = schema.flatten(schema.as_dict(config))
    for key, plain in PLAIN.items():
        if flat[key] != plain:
            value, wanted = str(flat[key]).lower(), str(plain).lower()
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
    """Return whether a dotted key is one of these, or below one."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)
