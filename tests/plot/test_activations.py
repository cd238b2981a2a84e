"""Curves of activations and their derivatives, against closed forms and each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from lab import schema
from lab.plot import activations


@pytest.fixture(scope="module")
def curves() -> dict[str, list[activations.Curve]]:
    return {name: activations.curves(name) for name in activations.NAMES}


def test_every_activation_of_the_lab_is_drawn_the_textbooks_four_first():
    assert activations.NAMES[:4] == ("sigmoid", "tanh", "relu", "leaky_relu")
    assert sorted(activations.NAMES) == sorted(schema.ACTIVATIONS)
    figure = activations.draw()
    drawn = [ax.get_title().partition("\n")[0] for ax in figure.get_axes() if ax.get_visible()]
    assert drawn == list(activations.NAMES)


@pytest.mark.parametrize("name", activations.NAMES)
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
    figure = activations.draw(["relu", "gelu"])
    jump, smooth = ([line.get_ydata() for line in ax.get_lines()[:2]] for ax in figure.get_axes()[:2])
    assert [int(np.isnan(line).sum()) for line in jump] == [0, 1]
    assert [int(np.isnan(line).sum()) for line in smooth] == [0, 0]
