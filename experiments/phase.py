"""`gradlab phase`: the order-to-chaos map of an activation, with measured and trained networks on it if asked for."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import compose, schema
from lab.machine.files import atomic_write, refuse_to_write
from lab.schema import Config, ConfigError

if TYPE_CHECKING:
    import xarray as xr

    from experiments.phase_map.table import Range

PICTURE, TABLE = "phase.png", "phase.nc"

MEASURED_DEFAULTS = ("model.depth=30", "data=gaussian", "batch_size=32", "dtype=float64", "threads=1")
"""What is measured unless told otherwise: inputs of variance 1, as the map has them, in numbers that hold more."""

TRAINED_DEFAULTS = ("model.width=100", "steps=600", "batch_size=32", "optimizer.lr=0.005", "threads=1")
"""What is trained unless told otherwise: small steps of plain SGD, which mend nothing that initialization spoils."""

POINTS, LARGEST_POINTS, GRID, DEPTHS, COLUMNS, REPLICAS = 200, 2000, "9x5", "5,8,13,21,34,55,90", 16, 2

MAP_KEYS = ("activation", "init", "model.width", "output_dir", "overwrite", "experiment")
PLAIN_KEYS = ("norm", "residual", "model.block", "model.bias")
NETWORK_KEYS = ("data", "batch_size", "seed", "first_replica", "dtype", "device", "threads")
FLAG_KEYS = {
    "--measured": (*NETWORK_KEYS, "model.depth"),
    "--trained": (*NETWORK_KEYS, "optimizer", "clip", "steps"),
}
"""Flag -> keys that do something only with it."""


def main(arguments: Sequence[str]) -> int:
    """Draw the map into phase.png and leave what is drawn in phase.nc.

    Raises:
        ConfigError: an override or a flag that cannot be used; nothing has been written then.
    """
    started = time.perf_counter()
    plan = Plan(_parser().parse_intermixed_args(list(arguments)))
    folder = Path(plan.config.output_dir)
    refuse_to_write(folder)  # a map may stand beside a run, if one can write there
    if not plan.config.overwrite and any((folder / name).exists() for name in (PICTURE, TABLE)):
        raise ConfigError(
            f"output_dir={folder}: this folder holds a map already; choose another, or add overwrite=true."
        )
    try:
        table = plan.table()
        from lab.plot import phase, style

        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / TABLE) as table_draft, atomic_write(folder / PICTURE) as picture_draft:
            table.to_netcdf(table_draft, engine="h5netcdf")
            style.save(phase.draw(table), picture_draft)
    except KeyboardInterrupt:
        from experiments.main import INTERRUPTED

        print(f"Interrupted; nothing was written to {folder}.", file=sys.stderr)
        return INTERRUPTED
    _report(table, folder, time.perf_counter() - started)
    return 0


class Plan:
    """What a command line asks for, checked.

    Raises:
        ConfigError: something in it cannot be used, or would change nothing.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        _check_flags(options)
        _check_sweeps(options.overrides)
        self.config = compose.compose(options.overrides)
        _check_overrides(options.overrides, [flag for flag in FLAG_KEYS if getattr(options, flag[2:])])
        self.measured = _network(MEASURED_DEFAULTS, options.overrides) if options.measured else None
        self.trained = _network(TRAINED_DEFAULTS, options.overrides) if options.trained else None
        _check_plain(self.config)
        self.points = _count("--points", options.points, 2, LARGEST_POINTS)
        self.grid = _grid(options.grid or GRID)
        self.depths = _depths(options.depths or DEPTHS)
        self.columns = _count("--columns", _either(options.columns, COLUMNS), 2, 500)
        self.replicas = _count("--replicas-per-point", _either(options.replicas_per_point, REPLICAS), 1, 1000)
        weight_var = _range("--weight-var", options.weight_var)
        bias_var = _range("--bias-var", options.bias_var)

        from experiments.phase_map.points import LEAST_DEPTH
        from experiments.phase_map.table import default_ranges, trained_bias_var

        if self.measured and self.measured.model.depth < LEAST_DEPTH:
            raise ConfigError(
                f"model.depth={self.measured.model.depth}: a rate is fitted to layers away from both ends; choose"
                f" {LEAST_DEPTH} or more."
            )
        default_weight_var, default_bias_var = default_ranges(self.config.activation)
        self.weight_var, self.bias_var = weight_var or default_weight_var, bias_var or default_bias_var
        self.trained_bias_var = trained_bias_var(self.config, self.bias_var)

    def table(self) -> xr.Dataset:
        """The map and all that was asked for on it."""
        import numpy as np

        from experiments.phase_map import points
        from experiments.phase_map.table import phase_table

        table = phase_table(self.config, self.weight_var, self.bias_var, self.points)
        columns, bias_var, replicas = self.weight_var.centres(self.columns), self.trained_bias_var, self.replicas
        jobs: list[points.Job] = []
        if self.trained:
            deepest_first = reversed(self.depths)
            jobs += [(points.accuracy, (self.trained, d, columns, bias_var, replicas)) for d in deepest_first]
        if self.measured:
            grid = np.meshgrid(self.weight_var.centres(self.grid[0]), self.bias_var.centres(self.grid[1]))
            jobs.append((points.measure, (self.measured, *map(np.ravel, grid), replicas)))
        results = points.work(jobs) if jobs else []
        if self.measured:
            table = table.merge(results.pop(), combine_attrs="no_conflicts")
        if self.trained:
            accuracies = results[::-1]
            trained = points.trained_table(self.trained, self.depths, self.weight_var, columns, bias_var, accuracies)
            table = table.merge(trained, combine_attrs="no_conflicts")
        return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "gradlab phase",
        description="Draw the order-to-chaos map of an activation: where gradients vanish, explode or keep their size.",
        epilog=f"Unless told otherwise, measured networks have {' '.join(MEASURED_DEFAULTS)}, and trained ones"
        f" {' '.join(TRAINED_DEFAULTS)}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("overrides", nargs="*", help="key=value as for gradlab run, for example activation=tanh model.width=256")
    add("--weight-var", metavar="LOW:HIGH", help="range of weight_var (default: to about twice the critical one)")
    add("--bias-var", metavar="LOW:HIGH", help="range of bias_var (default: to a tenth of weight_var's, or more)")
    add(
        "--points", type=int, default=POINTS, metavar="N", help=f"points of the map along each axis (default: {POINTS})"
    )
    add("--measured", action="store_true", help="measure gradients in networks all over the map, drawn as dots")
    add("--grid", metavar="MxN", help=f"with --measured: so many weight_vars times bias_vars (default: {GRID})")
    add("--trained", action="store_true", help="train networks over depth and weight_var, drawn in a second panel")
    add("--depths", metavar="D,D,...", help=f"with --trained: hidden layers (default: {DEPTHS})")
    add("--columns", type=int, metavar="N", help=f"with --trained: how many weight_vars (default: {COLUMNS})")
    add("--replicas-per-point", type=int, metavar="N", help=f"with either: networks a point (default: {REPLICAS})")
    return parser


