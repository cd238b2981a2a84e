"""Comparison of runs: small multiples with shared axes, drawn from a table of `lab.sweep.comparison`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lab.plot.style import COLOURS, LAYER_AXIS, LEGEND_BELOW, MARKERS, new_figure, tidy
from lab.readings.quantities import QUANTITIES
from lab.readings.swept import FIRST, in_order

if TYPE_CHECKING:
    import pandas as pd

FAR = 10.0  # a linear axis reaches at most this many times the upper quartile of all medians
MARKS = 6  # approximate number of markers per curve
STEP_AXIS = "step (parameter updates made)"
AXES = {"layer": LAYER_AXIS, "singular_value": "singular value, the largest first", "step": STEP_AXIS}
"""Column of the table -> label of the horizontal axis; the first column that a table has is its axis."""
BANDS = {"percentiles": ("p16", "p84"), "range": ("smallest", "largest")}
BAND_WORDS = {"percentiles": "16 to 84%", "range": "smallest to largest"}
MOST_PANELS, MOST_LINES = 64, 32


def grid_of(by: Sequence[str]) -> tuple[str | None, str, str | None]:
    """Return the keys of panels, lines, and rows of panels."""
    return (None, by[0], None) if len(by) == 1 else (by[0], by[1], by[2] if len(by) > 2 else None)


def draw(table: pd.DataFrame, by: Sequence[str], quantity: str, over: str, band: str = "percentiles") -> Figure:
    """Draw a panel per value of the first key, a line per value of the second, a row of panels per value of the third.

    With a single key there is one panel, with a line per value. A line is the median. If there are two readings, the
    first is dashed. Networks of different depth have separate lines, of one colour. `table` is not empty; `by` are one
    to three of its columns; `over` names the dimensions of the bands; `band` is a key of `BANDS`.
    """
    panel_key, line_key, row_key = grid_of(by)
    columns, lines, rows = (in_order(table[key].tolist()) if key else [None] for key in grid_of(by))
    panels = [(column, row) for row in rows for column in columns]
    wide = len(columns) if row_key or len(columns) <= 3 else math.ceil(math.sqrt(len(columns)))
    high = math.ceil(len(panels) / wide)
    size = (7.6, 5.2) if len(panels) == 1 else (max(7.6, 3.3 * wide + 0.6), 2.7 * high + 1.8)
    figure, axes = new_figure(size, high, wide, sharex=True, sharey=True)
    limit = math.inf if QUANTITIES[quantity].is_scale else _linear_limit(table)
    for ax, (column, row) in zip(axes, panels, strict=False):
        keys = {key: value for key, value in ((panel_key, column), (row_key, row)) if key}
        part = table[np.logical_and.reduce([table[key] == value for key, value in keys.items()])] if keys else table
        heading = textwrap.fill(", ".join(f"{key}={value}" for key, value in keys.items()), 42)
        notes = _panel(ax, part, line_key, lines, quantity, band, limit)
        ax.set_title("\n".join(filter(None, (heading, notes))), fontsize="small")
    if limit < math.inf:
        axes[0].set_ylim(*_linear_range(table, band, limit))
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax in axes[max(0, len(panels) - wide) : len(panels)]:  # the lowest panel of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(AXES[_axis(table)], fontsize="small" if len(panels) > 1 else "medium")
    figure.supylabel(f"{quantity} ({QUANTITIES[quantity].units})", fontsize="medium")
    title = textwrap.fill(f"{quantity}: {QUANTITIES[quantity].long_name}", int(figure.get_figwidth() * 10))
    figure.suptitle(title, fontsize="medium")
    _add_legend(figure, table, line_key, lines, f"median and {BAND_WORDS[band]} over {over}")
    return figure


def colours_and_markers(number: int) -> tuple[str, str]:
    """Return colour and marker of a line; up to 64 lines have different pairs."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def _panel(ax: Axes, part: pd.DataFrame, key: str, lines: Sequence[Any], quantity: str, band: str, limit: float) -> str:
    """Draw one panel and return a note on what it does not show, and why."""
    is_log = QUANTITIES[quantity].is_scale
    ax.set_yscale("log" if is_log else "linear")
    tidy(ax)
    ax.tick_params(labelsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    notes = []
    if absent := [str(value) for value in lines if not (part[key] == value).any()]:
        notes.append(f"no run with {key}={', '.join(absent)}")
    readings: list[str | None] = [*_readings(part)] or [None]
    for reading in readings:
        of_reading = part if reading is None else part[part["reading"] == reading]
        is_dashed = reading == FIRST and len(readings) > 1
        empty = []
        for number, value in enumerate(lines):
            rows = of_reading[of_reading[key] == value]
            curves = [curve for _, curve in rows.groupby("depth")] if "depth" in rows else [rows]
            is_drawn = [_curve(ax, curve, number, is_dashed, is_log, band) for curve in curves]
            if len(rows) and not any(is_drawn):
                empty.append(str(value))
        if empty:
            when = "" if reading is None else f"{_reading_name(reading)}, "
            which = "any line" if len(empty) == len(lines) > 1 else f"{key}={', '.join(empty)}"
            notes.append(f"{when}nothing finite{' above 0' if is_log else ''} in {which}")
    far = part[part["median"].abs() > limit]
    if beyond := [str(value) for value in lines if (far[key] == value).any()]:
        notes.append(f"beyond the axis: {key}={', '.join(beyond)}")
    return textwrap.fill(f"({'; '.join(notes)})", 46) if notes else ""


def _curve(ax: Axes, curve: pd.DataFrame, number: int, is_dashed: bool, is_log: bool, band: str) -> bool:
    """Draw median and band; return False if the axis can show none of their values."""
    axis = _axis(curve)
    curve = curve.sort_values(axis)
    x, median, lower, upper = (curve[name].to_numpy(np.float64) for name in (axis, "median", *BANDS[band]))
    if is_log:  # an exact 0 has no place; a band that starts at one reaches down to the axis
        median, upper = (np.where(values > 0, values, np.nan) for values in (median, upper))
    if not np.isfinite(median).any() and not np.isfinite(upper).any():
        return False
    colour, marker = colours_and_markers(number)
    every = max(1, len(x) // MARKS)
    first = number * every // MARKS % every  # the markers of different lines stand at different places
    style, width, alpha = ("--", 1.1, 0.1) if is_dashed else ("-", 1.6, 0.2)
    ax.fill_between(x, lower, upper, color=colour, alpha=alpha, linewidth=0)
    ax.plot(x, median, style, color=colour, linewidth=width, marker=marker, markersize=4, markevery=(first, every))
    return True


def _linear_limit(table: pd.DataFrame) -> float:
    """Return the largest value on a linear axis, so that one exploding curve does not flatten all others."""
    sizes = table["median"].abs()
    sizes = sizes[sizes < math.inf]
    limit = FAR * float(sizes.quantile(0.75))  # NaN without a finite one
    return limit if limit and sizes.max() > limit else math.inf


def _linear_range(table: pd.DataFrame, band: str, limit: float) -> tuple[float, float]:
    values = table[["median", *BANDS[band]]].to_numpy(np.float64)
    values = values[np.abs(values) <= limit]
    margin = 0.05 * float(np.ptp(values)) or 1.0
    return float(values.min()) - margin, float(values.max()) + margin


def _axis(table: pd.DataFrame) -> str:
    return next(name for name in AXES if name in table)


def _add_legend(figure: Figure, table: pd.DataFrame, key: str, lines: Sequence[Any], title: str) -> None:
    handles = []
    for number, value in enumerate(lines):
        colour, marker = colours_and_markers(number)
        label = f"{key}={value}"
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.6, label=label))
    readings = _readings(table)
    for reading in readings:
        label = _reading_name(reading)
        if not reading.isdecimal():
            steps = table.loc[table["reading"] == reading, "step"]
            label += f" (step {' to '.join(f'{step:,}' for step in sorted({steps.min(), steps.max()}))})"
        handles.append(Line2D([], [], color="0.3", linewidth=1.6, label=label))
        handles[-1].set_linestyle("--" if reading == FIRST and len(readings) > 1 else "-")
    depths = sorted(set(table["depth"])) if "depth" in table else []
    title += f"; a line for each model.depth: {', '.join(map(str, depths))}" if len(depths) > 1 else ""
    longest = max(len(str(handle.get_label())) for handle in handles)
    fitting = max(1, int(figure.get_figwidth() * 11 / (longest + 9)))
    title = textwrap.fill(title, int(figure.get_figwidth() * 12))
    figure.legend(handles=handles, ncols=min(fitting, len(handles)), title=title, handlelength=3.0, **LEGEND_BELOW)


def _readings(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["reading"])) if "reading" in table else []


def _reading_name(reading: str) -> str:
    return f"step {reading}" if reading.isdecimal() else f"{reading} reading"
