"""The console sink: a live line while a run trains, and a table of its first and last reading."""

import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console as RichConsole
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from lab.readings import Record, first_over_last, median
from lab.typing import Array

WIDTH = 110
"""Columns without a terminal."""
PLAIN_LINES = 10
"""Approximate number of lines of a run without a terminal."""


class Console:
    """Shows loss, slowest gradient, dead share, steps per second and the time left.

    Args:
        title: the run's name.
        steps: updates it will make.
        console: by default one on standard error, so that standard output stays free for results.
    """

    def __init__(self, title: str, steps: int, console: RichConsole | None = None) -> None:
        self.title, self.steps = title, steps
        self.console = console or RichConsole(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
        self.first: Record | None = None
        self.last: Record | None = None
        self.last_printed = -np.inf
        # All of it fits into 80 columns; in fewer, the end of `describe` is cut first.
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.progress = Progress(
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[speed]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[state]}", markup=False, table_column=rest),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            expand=True,
        )
        self.task = self.progress.add_task(title, total=max(steps, 1), speed="", state="measuring at initialization")
        if self.console.is_terminal:
            self._print(title, "bold")
        self.progress.start()

    def remember(self, records: Sequence[Record]) -> None:
        """Store the readings from before an interruption for the final table, without printing them."""
        if not records:
            return
        self.first, self.last = records[0], records[-1]
        self.progress.update(self.task, completed=self.last.step, state=f"resumes after step {self.last.step}")
        if not self.console.is_terminal:
            self.last_printed = self.last.step
            self._print(f"{self.title}  resumes after its reading at step {self.last.step}")

    def write(self, record: Record) -> None:
        state, speed = describe(record), ""
        if self.first is not None:
            speed = f"{(record.step - self.first.step) / max(record.seconds - self.first.seconds, 1e-9):.0f} steps/s"
        self.first = self.first or record
        self.last = record
        self.progress.update(self.task, completed=record.step if self.steps else 1, state=state, speed=speed)
        is_wanted = record.step - self.last_printed >= self.steps / PLAIN_LINES or record.step == self.steps
        if not self.console.is_terminal and is_wanted:
            self.last_printed = record.step
            self._print(f"{self.title}  step {record.step}/{self.steps}  {state}  {speed}".rstrip())

    def close(self) -> None:
        self.progress.stop()
        if self.first is not None and self.last is not None:
            title = "" if self.console.is_terminal else self.title  # a terminal shows it above
            self.console.print(summary_table(title, self.first, self.last))

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style), soft_wrap=True)


def describe(record: Record) -> str:
    """Describe a reading in one line: loss, diverged replicas, smallest gradient, share of dead units."""
    loss = median(record.scalars["loss"])
    parts = ["loss not finite" if loss is None else f"loss {loss:.4g}"]
    if diverged := int((record.diverged_at >= 0).sum()):
        parts.append(f"{diverged} of {len(record.diverged_at)} diverged")
    medians = [(median(row), layer) for layer, row in enumerate(record.layers["delta_rms"])]
    size, layer = min((pair for pair in medians if pair[0] is not None), default=(None, 0))
    parts.append("slowest not finite" if size is None else f"slowest layer {layer} at {size:.1e}")
    dead = record.layers["dead_fraction"]
    if not np.isnan(dead).all():
        parts.append(f"dead {np.nanmean(dead):.1%}")
    return "  ".join(parts)


def summary_table(title: str, first: Record, last: Record) -> RichTable:
    """Make a table of the first and the last reading: median over replicas, with the smallest and largest."""
    readings = [first] if last is first else [first, last]
    table = RichTable("median over replicas (smallest to largest)", title=Text(title) if title else None)
    table.title_justify = "left"
    for record in readings:
        table.add_column(f"step {record.step}", justify="right")
    rows = {
        "loss": [_spread(record.scalars["loss"]) for record in readings],
        "held-out accuracy, %": [_spread(100 * record.scalars["eval_accuracy"]) for record in readings],
        "delta_slope (decades per layer)": [_spread(record.scalars["delta_slope"]) for record in readings],
        "delta_rms, first over last layer": [_spread(first_over_last(record)) for record in readings],
        "dead units, %": [_spread(100 * record.layers["dead_fraction"].mean(0)) for record in readings],
        "diverged replicas": [f"{(r.diverged_at >= 0).sum()} of {len(r.diverged_at)}" for r in readings],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _spread(values: Array) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "n/a" if np.isnan(values).all() else "Inf"
    middle, lost = f"{np.median(finite):.3g}", len(values) - len(finite)
    note = f", {lost} not finite" if lost else ""
    return middle if len(values) == 1 else f"{middle} ({finite.min():.3g} to {finite.max():.3g}{note})"
