"""The picture of an order-to-chaos map, judged by what its axes hold."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from experiments.phase_map import table as table_module
from experiments.phase_map import trained as trained_module
from lab import compose, schema
from lab.plot import phase, style
from lab.theory import depth_scales


@pytest.fixture(scope="module")
def tanh() -> xr.Dataset:
    chosen = compose.compose(["activation=tanh", "init=gaussian", "init.weight_var=2", "init.bias_var=0.2"])
    return table_module.phase_table(chosen, table_module.Range(0, 4), table_module.Range(0, 0.4), 41)


def lines(figure: Figure, label: str, panel: int = 0) -> list[Line2D]:
    """What the legend of a panel calls so, as it lies on the map: the lines of the same look."""
    legend = figure.axes[panel].get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    handle = legend.legend_handles[shown.index(label)]
    assert isinstance(handle, Line2D)
    return [
        line
        for line in figure.axes[panel].lines
        if (line.get_color(), line.get_linewidth(), line.get_marker())
        == (handle.get_color(), handle.get_linewidth(), handle.get_marker())
    ]


def test_the_drawn_critical_line_passes_the_point_that_the_literature_gives_for_tanh(tanh: xr.Dataset):
    [line] = lines(phase.draw(tanh), r"critical line, $\chi=1$")
    weight_var, bias_var = np.asarray(line.get_data())
    assert bias_var[5] == pytest.approx(0.05)
    assert weight_var[5] == pytest.approx(1.7610, abs=5e-5)
    assert weight_var[0] == pytest.approx(1)


def test_red_explodes_blue_vanishes_and_white_is_critical(tanh: xr.Dataset):
    mesh = phase.draw(tanh).axes[0].collections[0]
    chi, shade = tanh["chi"].to_numpy().ravel(), np.asarray(mesh.to_rgba(np.ravel(np.asarray(mesh.get_array()))))
    red, blue = shade[:, 0], shade[:, 2]
    assert (red[chi > 1.02] > blue[chi > 1.02]).all()
    assert (red[chi < 0.98] < blue[chi < 0.98]).all()
    assert shade[np.argmin(np.abs(chi - 1))].min() > 0.9
    low, high = mesh.get_clim()
    assert low == -high


SEEN = ("tanh", "relu", "sigmoid", "gelu", "swiglu")
REST = [pytest.param(name, marks=pytest.mark.slow) for name in schema.ACTIVATIONS if name not in SEEN]


@pytest.mark.parametrize("name", [*SEEN, *REST])
def test_every_activation_draws_with_labels_that_cover_neither_each_other_nor_a_point(name: str, tmp_path: Path):
    chosen = compose.compose([f"activation={name}"])
    table = table_module.phase_table(chosen, *table_module.default_ranges(chosen.activation), 16)
    figure = phase.draw(table)
    ax = figure.axes[0]
    assert_labels_are_free(ax, table)
    legend = ax.get_legend()
    known = [] if legend is None else [text.get_text() for text in legend.get_texts()]
    assert legend is None or not legend.get_window_extent().overlaps(ax.get_window_extent())
    assert ("variance grows without bound" in known) == bool(np.isinf(table["q_star"]).any())
    assert ("variance vanishes" in known) == bool((table["q_star"][0, 1:] == 0).any())
    style.save(figure, tmp_path / "phase.png")


def test_labels_of_neighbours_make_room_for_each_other(tanh: xr.Dataset):
    crowded = tanh.isel(init=[0, 1, 2, 4]).assign(init_is_own=("init", [0, 0, 0, 1]))
    crowded["init_weight_var"] = ("init", [2.0, 2.1, 2.2, 2.3])
    for height in (0.0, 0.2, 0.4):
        crowded["init_bias_var"] = ("init", [height] * 4)
        ax = phase.draw(crowded).axes[0]
        assert len([text for text in ax.texts if text.get_text()]) == 4
        assert_labels_are_free(ax, crowded)


def assert_labels_are_free(ax: Axes, table: xr.Dataset) -> None:
    frame, texts = ax.get_window_extent(), [text.get_window_extent() for text in ax.texts if text.get_text()]
    places = ax.transData.transform(np.stack([table["init_weight_var"], table["init_bias_var"]], axis=1))
    boxes = [*texts, *(Bbox([place - 1, place + 1]) for place in places)]
    assert texts
    assert not any(text.overlaps(box) for text in texts for box in boxes if box is not text)
    assert all(frame.x0 <= text.x0 and text.x1 <= frame.x1 for text in texts)


def test_the_trained_panel_shows_the_predicted_depths_and_the_critical_weight_var(tanh: xr.Dataset):
    chosen, weight_vars = compose.compose(["activation=tanh"]), np.array([1.0, 3.0])
    accuracies = [np.array([[0.5], [np.nan]]), np.array([[0.1], [0.2]])]
    trained = trained_module.trained_table(chosen, [5, 50], table_module.Range(0, 4), weight_vars, 0.05, accuracies)
    figure = phase.draw(tanh.merge(trained, combine_attrs="no_conflicts"))
    panel = figure.axes[1]
    cells = np.ma.masked_invalid(np.asarray(panel.collections[0].get_array()))
    assert cells.filled(-1).ravel().tolist() == [0.5, -1, 0.1, 0.2]
    [critical] = [line for line in panel.lines if str(line.get_label()).startswith("critical")]
    assert np.asarray(critical.get_xdata())[0] == pytest.approx(1.7610, abs=5e-5)
    for name, key in ((r"$6\,\xi_c$: inputs can be told apart", "xi_c"), (r"$6\,\xi_{grad}$: ", "xi_grad")):
        [curve] = [line for line in panel.lines if str(line.get_label()).startswith(name)]
        weight_var, depth = np.asarray(curve.get_data())
        scales = depth_scales(chosen.activation, weight_var[40], 0.05)
        assert depth[40] == pytest.approx(6 * getattr(scales, key))
