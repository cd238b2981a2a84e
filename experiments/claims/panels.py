"""Common elements of the claims' figures, which must be legible at the width of a telephone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(figure: Figure, columns: int = 1) -> list[Axes]:
    """Return axes side by side, with a faint grid and without upper and right spines."""
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
    return axes


def label(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Set the names of both axes, and a left-aligned title."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, loc="left", fontsize="medium")


def legend_below(figure: Figure, axes: list[Axes], columns: int) -> None:
    """Add one legend for all panels below them."""
    named = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False)
