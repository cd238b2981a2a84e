"""`gradlab figures`: pictures of every activation, GELU's largest differences, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread
from scipy import special

from lab import schema
from lab.plot import activation_figures
from lab.plot.activation_figures import Comparison
from tests.conftest import Command

PICTURES = ["activations.png", "gelu.png"]


@pytest.fixture(scope="module")
def curves() -> dict[str, list[activation_figures.Curve]]:
    return {name: activation_figures.curves(name) for name in activation_figures.NAMES}


# --- the command ----------------------------------------------------------------------------------------------------


def test_it_draws_both_pictures_and_says_where_gelu_differs_most(gradlab: Command, tmp_path: Path):
    done = gradlab("figures")
    assert (done.status, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == PICTURES
    for name in PICTURES:
        pixels = imread(tmp_path / "figures" / name)
        assert min(pixels.shape[:2]) > 1000
        assert 0.02 < float((pixels[..., :3].min(-1) < 0.9).mean()) < 0.5  # neither blank nor black
    rows = re.findall(r"^  (\S.*\S) +minus (\S.*\S) +(float32|float64) +(\S+) at x = (\S+)$", done.out, re.MULTILINE)
    assert [row[:2] for row in rows[::2]] == [row[:2] for row in rows[1::2]]
    assert len(rows) == 6
    for first, second, name, largest, where in rows:
        dtype, x = getattr(torch, name), float(where)
        at_x = torch.full((64,), x, dtype=dtype)
        if "by hand" in first:  # rounding, a handful of units in the last place
            assert 0 < float(largest) <= 8 * torch.finfo(dtype).eps * max(1.0, abs(x))
        else:  # x is printed with 5 digits, and the curve is flat there
            apart = (by_name(first, at_x) - by_name(second, at_x)).abs().max().item()
            assert float(largest) == pytest.approx(apart, rel=2e-3)
            assert float(largest) == pytest.approx(4.732e-4, rel=1e-3)
            assert abs(x) == pytest.approx(2.699, abs=0.02)


def by_name(name: str, x: torch.Tensor) -> torch.Tensor:
    """GELU in the form that is named, as torch has it."""
    return F.gelu(x, approximate="tanh" if "tanh" in name else "none")


def test_pictures_are_not_written_over_unless_told_to(gradlab: Command, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gelu.png").write_text("mine")
    done = gradlab("figures")
    assert (done.status, done.out) == (2, "")
    assert done.err == ("--folder=figures: this folder holds gelu.png already; choose another, or add --overwrite.\n")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["gelu.png"]
    assert (tmp_path / "figures" / "gelu.png").read_text() == "mine"
    assert gradlab("figures", "--folder", "figures", "--overwrite").status == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == PICTURES
    assert (tmp_path / "figures" / "gelu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folder", ""], "--folder: it is empty; name a folder, for example --folder=figures."),
        (["--folder", "file"], "--folder=file: file is no folder that can be written in; choose another."),
        (["--folder", "file/below"], "--folder=file/below: "),
        (["--folder", "taken"], "--folder=taken: gelu.png in it is no file; choose another folder."),
        (["--fold", "x"], "Unrecognized arguments: --fold x; see gradlab figures --help."),
        (["--folder"], "Argument --folder: expected one argument; see gradlab figures --help."),
        (["activation=tanh"], "Unrecognized arguments: activation=tanh; see gradlab figures --help."),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(gradlab: Command, tmp_path: Path, words, sentence):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "gelu.png").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = gradlab("figures", *words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(sentence)
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


# --- the curves -----------------------------------------------------------------------------------------------------


def test_every_activation_of_the_lab_is_drawn_the_textbooks_four_first():
    assert activation_figures.NAMES[:4] == ("sigmoid", "tanh", "relu", "leaky_relu")
    assert sorted(activation_figures.NAMES) == sorted(schema.ACTIVATIONS)
    figure = activation_figures.grid()
    drawn = [ax.get_title().partition("\n")[0] for ax in figure.get_axes() if ax.get_visible()]
    assert drawn == list(activation_figures.NAMES)


@pytest.mark.parametrize("name", activation_figures.NAMES)
def test_a_drawn_derivative_is_the_slope_of_the_drawn_curve(name, curves):
    for curve in curves[name]:
        z, step = curve.z, np.diff(curve.z)
        middle = (curve.slope[1:] + curve.slope[:-1]) / 2
        is_smooth = (step > 1e-6) & (z[1:] * z[:-1] > 0)
        # The trapezoidal rule over a step of h errs by h^3 / 12 times the slope's second derivative: at most 100, as
        # swish's at beta 10 is beta^2 times SiLU's, which is below 1.
        errors = np.abs(np.diff(curve.value) - middle * step)
        assert errors[is_smooth].max() < 100 * step.max() ** 3 / 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigmoid", special.expit),
        ("tanh", np.tanh),
        ("relu", lambda z: np.maximum(z, 0)),
        ("leaky_relu", lambda z: np.where(z > 0, z, 0.01 * z)),
        ("rrelu", lambda z: np.where(z > 0, z, (1 / 8 + 1 / 3) / 2 * z)),
        ("elu", lambda z: np.where(z > 0, z, np.expm1(z))),
        ("gelu", lambda z: z * special.ndtr(z)),
        ("silu", lambda z: z * special.expit(z)),
        ("swiglu", lambda z: z * special.expit(z)),
        ("reglu", lambda z: np.maximum(z, 0)),
        ("bilinear", lambda z: z),
    ],
)
def test_the_thick_curve_is_the_activation_with_its_defaults(name, value, curves):
    (main,) = [curve for curve in curves[name] if curve.is_main]
    np.testing.assert_allclose(main.value, value(main.z), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", schema.GATED)
def test_a_gated_activation_is_drawn_for_three_values(name, curves):
    one, two, minus = curves[name]
    assert [curve.is_main for curve in curves[name]] == [True, False, False]
    np.testing.assert_allclose(two.value, 2 * one.value)
    np.testing.assert_allclose(minus.slope, -one.slope)


def test_a_jump_is_drawn_as_a_gap_and_a_smooth_curve_without_one():
    figure = activation_figures.grid(["relu", "gelu"])
    jump, smooth = ([line.get_ydata() for line in ax.get_lines()[:2]] for ax in figure.get_axes()[:2])
    assert [int(np.isnan(line).sum()) for line in jump] == [0, 1]
    assert [int(np.isnan(line).sum()) for line in smooth] == [0, 0]


# --- comparisons ----------------------------------------------------------------------------------------------------


def test_the_largest_difference_is_named_where_it_is_closest_to_0():
    x = np.array([-3.0, -1.0, 0.0, 2.0])
    comparison = Comparison("a", "b", "float32", x, np.array([-5.0, 1.0, 0.0, 5.0]))
    assert comparison.largest == (5.0, 2.0)


def test_forms_that_are_equal_can_be_drawn():
    x = np.linspace(-1, 1, 11)
    same = Comparison("a", "b", "float64", x, np.zeros(11))
    figure = activation_figures.gelu(x, x, x, [same])
    assert "largest: 0 at" in figure.get_axes()[1].texts[0].get_text()
