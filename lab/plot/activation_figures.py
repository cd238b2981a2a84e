"""Pictures of the activations: each with its derivative, and GELU by two formulas beside torch's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab import schema
from lab.network import activations
from lab.plot.figures import COLOURS
from lab.typing import Array

GUIDE = ("sigmoid", "tanh", "relu", "leaky_relu")
"""What every textbook draws; the others follow in the order of the configuration."""
NAMES = (*GUIDE, *(name for name in schema.ACTIVATIONS if name not in GUIDE))
COLUMNS = 4
REACH, POINTS = 4.0, 801
VALUES = (1.0, 2.0, -1.0)
"""The values that a gated activation is drawn for, the first of them thick and with its derivative by the gate."""
OTHERS: Mapping[str, tuple[str, tuple[schema.Activation, ...]]] = {
    "leaky_relu": ("slope 0.01; thin: 0.1", (schema.LeakyReLU("leaky_relu", 0.1),)),
    "prelu": ("learnt slope, here its start, 0.25", ()),
    "rrelu": (
        "in evaluation; thin: ends of its range",
        (schema.LeakyReLU("leaky_relu", 1 / 8), schema.LeakyReLU("leaky_relu", 1 / 3)),
    ),
    "elu": ("alpha 1; thin: 0.5", (schema.ELU("elu", 0.5),)),
    "swish": ("beta 1; thin: 0.1 and 10", (schema.Swish("swish", 0.1), schema.Swish("swish", 10.0))),
    **dict.fromkeys(schema.GATED, ("value 1; thin: values 2 and \N{MINUS SIGN}1", ())),
}
"""What is said under the name, and what else is drawn, thin."""
FUNCTION, DERIVATIVE = COLOURS[0], COLOURS[1]


@dataclass(frozen=True)
class Curve:
    """An activation along z, which is the gate of a gated one: (Z,) each; `is_main` is drawn thick, with its slope."""

    z: Array
    value: Array
    slope: Array
    is_main: bool


def curves(name: str) -> list[Curve]:
    """The activation with its default parameters, and what else belongs into its panel."""
    z = np.concatenate(
        [np.linspace(-REACH, 0, POINTS // 2)[:-1], [-1e-9, 1e-9], np.linspace(0, REACH, POINTS // 2)[1:]]
    )
    config = schema.ACTIVATIONS[name](name)
    if name in schema.GATED:
        return [_curve(config, z, value, value == VALUES[0]) for value in VALUES]
    _, others = OTHERS.get(name, ("", ()))
    return [_curve(config, z, is_main=True), *(_curve(other, z, is_main=False) for other in others)]


@torch.no_grad()
def _curve(config: schema.Activation, z: Array, value: float | None = None, is_main: bool = True) -> Curve:
    """As the lab's own layer computes it in evaluation, in float64."""
    layer = activations.build(config, 1, []).eval()
    x = torch.from_numpy(z)[None, :, None]  # (1, Z, 1)
    if value is not None:
        x = torch.cat([torch.full_like(x, value), x], -1)  # (1, Z, 2): the value, then the gate
    factor = 1.0 if value is None else value
    return Curve(z, layer(x)[0, :, 0].numpy(), factor * layer.slope(x)[0, :, 0].numpy(), is_main)


def grid(names: Sequence[str] = NAMES) -> Figure:
    """One panel an activation: the function solid, its derivative dashed."""
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 2.75 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, name in zip(axes, names, strict=False):
        panel(ax, name)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for index, ax in enumerate(axes):
        ax.set_xlabel("z, or the gate" if index // COLUMNS == rows - 1 else "")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    title = (
        "Activations and their derivatives; a gated one is its value times a function of its gate, drawn along the gate"
    )
    figure.suptitle(title, fontsize="large")
    return figure


