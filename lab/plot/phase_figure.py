"""The picture of an order-to-chaos map: colours, the critical line, what was measured and what was trained.

It is drawn from the table that `gradlab phase` writes and knows nothing else, so that an old table can be drawn anew.
"""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from lab.plot.figures import COLOURS
from lab.typing import Array

RATES = "RdBu_r"
"""Diverging, white at its centre, safe for the colour-blind (Brewer, ColorBrewer 2.0): red gradients explode."""
ACCURACY = "cividis"  # even in lightness, the same to the colour-blind (Nunez, Anderton and Renslow 2018)
LARGEST_COLOUR, SMALLEST_COLOUR = 1.0, 0.02
"""Where the colour bar ends in log10 chi: at a factor of 10 a layer, or closer where the map has less to show."""
LINEAR = 1 / 30
"""Colours are linear in log10 chi up to this share of the end, and logarithmic from there on: as depth scales are."""
INK, HATCH, HATCH_COLOUR = "0.1", "///", "0.35"
CLOSE = 12
"""Points between a mark and its label that the eye bridges without a line."""
NOT_FINITE = "0.85"
RIM = [withStroke(linewidth=2.0, foreground="white")]
LEADER = {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4}
HALO = [withStroke(linewidth=2.5, foreground="white")]
LABEL_WIDTH = 18
"""Characters a line of a label; at least the longest name."""
LABEL_PLACES = (("center", 0), ("left", -5), ("right", 5), ("left", 5), ("right", -5))
"""How a label is aligned with its point, and moved along, in points."""


def draw(table: xr.Dataset) -> Figure:
    """The map, and beside it the trained networks if the table has any."""
    is_trained = "accuracy" in table
    figure = Figure(figsize=(13.6, 6.0) if is_trained else (7.4, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, *right = figure.subplots(1, 2 if is_trained else 1, squeeze=False)[0]
    labels = _map(figure, left, table)
    for ax in right:
        _trained(figure, ax, table)
    for _ in range(2):  # the layout settles at the second time, and only then it is known where things lie
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _place(left, labels)
    return figure


# --- the map --------------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A point with a text that has still to find its place."""

    x: float
    y: float
    text: str


def _map(figure: Figure, ax: Axes, table: xr.Dataset) -> list[Mark]:
    weight_vars, bias_vars = table["weight_var"].to_numpy(), table["bias_var"].to_numpy()
    with np.errstate(divide="ignore"):
        rates = np.log10(table["chi"].to_numpy())  # (N, M)
    end = float(np.clip(np.max(np.abs(rates)), SMALLEST_COLOUR, LARGEST_COLOUR))
    colours: dict[str, Any] = {"cmap": RATES, "norm": SymLogNorm(LINEAR * end, vmin=-end, vmax=end)}
    shown = np.clip(rates, -2 * end, 2 * end)  # which has no infinity to be drawn as nothing
    mesh = ax.pcolormesh(weight_vars, bias_vars, shown, shading="nearest", rasterized=True, **colours)
    notes = [*_boundaries(ax, table), *_measured(ax, table, colours)]
    trained_bias_var = float(table.attrs.get("trained_bias_var", math.nan))
    if bias_vars[0] <= trained_bias_var <= bias_vars[-1]:
        style: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (1, 2))}
        ax.axhline(trained_bias_var, **style)
        notes.append(Line2D([], [], label="networks on the right", **style))
    ax.set_xlim(weight_vars[0], weight_vars[-1])
    ax.set_ylim(bias_vars[0], bias_vars[-1])
    ax.set_xlabel("weight_var: fan_in times the variance of a weight")
    ax.set_ylabel("bias_var: variance of a bias")
    heading = f"{table.attrs['activation']}: gradients vanish where it is blue and explode where it is red"
    ax.set_title(heading, loc="left", fontsize="medium")
    extend = ("neither", "min", "max", "both")[bool(np.any(rates < -end)) + 2 * bool(np.any(rates > end))]
    label = r"$\log_{10}\chi$: decades that $E\,\delta^2$ gains per layer towards the input"
    bar = figure.colorbar(mesh, ax=ax, extend=extend, pad=0.02, label=label)
    ticks = [end * part for part in (0.03, 0.1, 0.3, 1)]
    bar.set_ticks([-tick for tick in reversed(ticks)] + [0.0] + ticks)
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter(
        FuncFormatter(lambda tick, _: f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if tick else "0")
    )
    _legend(ax, notes)
    return _inits(ax, table)


