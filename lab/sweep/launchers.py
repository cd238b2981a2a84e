"""Hydra's launchers, which spread a sweep's runs: what each of them needs, and the threads that each run may use.

Serial is the default. `joblib` starts one worker process a core, `submitit_slurm` one job a run on a cluster; their
presets are in conf/hydra/launcher. Each core is given away once: more threads than cores can make a step hundreds of
times slower.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import FrameType
from typing import Any, TypeVar

from lab import compose
from lab.machine.signals import Terminated, stop_signals
from lab.machine.terminal import ignore_broken_pipes
from lab.machine.threads import thread_share
from lab.schema import ConfigError

Result = TypeVar("Result")

EXTRAS = {"joblib": ("hydra_joblib_launcher", "parallel"), "submitit_slurm": ("hydra_submitit_launcher", "slurm")}
"""Launcher -> the plugin that it is, and the extra that installs it."""

# Our presets replace the plugins' own of the same name, and Hydra fills in what they leave out, as it should.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)


@dataclass(frozen=True)
class Launcher:
    """The launcher of a sweep: its name in `hydra/launcher`, and the values of `hydra.launcher`."""

    name: str
    settings: Mapping[str, Any]

    @property
    def is_elsewhere(self) -> bool:
        """Whether runs compute on other machines, so that this one's devices say nothing about theirs."""
        return self.name == "submitit_slurm"

    def cores(self) -> int | None:
        """The cores that one run of several side by side may use; None where there is only one run at a time.

        Raises:
            ConfigError: hydra.launcher asks for a number of workers or cores that cannot be.
        """
        if self.name == "joblib":
            import joblib

            cores = joblib.cpu_count()
            workers = self._whole_number("n_jobs", "the number of workers, or -1 for one a core")
            return max(1, cores // (workers if workers > 0 else max(1, cores + 1 + workers)))
        return self._whole_number("cpus_per_task", "the number of cores a run has") if self.is_elsewhere else None

    def check(self) -> None:
        """Refuse a launcher that is not there.

        Raises:
            ConfigError: the plugin is not installed, or Slurm is not.
        """
        plugin, extra = EXTRAS.get(self.name, ("", ""))
        if plugin and not _is_installed(plugin):
            raise ConfigError(f"hydra/launcher={self.name}: it is not installed; pip install 'gradlab[{extra}]'.")
        missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
        if self.is_elsewhere and missing:
            raise ConfigError(
                f"hydra/launcher={self.name}: there is no {missing[0]} here; start the sweep where Slurm's programs"
                " are, or choose hydra/launcher=joblib."
            )

    def check_threads(self, threads: int) -> None:
        """Refuse a run that wants more threads than it has cores.

        Raises:
            ConfigError: that, or as `cores`.
        """
        cores = self.cores()
        if cores is not None and threads > cores:
            remedy = "hydra.launcher.cpus_per_task" if self.is_elsewhere else "fewer workers with hydra.launcher.n_jobs"
            raise ConfigError(
                f"threads={threads}: the share of each run is {cores} of the cores with hydra/launcher={self.name};"
                f" leave threads out, or give {remedy}."
            )

    def _whole_number(self, key: str, meaning: str) -> int:
        value = self.settings.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and (value > 0 or (value < 0 and key == "n_jobs")):
            return value
        raise ConfigError(f"hydra.launcher.{key}={value}: give {meaning}.")

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Within the block a sweep may be launched: workers start with their share of threads, and stop when asked.

        Raises:
            KeyboardInterrupt, Terminated: the sweep was asked to stop, and its workers have.
        """
        if self.name != "joblib":
            yield
            return
        with thread_share(self.cores() or 1), _passing_on():
            yield


def of_sweep(overrides: Sequence[str]) -> Launcher:
    """The launcher that these overrides choose.

    Raises:
        ConfigError: as `lab.compose.composition.compose`.
    """
    hydra = compose.compose_tree(overrides, with_hydra=True).hydra
    return Launcher(str(hydra.runtime.choices["hydra/launcher"]), hydra.launcher)


def refuse_without_sweep(overrides: Sequence[str]) -> None:
    """Raise a ConfigError if a launcher is chosen for a single run: Hydra would not ask it, and run here."""
    for text in overrides:
        if text.startswith("hydra/launcher=") and text != "hydra/launcher=basic":
            raise ConfigError(f"{text}: only a sweep goes to a launcher; add -m.")


def work(job: Callable[[], Result]) -> Result | None:
    """Do one job of a sweep. None if it was done in a worker that is asked to stop meanwhile, or was in an earlier job.

    A worker neither dies of the request nor raises it: either would make joblib kill the other workers, before they
    have written their checkpoints. It is the parent that ends with an error, when all workers have stopped.
    """
    if multiprocessing.current_process().name == "MainProcess":
        return job()
    ignore_broken_pipes()
    for number in stop_signals():
        signal.signal(number, lambda number, frame: _stopped.set())  # for the time between runs
    if not _stopped.is_set():
        try:
            return job()
        except (KeyboardInterrupt, Terminated):
            _stopped.set()
    return None


_stopped = threading.Event()  # of a worker; it begins no other run then


@contextmanager
def _passing_on() -> Iterator[None]:
    """Pass requests to stop on to the workers, and let them take their course when the block has come to its end."""
    asked = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # for the second time: at once
        asked = asked or number
        for worker in multiprocessing.active_children():
            worker.terminate()  # SIGTERM

    before = {number: signal.signal(number, pass_on) for number in stop_signals()}
    try:
        yield
    except Exception:
        if not asked:  # else a worker had no run yet when it was asked, and died of it
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked == signal.SIGINT:
        raise KeyboardInterrupt
    if asked:
        raise Terminated


def _is_installed(plugin: str) -> bool:
    return find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{plugin}") is not None
