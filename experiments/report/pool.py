"""Measuring claims in several processes, one thread each, that can be stopped at once and may die without harm."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from experiments.report.measurement import ClaimTask, Failure, Measurement
from lab.machine.threads import thread_share

Result = tuple[ClaimTask, Measurement | Failure]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_all(
    together: Sequence[ClaimTask],
    alone: Sequence[ClaimTask],
    workers: int,
    started: Callable[[str], None] = lambda id_: None,
) -> Generator[Result, None, None]:
    """Measure claims side by side, then those that must have the machine for themselves one after the other.

    Args:
        together: in the order in which they are begun; the longest should come first.
        alone: claims that measure time.
        workers: processes at a time.
        started: called with the id of a claim that is begun.

    Yields:
        Each claim as soon as it is finished. If the generator is closed or an exception, such as Ctrl-C's, passes
        through it, the processes are ended at once.
    """
    for jobs, count in ((together, workers), (alone, 1)):
        if jobs:
            pool = _Pool(min(count, len(jobs)), started)
            try:
                yield from pool.run(jobs)
            finally:
                pool.end()


class _Pool:
    """Processes that are handed one job at a time, so that it is known which job a process died of."""

    def __init__(self, size: int, started: Callable[[str], None]) -> None:
        self.size, self.started = size, started
        self.idle: list[_Worker] = []
        self.busy: dict[Connection, tuple[_Worker, ClaimTask]] = {}

    def run(self, jobs: Sequence[ClaimTask]) -> Iterator[Result]:
        waiting = deque(jobs)
        while waiting or self.busy:
            while waiting and len(self.busy) < self.size:
                self._begin(waiting.popleft())
            for connection in wait(list(self.busy)):
                assert isinstance(connection, Connection)
                worker, job = self.busy.pop(connection)
                result = worker.result()
                if worker.process.is_alive():
                    self.idle.append(worker)
                yield job, result

    def end(self) -> None:
        workers = [*self.idle, *(worker for worker, _ in self.busy.values())]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()
            worker.connection.close()

    def _begin(self, job: ClaimTask) -> None:
        worker = self.idle.pop() if self.idle else _Worker()
        self.busy[worker.connection] = worker, job
        with suppress(OSError):  # it died while it was idle; its result will say so
            worker.connection.send(job)
        self.started(job.id)


class _Worker:
    """A process that measures what it is sent."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang in the threads it left behind
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with thread_share(1), _interrupts_held():
            self.process.start()
        theirs.close()  # the only copy is the worker's now: its death closes the pipe

    def result(self) -> Measurement | Failure:
        """What it sends, or that it died."""
        try:
            result: Measurement | Failure = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
            return Failure(_obituary(self.process.exitcode))
        return result


def _serve(connection: Any) -> None:
    """Measure until nobody sends any more; Ctrl-C, which a terminal sends to all processes, is the parent's."""
    from experiments.report.measurement import measure

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there is no mask to hold it back
    while True:
        try:
            job = connection.recv()
            connection.send(measure(job))
        except (EOFError, OSError):  # the parent is gone
            return


def _obituary(code: int | None) -> str:
    if code is not None and code < 0:
        hint = "; was there enough memory?" if -code == signal.SIGKILL else ""
        return f"The process that measured it was ended by {signal.Signals(-code).name}{hint}"
    return f"The process that measured it ended with exit code {code}"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C back in the block; a process that is started there never sees one, not even as it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