def _boundaries(ax: Axes, table: xr.Dataset) -> list[Any]:
    """The critical line, and where the variance has no limit but 0 or infinity; what the legend says of them."""
    weight_vars, bias_vars = table["weight_var"].to_numpy(), table["bias_var"].to_numpy()
    q_star, critical = table["q_star"].to_numpy(), table["critical_weight_var"].to_numpy()
    notes: list[Any] = []
    is_seen = (critical >= weight_vars[0]) & (critical <= weight_vars[-1])  # false for a NaN
    style: dict[str, Any] = {"color": INK, "linewidth": 2, "path_effects": HALO}
    if is_seen.sum() > 1:
        ax.plot(critical, bias_vars, zorder=3, **style)
        notes.append(Line2D([], [], label=r"critical line, $\chi=1$", **style))
    elif is_seen.any():
        style = {"marker": "D", "markersize": 10, "linestyle": "none", "color": INK, "markeredgecolor": "white"}
        ax.plot(critical[is_seen], bias_vars[is_seen], clip_on=False, zorder=5, **style)
        notes.append(Line2D([], [], label=r"critical point, $\chi=1$", **style))
    vanishes = weight_vars[(q_star[0] == 0) & (weight_vars > 0)]
    if vanishes.size:
        style = {"color": COLOURS[4], "linewidth": 4, "solid_capstyle": "butt"}
        ax.plot(vanishes[[0, -1]], bias_vars[[0, 0]], clip_on=False, zorder=4, **style)
        notes.append(Line2D([], [], label="variance vanishes", **style))
    grows = np.isinf(q_star)
    if grows.any():
        with matplotlib.rc_context({"hatch.color": HATCH_COLOUR, "hatch.linewidth": 0.6}):
            ax.contourf(weight_vars, bias_vars, grows.astype(float), levels=[0.5, 1.5], colors="none", hatches=[HATCH])
        label = "variance grows without bound"
        notes.append(Patch(facecolor="white", edgecolor=HATCH_COLOUR, hatch=HATCH, label=label))
    return notes


def _measured(ax: Axes, table: xr.Dataset, colours: dict[str, Any]) -> list[Any]:
    """Dots in the colours of the map: one that vanishes into its background agrees with it."""
    if "measured_chi" not in table:
        return []
    x, y = table["measured_weight_var"].to_numpy(), table["measured_bias_var"].to_numpy()
    with np.errstate(divide="ignore"):
        rates = np.log10(table["measured_chi"].to_numpy()).mean(1)  # (P,), of the geometric mean over replicas
    known = np.isfinite(rates)
    style: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": "white", "markeredgecolor": INK}
    ax.scatter(
        x[known],
        y[known],
        c=rates[known],
        s=80,
        edgecolors=INK,
        linewidths=1.0,
        path_effects=RIM,
        zorder=3.5,
        **colours,
    )
    config = json.loads(table.attrs["measured_config"])
    size = f"depth {config['model']['depth']}, width {config['model']['width']}"
    notes = [Line2D([], [], label=f"measured at {size}", markersize=8, **style)]
    if not known.all():
        style = {"marker": "x", "linestyle": "none", "color": INK, "markersize": 7}
        ax.plot(x[~known], y[~known], zorder=3.5, path_effects=HALO, **style)
        notes.append(Line2D([], [], label=f"beyond what {config['dtype']} holds", **style))
    return notes


