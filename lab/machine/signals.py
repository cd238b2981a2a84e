"""Being asked to stop: Ctrl-C, SIGTERM from a batch system or a shutdown, SIGHUP, and the signal before a time limit.

The run is not torn out of a step. It notices the request before the next one, keeps a checkpoint, writes what was
measured, and ends. A second Ctrl-C ends it at once, as Python does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKS_TO_STOP = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
BEFORE_A_LIMIT = "SIGUSR2"
"""What submitit has Slurm send some time before the limit; heeded where somebody else (submitit) handles it already."""

TRY_AGAIN = os.EX_TEMPFAIL if hasattr(os, "EX_TEMPFAIL") else 75
"""Exit status after SIGTERM or SIGHUP: the same command goes on. Slurm's RequeueExit can name it."""


class Terminated(SystemExit):  # a request, no error
    """A run was asked to end by SIGTERM or SIGHUP, and has kept what it needs to go on."""

    def __init__(self, code: int = TRY_AGAIN) -> None:
        super().__init__(code)  # an argument of its own, so that it can be sent between processes


class StopRequest:
    """Whether somebody asked to stop, and how; `number` is the signal's, 0 until then."""

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        if number == signal.SIGINT:
            print("\nStopping after this step; Ctrl-C again stops at once.", file=sys.stderr)

    def end(self) -> None:
        """Let the request take its course, once everything is kept.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            Terminated: after SIGTERM or SIGHUP.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        before: Callable[[int, FrameType | None], Any] | Any = self.before.get(self.number)
        if self.number not in ASKS_TO_STOP and callable(before):
            before(self.number, None)  # submitit's: it asks for the job to be started again, and leaves
        raise Terminated


def stop_signals() -> list[int]:
    """The signals that ask to stop here: not SIGHUP where it is ignored, as nohup has it, so that a run outlives it."""
    return [
        number
        for number in ASKS_TO_STOP
        if signal.Signals(number).name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    ]


_outer: list[StopRequest] = []  # of a sweep around its runs: a request between two of them is heeded by the next


@contextmanager
def catch_stop_requests() -> Iterator[StopRequest]:
    """Within the block requests to stop are noted in the `Stop`; only a program's main thread can be asked.

    A block within another has the other's `Stop`.
    """
    if _outer:
        yield _outer[-1]
        return
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    limit = getattr(signal, BEFORE_A_LIMIT, None)
    numbers = [*stop_signals(), *([limit] if limit is not None and callable(signal.getsignal(limit)) else [])]
    try:
        _outer.append(stop)
        for number in numbers:
            stop.before[number] = signal.signal(number, stop.ask)
        yield stop
    finally:
        _outer.remove(stop)
        for number, handler in stop.before.items():
            signal.signal(number, handler)
