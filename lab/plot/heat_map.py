"""A picture of the gradient over a whole run: layer upwards, step to the right, log10 delta_rms as colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 512
"""More readings than this are thinned to every second, fourth, ... one: a screen shows no more."""

MIN_DECADES = 1.0
"""Colours span at least this, so that the noise of a healthy gradient is not stretched into a pattern."""

NOT_FINITE = "#e0e0e0"
EXACT_ZERO = "black"


class HeatMap:
    """Collects one column of log10 delta_rms a reading, in float32, and draws them at the end.

    Args:
        zero: the value that stands for log10 of an exact 0.
    """

    def __init__(self, zero: float) -> None:
        self._zero = zero
        self._stride = 1
        self._readings = 0
        self._columns: list[tuple[int, NDArray[np.float32]]] = []
        self._latest: tuple[int, NDArray[np.float32]] | None = None

    def add(self, step: int, log10_delta_rms: NDArray[np.float64]) -> None:
        """Take one reading's column, (layers,) from layer 0 up."""
        self._latest = (step, log10_delta_rms.astype(np.float32))
        if self._readings % self._stride == 0:
            self._columns.append(self._latest)
        self._readings += 1
        if len(self._columns) > MAX_COLUMNS:
            self._columns = self._columns[::2]
            self._stride *= 2

    def columns(self) -> list[tuple[int, NDArray[np.float32]]]:
        """(step, (layers,)) of what is drawn: the readings kept, and always the last."""
        if self._latest is None or self._columns[-1] is self._latest:
            return self._columns
        return [*self._columns, self._latest]

    def draw(self) -> NDArray[np.uint8]:
        """The picture, (height, width, 3).

        Raises:
            ValueError: There is no reading to draw.
        """
        if not self._columns:
            raise ValueError("There is no reading to draw a heat map of.")
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
        from matplotlib.ticker import MaxNLocator

        columns = self.columns()
        steps = np.array([step for step, _ in columns], dtype=np.float64)
        values = np.ma.masked_invalid(np.stack([column for _, column in columns], axis=1))  # (layers, steps)
        shades = values[values > self._zero].compressed()  # without exact zeros, which would stretch the scale
        low, high = (float(shades.min()), float(shades.max())) if shades.size else (0.0, 0.0)
        margin = max(0.0, MIN_DECADES - (high - low)) / 2
        has_zero = bool(np.any(values.filled(0) <= self._zero))

        figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor=NOT_FINITE)
        axes.patch.set(hatch="///", edgecolor="grey")  # shows through where nothing is drawn
        # cividis is even in lightness and reads the same to the colour-blind (Nunez, Anderton and Renslow 2018)
        colours = matplotlib.colormaps["cividis"].with_extremes(bad=(0, 0, 0, 0), under=EXACT_ZERO)
        layers = np.arange(len(values) + 1) - 0.5
        mesh = axes.pcolormesh(_edges(steps), layers, values, cmap=colours, vmin=low - margin, vmax=high + margin)
        axes.set_xlabel("step (parameter updates)")
        axes.set_ylabel("layer (0 is nearest the input)")
        axes.set_title("Gradient over depth and time")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        label = "log10 delta_rms (loss per pre-activation)"
        figure.colorbar(mesh, label=label, extend="min" if has_zero else "neither")
        notes: list[Any] = [Patch(facecolor=EXACT_ZERO, label="exactly 0")] if has_zero else []
        if np.any(np.ma.getmaskarray(values)):
            notes.append(Patch(facecolor=NOT_FINITE, edgecolor="grey", hatch="///", label="not finite"))
        if notes:
            figure.legend(handles=notes, loc="outside lower center", ncols=len(notes), frameon=False)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _edges(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the cells of unevenly spaced steps meet: half way, and as far outwards at both ends."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - middle[0]], middle, [2 * steps[-1] - middle[-1]]])