def panel(ax: Axes, name: str) -> None:
    """One activation with its derivative into an axis."""
    for curve in curves(name):
        value, slope = (_broken(curve.z, values) for values in (curve.value, curve.slope))
        width = 2.4 if curve.is_main else 0.9
        ax.plot(curve.z, value, "-", color=FUNCTION, linewidth=width, label="function" if curve.is_main else None)
        if curve.is_main:
            ax.plot(curve.z, slope, "--", color=DERIVATIVE, linewidth=2, label="derivative")
        elif name not in schema.GATED:
            ax.plot(curve.z, slope, "--", color=DERIVATIVE, linewidth=0.8)
    note, _ = OTHERS.get(name, ("", ()))
    ax.set_title(f"{name}\n{note}" if note else name, fontsize="medium")
    ax.set_xlim(-REACH, REACH)
    ax.set_ylim(-2.0, 3.0)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.grid(True, color="0.92", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _broken(z: Array, values: Array) -> Array:
    """With a gap at 0 where the curve jumps there, which a line would bridge."""
    middle = int(np.searchsorted(z, 0.0))
    if abs(values[middle] - values[middle - 1]) < 1e-6:
        return values
    return np.where(np.arange(len(z)) == middle, np.nan, values)


# --- GELU -----------------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Two ways to compute GELU in a format, and their difference along x: (X,) each."""

    first: str
    second: str
    format: str
    x: Array
    difference: Array

    @property
    def largest(self) -> tuple[float, float]:
        """The largest difference in size, and the smallest x in size at which it is reached."""
        sizes = np.abs(self.difference)
        at = np.flatnonzero(sizes == sizes.max())
        nearest = at[np.argmin(np.abs(self.x[at]))]
        return float(sizes[nearest]), float(self.x[nearest])


def gelu(x: Array, exact: Array, approximate: Array, comparisons: Sequence[Comparison]) -> Figure:
    """Both forms of GELU above, and a panel for each comparison of formulas, marked where it is largest.

    Args:
        x: (X,)
        exact, approximate: values of both forms at x, (X,).
        comparisons: any number; each gets a panel with a unit of its own.
    """
    rows = 1 + -(-(len(comparisons) - 1) // 2)
    figure = Figure(figsize=(11.0, 3.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    axes[0].plot(x, np.maximum(x, 0), ":", color="0.5", linewidth=2, label="ReLU")
    axes[0].plot(x, exact, color=FUNCTION, linewidth=2.4, label="exact")
    axes[0].plot(x, approximate, "--", color=DERIVATIVE, linewidth=2, label="with tanh")
    axes[0].set(xlim=(-4, 4), ylim=(-0.4, 4), xlabel="x", ylabel="GELU(x)", title="both forms")
    axes[0].legend(frameon=False, loc="upper left")
    for ax, comparison in zip(axes[1:], comparisons, strict=False):
        _difference(ax, comparison)
    for ax in axes[1 + len(comparisons) :]:
        ax.set_visible(False)
    for ax in axes:
        ax.grid(True, color="0.92", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _difference(ax: Axes, comparison: Comparison) -> None:
    largest, where = comparison.largest
    power = int(np.floor(np.log10(largest))) if largest > 0 else 0
    scaled = comparison.difference / 10.0**power
    is_rounding = largest < 1e-5
    ax.plot(
        comparison.x,
        scaled,
        "." if is_rounding else "-",
        color=FUNCTION,
        linewidth=2,
        markersize=2.5,
    )
    peak = float(scaled[np.flatnonzero(comparison.x == where)[0]])
    ax.plot(where, peak, "o", color=DERIVATIVE, markersize=8)
    ax.set_ylim(-1.4 * abs(peak) or -1.0, 1.4 * abs(peak) or 1.0)
    ax.set_title(f"{comparison.first} minus {comparison.second}, {comparison.format}", fontsize="medium")
    ax.text(0.5, 0.98, f"largest: {largest:.3g} at x = {where:.4g}", transform=ax.transAxes, ha="center", va="top")
    ax.set_xlabel("x")
    ax.set_ylabel(rf"difference, in $10^{{{power}}}$")
