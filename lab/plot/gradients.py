"""Layer profiles: gradient and signal against depth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.plot.style import COLOURS, LAYER_AXIS, LEGEND_BELOW, MARKERS, new_figure, tidy
from lab.readings import LAYER_QUANTITIES

TITLE_WIDTH = 100  # characters per line of a title, which may contain the long folder name of a sweep's run
ARM_STYLES = ("-", "--", ":", "-.")


def draw(table: xr.Dataset, title: str = "") -> Figure:
    """Draw gradient and signal against depth at the first and the last reading, with the prediction for the first.

    A line is the median over replicas, its band the range over replicas. The prediction is dashed; theory expects the
    geometric mean over replicas between the dotted lines.
    """
    quantities = [name for name in ("delta_rms", "weight_grad_norm", "pre_rms") if name in table]
    figure, axes = new_figure((5.2 * len(quantities), 4.8), columns=len(quantities))
    for ax, quantity in zip(axes, quantities, strict=True):
        _panel(ax, table, quantity)
        ax.set_title(textwrap.fill(LAYER_QUANTITIES[quantity].long_name, 48), fontsize="medium")
    _add_legend(figure, axes)
    lines = (title or "Gradient against depth").splitlines()
    figure.suptitle("\n".join(textwrap.fill(line, TITLE_WIDTH) for line in lines), fontsize="medium")
    return figure


def draw_grid(tables: Mapping[str, xr.Dataset], quantities: Sequence[str], title: str) -> Figure:
    """Draw the panels of `draw` with one column per table, under its heading, and one row per layer quantity."""
    columns, rows = len(tables), len(quantities)
    figure, axes = new_figure((4.6 * columns, 3.7 * rows + 0.6), rows, columns)
    for ax, heading in zip(axes, tables, strict=False):
        ax.set_title(heading, fontsize="medium")
    panels = [(table, quantity) for quantity in quantities for table in tables.values()]
    for ax, (table, quantity) in zip(axes, panels, strict=True):
        _panel(ax, table, quantity)
    _add_legend(figure, axes)
    figure.suptitle(title, fontsize="large")
    return figure


def draw_arms(curves: Mapping[str, xr.DataArray], title: str, groups: Sequence[Sequence[str]]) -> Figure:
    """Draw delta_rms of several arms against depth in one panel.

    `curves`: name of the arm -> delta_rms (layer, replica). Arms of a group have one colour and differ in line style.
    """
    figure, (ax,) = new_figure((10.5, 6.0))
    tidy(ax)
    for number, group in enumerate(groups):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for index, name in enumerate(group):
            _curve(ax, curves[name], name, colour, marker, ARM_STYLES[index % len(ARM_STYLES)])
    ax.set(xlabel=LAYER_AXIS, ylabel="delta_rms: gradient dL/dz, rms over batch and units")
    ax.set_title(title, loc="left", fontsize="medium")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", title="arm", handlelength=3.5)
    return figure


def _panel(ax: Axes, table: xr.Dataset, quantity: str) -> None:
    tidy(ax)
    if f"predicted_{quantity}" in table:
        _prediction(ax, table, quantity)
    for number, index in enumerate(sorted({0, table.sizes["step"] - 1})):
        reading = table.isel(step=index)
        _curve(ax, reading[quantity], f"step {int(reading['step'])}", COLOURS[number], MARKERS[number])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=LAYER_AXIS, ylabel=f"{quantity} ({LAYER_QUANTITIES[quantity].units})")


def _curve(ax: Axes, values: xr.DataArray, label: str, colour: str, marker: str, style: str = "-") -> None:
    """Draw the median over replicas with a band from the smallest to the largest replica, on a logarithmic axis."""
    ax.set_yscale("log")
    values = _drawable(values).dropna("layer", how="all").transpose("layer", "replica")
    layer, data = values["layer"].to_numpy(), values.to_numpy()
    if not len(layer):
        ax.plot([], [], style, color=colour, label=f"{label} (nothing finite above 0)")
        return
    median, every = np.nanmedian(data, 1), max(1, len(layer) // 8)
    ax.plot(layer, median, style, color=colour, marker=marker, markevery=every, markersize=5, label=label)
    ax.fill_between(layer, np.nanmin(data, 1), np.nanmax(data, 1), color=colour, alpha=0.2, linewidth=0)


def _prediction(ax: Axes, table: xr.Dataset, quantity: str) -> None:
    """Draw the prediction dashed and its band dotted."""
    for end, label in (("", "theory, step 0"), ("_lower", "its band for the mean over replicas"), ("_upper", None)):
        style, width = (":", 1.0) if end else ("--", 1.6)
        shown = _drawable(table[f"predicted_{quantity}{end}"])
        ax.plot(table["layer"], shown, style, color="black", linewidth=width, label=label, zorder=3)


def _drawable(values: xr.DataArray) -> xr.DataArray:
    """Replace values that have no place on a logarithmic axis by NaN."""
    return values.where((values > 0) & (values < np.inf))


def _add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    named = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    title = "readings: median and range over replicas"
    figure.legend(named.values(), named.keys(), ncols=4, title=title, **LEGEND_BELOW)
