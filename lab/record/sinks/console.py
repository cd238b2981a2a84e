"""The console sink: a live line while a run trains, and a table of what became of it."""

from __future__ import annotations

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
"""Columns where there is no terminal to ask."""
PLAIN_LINES = 10
"""About how many lines a run prints where there is no terminal to keep one line alive in."""


class Console:
    """Shows loss, slowest gradient, dead share, steps per second and the time left.

    Args:
        title: what the run is called.
        steps: updates it will make.
        console: where to; standard error unless given, so that standard output stays free for results.
    """

    def __init__(self, title: str, steps: int, console: RichConsole | None = None) -> None:
        self.title, self.steps = title, steps
        self.console = console or RichConsole(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
        self.first: Record | None = None
        self.last: Record | None = None
        self.last_printed = -np.inf
        # In 80 columns all of it can be seen; in fewer, the end of what `describe` says goes first.
        self.progress = Progress(
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[speed]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            expand=True,
        )
        self.task = self.progress.add_task(title, total=max(steps, 1), speed="", state="measuring at initialization")
        if self.console.is_terminal:
            self.console.print(Text(title, style="bold"), soft_wrap=True)
        self.progress.start()

    def remember(self, records: Sequence[Record]) -> None:
        """Take what was measured before an interruption: for the table at the end, without a word on each."""
        if not records:
            return
        self.first, self.last = records[0], records[-1]
        self.progress.update(self.task, completed=self.last.step, state=f"goes on after step {self.last.step}")
        if not self.console.is_terminal:
            self.last_printed = self.last.step
            self.console.print(
                Text(f"{self.title}  goes on after its reading at step {self.last.step}"), soft_wrap=True
            )

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
            line = f"{self.title}  step {record.step}/{self.steps}  {state}  {speed}"
            self.console.print(Text(line.rstrip()), soft_wrap=True)

    def close(self) -> None:
        self.progress.stop()
        if self.first is not None and self.last is not None:
            title = "" if self.console.is_terminal else self.title  # a terminal shows it above
            self.console.print(summary_table(title, self.first, self.last))


def describe(record: Record) -> str:
    """One line on a reading: loss, replicas that diverged, where the gradient is smallest, the share of dead units."""
    loss = median(record.scalars["loss"])
    parts = ["loss not finite" if loss is None else f"loss {loss:.4g}"]
    diverged = int((record.diverged_at >= 0).sum())
    if diverged:
        parts.append(f"{diverged} of {len(record.diverged_at)} diverged")
    parts.append(f"slowest {_slowest(record)}")
    dead = record.layers["dead_fraction"]
    if not np.isnan(dead).all():
        parts.append(f"dead {np.nanmean(dead):.1%}")
    return "  ".join(parts)


def summary_table(title: str, first: Record, last: Record) -> RichTable:
    """The first and the last reading side by side: median over replicas, with the smallest and largest."""
    table = RichTable(title=Text(title) if title else None, title_justify="left")
    table.add_column("median over replicas (smallest to largest)")
    table.add_column(f"step {first.step}", justify="right")
    if last is not first:
        table.add_column(f"step {last.step}", justify="right")
    readings = [first] if last is first else [first, last]
    rows = {
        "loss": [_spread(record.scalars["loss"]) for record in readings],
        "held-out accuracy, %": [_spread(100 * record.scalars["eval_accuracy"]) for record in readings],
        "delta_slope (decades a layer)": [_spread(record.scalars["delta_slope"]) for record in readings],
        "delta_rms, first over last layer": [_spread(first_over_last(record)) for record in readings],
        "dead units, %": [_spread(100 * record.layers["dead_fraction"].mean(0)) for record in readings],
        "diverged replicas": [f"{(r.diverged_at >= 0).sum()} of {len(r.diverged_at)}" for r in readings],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _slowest(record: Record) -> str:
    medians = {layer: median(row) for layer, row in enumerate(record.layers["delta_rms"])}
    finite = {layer: value for layer, value in medians.items() if value is not None}
    if not finite:
        return "not finite"
    layer = min(finite, key=finite.__getitem__)
    return f"layer {layer} at {finite[layer]:.1e}"


def _spread(values: Array) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "n/a" if np.isnan(values).all() else "Inf"
    middle = f"{np.median(finite):.3g}"
    lost = len(values) - len(finite)
    note = f", {lost} not finite" if lost else ""
    return middle if len(values) == 1 else f"{middle} ({finite.min():.3g} to {finite.max():.3g}{note})"
