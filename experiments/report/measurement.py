"""Measurement of one claim, usually in a worker process."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import numpy as np

import experiments
from experiments.claims.claim import Samples, Scale


@dataclass(frozen=True)
class Measurement:
    """Samples and their origin."""

    samples: Samples
    seconds: float
    date: str  # of its end, UTC, ISO 8601
    machine: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a measurement, judgement or picture is missing: one line, and the traceback if there is one."""

    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class ClaimTask:
    """A claim to measure, in a form that can be sent to another process."""

    id: str
    module: str
    scale: Scale


def measure(task: ClaimTask) -> Measurement | Failure:
    """Measure a claim; an exception becomes a Failure, so that the other claims are still measured."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            [claim] = [claim for claim in import_module(task.module).CLAIMS if claim.id == task.id]
            started = time.perf_counter()
            samples = {name: np.asarray(array, dtype=np.float64) for name, array in claim.measure(task.scale).items()}
            seconds = time.perf_counter() - started
        except (Exception, SystemExit) as error:
            return failure(error)
    texts = dict.fromkeys(f"{warning.category.__name__}: {warning.message}" for warning in caught)
    return Measurement(samples, seconds, now(), machine(), tuple(map(without_paths, texts)))


def failure(error: BaseException) -> Failure:
    """Convert an exception that is being handled into a Failure."""
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Failure(without_paths(reason), without_paths(traceback.format_exc()))


def without_paths(text: str) -> str:
    """Shorten absolute paths: a report is published and must not name folders of this machine."""
    root = Path(experiments.__file__).parents[1]
    text = re.sub(r'/[^\s"\']*/(?:site-packages|dist-packages|lib/python3\.\d+)/', "", text)
    return text.replace(f"{root}/", "").replace(str(Path.home()), "~")


def now() -> str:
    """Return the current time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> str:
    """Describe the processor, its cores and the operating system, and the GPU if torch is loaded and has one."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    torch = sys.modules.get("torch")
    gpu = f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    count = os.cpu_count() or 1
    return f"{name}, {count} core{'s' if count > 1 else ''}, {platform.system()}{gpu}"
