"""Heat map of the gradient over a whole run: layer against step, log10 delta_rms as colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 512  # more readings than this are thinned by powers of two
MIN_DECADES = 1.0  # least range of the colours, so that the noise of a healthy gradient does not become a pattern
NOT_FINITE, EXACT_ZERO = "#e0e0e0", "black"


class HeatMap:
    """Collector of log10 delta_rms, a float32 column per reading; `zero` represents log10 of an exact 0."""

    def __init__(self, zero: float) -> None:
        self._zero = zero
        self._readings: list[tuple[int, NDArray[np.float32]]] = []

    def add(self, step: int, log10_delta_rms: NDArray[np.float64]) -> None:
        """Add the column of one reading, (layers,) from layer 0 up."""
        self._readings.append((step, log10_delta_rms.astype(np.float32)))

    def columns(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Return (step, (layers,)) of all columns to draw, the latest reading always among them."""
        stride = 1
        while len(self._readings) > stride * MAX_COLUMNS:
            stride *= 2
        return [*self._readings[:-1:stride], self._readings[-1]]

    def draw(self) -> NDArray[np.uint8]:
        """Return the picture, (height, width, 3), of one reading or more."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.patches import Patch
        from matplotlib.ticker import MaxNLocator

        from lab.plot.style import DPI, LAYER_AXIS, SEQUENTIAL, cell_edges, new_figure

        steps, columns = zip(*self.columns(), strict=True)
        values = np.ma.masked_invalid(np.stack(columns, axis=1))  # (layers, steps)
        shades = values[values > self._zero].compressed()  # without exact zeros, which would stretch the scale
        low, high = (float(shades.min()), float(shades.max())) if shades.size else (0.0, 0.0)
        margin = max(0.0, MIN_DECADES - (high - low)) / 2
        has_zero = bool(np.any(values.filled(0) <= self._zero))
        figure, (ax,) = new_figure((7, 4.5), subplot_kw={"facecolor": NOT_FINITE})
        figure.set_dpi(DPI)
        ax.patch.set(hatch="///", edgecolor="grey")  # visible where a cell is transparent
        colours = matplotlib.colormaps[SEQUENTIAL].with_extremes(bad=(0, 0, 0, 0), under=EXACT_ZERO)
        edges = cell_edges(np.array(steps, dtype=np.float64)), np.arange(len(values) + 1) - 0.5
        mesh = ax.pcolormesh(*edges, values, cmap=colours, vmin=low - margin, vmax=high + margin)
        ax.set(xlabel="step (parameter updates)", ylabel=LAYER_AXIS, title="Gradient over depth and time")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        label = "log10 delta_rms (loss per pre-activation)"
        figure.colorbar(mesh, label=label, extend="min" if has_zero else "neither")
        notes: list[Any] = [Patch(facecolor=EXACT_ZERO, label="exactly 0")] if has_zero else []
        if np.ma.getmaskarray(values).any():
            notes.append(Patch(facecolor=NOT_FINITE, edgecolor="grey", hatch="///", label="not finite"))
        if notes:
            figure.legend(handles=notes, loc="outside lower center", ncols=2, frameon=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
