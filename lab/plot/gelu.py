"""Both forms of GELU, and the differences between ways to compute them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.plot.style import COLOURS, new_figure, tidy
from lab.typing import Array

ROUNDING = 1e-5  # differences below this are rounding errors, drawn as dots


class GeluDifference(NamedTuple):
    """Difference of two ways to compute GELU in a floating-point format, along x: (X,) each."""

    first: str
    second: str
    format: str
    x: Array
    difference: Array

    @property
    def largest(self) -> tuple[float, float]:
        """Largest absolute difference, and the x closest to 0 at which it occurs."""
        sizes = np.abs(self.difference)
        return float(sizes.max()), min(self.x[sizes == sizes.max()].tolist(), key=abs)


def draw(x: Array, exact: Array, approximate: Array, differences: Sequence[GeluDifference]) -> Figure:
    """Draw both forms of GELU, values (X,) at x (X,), and a panel with a unit of its own per difference."""
    rows = 1 + -(-(len(differences) - 1) // 2)
    figure, axes = new_figure((11.0, 3.3 * rows), rows, 2)
    axes[0].plot(x, np.maximum(x, 0), ":", color="0.5", linewidth=2, label="ReLU")
    axes[0].plot(x, exact, color=COLOURS[0], linewidth=2.4, label="exact")
    axes[0].plot(x, approximate, "--", color=COLOURS[1], linewidth=2, label="with tanh")
    axes[0].set(xlim=(-4, 4), ylim=(-0.4, 4), xlabel="x", ylabel="GELU(x)", title="both forms")
    axes[0].legend(frameon=False, loc="upper left")
    for ax, difference in zip(axes[1:], differences, strict=False):
        _panel(ax, difference)
    for number, ax in enumerate(axes):
        ax.set_visible(number <= len(differences))
        tidy(ax, "0.92", 0.7)
    return figure


def _panel(ax: Axes, difference: GeluDifference) -> None:
    largest, place = difference.largest
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    scaled = difference.difference / 10.0**power
    ax.plot(difference.x, scaled, "." if largest < ROUNDING else "-", color=COLOURS[0], linewidth=2, markersize=2.5)
    ax.plot(place, scaled[difference.x == place], "o", color=COLOURS[1], markersize=8)
    reach = 1.4 * largest / 10.0**power or 1.0
    ax.set_ylim(-reach, reach)
    ax.set_title(f"{difference.first} minus {difference.second}, {difference.format}", fontsize="medium")
    ax.text(0.5, 0.98, f"largest: {largest:.3g} at x = {place:.4g}", transform=ax.transAxes, ha="center", va="top")
    ax.set(xlabel="x", ylabel=rf"difference, in $10^{{{power}}}$")
