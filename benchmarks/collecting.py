"""Time to inspect a large sweep: `python -m benchmarks.collecting`.

One run is trained and copied 500 times, each copy with its own configuration and summary. Then `gradlab status`,
`gradlab collect` and `gradlab compare` are timed as complete processes, including the start of Python. TensorBoard,
with the flags of `gradlab board`, is timed from its start until it lists every run and returns a curve of each of ten
runs. The aims: status in 2 s, collect in 10 s, TensorBoard in 15 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "silu")
INITS = ("he_normal", "xavier_normal", "lecun_normal", "orthogonal", "torch_default")
RUN = (
    *("data=spirals", "model.depth=10", "model.width=16", "replicas=4", "steps=49", "probe.every=1", "batch_size=32"),
    *("device=cpu", "threads=1"),
)
AIMS = {"status": 2.0, "collect": 10.0, "compare": None, "TensorBoard": 15.0}
"""Seconds, for 500 runs."""
CURVE = "train/loss"
ASKED = 10
"""Number of runs of which a curve is requested."""
PATIENCE = 300.0
"""Seconds."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.collecting", description="Time to inspect a large sweep.")
    parser.add_argument("--runs", type=int, default=500, help="runs of the sweep (default: 500)")
    parser.add_argument("--turns", type=int, default=3, help="timed turns (default: 3)")
    options = parser.parse_args(arguments or None)
    from benchmarks.timing import machine

    with tempfile.TemporaryDirectory() as scratch:
        sweep = Path(scratch) / "sweep"
        size = leave(sweep, options.runs)
        seconds: dict[str, list[float]] = {name: [] for name in AIMS}
        for _ in range(options.turns):
            (sweep / "collected.nc").unlink(missing_ok=True)
            seconds["status"].append(command("status", str(sweep)))
            seconds["collect"].append(command("collect", str(sweep)))
            seconds["compare"].append(command("compare", str(sweep), "--by", "activation", "init"))
            seconds["TensorBoard"].append(tensorboard(sweep, options.runs))
    table = Table("command", "median s", "slowest s", "aim s", box=MARKDOWN)
    for name, aim in AIMS.items():
        shown = "" if aim is None else f"{aim:g}"
        table.add_row(name, f"{statistics.median(seconds[name]):.2f}", f"{max(seconds[name]):.2f}", shown)
    console = Console(width=120)
    console.print(f"{options.runs} runs of depth 10 with 50 readings of 4 replicas, {size / 2**20:.0f} MiB in all\n")
    console.print(table)
    console.print(machine())


def leave(sweep: Path, count: int) -> int:
    """Write a sweep folder with `count` runs, and return its size in bytes."""
    from lab import compose, schema
    from lab.run import execution

    original = sweep / "original"
    execution.run(compose.compose(RUN), original, is_quiet=True)
    summary = json.loads((original / "summary.json").read_text())
    planned: list[dict[str, Any]] = []
    for number in range(count):
        seed, rest = divmod(number, len(ACTIVATIONS) * len(INITS))
        activation, init = ACTIVATIONS[rest // len(INITS)], INITS[rest % len(INITS)]
        overrides = [f"activation={activation}", f"init={init}", f"seed={seed}"]
        config = compose.compose([*RUN, *overrides])
        fingerprint = schema.fingerprint(config)
        planned.append({"folder": ",".join(overrides), "overrides": overrides, "fingerprint": fingerprint, "steps": 49})
        folder = sweep / ",".join(overrides)
        shutil.copytree(original, folder)
        own = {"config": schema.as_dict(config), "fingerprint": fingerprint}
        (folder / "summary.json").write_text(json.dumps(summary | own, indent=2))
    shutil.rmtree(original)
    (sweep / "sweep.json").write_text(json.dumps({"runs": planned}))
    return sum(path.stat().st_size for path in sweep.rglob("*") if path.is_file())


def command(*words: str) -> float:
    """Time a command of the lab, in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lab", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def tensorboard(sweep: Path, count: int) -> float:
    """Seconds from the start of TensorBoard until it lists every run of the sweep and has returned ten curves."""
    from experiments.board import flags

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    words = [sys.executable, "-m", "tensorboard.main", *flags(sweep, "127.0.0.1", port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        address = f"http://127.0.0.1:{port}/data"
        names: list[str] = []
        while len(names) < count:
            names = _ask(f"{address}/runs", process, start) or names
        for name in names[:: max(1, count // ASKED)]:
            points: list[Any] = []
            query = urlencode({"run": name, "tag": CURVE})
            while len(points) < 50:
                points = _ask(f"{address}/plugin/scalars/scalars?{query}", process, start) or []
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def _ask(address: str, process: subprocess.Popen[bytes], start: float) -> Any:
    """Return the JSON answer, or None after a tenth of a second if there is none yet."""
    if process.poll() is not None or time.perf_counter() - start > PATIENCE:
        raise RuntimeError(f"TensorBoard does not show the runs: {address}")
    try:
        with urlopen(address) as response:
            answer = json.load(response)
    except (URLError, ConnectionError):
        answer = None
    if not answer:
        time.sleep(0.1)
    return answer


if __name__ == "__main__":
    main()
