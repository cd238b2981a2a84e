"""Order-to-chaos maps, measured and trained networks, drawn from the table of `gradlab phase` and nothing else."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

from lab.plot.style import COLOURS, SEQUENTIAL, cell_edges, new_figure

DIVERGING = "RdBu_r"
"""White at its centre, safe for colour-blind readers (Brewer, ColorBrewer 2.0): red gradients explode."""
LARGEST_COLOUR, SMALLEST_COLOUR = 1.0, 0.02
"""Bounds of the colour bar's end in log10 chi: a factor of 10 per layer, or less where the map shows less."""
LINEAR_SHARE = 1 / 30
"""Colours are linear in log10 chi up to this share of the end, and logarithmic beyond, as depth scales are."""
WEIGHT_VAR = "weight_var: fan_in times the variance of a weight"
INK, NOT_FINITE, HATCH, HATCH_COLOUR = "0.1", "0.85", "///", "0.35"
HALO, RIM = ([withStroke(linewidth=width, foreground="white")] for width in (2.5, 2.0))
OUTLINE = [withStroke(linewidth=4, foreground=INK)]
LEADER = {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4}
CLOSE = 12  # points between a mark and its label up to which no leader is drawn
LABEL_WIDTH = 18  # characters per line of a label; at least the longest name
LABEL_PLACES = (("center", 0), ("left", -5), ("right", 5), ("left", 5), ("right", -5))
"""Alignments of a label with its mark, and offsets along the axis in points."""


def draw(table: xr.Dataset) -> Figure:
    """Draw the map, and beside it the trained networks if the table has any."""
    is_trained = "accuracy" in table
    figure, axes = new_figure((13.6, 6.0) if is_trained else (7.4, 6.0), columns=2 if is_trained else 1)
    labels = _map(figure, axes[0], table)
    if is_trained:
        _trained(figure, axes[1], table)
    for _ in range(2):  # the layout settles at the second pass; only then the positions are known
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _place_labels(axes[0], labels)
    return figure


Mark = tuple[float, float, str]  # a point of the map, and the text of its label


def _map(figure: Figure, ax: Axes, table: xr.Dataset) -> list[Mark]:
    """Draw the map and return the marks to be labelled."""
    weight_vars, bias_vars = table["weight_var"].to_numpy(), table["bias_var"].to_numpy()
    with np.errstate(divide="ignore"):
        rates = np.log10(table["chi"].to_numpy())  # (bias_var, weight_var)
    end = float(np.clip(np.max(np.abs(rates)), SMALLEST_COLOUR, LARGEST_COLOUR))
    colours: dict[str, Any] = {"cmap": DIVERGING, "norm": SymLogNorm(LINEAR_SHARE * end, vmin=-end, vmax=end)}
    shown = np.clip(rates, -2 * end, 2 * end)  # infinite values would not be drawn
    mesh = ax.pcolormesh(weight_vars, bias_vars, shown, shading="nearest", rasterized=True, **colours)
    notes = [*_boundaries(ax, table), *_measured(ax, table, colours)]
    trained_bias_var = float(table.attrs.get("trained_bias_var", math.nan))
    if bias_vars[0] <= trained_bias_var <= bias_vars[-1]:
        dots: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (1, 2))}
        notes.append(ax.axhline(trained_bias_var, label="networks on the right", **dots))
    ax.set(xlim=weight_vars[[0, -1]], ylim=bias_vars[[0, -1]], xlabel=WEIGHT_VAR, ylabel="bias_var: variance of a bias")
    heading = f"{table.attrs['activation']}: gradients vanish where it is blue and explode where it is red"
    ax.set_title(heading, loc="left", fontsize="medium")
    extend = ("neither", "min", "max", "both")[bool(np.any(rates < -end)) + 2 * bool(np.any(rates > end))]
    label = r"$\log_{10}\chi$: decades that $E\,\delta^2$ gains per layer towards the input"
    bar = figure.colorbar(mesh, ax=ax, extend=extend, pad=0.02, label=label)
    bar.set_ticks([end * part for part in (-1, -0.3, -0.1, -0.03, 0, 0.03, 0.1, 0.3, 1)])
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter(lambda tick, _: f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if tick else "0")
    _add_legend(ax, notes)
    return _inits(ax, table)


