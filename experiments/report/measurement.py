"""Measuring one claim, in a process that may be another, and what comes of it."""

from __future__ import annotations

import platform
import re
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import numpy as np

import experiments
from experiments.claims.claim import Samples, Scale


@dataclass(frozen=True)
class Measurement:
    """Samples and where they come from.

    Attributes:
        samples: what `measure` returned.
        seconds: that it took.
        date: when it was finished, UTC, ISO 8601.
        machine: processor, number of cores and, if torch could use one, GPU.
        warnings: that were given meanwhile, each once.
    """

    samples: Samples
    seconds: float
    date: str
    machine: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why there is no measurement, judgement or picture: one line, and the traceback if there is one."""

    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class ClaimTask:
    """A claim to be measured, by names that another process understands."""

    id: str
    module: str
    scale: Scale = field(hash=False)


def measure(job: ClaimTask) -> Measurement | Failure:
    """Measure a claim; an exception becomes a Failure, so that it does not stop the others."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            [claim] = [claim for claim in import_module(job.module).CLAIMS if claim.id == job.id]
            started = time.perf_counter()
            found = _checked(claim.measure(job.scale))
            seconds = time.perf_counter() - started
        except (Exception, SystemExit) as error:
            return failure(error)
    texts = dict.fromkeys(f"{warning.category.__name__}: {warning.message}" for warning in given)
    return Measurement(found, seconds, now(), machine(), tuple(map(without_paths, texts)))


def failure(error: BaseException) -> Failure:
    """An exception as a Failure; must be called while it is handled."""
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return Failure(without_paths(reason), without_paths(traceback.format_exc()))


def without_paths(text: str) -> str:
    """A text with the folders of this machine taken off its paths: a report is for others to read."""
    root = Path(experiments.__file__).parents[1]
    text = re.sub(r'/[^\s"\']*/(?:site-packages|dist-packages|lib/python3\.\d+)/', "", text)
    return text.replace(f"{root}/", "").replace(str(Path.home()), "~")


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> str:
    """Processor and number of cores; also the GPU if torch is there and finds one."""
    model, count = platform.processor() or platform.machine(), 0
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model, count = (names[0], len(names)) if names else (model, 0)
    words = f"{model}, {count} core{'s' if count > 1 else ''}" if count else model
    torch = sys.modules.get("torch")
    gpu = f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    return f"{words}, {platform.system()}{gpu}"


def _checked(samples: Mapping[str, object]) -> Samples:
    found = {str(name): np.asarray(values, dtype=np.float64) for name, values in samples.items()}
    if not found:
        raise ValueError("measure returned no samples.")
    return found
