"""Shared style of all pictures: colours, markers, empty axes, cell edges, and writing a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.typing import Array

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's set ("Color Universal Design", 2008), its yellow replaced by a brown that is visible on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL = "cividis"  # perceptually uniform, also for colour-blind readers (Nunez, Anderton and Renslow 2018)
DPI = 120
LAYER_AXIS = "layer (0 is nearest the input)"
LEGEND_BELOW: dict[str, Any] = {"loc": "outside lower center", "frameon": False}
LEGEND_BELOW |= dict.fromkeys(("fontsize", "title_fontsize"), "small")


def new_figure(size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Create a figure of this size in inches and its axes, row by row; pyplot does not know it."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def tidy(ax: Axes, colour: str = "0.9", width: float = 0.8) -> None:
    """Draw a light grid behind the data, and no frame at the top and on the right."""
    ax.grid(True, which="major", color=colour, linewidth=width)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def cell_edges(centres: Array) -> Array:
    """Return the edges of cells around increasing centres, (n,) -> (n + 1,): halfway between neighbours."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file; the name must end in .png."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once, where savefig draws twice: a picture is a good part of a short run
    image.imsave(path, canvas.buffer_rgba(), dpi=DPI)