def _boundaries(ax: Axes, table: xr.Dataset) -> list[Any]:
    """Draw the critical line and where the variance vanishes or grows; return their legend entries."""
    weight_vars, bias_vars = table["weight_var"].to_numpy(), table["bias_var"].to_numpy()
    q_star, critical = table["q_star"].to_numpy(), table["critical_weight_var"].to_numpy()
    notes: list[Any] = []
    is_seen = (critical >= weight_vars[0]) & (critical <= weight_vars[-1])  # false for a NaN
    style: dict[str, Any] = {"color": INK, "linewidth": 2, "path_effects": HALO, "zorder": 3}
    if is_seen.sum() > 1:
        notes += ax.plot(critical, bias_vars, label=r"critical line, $\chi=1$", **style)
    elif is_seen.any():
        style = {"color": INK, "markersize": 10, "markeredgecolor": "white", "clip_on": False, "zorder": 5}
        notes += ax.plot(critical[is_seen], bias_vars[is_seen], "D", label=r"critical point, $\chi=1$", **style)
    vanishes = weight_vars[(q_star[0] == 0) & (weight_vars > 0)]
    if vanishes.size:
        style = {"color": COLOURS[4], "linewidth": 4, "solid_capstyle": "butt", "label": "variance vanishes"}
        notes += ax.plot(vanishes[[0, -1]], bias_vars[[0, 0]], clip_on=False, zorder=4, **style)
    grows = np.isinf(q_star)
    if grows.any():
        area = ax.contourf(weight_vars, bias_vars, grows.astype(float), [0.5, 1.5], colors="none", hatches=[HATCH])
        area.set(hatchcolor=HATCH_COLOUR, hatch_linewidth=0.6)
        label = "variance grows without bound"
        notes.append(Patch(facecolor="white", edgecolor=HATCH_COLOUR, hatch=HATCH, label=label))
    return notes


def _measured(ax: Axes, table: xr.Dataset, colours: dict[str, Any]) -> list[Any]:
    """Draw measured rates as dots in the colours of the map."""
    if "measured_chi" not in table:
        return []
    x, y = table["measured_weight_var"].to_numpy(), table["measured_bias_var"].to_numpy()
    with np.errstate(divide="ignore"):
        rates = np.log10(table["measured_chi"].to_numpy()).mean(1)  # (P,), of the geometric mean over replicas
    known = np.isfinite(rates)
    dots: dict[str, Any] = {"edgecolors": INK, "linewidths": 1.0, "path_effects": RIM, "zorder": 3.5}
    ax.scatter(x[known], y[known], c=rates[known], s=80, **dots, **colours)
    config = json.loads(table.attrs["measured_config"])
    label = f"measured at depth {config['model']['depth']}, width {config['model']['width']}"
    style: dict[str, Any] = {"marker": "o", "markersize": 8, "color": "white", "markeredgecolor": INK}
    notes = [Line2D([], [], linestyle="none", label=label, **style)]
    if not known.all():
        style = {"markersize": 7, "color": INK, "zorder": 3.5, "path_effects": HALO}
        notes += ax.plot(x[~known], y[~known], "x", label=f"beyond what {config['dtype']} holds", **style)
    return notes


