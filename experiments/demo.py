"""`make demo`: ten networks of 30 layers on handwritten digits, and where each one's gradient goes.

Prints a table, draws one picture, and leaves a folder a run for TensorBoard.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

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
PICTURE = "demo.png"
TITLE = "Where gradients vanish and explode: 30 layers at initialization, digits (median and range of 4 replicas)"


def main(arguments: Sequence[str] = ()) -> int:
    """Run every arm, then tell the story."""
    parser = argparse.ArgumentParser("python -m experiments.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where to (default: runs/demo)")
    parser.add_argument("overrides", nargs="*", help="changes to every arm, for example steps=50 replicas=2")
    options = parser.parse_args(list(arguments))
    console = Console()
    started = time.perf_counter()
    folders = {name: options.folder / name.replace(", ", "-").replace(" ", "_") for name in ARMS}
    summaries = _train_all({folders[name]: [*COMMON, *ARMS[name], *options.overrides] for name in ARMS}, console)
    rows = [(name, folder, summaries[folder]) for name, folder in folders.items()]
    console.print(_table(rows))
    picture = options.folder / PICTURE
    _draw(rows, picture)
    console.print(f"\n{len(rows)} runs in {time.perf_counter() - started:.0f} s. The picture: [bold]{picture}[/bold]")
    console.print(
        f"Look closer: [bold]{Path(sys.executable).parent / 'gradlab'} board {options.folder}[/bold]"
        " opens TensorBoard on http://localhost:6006",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _train_all(jobs: Mapping[Path, Sequence[str]], console: Console) -> dict[Path, dict[str, Any]]:
    """Train in as many processes as there are cores, one thread each: nobody waits for a thread that is not running."""
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    summaries = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(_train, folder, overrides): folder for folder, overrides in jobs.items()}
        try:
            done = track(as_completed(running), "Training 10 networks", len(jobs), console=console, transient=True)
            for job in done:
                summaries[running[job]] = job.result()
                if not console.is_terminal:
                    console.print(f"{len(summaries)} of {len(jobs)} networks trained")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return summaries


def _train(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from lab import compose
    from lab.run import execution

    return execution.run(compose.compose([*overrides, "threads=1", "overwrite=true"]), folder, is_quiet=True)


def _table(rows: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> Table:
    from lab.sweep import results

    steps = rows[0][2]["steps_done"]
    table = Table(title=f"Gradient at initialization, and what {steps} steps made of it", box=SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    table.add_column("delta_slope,\ndecades\na layer", justify="right", no_wrap=True)
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
        sys.exit("Interrupted; the runs that are finished lie in their folders.")
