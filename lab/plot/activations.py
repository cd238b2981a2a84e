"""All activations with their derivatives, one panel per activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab import schema
from lab.network import activations
from lab.plot.style import COLOURS, new_figure, tidy
from lab.typing import Array

TEXTBOOK = ("sigmoid", "tanh", "relu", "leaky_relu")  # drawn first; the others follow in the order of the configuration
NAMES = (*TEXTBOOK, *(name for name in schema.ACTIVATIONS if name not in TEXTBOOK))
COLUMNS, REACH, POINTS = 4, 4.0, 801
VALUES = (1.0, 2.0, -1.0)  # values for which a gated activation is drawn; the first is the main curve
NOTES: Mapping[str, str] = {
    "leaky_relu": "slope 0.01; thin: 0.1",
    "prelu": "learned slope, here its initial value, 0.25",
    "rrelu": "in evaluation; thin: ends of its range",
    "elu": "alpha 1; thin: 0.5",
    "swish": "beta 1; thin: 0.1 and 10",
    **dict.fromkeys(schema.GATED, "value 1; thin: values 2 and \N{MINUS SIGN}1"),
}
VARIANTS: Mapping[str, Sequence[schema.Activation]] = {
    "leaky_relu": [schema.LeakyReLU("leaky_relu", 0.1)],
    "rrelu": [schema.LeakyReLU("leaky_relu", 1 / 8), schema.LeakyReLU("leaky_relu", 1 / 3)],
    "elu": [schema.ELU("elu", 0.5)],
    "swish": [schema.Swish("swish", 0.1), schema.Swish("swish", 10.0)],
}
"""Activations with other parameters, drawn thin."""


def draw(names: Sequence[str] = NAMES) -> Figure:
    """Draw one panel per activation: the function solid, its derivative dashed."""
    rows = -(-len(names) // COLUMNS)
    figure, axes = new_figure((3.1 * COLUMNS, 2.75 * rows + 0.8), rows, COLUMNS, sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=False):
        _panel(ax, name)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[-COLUMNS:]:
        ax.set_xlabel("z, or the gate")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    title = "Activations and their derivatives; a gated one, its value times a function of its gate, along the gate"
    figure.suptitle(title, fontsize="large")
    return figure


class Curve(NamedTuple):
    """An activation and its derivative along z, or along the gate of a gated activation, (Z,) each."""

    z: Array
    value: Array
    slope: Array
    is_main: bool


def curves(name: str) -> list[Curve]:
    """Return the main curve, with default parameters, and its variants."""
    config = schema.ACTIVATIONS[name](name)
    if name in schema.GATED:
        return [_curve(config, value, is_main=value == VALUES[0]) for value in VALUES]
    return [_curve(config), *(_curve(variant, is_main=False) for variant in VARIANTS.get(name, ()))]


@torch.no_grad()
def _curve(config: schema.Activation, value: float | None = None, is_main: bool = True) -> Curve:
    """Compute a curve in float64 by the lab's own layer in evaluation mode."""
    right = np.linspace(0, REACH, POINTS // 2)[1:]
    z = np.concatenate([-right[::-1], [-1e-9, 1e-9], right])  # both sides of 0, where a slope may jump
    layer = activations.build(config, 1, []).eval()
    x = torch.from_numpy(z)[None, :, None]  # (1, Z, 1)
    if value is not None:
        x = torch.cat([torch.full_like(x, value), x], -1)  # (1, Z, 2): the value, then the gate
    slope = (1.0 if value is None else value) * layer.slope(x)
    return Curve(z, layer(x)[0, :, 0].numpy(), slope[0, :, 0].numpy(), is_main)


def _panel(ax: Axes, name: str) -> None:
    for curve in curves(name):
        value, slope = (_with_gap(curve.z, values) for values in (curve.value, curve.slope))
        widths, labels = ((2.4, 2.0), ("function", "derivative")) if curve.is_main else ((0.9, 0.8), (None, None))
        ax.plot(curve.z, value, "-", color=COLOURS[0], linewidth=widths[0], label=labels[0])
        if curve.is_main or name not in schema.GATED:
            ax.plot(curve.z, slope, "--", color=COLOURS[1], linewidth=widths[1], label=labels[1])
    ax.set_title("\n".join(filter(None, (name, NOTES.get(name)))), fontsize="medium")
    ax.set(xlim=(-REACH, REACH), ylim=(-2.0, 3.0))
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    tidy(ax, "0.92", 0.7)


def _with_gap(z: Array, values: Array) -> Array:
    """Replace the value after a jump at 0 by NaN, so that no line bridges it."""
    middle = int(np.searchsorted(z, 0.0))
    has_jump = abs(values[middle] - values[middle - 1]) >= 1e-6
    return np.where(has_jump & (np.arange(len(z)) == middle), np.nan, values)