def _report(table: xr.Dataset, folder: Path, seconds: float) -> None:
    print(folder / PICTURE)
    print(folder / TABLE)
    line = table["critical_weight_var"].dropna("bias_var")
    ends = [f"weight_var {line[i]:.5g} at bias_var {line['bias_var'][i]:.4g}" for i in (0, -1)] if line.size else []
    print("critical:", " to ".join(dict.fromkeys(ends)) or "no point that is stable and reached")
    rates = zip(table["init"].to_numpy(), table["init_chi"].to_numpy(), strict=True)
    print("chi, a layer:", ", ".join(f"{name} {chi:.4g}" for name, chi in rates))
    if "measured_chi" in table:
        known = table["measured_chi"].notnull().all("measured_replica") & table["lowest_chi"].notnull()
        inside, lost = int(table["is_inside"].sum()), int((~known).sum())
        but = f"; {lost} have no rate that arithmetic and theory could hold" if lost else ""
        print(f"measured: {inside} of {int(known.sum())} points lie within what finite width allows{but}")
    if "accuracy" in table:
        _report_trained(table["accuracy"].mean("trained_replica").isel(depth=-1), table)
    print(f"{seconds:.1f} s")


def _report_trained(deepest: xr.DataArray, table: xr.Dataset) -> None:
    """On the accuracies (trained_weight_var) at the largest depth."""
    critical = table.attrs["trained_critical_weight_var"]
    best = "no accuracy is finite"
    if deepest.notnull().any():
        top = deepest.isel(trained_weight_var=int(deepest.fillna(-1).to_numpy().argmax()))
        best = f"weight_var {float(top['trained_weight_var']):.4g} does best, {float(top):.1%}"
    known = f"; critical is {critical:.5g}" if math.isfinite(critical) else ""
    print(f"trained: at depth {int(deepest['depth'])} {best}{known}")


