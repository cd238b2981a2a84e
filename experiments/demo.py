"""`make demo`: ten networks of 30 layers on handwritten digits, and the gradient of every layer.

Prints a table, draws one picture, and leaves one folder per run for TensorBoard.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.arguments import Parser
from lab.machine.pool import run_tasks

if TYPE_CHECKING:
    from xarray import Dataset

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu")
INITS = ("xavier", "he")
NETWORK = ("model.depth=30", "model.width=128", "replicas=4")
COMMON = (*NETWORK, "steps=400", "optimizer=adam", "optimizer.lr=0.0003", "probe.every=20")
HE_RELU = "activation=relu init=he_normal"
GROUPS = [
    *({f"{name}, {init}": f"activation={name} init={init}_normal" for init in INITS} for name in ACTIVATIONS),
    {"relu, he, batch norm": f"{HE_RELU} norm=batch"},
    {"relu, he, pre-norm residual": f"{HE_RELU} norm=layer norm.place=pre residual=identity"},
]
"""Arms that share a color: name -> overrides."""
ARMS: Mapping[str, Sequence[str]] = {name: words.split() for group in GROUPS for name, words in group.items()}
Task = tuple[Path, Sequence[str]]
"""An arm's folder and overrides."""
PICTURE = "demo.png"
TITLE = "Where gradients vanish and explode: 30 layers at initialization, digits (median and range of 4 replicas)"


def main(arguments: Sequence[str] = ()) -> int:
    """Train every arm, print the table and draw the picture."""
    from lab.machine.files import atomic_write
    from lab.plot import gradients, style
    from lab.sweep import results

    parser = Parser("python -m experiments.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    parser.add_argument("overrides", nargs="*", help="changes to every arm, for example steps=50 replicas=2")
    options = parser.parse_args(list(arguments))
    console = Console()
    started = time.perf_counter()
    folders = {name: options.folder / name.replace(", ", "-").replace(" ", "_") for name in ARMS}
    summaries = _train_all([(folders[name], (*COMMON, *ARMS[name], *options.overrides)) for name in ARMS], console)
    readings = {name: results.load(folder).isel(step=0) for name, folder in folders.items()}
    console.print(_table(readings, {name: summaries[folder] for name, folder in folders.items()}))
    picture = options.folder / PICTURE
    with atomic_write(picture) as draft:
        curves = {name: first["delta_rms"] for name, first in readings.items()}
        style.save(gradients.draw_arms(curves, TITLE, list(map(list, GROUPS))), draft)
    console.print(f"\n{len(ARMS)} runs in {time.perf_counter() - started:.0f} s. The picture: [bold]{picture}[/bold]")
    command = f"[bold]{Path(sys.executable).parent / 'gradlab'} board {options.folder}[/bold]"
    console.print(f"Next: {command} opens TensorBoard on http://localhost:6006", highlight=False, soft_wrap=True)
    return 0


def _train_all(tasks: Sequence[Task], console: Console) -> dict[Path, dict[str, Any]]:
    """Train in as many processes as there are cores, with one thread each."""
    summaries = {}
    with closing(run_tasks(_train, tasks)) as outcomes:
        total = len(tasks)
        for (folder, _), outcome in track(outcomes, "Training 10 networks", total, console=console, transient=True):
            if isinstance(outcome, Exception):
                raise outcome
            summaries[folder] = outcome
            if not console.is_terminal:
                console.print(f"{len(summaries)} of {total} networks trained")
    return summaries


def _train(task: Task) -> dict[str, Any]:
    from lab import compose
    from lab.run import execution

    folder, overrides = task
    return execution.run(compose.compose([*overrides, "threads=1", "overwrite=true"]), folder, is_quiet=True)


def _table(readings: Mapping[str, Dataset], summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """The readings at initialization (step, layer, replica), and the outcomes, per arm."""
    steps = next(iter(summaries.values()))["steps_done"]
    table = Table(title=f"Gradient at initialization, and the outcome of {steps} steps", box=SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    table.add_column("delta_slope,\ndecades\nper layer", justify="right", no_wrap=True)
    for heading in ("gradient,\nfirst\nover last", "dead\nunits", "held-out\naccuracy"):
        table.add_column(heading, justify="right")
    for name, first in readings.items():
        slope, rms, last = first["delta_slope"].to_numpy(), first["delta_rms"], summaries[name]["last"]
        spread = np.std(slope, ddof=min(1, len(slope) - 1))
        ratio = (rms.isel(layer=0) / rms.isel(layer=-1)).median().item()
        dead = "n/a" if last["dead_fraction"] is None else f"{last['dead_fraction']:.1%}"
        accuracy = f"{last['eval_accuracy']:.1%}"
        table.add_row(name, f"{np.mean(slope):+.3f} ± {spread:.3f}", f"{ratio:.1e}", dead, accuracy)
    table.caption = "delta_slope: mean ± standard deviation over replicas; dead units, accuracy: after the last step"
    return table


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the finished runs are in their folders.")
