"""Sinks: destinations of readings."""

from typing import Protocol

from lab.readings import Record


class Sink(Protocol):
    """A destination of readings, which knows nothing of training.

    TensorBoard, console and pictures are views: values that a sink rounds, floors or averages are exact in readings.nc.
    """

    def write(self, record: Record) -> None:
        """Take one reading; they come in the order of their steps."""

    def close(self) -> None:
        """Complete the output. Called once, also when a run ends early."""