# --- reading the command line ---------------------------------------------------------------------------------------


def _check_flags(options: argparse.Namespace) -> None:
    """Refuse flags that would change nothing."""
    for flag, wanted in (
        ("--grid", "--measured"),
        ("--depths", "--trained"),
        ("--columns", "--trained"),
        ("--replicas-per-point", "--measured or --trained"),
    ):
        is_given = getattr(options, flag[2:].replace("-", "_")) is not None
        if is_given and not any(getattr(options, word[2:]) for word in wanted.split(" or ")):
            raise ConfigError(f"{flag}: there is nothing to use it on; add {wanted}.")


def _check_sweeps(overrides: Sequence[str]) -> None:
    for override in compose.parse(overrides):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: one map is drawn at a time; give one value.")


def _check_overrides(overrides: Sequence[str], flags: Sequence[str]) -> None:
    """Refuse overrides that would change nothing."""
    known = [*MAP_KEYS, *PLAIN_KEYS, *(key for flag in flags for key in FLAG_KEYS[flag])]
    for override in compose.parse(overrides):
        key = _key(override.get_key_element())
        if _is_among(key, known):
            continue
        instead = {"replicas": "--replicas-per-point", "model.depth": "--depths" if "--trained" in flags else ""}
        remedy = f"choose {instead[key]}" if instead.get(key) else "leave it out"
        lacking = " or ".join(flag for flag, keys in FLAG_KEYS.items() if _is_among(key, keys))
        also = f", or add {lacking}" if lacking else ""
        raise ConfigError(f"{override.input_line}: nothing that is drawn depends on it; {remedy}{also}.")


def _check_plain(config: Config) -> None:
    """Refuse what is not a plain network, whose theory the map is."""
    for key, value, plain in (
        ("norm", config.norm.name, "none"),
        ("residual", config.residual.name, "none"),
        ("model.block", config.model.block, "linear"),
        ("model.bias", str(config.model.bias).lower(), "true"),
    ):
        if value != plain:
            raise ConfigError(f"{key}={value}: the map is of plain networks with biases; choose {key}={plain}.")


def _network(defaults: Sequence[str], overrides: Sequence[str]) -> Config:
    """The configuration of networks: these defaults where nothing else is said, by an override or an experiment."""
    given = {_key(override.get_key_element()) for override in compose.parse(overrides)}
    if "experiment" in given:
        return compose.compose(overrides)
    kept = [text for text in defaults if not {text.partition("=")[0], text.partition(".")[0]} & given]
    return compose.compose([*kept, *overrides])


def _key(element: str) -> str:
    return element.lstrip("+~")


def _is_among(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of these, or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _range(flag: str, text: str | None) -> Range | None:
    from experiments.phase_map.table import Range

    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise ConfigError(f"{flag}={text}: give two numbers, for example {flag}=0.5:3.") from None
    if not 0 <= low < high <= schema.LARGEST:
        raise ConfigError(f"{flag}={text}: a range goes from 0 or more to something larger; give {flag}=LOW:HIGH.")
    return Range(low, high)


def _grid(text: str) -> tuple[int, int]:
    try:
        columns, rows = map(int, text.split("x"))
    except ValueError:
        raise ConfigError(f"--grid={text}: give two whole numbers, for example --grid=9x5.") from None
    return _count("--grid", columns, 1, 200), _count("--grid", rows, 1, 200)


def _depths(text: str) -> list[int]:
    try:
        depths = sorted(set(map(int, text.split(","))))
    except ValueError:
        raise ConfigError(f"--depths={text}: give whole numbers, for example --depths=5,20,80.") from None
    return [_count("--depths", depth, 1, 10_000) for depth in depths]


def _count(flag: str, number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise ConfigError(f"{flag}={number}: give a whole number from {least} to {most}.")
    return number


def _either(given: int | None, default: int) -> int:
    return default if given is None else given
