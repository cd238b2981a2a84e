"""Runs per minute of a sweep over seeds: batched into one network, against separate processes on all cores.

All sides are the whole command, from its start to the last file of the last run. They take turns, and the medians and
their ratios to the first are printed. `python -m benchmarks.sweep`, about 20 minutes on two cores; `--quick` does one
turn.
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

ROOT = Path(__file__).parents[1]
WIDTHS = (64, 128)
DEPTH, SEEDS, STEPS, BATCH = 50, 64, 200, 32
SIDES = {
    "joblib, one process a core": ("hydra/launcher=joblib",),
    "batched, one process": ("sweep.batch=true",),
    "batched, one process a core": ("sweep.batch=true", "hydra/launcher=joblib"),
}


def main(arguments: Sequence[str]) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{options.seeds} seeds, depth {DEPTH}, {options.steps} steps of batches of {BATCH}, readings at both ends,"
        f" on {cores} cores\n"
    )
    print("| width | " + " | ".join(f"{name}, runs a minute" for name in SIDES) + " | ratios to the first |")
    print("|---:|" + "---:|" * (len(SIDES) + 1))
    for width in WIDTHS:
        turns = [
            [runs_a_minute(width, words, options.seeds, options.steps) for words in SIDES.values()]
            for _ in range(1 if options.quick else 3)
        ]
        middle = [statistics.median(side) for side in zip(*turns, strict=True)]
        ratios = ", ".join(f"{x / middle[0]:.2f}" for x in middle[1:])
        print(f"| {width} | {' | '.join(f'{x:.0f}' for x in middle)} | {ratios} |", flush=True)
    return 0


def runs_a_minute(width: int, words: Sequence[str], seeds: int, steps: int) -> float:
    """One sweep from its start to its end, into a folder that is thrown away."""
    network = (f"model.width={width}", f"model.depth={DEPTH}", "replicas=1")
    training = (f"steps={steps}", f"batch_size={BATCH}", "probe.every=0", "device=cpu")
    with tempfile.TemporaryDirectory() as folder:
        swept = f"seed=range(0,{seeds})"
        command = [sys.executable, "-m", "lab", "run", "-m", swept, *network, *training, f"output_dir={folder}/sweep"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        started = time.perf_counter()
        subprocess.run([*command, *words], check=True, capture_output=True, env=environment, cwd=folder)
        return 60 * seeds / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
