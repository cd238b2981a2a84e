"""`gradlab board`: TensorBoard with the flags this lab needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.arguments import Parser
from lab.schema import ConfigError

SAMPLES_KEPT = "scalars=100000,images=100"
"""TensorBoard thins curves out to 1,000 points by default, and here each reading counts. Not 0, documented as all: the
data server of TensorBoard 2.21 then keeps none of the points."""
START = "?smoothing=0#custom_scalars&_smoothingWeight=0"
"""The first page: the important charts, without the smoothing that would smear a profile over its layers."""


def main(arguments: Sequence[str]) -> int:
    """Replace this process by TensorBoard.

    Raises:
        ConfigError: the folder does not exist or holds no run.
    """
    parser = Parser("gradlab board", description="Open TensorBoard on a folder of runs.")
    add = parser.add_argument
    add("folder", nargs="?", default="runs", help="a run's folder, or any folder above runs (default: runs)")
    add("--port", type=int, default=6006, help="port to serve on (default: 6006)")
    add("--host", default="localhost", help="address to listen on (default: localhost, this machine only)")
    options = parser.parse_args(list(arguments))
    folder = Path(options.folder)
    if not any(folder.rglob("events.out.tfevents.*")):
        raise ConfigError(f"{folder}: no run lies at or below this folder; train one first, with gradlab run.")
    print(f"Open http://{options.host}:{options.port}/{START}", flush=True)
    command = [sys.executable, "-m", "tensorboard.main", *flags(folder, options.host, options.port)]
    os.execv(sys.executable, command)


def flags(folder: Path, host: str, port: int) -> list[str]:
    """TensorBoard's command line for a folder of runs."""
    return [f"--logdir={folder}", f"--host={host}", f"--port={port}", f"--samples_per_plugin={SAMPLES_KEPT}"]
