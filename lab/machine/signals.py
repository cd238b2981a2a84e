"""Stop requests: Ctrl-C, SIGTERM, SIGHUP, and the signal that a batch system sends before a time limit.

A run finishes its step, saves a checkpoint, writes its results and exits. A second Ctrl-C exits at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIME_LIMIT_SIGNAL = signal.SIGUSR2
"""Sent by Slurm for submitit some time before the limit; caught only where a handler, submitit's, is installed."""
TRY_AGAIN = os.EX_TEMPFAIL
"""Exit status after SIGTERM or SIGHUP: the same command resumes. Slurm's RequeueExit can name it."""


class Terminated(SystemExit):  # a request, no error
    """Raised after SIGTERM or SIGHUP, once the run has saved what it needs to resume."""

    def __init__(self, code: int = TRY_AGAIN) -> None:
        super().__init__(code)  # an argument of its own, so that it can be sent between processes


class StopRequest:
    """The first stop signal received; `number` is 0 until then."""

    def __init__(self) -> None:
        self.number = 0
        self.previous: dict[int, Any] = {}

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        if number == signal.SIGINT:
            print("\nStopping after this step; Ctrl-C again stops at once.", file=sys.stderr)

    def end(self) -> None:
        """End the process as requested, once everything is saved.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            Terminated: after SIGTERM or SIGHUP.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number == TIME_LIMIT_SIGNAL:
            self.previous[self.number](self.number, None)  # submitit requeues the job and exits
        raise Terminated


def stop_signals() -> list[int]:
    """Return the signals to catch: SIGHUP only if it is not ignored, as it is under nohup."""
    return list(STOP_SIGNALS if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else STOP_SIGNALS[:-1])


_active: list[StopRequest] = []  # of a sweep around its runs: a request between two of them stops the next one


@contextmanager
def catch_stop_requests() -> Iterator[StopRequest]:
    """Catch stop signals within the block; a nested block shares the outer one's `StopRequest`.

    Outside the main thread, which alone receives signals, nothing is caught.
    """
    if _active:
        yield _active[-1]
        return
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    has_time_limit = callable(signal.getsignal(TIME_LIMIT_SIGNAL))
    try:
        _active.append(stop)
        for number in [*stop_signals(), *([TIME_LIMIT_SIGNAL] if has_time_limit else [])]:
            stop.previous[number] = signal.signal(number, stop.receive)
        yield stop
    finally:
        _active.remove(stop)
        for number, handler in stop.previous.items():
            signal.signal(number, handler)
