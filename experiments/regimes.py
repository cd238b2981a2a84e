"""`make pictures`: the pictures and the table of docs/theory.md.

Three regimes of one activation with prediction and measurement, where the two part and why, and what difference the
loss's own gradient makes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lab.schema import ConfigError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

MEASURED = ("steps=0", "probe.cotangent=random", "dtype=float64", "data=gaussian", "replicas=16")
TANH = ("activation=tanh", "init=gaussian", "init.bias_var=0.05", "model.depth=50", "model.width=256")
REGIMES: Mapping[str, Sequence[str]] = {
    "vanishing: tanh, weight_var 1.3, chi 0.880": (*TANH, "init.weight_var=1.3", *MEASURED),
    "critical: tanh, weight_var 1.7610, chi 1.000": (*TANH, "init.weight_var=1.7610", *MEASURED),
    "exploding: tanh, weight_var 3.0, chi 1.209": (*TANH, "init.weight_var=3.0", *MEASURED),
}
PARTINGS: Mapping[str, Sequence[str]] = {
    "narrow: relu, he_normal, width 16": (
        *("activation=relu", "init=he_normal", "model.depth=50", "model.width=16", *MEASURED, "replicas=64"),
    ),
    "unstable: gelu, he_normal, width 128": (
        *("activation=gelu", "init=he_normal", "model.depth=30", "model.width=128", *MEASURED),
    ),
    "trained: tanh, lecun_normal, 200 steps of SGD": (
        *("activation=tanh", "init=lecun_normal", "model.depth=30", "model.width=128", "steps=200", "probe.every=0"),
        *("optimizer.lr=0.05", "replicas=8"),
    ),
}
COUPLED: Mapping[str, Sequence[str]] = {
    "tanh, critical": ("activation=tanh", "init=gaussian", "init.weight_var=1.7610", "init.bias_var=0.05"),
    "tanh, chaotic": ("activation=tanh", "init=gaussian", "init.weight_var=3.0", "init.bias_var=0.05"),
    "relu, he_normal": ("activation=relu", "init=he_normal"),
    "relu, he_normal, gain 1.3": ("activation=relu", "init=he_normal", "init.gain=1.3"),
    "sigmoid, xavier_normal": ("activation=sigmoid", "init=xavier_normal"),
    "softplus, lecun_normal": ("activation=softplus", "init=lecun_normal"),
    "relu, batch norm": ("activation=relu", "norm=batch"),
    "relu, pre-norm residual": ("activation=relu", "norm=layer", "norm.place=pre", "residual=identity"),
}


def main(arguments: Sequence[str] = ()) -> int:
    """Measure, draw, print the table."""
    parser = argparse.ArgumentParser("python -m experiments.regimes", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/pictures"), help="where to (default: docs/pictures)")
    parser.add_argument("overrides", nargs="*", help="changes to every network, for example model.width=32")
    options = parser.parse_args(list(arguments))
    from lab.machine.files import atomic_write
    from lab.plot.style import save

    console = Console()
    options.folder.mkdir(parents=True, exist_ok=True)
    pictures = {"regimes.png": (REGIMES, regimes), "partings.png": (PARTINGS, partings)}
    for name, (arms, draw) in pictures.items():
        tables = _measure(arms, options.overrides, name, console)
        with atomic_write(options.folder / name) as draft:
            save(draw(tables), draft)
        console.print(f"[bold]{options.folder / name}[/bold]")
    console.print(_coupling(options.overrides, console), soft_wrap=True)
    return 0


def regimes(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Gradient above, signal below, one column a regime."""
    from lab.plot.gradients import draw_grid

    title = "What theory expects (dashed; dotted: its band for the mean) and what 16 networks of width 256 show"
    return draw_grid(tables, ("delta_rms", "pre_rms"), title)


def partings(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Gradient against depth where theory does not say all."""
    from lab.plot.gradients import draw_grid

    return draw_grid(tables, ("delta_rms",), "Where prediction and measurement part: width, instability, training")


def _measure(
    arms: Mapping[str, Sequence[str]], overrides: Sequence[str], what: str, console: Console
) -> dict[str, xr.Dataset]:
    import lab

    return {
        name: lab.simulate(*words, *overrides)
        for name, words in track(arms.items(), f"Measuring for {what}", console=console, transient=True)
    }


def _coupling(overrides: Sequence[str], console: Console) -> Table:
    """The slope with the loss's gradient and with an independent one, beside theory's."""
    import lab
    from lab.readings import delta_slope

    table = Table(box=MARKDOWN)
    for heading in ("network", "theory", "independent gradient", "the loss's gradient", "difference"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    common = ("model.depth=30", "replicas=8", "steps=0", "dtype=float64", *overrides)
    for name, words in track(COUPLED.items(), "Comparing gradients", console=console, transient=True):
        found = {
            cotangent: lab.simulate(*words, *common, f"probe.cotangent={cotangent}") for cotangent in ("random", "loss")
        }
        slopes = {which: readings["delta_slope"].isel(step=0).to_numpy() for which, readings in found.items()}
        difference = slopes["loss"] - slopes["random"]
        table.add_row(
            name,
            f"{float(delta_slope(found['random']['predicted_delta_rms'].to_numpy()[:, None])[0]):+.4f}",
            *(f"{slope.mean():+.4f} ± {slope.std(ddof=1):.4f}" for slope in slopes.values()),
            f"{difference.mean():+.4f} ± {difference.std(ddof=1):.4f}",
        )
    return table


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