def _inits(ax: Axes, table: xr.Dataset) -> list[Mark]:
    """Mark the initializations on the map; those that coincide share a label."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    names: dict[tuple[float, float], list[str]] = {}
    columns = [table[name].to_numpy().tolist() for name in ("init_weight_var", "init_bias_var", "init_is_own", "init")]
    for x, y, is_own, name in zip(*columns, strict=True):
        if not (left <= x <= right and bottom <= y <= top):
            continue
        marker, size = ("*", 16) if is_own else ("o", 6.5)
        ax.plot(x, y, marker, markersize=size, color="white", markeredgecolor=INK, clip_on=False, zorder=6)
        near = ((u, v) for u, v in names if abs(u - x) < (right - left) / 50 and abs(v - y) < (top - bottom) / 50)
        names.setdefault(next(near, (x, y)), []).append(name)
    return [(x, y, textwrap.fill(", ".join(shared), LABEL_WIDTH)) for (x, y), shared in names.items()]


def _place_labels(ax: Axes, marks: Sequence[Mark]) -> None:
    """Write each label where it covers no other, no point and no line, above or below and as close as possible."""
    figure, frame = ax.get_figure(root=True), ax.get_window_extent()
    assert figure is not None
    unit = figure.dpi / 72  # pixels per point
    own = ax.transData.transform([mark[:2] for mark in marks]) if marks else np.empty((0, 2))
    dots = [np.asarray(part.get_offsets()) for part in ax.collections if isinstance(part, PathCollection)]
    points = np.concatenate([own, *map(ax.transData.transform, dots)])  # (points, 2) pixels
    taken = [Bbox([point - 6 * unit, point + 6 * unit]) for point in points]
    lines = [line.get_path().transformed(ax.transData) for line in ax.lines if len(np.asarray(line.get_xdata())) > 2]
    for (*place, text), (_, y) in sorted(zip(marks, own.tolist(), strict=True)):
        side = 1 if y < (frame.y0 + frame.y1) / 2 else -1
        anchor: dict[str, Any] = {"xy": place, "textcoords": "offset points", "annotation_clip": False}
        note = ax.annotate(text, **anchor, xytext=(0, 0), fontsize="small", zorder=7, path_effects=HALO)
        note.set(verticalalignment="bottom" if side > 0 else "top")
        places: list[tuple[float, float, int, str, tuple[float, float], Bbox]] = []
        for away, (aligned, along) in itertools.product(range(7, 90, 4), LABEL_PLACES):
            note.set(position=(along, side * away), horizontalalignment=aligned)
            extent = note.get_window_extent().padded(2 * unit)
            covered = sum(map(extent.overlaps, taken)) + sum(
                line.intersects_bbox(extent, filled=False) for line in lines
            )
            covered += len(taken) * (extent.x0 < frame.x0 or extent.x1 > frame.x1)
            places.append((covered, away + abs(along), len(places), aligned, (along, side * away), extent))
        *_, aligned, position, extent = min(places)  # covers least, then is closest, then came first
        note.set(position=position, horizontalalignment=aligned)
        if abs(position[1]) > CLOSE:
            ax.annotate("", **anchor, xytext=position, arrowprops=LEADER, zorder=5)
        taken.append(extent)


def _trained(figure: Figure, ax: Axes, table: xr.Dataset) -> None:
    """Draw accuracy over depth and weight_var, and the depths that theory expects to train."""
    weight_vars, depths = table["trained_weight_var"].to_numpy(), table["depth"].to_numpy()
    accuracy = table["accuracy"].mean("trained_replica").to_numpy()  # (depth, weight_var), NaN where none is finite
    edges = np.exp(cell_edges(np.log(depths)))
    mesh = ax.pcolormesh(cell_edges(weight_vars), edges, accuracy, cmap=SEQUENTIAL, vmin=0, vmax=1)
    ax.set_facecolor(NOT_FINITE)
    notes: list[Any] = [Patch(facecolor=NOT_FINITE, label="not finite")] if np.isnan(accuracy).any() else []
    critical = float(table.attrs["trained_critical_weight_var"])
    if table["weight_var"][0] <= critical <= table["weight_var"][-1]:
        label = f"critical weight_var, {critical:.4g}"
        notes.append(ax.axvline(critical, label=label, color=COLOURS[1], linewidth=2.5))
    style: dict[str, Any] = {"color": "white", "linewidth": 2, "path_effects": OUTLINE}
    for name, label, dashes in (
        ("trainable_depth_c", r"$6\,\xi_c$: inputs can be told apart", "-"),
        ("trainable_depth_grad", r"$6\,\xi_{grad}$: gradients keep their size", (0, (2, 1.5))),
    ):
        notes += ax.plot(table["curve_weight_var"], table[name], linestyle=dashes, label=label, **style)
    ax.set(yscale="log", xlim=table["weight_var"].to_numpy()[[0, -1]], ylim=edges[[0, -1]])
    ax.set_yticks(depths, map(str, depths))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(xlabel=WEIGHT_VAR, ylabel="depth, hidden layers")
    config, bias_var = json.loads(table.attrs["trained_config"]), float(table.attrs["trained_bias_var"])
    training = f"Trained by {config['steps']} steps of {config['optimizer']['name']} on {config['data']['name']}"
    heading = f"{training}, width {config['model']['width']}, bias_var {bias_var:g}"
    ax.set_title(heading, loc="left", fontsize="medium")
    figure.colorbar(mesh, ax=ax, pad=0.02, label="accuracy on held-out data, share of examples")
    _add_legend(ax, notes)


def _add_legend(ax: Axes, notes: Sequence[Any]) -> None:
    if notes:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.12), "borderaxespad": 0}
        ax.legend(handles=list(notes), ncols=2, fontsize="small", handlelength=2.5, frameon=False, **place)
