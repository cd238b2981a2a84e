"""The launchers of a sweep: their requirements, and the cores that each run may use.

`basic`, the default, trains one run after another; `replicas` trains them as one network (lab/sweep/replicas.py);
`joblib` starts one worker process per core, `submitit_slurm` one job per run on a cluster. Their presets are in
conf/hydra/launcher. No core is used twice: more threads than cores can slow a step down by a factor of hundreds.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import FrameType
from typing import Any

from lab.compose import launching
from lab.machine.signals import Terminated, stop_signals
from lab.machine.terminal import ignore_broken_pipes
from lab.machine.threads import thread_share
from lab.schema import ConfigError

EXTRAS = {"joblib": ("hydra_joblib_launcher", "parallel"), "submitit_slurm": ("hydra_submitit_launcher", "slurm")}
"""Launcher -> its plugin, and the extra that installs it."""


@dataclass(frozen=True)
class SweepLauncher:
    """The chosen launcher: its name in `hydra/launcher`, and its settings in `hydra.launcher`."""

    name: str
    settings: Mapping[str, Any]

    @property
    def is_local(self) -> bool:
        """True if runs use this machine's devices and memory."""
        return self.name != "submitit_slurm"

    def cores(self) -> int | None:
        """Cores per run, None without a limit; a ConfigError if no workers are asked for."""
        if self.name == "joblib":
            import joblib

            cores, workers = joblib.cpu_count(), self.settings["n_jobs"]
            if not workers:
                raise ConfigError(
                    f"hydra.launcher.n_jobs={workers}: give the number of workers, or -1 for one per core."
                )
            return max(1, cores // (workers if workers > 0 else max(1, cores + 1 + workers)))
        return None if self.is_local else self.settings["cpus_per_task"]

    def check(self, threads: int) -> None:
        """Refuse a launcher whose plugin or Slurm is missing, or whose runs have fewer cores than `threads`."""
        chosen = f"hydra/launcher={self.name}"
        plugin, extra = EXTRAS.get(self.name, ("", ""))
        if plugin and (find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{plugin}") is None):
            raise ConfigError(f"{chosen}: it is not installed; pip install 'gradlab[{extra}]'.")
        missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
        if not self.is_local and missing:
            remedy = "start the sweep on a machine with Slurm's programs, or choose hydra/launcher=joblib"
            raise ConfigError(f"{chosen}: there is no {missing[0]} here; {remedy}.")
        cores = self.cores()
        if cores is not None and threads > cores:
            remedy = "fewer workers with hydra.launcher.n_jobs" if self.is_local else "hydra.launcher.cpus_per_task"
            share = f"the share of each run is {cores} of the cores with {chosen}"
            raise ConfigError(f"threads={threads}: {share}; leave threads out, or give {remedy}.")

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Within the block joblib's workers start with their share of threads, and stop on request.

        Raises:
            KeyboardInterrupt, Terminated: a stop was requested, and the workers have stopped.
        """
        with ExitStack() as stack:
            if self.name == "joblib":
                stack.enter_context(thread_share(self.cores() or 1))
                stack.enter_context(_stop_requests_forwarded())
            yield


def launcher_of(overrides: Sequence[str]) -> SweepLauncher:
    """The launcher that these overrides choose; raises as `lab.compose.compose`."""
    return SweepLauncher(*launching.launcher_of(overrides))


def refuse_without_sweep(overrides: Sequence[str]) -> None:
    """Raise a ConfigError if a launcher is chosen for a single run, for which Hydra ignores it."""
    for text in overrides:
        if text.startswith("hydra/launcher=") and text != "hydra/launcher=basic":
            raise ConfigError(f"{text}: only a sweep uses a launcher; add -m.")


def run_in_worker(job: Callable[[], None]) -> None:
    """Do one job in a joblib worker, unless the worker has been asked to stop.

    On a stop request a worker neither dies nor raises an exception, because joblib would then kill the other workers
    before they have saved their checkpoints. The parent raises the exception when all workers have stopped.
    """
    if multiprocessing.current_process().name == "MainProcess":  # joblib with a single worker
        job()
        return
    ignore_broken_pipes()
    for number in stop_signals():
        signal.signal(number, lambda number, frame: _stop_requested.set())  # between two jobs
    if not _stop_requested.is_set():
        try:
            job()
        except (KeyboardInterrupt, Terminated):
            _stop_requested.set()


_stop_requested = threading.Event()  # of a worker process


@contextmanager
def _stop_requests_forwarded() -> Iterator[None]:
    """Forward stop requests to the workers, and raise them at the end of the block."""
    requested = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C twice stops at once
        requested = requested or number
        for worker in multiprocessing.active_children():
            worker.terminate()  # SIGTERM

    handlers = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        yield
    except Exception:
        if not requested:  # else a worker without a job died of the request
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if requested:
        raise KeyboardInterrupt if requested == signal.SIGINT else Terminated
