"""Pictures of tables, judged by what their axes hold."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lab.plot import gradients, style
from lab.readings import to_dataset
from tests.record.test_tensorboard import reading

RNG = np.random.default_rng(0)
DELTA = 10.0 ** RNG.normal(-3, 1, (6, 5))  # (layers, replicas)


def table(*delta: np.ndarray) -> xr.Dataset:
    records = [reading(10 * i, *values.shape, delta_rms=values) for i, values in enumerate(delta)]
    return to_dataset(records)


def drawn(ax: Axes, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Layers, medians (layers,) and bands (layers, 2) of one curve."""
    x, y = np.asarray(ax.lines[number].get_data())
    corners = np.asarray(ax.collections[number].get_paths()[0].vertices)
    bands = [corners[corners[:, 0] == layer, 1] for layer in x]
    return x, y, np.array([(band.min(), band.max()) for band in bands])


def labels(ax: Axes) -> list[str]:
    """What the legend, which is the figure's where the panels share one, says of a panel."""
    named = ax.get_legend_handles_labels()[1]
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    legend = ax.get_legend() or figure.legends[0]
    assert set(named) <= {text.get_text() for text in legend.get_texts()}
    return named


def test_gradients_shows_median_and_range_over_replicas_of_the_first_and_the_last_reading():
    figure = gradients.draw(table(DELTA, 7 * DELTA, 2 * DELTA), "mine")
    delta, weight, signal = figure.axes
    assert labels(delta) == ["step 0", "step 20"]
    for number, values in enumerate((DELTA, 2 * DELTA)):
        x, y, band = drawn(delta, number)
        assert x.tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose(y, np.median(values, axis=1))
        np.testing.assert_allclose(band, np.stack([values.min(1), values.max(1)], axis=1))
    for ax, quantity in ((delta, "delta_rms"), (weight, "weight_grad_norm"), (signal, "pre_rms")):
        assert ax.get_yscale() == "log"
        assert ax.get_xlabel().startswith("layer")
        assert ax.get_ylabel().startswith(quantity)
    assert figure.get_suptitle() == "mine"


def test_the_shared_legend_covers_no_panel():
    figure = gradients.draw(table(DELTA, 2 * DELTA), "mine")
    figure.canvas.draw()
    [legend] = figure.legends
    box = legend.get_window_extent()
    for ax in figure.axes:
        assert not box.overlaps(ax.get_window_extent())
        assert not box.overlaps(ax.xaxis.label.get_window_extent())


def test_one_reading_is_one_curve():
    assert labels(gradients.draw(table(DELTA)).axes[0]) == ["step 0"]


def test_what_has_no_place_on_a_logarithmic_axis_is_left_out_and_nothing_else():
    values = DELTA.copy()
    values[1, 0], values[2, 1], values[3, 2], values[4, :] = 0, np.nan, np.inf, np.nan
    x, y, _ = drawn(gradients.draw(table(values)).axes[0], 0)
    usable = np.ma.masked_invalid(np.ma.masked_equal(values, 0))
    assert x.tolist() == [0, 1, 2, 3, 5]
    np.testing.assert_allclose(y, np.ma.median(usable, axis=1).compressed())


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_curve_with_nothing_to_show_says_so(tmp_path: Path, value: float):
    figure = gradients.draw(table(DELTA, np.full_like(DELTA, value)))
    assert labels(figure.axes[0]) == ["step 0", "step 10 (nothing finite above 0)"]
    save(figure, tmp_path / "picture.png")


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (40, 1)])
def test_any_depth_and_number_of_replicas_can_be_drawn(tmp_path: Path, shape: tuple[int, int]):
    values = np.full(shape, 1e-30)
    save(gradients.draw(table(values, values)), tmp_path / "picture.png")


def test_a_comparison_gives_groups_a_colour_and_arms_of_a_group_a_style():
    names = ["tanh, xavier", "tanh, he", "relu, he"]
    curves = {name: table((i + 1) * DELTA)["delta_rms"].isel(step=0) for i, name in enumerate(names)}
    figure = gradients.draw_arms(curves, "who vanishes", [names[:2], names[2:]])
    [ax] = figure.axes
    assert labels(ax) == names
    assert ax.get_title(loc="left") == "who vanishes"
    tanh_xavier, tanh_he, relu = ax.lines
    assert tanh_xavier.get_color() == tanh_he.get_color() != relu.get_color()
    assert tanh_xavier.get_linestyle() != tanh_he.get_linestyle()
    for number, factor in enumerate((1, 2, 3)):
        np.testing.assert_allclose(drawn(ax, number)[1], factor * np.median(DELTA, axis=1))


def save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.save(figure, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture.load()
