"""Sinks: where readings go. A sink takes records one by one and is closed once; it knows nothing of training.

TensorBoard is a view, the table is the truth: whatever a sink rounds, floors or averages is whole in `readings.nc`.
"""

from typing import Protocol

from lab.readings import Record


class Sink(Protocol):
    """Anything that takes readings."""

    def write(self, record: Record) -> None:
        """Take one reading; they come in the order of their steps."""

    def close(self) -> None:
        """Finish what is written; no reading follows. Called once, also when a run ends early."""
