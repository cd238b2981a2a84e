"""The picture of a comparison: small multiples that share their axes, drawn from the table and nothing else."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lab.plot.figures import COLOURS, MARKERS
from lab.readings.quantities import QUANTITIES
from lab.readings.swept import FIRST, in_order

if TYPE_CHECKING:
    import pandas as pd

FAR = 10.0
"""How many times the upper quartile of all medians a linear axis may reach."""
MARKS = 6
"""About how many markers a curve has."""
AXES = {
    "layer": "layer (0 is nearest the input)",
    "step": "step (parameter updates made)",
    "singular_value": "singular value, the largest first",
}
BANDS = {"percentiles": ("p16", "p84"), "range": ("smallest", "largest")}
BAND_WORDS = {"percentiles": "16 to 84%", "range": "smallest to largest"}
MOST_PANELS, MOST_LINES = 64, 32


def grid_of(by: Sequence[str]) -> tuple[str | None, str, str | None]:
    """Which key tells the panels apart, which the lines, and which the rows of panels."""
    if len(by) == 1:
        return None, by[0], None
    return by[0], by[1], by[2] if len(by) > 2 else None


def draw(table: pd.DataFrame, by: Sequence[str], quantity: str, over: str, band: str = "percentiles") -> Figure:
    """A panel for each value of the first key, a line for each of the second, a row of panels for each of the third.

    With a single key there is one panel, with a line for each of its values. A line is the median. Where there are two
    readings, the first is dashed. Networks of different depth are lines of their own, of one colour.

    Args:
        table: what `comparison.table` made, not empty.
        by: one to three keys, columns of the table.
        quantity: what the table has of it.
        over: what the bands are taken over, in words.
        band: a key of `BANDS`.
    """
    of_panel, of_line, of_row = grid_of(by)
    columns = in_order(table[of_panel].tolist()) if of_panel else [None]
    lines, rows = in_order(table[of_line].tolist()), in_order(table[of_row].tolist()) if of_row else [None]
    wide = len(columns) if of_row else _columns(len(columns))
    high = len(rows) if of_row else math.ceil(len(columns) / wide)
    size = (7.6, 5.2) if wide * high == 1 else (max(7.6, 3.3 * wide + 0.6), 2.7 * high + 1.8)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True)
    panels = [(column, row) for row in rows for column in columns]
    limit = math.inf if QUANTITIES[quantity].is_scale else _limit(table)
    for ax, (column, row) in zip(axes.ravel(), panels, strict=False):
        part = table if of_panel is None else table[table[of_panel] == column]
        part = part if of_row is None else part[part[of_row] == row]
        missing = _panel(ax, part, of_line, lines, quantity, band, limit)
        heading = ", ".join(f"{key}={value}" for key, value in ((of_panel, column), (of_row, row)) if key)
        ax.set_title("\n".join(filter(None, (textwrap.fill(heading, 42), missing))), fontsize="small")
    if limit < math.inf:
        axes[0, 0].set_ylim(*_window(table, band, limit))
    _leave_out(axes, len(panels), AXES[_axis(table)])
    _words(figure, table, quantity)
    _legend(figure, table, of_line, lines, f"median and {BAND_WORDS[band]} over {over}")
    return figure


def _panel(ax: Axes, part: pd.DataFrame, key: str, lines: Sequence[Any], quantity: str, band: str, limit: float) -> str:
    """Draw one panel and return what it does not show, and why."""
    axis, is_log = _axis(part), QUANTITIES[quantity].is_scale
    if is_log:
        ax.set_yscale("log")
    ax.grid(True, which="major", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    notes = []
    if absent := [str(value) for value in lines if not (part[key] == value).any()]:
        notes.append(f"no run with {key}={', '.join(absent)}")
    readings = list(dict.fromkeys(part["reading"])) if "reading" in part else [None]
    for reading in readings:
        of_reading = part if reading is None else part[part["reading"] == reading]
        is_dashed = reading == FIRST and len(readings) > 1
        empty = []
        for number, value in enumerate(lines):
            own = of_reading[of_reading[key] == value]
            curves = [own[own["depth"] == depth] for depth in sorted(set(own["depth"]))] if "depth" in own else [own]
            is_drawn = [_curve(ax, curve, axis, number, is_dashed, is_log, band) for curve in curves]
            if len(own) and not any(is_drawn):
                empty.append(str(value))
        if empty:
            when = "" if reading is None else f"{_reading_name(reading)}, "
            which = "any line" if len(empty) == len(lines) > 1 else f"{key}={', '.join(empty)}"
            notes.append(f"{when}nothing finite{' above 0' if is_log else ''} in {which}")
    far = part[part["median"].abs() > limit]
    if beyond := [str(value) for value in lines if (far[key] == value).any()]:
        notes.append(f"beyond the axis: {key}={', '.join(beyond)}")
    return textwrap.fill(f"({'; '.join(notes)})", 46) if notes else ""


def _curve(ax: Axes, curve: pd.DataFrame, axis: str, number: int, is_dashed: bool, is_log: bool, band: str) -> bool:
    """Median and band; False if there is nothing that has a place on the axis."""
    x = curve[axis].to_numpy(np.float64)
    middle, lower, upper = (curve[name].to_numpy(np.float64) for name in ("median", *BANDS[band]))
    if is_log:  # what is exactly 0 has no place; a band that begins there reaches down to the axis
        middle, upper = (np.where(values > 0, values, np.nan) for values in (middle, upper))
    order = np.argsort(x)
    x, middle, lower, upper = x[order], middle[order], lower[order], upper[order]
    if not np.isfinite(middle).any() and not np.isfinite(upper).any():
        return False
    colour, marker = colours_and_markers(number)
    every = max(1, len(x) // MARKS)
    ax.fill_between(x, lower, upper, color=colour, alpha=0.1 if is_dashed else 0.2, linewidth=0)
    [line] = ax.plot(x, middle, color=colour, marker=marker, markersize=4, linewidth=1.1 if is_dashed else 1.6)
    line.set_linestyle("--" if is_dashed else "-")
    line.set_markevery((number * every // MARKS % every, every))  # not all lines at the same places
    return True


def colours_and_markers(number: int) -> tuple[str, str]:
    """A pair for each line, all different up to 64."""
    count = len(COLOURS)
    return COLOURS[number % count], MARKERS[(number + number // count) % len(MARKERS)]


def _limit(table: pd.DataFrame) -> float:
    """Up to where a linear axis reaches at most, so that one curve that explodes does not flatten all others."""
    sizes = table["median"].abs().to_numpy(np.float64)
    sizes = sizes[np.isfinite(sizes)]
    limit = FAR * float(np.percentile(sizes, 75)) if len(sizes) else 0.0
    return limit if limit and sizes.max() > limit else math.inf


def _window(table: pd.DataFrame, band: str, limit: float) -> tuple[float, float]:
    """The ends of a linear axis around all that lies within the limit."""
    values = table[["median", *BANDS[band]]].to_numpy(np.float64)
    values = values[np.abs(values) <= limit]
    margin = 0.05 * float(np.ptp(values)) or 1.0
    return float(values.min()) - margin, float(values.max()) + margin


def _columns(panels: int) -> int:
    return panels if panels <= 3 else math.ceil(math.sqrt(panels))


def _axis(table: pd.DataFrame) -> str:
    return next(name for name in ("layer", "singular_value", "step") if name in table)


def _leave_out(axes: Any, count: int, words: str) -> None:
    """Take away what the last row has too many; the lowest panel of each column has the numbers and words below."""
    for ax in axes.ravel()[count:]:
        ax.remove()
    wide = axes.shape[1]
    for ax in axes.ravel()[max(0, count - wide) : count]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(words, fontsize="small" if count > 1 else "medium")


def _words(figure: Figure, table: pd.DataFrame, quantity: str) -> None:
    what = QUANTITIES[quantity]
    figure.supylabel(f"{quantity} ({what.units})", fontsize="medium")
    width = int(figure.get_figwidth() * 10)
    figure.suptitle(textwrap.fill(f"{quantity}: {what.long_name}", width), fontsize="medium")


def _legend(figure: Figure, table: pd.DataFrame, key: str, lines: Sequence[Any], title: str) -> None:
    """Below all panels, where it covers nothing."""
    handles, labels = [], []
    for number, value in enumerate(lines):
        colour, marker = colours_and_markers(number)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.6))
        labels.append(f"{key}={value}")
    readings = list(dict.fromkeys(table["reading"])) if "reading" in table else []
    for reading in readings:
        handles.append(Line2D([], [], color="0.3", linewidth=1.6))
        handles[-1].set_linestyle("--" if reading == FIRST and len(readings) > 1 else "-")
        labels.append(_reading_words(table, reading))
    depths = sorted(set(table["depth"])) if "depth" in table else []
    title += f"; a line for each model.depth: {', '.join(map(str, depths))}" if len(depths) > 1 else ""
    across = max(1, int(figure.get_figwidth() * 11 / (max(map(len, labels)) + 9)))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(across, len(labels)),
        fontsize="small",
        title=textwrap.fill(title, int(figure.get_figwidth() * 12)),
        title_fontsize="small",
        frameon=False,
        handlelength=3.0,
    )


def _reading_name(reading: str) -> str:
    return f"step {reading}" if reading.isdecimal() else f"{reading} reading"


def _reading_words(table: pd.DataFrame, reading: str) -> str:
    steps = table[table["reading"] == reading]["step"]
    if reading.isdecimal():
        return _reading_name(reading)
    return f"{_reading_name(reading)} (step {steps.min():,}" + (
        f" to {steps.max():,})" if steps.min() < steps.max() else ")"
    )
