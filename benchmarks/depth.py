"""Growth of time and memory with depth: `python -m benchmarks.depth`.

Width 64, batch 128, 4 replicas, ReLU, He init. Each depth runs in its own process, so that the peak memory of
one depth does not affect another. Steps are timed without and with a full reading. Linear growth shows as equal values
per layer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Sequence

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

DEPTHS = (10, 30, 100, 300, 1000)
KIBIBYTES_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1
"""ru_maxrss counts bytes on macOS and KiB elsewhere."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.depth", description="Time and memory against depth.")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--turns", type=int, default=7, help="timed turns (default: 7)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments or None)
    heads = (
        "depth",
        "step ms",
        "full step ms",
        "step us per layer",
        "full us per layer",
        "peak MiB",
        "above base, KiB per layer",
    )
    table = Table(*heads, box=MARKDOWN)
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for depth in options.depths:
        with spawn.Pool(1) as pool:
            rows.append((depth, *pool.apply(measure, (depth, options.turns, options.threads))))
    for depth, step, full, base, peak in rows:
        per_layer = [f"{1e6 * seconds / depth:.0f}" for seconds in (step, full)]
        memory = (f"{peak / 1024:.0f}", f"{(peak - base) / depth:.0f}")
        table.add_row(str(depth), f"{1e3 * step:.1f}", f"{1e3 * full:.1f}", *per_layer, *memory)
    console = Console(width=120)
    console.print("Width 64, batch 128, 4 replicas, medians\n")
    console.print(table)
    from benchmarks.timing import machine

    console.print(machine())


def measure(depth: int, turns: int, threads: int) -> tuple[float, float, float, float]:
    """Return median seconds of a step without and with a reading, and resident KiB before the network and at peak."""
    import torch

    from benchmarks.timing import interleave
    from lab import compose, data
    from lab.train.trainer import Due, Trainer

    torch.set_num_threads(threads)
    config = compose.compose([f"model.depth={depth}", "model.width=64", "replicas=4", "optimizer.lr=0.0001"])
    device = torch.device("cpu")
    dataset = data.load(config.data, torch.float32, device)
    base = _peak()
    trainer = Trainer(config, dataset, device)
    sides = {"step": lambda: trainer.step(), "full": lambda: trainer.step(Due(reading=True))}
    times = interleave(sides, turns, warm_up=2)
    return times["step"], times["full"], base, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTES_PER_UNIT


if __name__ == "__main__":
    main()
