"""`make demo`: ten networks of 30 layers on handwritten digits, and the gradient of every layer.

Prints a table, draws one picture, and leaves one folder per run for TensorBoard.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.arguments import Parser
from lab.machine.pool import run_tasks

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu")
INITS = ("xavier", "he")
COMMON = (
    "model.depth=30",
    "model.width=128",
    "replicas=4",
    "steps=400",
    "optimizer=adam",
    "optimizer.lr=0.0003",
    "probe.every=20",
)
ARMS: Mapping[str, Sequence[str]] = {
    **{
        f"{activation}, {init}": (f"activation={activation}", f"init={init}_normal")
        for activation in ACTIVATIONS
        for init in INITS
    },
    "relu, he, batch norm": ("activation=relu", "init=he_normal", "norm=batch"),
    "relu, he, pre-norm residual": (
        "activation=relu",
        "init=he_normal",
        "norm=layer",
        "norm.place=pre",
        "residual=identity",
    ),
}
Task = tuple[Path, Sequence[str]]
"""An arm's folder and overrides."""
PICTURE = "demo.png"
TITLE = "Where gradients vanish and explode: 30 layers at initialization, digits (median and range of 4 replicas)"


def main(arguments: Sequence[str] = ()) -> int:
    """Train every arm, print the table and draw the picture."""
    parser = Parser("python -m experiments.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    parser.add_argument("overrides", nargs="*", help="changes to every arm, for example steps=50 replicas=2")
    options = parser.parse_args(list(arguments))
    console = Console()
    started = time.perf_counter()
    tasks = [
        (options.folder / name.replace(", ", "-").replace(" ", "_"), (*COMMON, *ARMS[name], *options.overrides))
        for name in ARMS
    ]
    summaries = _train_all(tasks, console)
    rows = [(name, folder, summaries[folder]) for name, (folder, _) in zip(ARMS, tasks, strict=True)]
    console.print(_table(rows))
    picture = options.folder / PICTURE
    _draw(rows, picture)
    console.print(f"\n{len(rows)} runs in {time.perf_counter() - started:.0f} s. The picture: [bold]{picture}[/bold]")
    console.print(
        f"Next: [bold]{Path(sys.executable).parent / 'gradlab'} board {options.folder}[/bold]"
        " opens TensorBoard on http://localhost:6006",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _train_all(tasks: Sequence[Task], console: Console) -> dict[Path, dict[str, Any]]:
    """Train in as many processes as there are cores, with one thread each."""
    summaries = {}
    with closing(run_tasks(_train, tasks)) as outcomes:
        shown = track(outcomes, "Training 10 networks", len(tasks), console=console, transient=True)
        for (folder, _), outcome in shown:
            if isinstance(outcome, Exception):
                raise outcome
            summaries[folder] = outcome
            if not console.is_terminal:
                console.print(f"{len(summaries)} of {len(tasks)} networks trained")
    return summaries


def _train(task: Task) -> dict[str, Any]:
    from lab import compose
    from lab.run import execution

    folder, overrides = task
    return execution.run(compose.compose([*overrides, "threads=1", "overwrite=true"]), folder, is_quiet=True)


def _table(rows: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> Table:
    from lab.sweep import results

    steps = rows[0][2]["steps_done"]
    table = Table(title=f"Gradient at initialization, and the outcome of {steps} steps", box=SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    table.add_column("delta_slope,\ndecades\nper layer", justify="right", no_wrap=True)
    for heading in ("gradient,\nfirst\nover last", "dead\nunits", "held-out\naccuracy"):
        table.add_column(heading, justify="right")
    for name, folder, summary in rows:
        first = results.load(folder).isel(step=0)
        slope = first["delta_slope"].to_numpy()
        ratio = (first["delta_rms"].isel(layer=0) / first["delta_rms"].isel(layer=-1)).median().item()
        dead = summary["last"]["dead_fraction"]
        table.add_row(
            name,
            f"{np.mean(slope):+.3f} ± {np.std(slope, ddof=min(1, len(slope) - 1)):.3f}",
            f"{ratio:.1e}",
            "n/a" if dead is None else f"{dead:.1%}",
            f"{summary['last']['eval_accuracy']:.1%}",
        )
    table.caption = "delta_slope: mean ± standard deviation over replicas; dead units, accuracy: after the last step"
    return table


def _draw(rows: Sequence[tuple[str, Path, Mapping[str, Any]]], path: Path) -> None:
    from lab.machine.files import atomic_write
    from lab.plot import gradients, style
    from lab.sweep import results

    curves = {name: results.load(folder).isel(step=0)["delta_rms"] for name, folder, _ in rows}
    groups = [[f"{activation}, {init}" for init in INITS] for activation in ACTIVATIONS]
    groups += [[name] for name in ARMS if not any(name in group for group in groups)]
    with atomic_write(path) as draft:
        style.save(gradients.draw_arms(curves, TITLE, groups), draft)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the finished runs are in their folders.")
