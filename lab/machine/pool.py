"""A pool of worker processes with one thread each: interruptible at once, and a worker that dies costs one task."""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from lab.machine.threads import thread_share

Task = TypeVar("Task")
Result = TypeVar("Result")


class TaskError(RuntimeError):
    """A task without a result: its worker died, or its exception cannot be sent between processes."""


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int | None = None,
    on_start: Callable[[Task], None] = lambda task: None,
) -> Generator[tuple[Task, Result | Exception], None, None]:
    """Apply a function to tasks in worker processes, and yield every task with its outcome as soon as there is one.

    Closing the generator, or an exception in the loop over it such as KeyboardInterrupt, terminates all workers at
    once. They ignore Ctrl-C themselves, so that no worker prints a traceback.

    Args:
        function: a module-level function; it, the tasks and the results must be picklable.
        tasks: started in this order; the longest should come first.
        workers: number of processes, by default one per core; 0 computes everything in this process.
        on_start: called in this process with a task when it is sent to a worker.

    Yields:
        (task, outcome): the result, the exception that the function raised, which carries the worker's traceback as a
        note, or a `TaskError` if the worker died.
    """
    if workers == 0:
        for task in tasks:
            on_start(task)
            yield task, _outcome(function, task)
        return
    size = min(available_cores() if workers is None else workers, len(tasks))
    waiting, idle, busy = deque(tasks), list[_Worker](), dict[Connection, tuple[_Worker, Task]]()
    try:
        while waiting or busy:
            while waiting and len(busy) < size:
                worker, task = idle.pop() if idle else _Worker(function), waiting.popleft()
                busy[worker.connection] = worker, task
                with suppress(OSError):  # the worker died while idle; `receive` reports it
                    worker.connection.send(task)
                on_start(task)
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, task = busy.pop(connection)
                outcome = worker.receive()
                if worker.process.is_alive():
                    idle.append(worker)
                yield task, outcome
    finally:
        workers_left = [*idle, *(worker for worker, _ in busy.values())]
        for worker in workers_left:
            worker.process.terminate()
        for worker in workers_left:
            worker.process.join()
            worker.connection.close()


class _Worker:
    """A process that applies a function to the tasks it is sent."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang in threads that it left behind
        self.connection, remote = context.Pipe()
        self.process = context.Process(target=_serve, args=(remote, function), daemon=True)
        resource_tracker.ensure_running()  # its first start, which unblocks SIGINT, would otherwise come below
        # Blocked while the process starts, which inherits the mask: it never sees a Ctrl-C, not even at its imports.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with thread_share(1):
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        remote.close()  # the only copy is the worker's now: its death closes the pipe

    def receive(self) -> Any:
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
        code = self.process.exitcode or 0
        cause = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = "; was there enough memory?" if code == -signal.SIGKILL else ""
        return TaskError(f"The worker process {cause}{hint}")


def _serve(connection: Any, function: Callable[[Any], Any]) -> None:
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            connection.send_bytes(_pickled(_outcome(function, connection.recv())))


def _outcome(function: Callable[[Task], Result], task: Task) -> Result | Exception:
    try:
        return function(task)
    except Exception as error:
        return error


def _pickled(outcome: Any) -> bytes:
    try:
        if isinstance(outcome, Exception):
            outcome.add_note("".join(traceback.format_exception(outcome)))  # a traceback cannot be sent
            pickle.loads(pickle.dumps(outcome))  # some exceptions only fail here
        return pickle.dumps(outcome)
    except Exception:
        return pickle.dumps(TaskError(f"{type(outcome).__name__}: {outcome}"))
