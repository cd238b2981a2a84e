"""`make pictures`: the pictures and the table of docs/theory.md.

Three regimes of one activation with prediction and measurement, where the two disagree and why, and how much the
gradient of the loss differs from an independent one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lab.schema import ConfigError

MEASURED = "steps=0 probe.cotangent=random dtype=float64 data=gaussian replicas=16"
TANH = "activation=tanh init=gaussian init.bias_var=0.05"
WIDE_TANH = f"{TANH} model.depth=50 model.width=256 {MEASURED}"
REGIMES: Mapping[str, str] = {
    "vanishing: tanh, weight_var 1.3, chi 0.880": f"{WIDE_TANH} init.weight_var=1.3",
    "critical: tanh, weight_var 1.7610, chi 1.000": f"{WIDE_TANH} init.weight_var=1.7610",
    "exploding: tanh, weight_var 3.0, chi 1.209": f"{WIDE_TANH} init.weight_var=3.0",
}
RELU, GELU = (f"activation={name} init=he_normal {MEASURED}" for name in ("relu", "gelu"))
TRAINED = "activation=tanh init=lecun_normal steps=200 probe.every=0 optimizer.lr=0.05 replicas=8"
PARTINGS: Mapping[str, str] = {
    "narrow: relu, he_normal, width 16": f"{RELU} model.depth=50 model.width=16 replicas=64",
    "unstable: gelu, he_normal, width 128": f"{GELU} model.depth=30 model.width=128",
    "trained: tanh, lecun_normal, 200 steps of SGD": f"{TRAINED} model.depth=30 model.width=128",
}
COUPLED: Mapping[str, str] = {
    "tanh, critical": f"{TANH} init.weight_var=1.7610",
    "tanh, chaotic": f"{TANH} init.weight_var=3.0",
    "relu, he_normal": "activation=relu init=he_normal",
    "relu, he_normal, gain 1.3": "activation=relu init=he_normal init.gain=1.3",
    "sigmoid, xavier_normal": "activation=sigmoid init=xavier_normal",
    "softplus, lecun_normal": "activation=softplus init=lecun_normal",
    "relu, batch norm": "activation=relu norm=batch",
    "relu, pre-norm residual": "activation=relu norm=layer norm.place=pre residual=identity",
}
AGREE = "What theory expects (dashed; dotted: its band for the mean) and what 16 networks of width 256 show"
DIFFER = "Where prediction and measurement differ: width, instability, training"
PICTURES: Mapping[str, tuple[Mapping[str, str], Sequence[str], str]] = {
    "regimes.png": (REGIMES, ("delta_rms", "pre_rms"), AGREE),
    "partings.png": (PARTINGS, ("delta_rms",), DIFFER),
}
"""File -> networks, layer quantities, title."""
WIDTH = 120  # characters of the table where the output is no terminal


def main(arguments: Sequence[str] = ()) -> int:
    """Measure, draw, and print the table."""
    parser = argparse.ArgumentParser("python -m experiments.regimes", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/pictures"), help="where to (default: docs/pictures)")
    parser.add_argument("overrides", nargs="*", help="changes to every network, for example model.width=32")
    options = parser.parse_args(list(arguments))
    import lab
    from lab.machine.files import atomic_write
    from lab.plot import gradients, style

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, (arms, quantities, title) in PICTURES.items():
        measuring = track(arms.items(), f"Measuring for {name}", console=console, transient=True)
        tables = {arm: lab.simulate(*words.split(), *options.overrides) for arm, words in measuring}
        with atomic_write(options.folder / name) as draft:
            style.save(gradients.draw_grid(tables, quantities, title), draft)
        console.print(f"[bold]{options.folder / name}[/bold]")
    console.print(_coupling(options.overrides, console))
    return 0


def _coupling(overrides: Sequence[str], console: Console) -> Table:
    """Return the table of slopes: of theory, with an independent gradient, and with that of the loss."""
    import lab
    from lab.readings import delta_slope

    table = Table(box=MARKDOWN)
    for heading in ("network", "theory", "independent gradient", "the loss's gradient", "difference"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    common = ("model.depth=30", "replicas=8", "steps=0", "dtype=float64", *overrides)
    for name, words in track(COUPLED.items(), "Comparing gradients", console=console, transient=True):
        independent, coupled = (
            lab.simulate(*words.split(), *common, f"probe.cotangent={cotangent}") for cotangent in ("random", "loss")
        )
        slopes = [readings["delta_slope"].isel(step=0).to_numpy() for readings in (independent, coupled)]  # (replica,)
        expected = delta_slope(independent["predicted_delta_rms"].to_numpy()[:, None]).item()
        statistics = [f"{slope.mean():+.4f} ± {slope.std(ddof=1):.4f}" for slope in (*slopes, slopes[1] - slopes[0])]
        table.add_row(name, f"{expected:+.4f}", *statistics)
    return table


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
