"""Fair timing on a noisy machine: all sides take turns in one process, and their medians are compared."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Step = Callable[[], object]


def interleave(sides: Mapping[str, Step], turns: int, warm_up: int = 3) -> dict[str, float]:
    """Return the median seconds per call of each side; every turn calls each side once, in the same order."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + turns):
        for name, step in sides.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """Return processor, GPU and versions in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]}, {len(names)} cores" if names else model
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}{gpu}; Python {platform.python_version()}, torch {torch.__version__}"
