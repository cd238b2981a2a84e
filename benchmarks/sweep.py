"""Runs per minute of a sweep over seeds: replicas of one network compared with separate processes on all cores.

The first table shows the largest possible gain. On one thread, it times a step of one network, a step of many networks
side by side, and the matrix products alone, which replicas do not reduce. The second table times complete commands,
from their start to the last file of the last run; the commands take turns, and medians and their ratios to the first
are printed.

`python -m benchmarks.sweep` takes about an hour on two cores; with `--quick` there is one turn instead of three.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.timing import Step, interleave, machine
from lab import compose, data
from lab.train.trainer import Trainer

ROOT = Path(__file__).parents[1]
SETTINGS = ((64, 8), (64, 32), (64, 128), (128, 32))
"""Width, batch size."""
DEPTH, SEEDS, STEPS = 50, 64, 500
SIDE_BY_SIDE = 16
IN_A_ROW = 20
"""Consecutive steps of a side in each turn, so that its data are in the cache."""
SIDES = {
    "joblib, one process per core": ("hydra/launcher=joblib",),
    "replicas, one process": ("hydra/launcher=replicas",),
}


def main(arguments: Sequence[str]) -> int:
    """Print two tables."""
    parser = argparse.ArgumentParser("python -m benchmarks.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    print(f"A training step, depth {DEPTH}, on one thread, milliseconds per network\n")
    print(
        f"| width | batch | alone | {SIDE_BY_SIDE} side by side | their products alone | gain | largest possible gain |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for width, batch in SETTINGS:
        alone, together, floor = steps(width, batch)
        cells = [f"{1000 * alone:.2f}", f"{1000 * together:.2f}", f"{1000 * floor:.2f}"]
        print(f"| {width} | {batch} | {' | '.join(cells)} | {alone / together:.1f} | {alone / floor:.1f} |", flush=True)
    cores = len(os.sched_getaffinity(0))
    print(f"\n{options.seeds} seeds, depth {DEPTH}, {options.steps} steps, readings at both ends, on {cores} cores\n")
    print("| width | batch | " + " | ".join(f"{name}, runs per minute" for name in SIDES) + " | ratios to the first |")
    print("|---:|---:|" + "---:|" * (len(SIDES) + 1))
    for width, batch in SETTINGS:
        turns = [
            [runs_per_minute(width, batch, words, options.seeds, options.steps) for words in SIDES.values()]
            for _ in range(1 if options.quick else 3)
        ]
        middle = [statistics.median(side) for side in zip(*turns, strict=True)]
        ratios = ", ".join(f"{x / middle[0]:.2f}" for x in middle[1:])
        print(f"| {width} | {batch} | {' | '.join(f'{x:.0f}' for x in middle)} | {ratios} |", flush=True)
    print(f"\n{machine()}")
    return 0


def steps(width: int, batch: int) -> tuple[float, float, float]:
    """Median seconds per network of a step: of one network alone, of several side by side, and of their products."""
    torch.set_num_threads(1)
    sides = {"products": products(width, batch)}
    for replicas in (1, SIDE_BY_SIDE):
        sizes = (f"model.width={width}", f"model.depth={DEPTH}", f"batch_size={batch}", f"replicas={replicas}")
        config = compose.compose(sizes)
        device = torch.device("cpu")
        trainer = Trainer(config, data.load(config.data, torch.float32, device), device)
        sides[str(replicas)] = lambda t=trainer: t.step()  # type: ignore[misc]
    times = interleave({name: _in_a_row(step) for name, step in sides.items()}, turns=25)
    each = {name: seconds / IN_A_ROW for name, seconds in times.items()}
    return each["1"], each[str(SIDE_BY_SIDE)] / SIDE_BY_SIDE, each["products"] / SIDE_BY_SIDE


def products(width: int, batch: int) -> Step:
    """The matrix products of a step, three per layer; each layer has its own weights and gradient."""
    x = torch.randn(SIDE_BY_SIDE, batch, width)
    weights = [torch.randn(SIDE_BY_SIDE, width, width) for _ in range(DEPTH)]
    gradients, out = [torch.empty_like(w) for w in weights], torch.empty_like(x)

    def step() -> None:
        for w in weights:
            torch.bmm(x, w, out=out)
        for w, gradient in zip(reversed(weights), reversed(gradients), strict=True):
            torch.bmm(x, w.transpose(1, 2), out=out)
            torch.bmm(x.transpose(1, 2), x, out=gradient)

    return step


def _in_a_row(step: Step) -> Step:
    def several() -> None:
        for _ in range(IN_A_ROW):
            step()

    return several


def runs_per_minute(width: int, batch: int, words: Sequence[str], seeds: int, steps: int) -> float:
    """Time one complete sweep in a temporary folder, and return its runs per minute."""
    network = (f"model.width={width}", f"model.depth={DEPTH}", "replicas=1")
    training = (f"steps={steps}", f"batch_size={batch}", "probe.every=0", "device=cpu")
    with tempfile.TemporaryDirectory() as folder:
        swept = f"seed=range(0,{seeds})"
        command = [sys.executable, "-m", "lab", "run", "-m", swept, *network, *training, f"output_dir={folder}/sweep"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        started = time.perf_counter()
        subprocess.run([*command, *words], check=True, capture_output=True, env=environment, cwd=folder)
        return 60 * seeds / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
