"""Pictures of tables: matplotlib figures without global state, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.readings import LAYER_QUANTITIES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's set ("Color Universal Design", 2008), its yellow exchanged for a brown that shows on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DPI = 120
TITLE_WIDTH = 100
"""Characters a line of a title; the folder of a sweep's run can have a long name."""


def gradients(table: xr.Dataset, title: str = "") -> Figure:
    """Gradient and signal against depth at the first and the last reading, with what theory says of the first.

    A line is the median over replicas, its band reaches from the smallest to the largest replica. Dashed is the
    prediction, and between the dotted lines lies the geometric mean over replicas if theory is right.
    """
    quantities = [name for name in ("delta_rms", "weight_grad_norm", "pre_rms") if name in table]
    figure, axes = _new(columns=len(quantities), size=(5.2 * len(quantities), 4.8))
    for ax, quantity in zip(axes, quantities, strict=True):
        _readings(ax, table, quantity)
        ax.set_title(textwrap.fill(LAYER_QUANTITIES[quantity].long_name, 48), fontsize="medium")
    _legend(figure, axes)
    lines = (title or "Gradient against depth").splitlines()
    figure.suptitle("\n".join(textwrap.fill(line, TITLE_WIDTH) for line in lines), fontsize="medium")
    return figure


def grid(tables: Mapping[str, xr.Dataset], quantities: Sequence[str], title: str) -> Figure:
    """One column a table, one row a quantity, against depth at the first and the last reading, theory laid over them.

    Args:
        tables: heading of the column -> readings.
        quantities: layer quantities of the lab.
        title: what the picture says.
    """
    figure, axes = _new(
        columns=len(tables), rows=len(quantities), size=(4.6 * len(tables), 3.7 * len(quantities) + 0.6)
    )
    for number, ax in enumerate(axes):
        row, column = divmod(number, len(tables))
        heading, quantity = list(tables)[column], quantities[row]
        _readings(ax, tables[heading], quantity)
        if row == 0:
            ax.set_title(heading, fontsize="medium")
    _legend(figure, axes)
    figure.suptitle(title, fontsize="large")
    return figure


def comparison(curves: Mapping[str, xr.DataArray], title: str, groups: Sequence[Sequence[str]]) -> Figure:
    """One line an arm, gradient against depth, named in a legend beside the curves; arms of a group share a colour.

    Args:
        curves: name of the arm -> delta_rms (layer, replica).
        title: what the picture says.
        groups: names of arms that belong together, one colour each; lines within a group differ in style.
    """
    figure, (ax,) = _new(columns=1, size=(10.5, 6.0))
    styles = ("-", "--", ":", "-.")
    for number, group in enumerate(groups):
        for style, name in enumerate(group):
            curve(
                ax,
                curves[name],
                name,
                COLOURS[number % len(COLOURS)],
                MARKERS[number % len(MARKERS)],
                styles[style % 4],
            )
    ax.set_xlabel("layer (0 is nearest the input)")
    ax.set_ylabel("delta_rms: gradient dL/dz, rms over batch and units")
    ax.set_title(title, loc="left", fontsize="medium")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", title="arm", handlelength=3.5)
    return figure


def curve(ax: Axes, values: xr.DataArray, label: str, colour: str, marker: str, style: str = "-") -> None:
    """Median over replicas against layer, logarithmic, with a band from the smallest to the largest replica."""
    layer = values["layer"].to_numpy()
    data = values.transpose("layer", "replica").to_numpy()
    positive = np.where(np.isfinite(data) & (data > 0), data, np.nan)  # a logarithmic axis has no place for the rest
    known = ~np.isnan(positive).all(1)
    layer, positive = layer[known], positive[known]
    every = max(1, len(layer) // 8)
    ax.set_yscale("log")
    ax.grid(True, which="major", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    if not len(layer):
        ax.plot([], [], style, color=colour, label=f"{label} (nothing finite above 0)")
        return
    middle = np.nanmedian(positive, axis=1)
    ax.plot(layer, middle, style, color=colour, marker=marker, markevery=every, markersize=5, label=label)
    ax.fill_between(
        layer, np.nanmin(positive, axis=1), np.nanmax(positive, axis=1), color=colour, alpha=0.2, linewidth=0
    )


def _readings(ax: Axes, table: xr.Dataset, quantity: str) -> None:
    """A quantity at the first and the last reading, and what theory says of the first."""
    if f"predicted_{quantity}" in table:
        _prediction(ax, table, quantity)
    for number, index in enumerate(sorted({0, table.sizes["step"] - 1})):
        reading = table.isel(step=index)
        curve(ax, reading[quantity], f"step {int(reading['step'])}", COLOURS[number], MARKERS[number])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layer (0 is nearest the input)")
    ax.set_ylabel(f"{quantity} ({LAYER_QUANTITIES[quantity].units})")


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them, where it covers nothing."""
    named = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    title = "readings: median and range over replicas"
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=4,
        fontsize="small",
        title=title,
        title_fontsize="small",
        frameon=False,
    )


def _prediction(ax: Axes, table: xr.Dataset, quantity: str) -> None:
    """The prediction as a dashed line, its band between dotted ones; ends that are 0 or infinite are left out."""
    layer = table["layer"].to_numpy()
    middle, lower, upper = (table[f"predicted_{quantity}{end}"].to_numpy() for end in ("", "_lower", "_upper"))
    band = ((lower, ":", "its band for the mean over replicas"), (upper, ":", ""))
    for values, style, label in ((middle, "--", "theory, step 0"), *band):
        shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        width = 1.6 if style == "--" else 1.0
        ax.plot(layer, shown, style, color="black", linewidth=width, label=label or None, zorder=3)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; the file name's ending must be .png."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once, where savefig draws twice: a picture is a good part of a short run
    image.imsave(path, canvas.buffer_rgba(), dpi=DPI)


def _new(columns: int, size: tuple[float, float], rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)