def _inits(ax: Axes, table: xr.Dataset) -> list[Mark]:
    """Points for the initializations that lie on the map; those that lie on one another share a label."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    shared: dict[tuple[float, float], list[str]] = {}
    columns = [table[name].to_numpy().tolist() for name in ("init_weight_var", "init_bias_var", "init_is_own", "init")]
    for x, y, is_own, name in zip(*columns, strict=True):
        if not (left <= x <= right and bottom <= y <= top):
            continue
        marker, size = ("*", 16) if is_own else ("o", 6.5)
        ax.plot(x, y, marker, markersize=size, color="white", markeredgecolor=INK, clip_on=False, zorder=6)
        place = next(
            (
                (other_x, other_y)
                for other_x, other_y in shared
                if abs(other_x - x) < (right - left) / 50 and abs(other_y - y) < (top - bottom) / 50
            ),
            (x, y),
        )
        shared.setdefault(place, []).append(name)
    return [Mark(x, y, textwrap.fill(", ".join(names), LABEL_WIDTH)) for (x, y), names in shared.items()]


def _place(ax: Axes, marks: Sequence[Mark]) -> None:
    """Write each label where it covers neither another one nor a point nor the line, as close to its own as can be."""
    figure, frame = ax.get_figure(root=True), ax.get_window_extent()
    assert figure is not None
    unit = figure.dpi / 72  # pixels a point
    own = ax.transData.transform([mark[:2] for mark in marks]) if marks else np.empty((0, 2))
    dots = [np.asarray(part.get_offsets()) for part in ax.collections if isinstance(part, PathCollection)]
    points = np.concatenate([own, *map(ax.transData.transform, dots)])  # (points, 2) pixels
    taken = [Bbox([point - 6 * unit, point + 6 * unit]) for point in points]
    lines = [line.get_path().transformed(ax.transData) for line in ax.lines if len(np.asarray(line.get_xdata())) > 2]
    for mark, (_, y) in sorted(zip(marks, own.tolist(), strict=True)):
        side = 1 if y < (frame.y0 + frame.y1) / 2 else -1
        at: dict[str, Any] = {"xy": (mark.x, mark.y), "textcoords": "offset points", "annotation_clip": False}
        note = ax.annotate(mark.text, **at, xytext=(0, 0), fontsize="small", zorder=7, path_effects=HALO)
        note.set(verticalalignment="bottom" if side > 0 else "top")
        found: list[tuple[float, float, int, str, tuple[float, float], Bbox]] = []
        for away, (aligned, along) in itertools.product(range(7, 90, 4), LABEL_PLACES):
            note.set(position=(along, side * away), horizontalalignment=aligned)
            extent = note.get_window_extent().padded(2 * unit)
            is_outside = extent.x0 < frame.x0 or extent.x1 > frame.x1
            covered = sum(extent.overlaps(other) for other in taken) + len(taken) * is_outside
            covered += sum(line.intersects_bbox(extent, filled=False) for line in lines)
            found.append((covered, away + abs(along), len(found), aligned, (along, side * away), extent))
        *_, aligned, position, extent = min(found)  # what covers least, then what is closest
        note.set(position=position, horizontalalignment=aligned)
        if abs(position[1]) > CLOSE:
            ax.annotate("", **at, xytext=position, arrowprops=LEADER, zorder=5)
        taken.append(extent)


# --- the trained networks -------------------------------------------------------------------------------------------


def _trained(figure: Figure, ax: Axes, table: xr.Dataset) -> None:
    """Accuracy over depth and weight_var, and over it the depths that theory expects to train."""
    weight_vars, depths = table["trained_weight_var"].to_numpy(), table["depth"].to_numpy()
    accuracy = table["accuracy"].mean("trained_replica").to_numpy()  # (D, W), NaN where none is finite
    edges = np.exp(_edges(np.log(depths)))
    mesh = ax.pcolormesh(_edges(weight_vars), edges, accuracy, cmap=ACCURACY, vmin=0, vmax=1)
    notes: list[Any] = []
    if np.isnan(accuracy).any():
        ax.set_facecolor(NOT_FINITE)
        notes.append(Patch(facecolor=NOT_FINITE, label="not finite"))
    critical = float(table.attrs["trained_critical_weight_var"])
    style: dict[str, Any] = {"color": COLOURS[1], "linewidth": 2.5}
    if table["weight_var"][0] <= critical <= table["weight_var"][-1]:
        notes.append(ax.axvline(critical, label=f"critical weight_var, {critical:.4g}", **style))
    style = {"color": "white", "linewidth": 2, "path_effects": [withStroke(linewidth=4, foreground=INK)]}
    for name, label, dashes in (
        ("trainable_depth_c", r"$6\,\xi_c$: inputs can be told apart", "-"),
        ("trainable_depth_grad", r"$6\,\xi_{grad}$: gradients keep their size", (0, (2, 1.5))),
    ):
        notes += ax.plot(table["curve_weight_var"], table[name], linestyle=dashes, label=label, **style)
    ax.set_yscale("log")
    ax.set_ylim(edges[0], edges[-1])
    ax.set_xlim(*table["weight_var"].to_numpy()[[0, -1]])
    ax.set_yticks(depths)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda depth, _: f"{depth:g}"))
    ax.set_xlabel("weight_var: fan_in times the variance of a weight")
    ax.set_ylabel("depth, hidden layers")
    config, bias_var = json.loads(table.attrs["trained_config"]), float(table.attrs["trained_bias_var"])
    training = f"Trained by {config['steps']} steps of {config['optimizer']['name']} on {config['data']['name']}"
    heading = f"{training}, width {config['model']['width']}, bias_var {bias_var:g}"
    ax.set_title(heading, loc="left", fontsize="medium")
    figure.colorbar(mesh, ax=ax, pad=0.02, label="accuracy on held-out data, share of examples")
    _legend(ax, notes)


def _edges(centres: Array) -> Array:
    """Where cells around these centres meet: half way, and as far outwards at both ends."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _legend(ax: Axes, notes: Sequence[Any]) -> None:
    """Below the axis, where it covers nothing."""
    if notes:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.12), "borderaxespad": 0}
        ax.legend(handles=list(notes), ncols=2, fontsize="small", handlelength=2.5, frameon=False, **place)
