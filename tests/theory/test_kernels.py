"""V, D and the two-input kernels against adaptive quadrature, mpmath, closed forms and Monte Carlo."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from scipy import integrate, special

from lab import schema
from lab.theory import NoTheory, predict
from lab.theory.kernels import quadrature
from lab.theory.kernels.activations import ELEMENTWISE, Elementwise
from lab.theory.kernels.kernels import Kernel, kernel

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017
FUNCTIONS = {
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * math.expm1(x)),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x * special.expit(x),
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "erf": special.erf,
    "identity": lambda x: x,
}
GATES = {"glu": "sigmoid", "bilinear": "identity", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}
VARIANCES = (1e-6, 1e-2, 1.0, 30.0, 1e3)
SCALES = (0.05, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)  # where activations change; the integrator is told to look there


def activation(name: str) -> schema.Activation:
    return schema.ACTIVATIONS[name](name)


def integral(f, q: float) -> float:
    """E f(sqrt(q) u) by adaptive quadrature, split at 0 and at the scales of the activation."""
    deviation = math.sqrt(q)
    ends = sorted({0.0, 1.0, 3.0, 6.0, 12.0, *(x / deviation for x in SCALES if x / deviation < 12)})

    def density(u):
        return (f(deviation * u) + f(-deviation * u)) * math.exp(-u * u / 2) / math.sqrt(2 * math.pi)

    pieces = itertools.pairwise(ends)
    return math.fsum(integrate.quad(density, a, b, epsabs=0, epsrel=1e-12, limit=100)[0] for a, b in pieces)


def test_every_activation_has_kernels():
    assert {*FUNCTIONS, "rrelu", *GATES} == set(schema.ACTIVATIONS)
    for name in schema.ACTIVATIONS:
        assert np.isfinite(kernel(activation(name)).second_moment(1.0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_the_activations_and_derivatives_their_derivatives(name):
    phi, points = kernel(activation(name)).elementwise, np.array([-30.0, -4.0, -1.3, -0.2, 0.1, 0.9, 2.7, 25.0])
    assert phi.function(points) == pytest.approx([FUNCTIONS[name](float(x)) for x in points], rel=1e-13, abs=1e-14)
    step = 1e-5
    slopes = (phi.function(points + step) - phi.function(points - step)) / (2 * step)
    assert phi.derivative(points) == pytest.approx(slopes, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_safe_for_large_arguments(name):
    phi, huge = kernel(activation(name)).elementwise, np.array([-1e200, -800.0, 800.0, 1e200])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(phi.function(huge)).all()
        assert np.isfinite(phi.derivative(huge)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_v_d_and_mean_agree_with_adaptive_quadrature(name):
    phi, f = kernel(activation(name)), FUNCTIONS[name]
    slope = phi.elementwise.derivative  # checked above
    for q in VARIANCES:
        assert phi.second_moment(q) == pytest.approx(integral(lambda x: f(x) ** 2, q), rel=1e-10)
        assert phi.slope_moment(q) == pytest.approx(integral(lambda x: float(slope(np.array(x))) ** 2, q), rel=1e-10)
        assert phi.mean(q) == pytest.approx(integral(f, q), rel=1e-10, abs=1e-10 * math.sqrt(q))


def test_v_and_d_agree_with_mpmath():
    cases = {
        "tanh": (mpmath.tanh, lambda x: mpmath.sech(x) ** 2),
        "elu": (lambda x: x if x > 0 else mpmath.expm1(x), lambda x: mpmath.mpf(1) if x > 0 else mpmath.exp(x)),
        "gelu": (lambda x: x * mpmath.ncdf(x), lambda x: mpmath.ncdf(x) + x * mpmath.npdf(x)),
    }
    for name, (f, slope) in cases.items():
        phi = kernel(activation(name))
        for q in (0.3, 50.0):
            for ours, integrand in ((phi.second_moment(q), f), (phi.slope_moment(q), slope)):
                exact = mpmath.quad(
                    lambda u, g=integrand, q=q: g(mpmath.sqrt(q) * u) ** 2 * mpmath.npdf(u),
                    [-14, -1, -0.1, 0, 0.1, 1, 14],
                )
                assert ours == pytest.approx(float(exact), rel=1e-11)


def test_elu_agrees_with_its_closed_form():
    # E (exp(z) - 1)^2 over z < 0, with exp(q / 2) Phi(-sqrt q) = erfcx(sqrt(q / 2)) / 2.
    q = np.array([0.01, 0.5, 4.0, 100.0, 1e4])
    negative = (special.erfcx(np.sqrt(2 * q)) - 2 * special.erfcx(np.sqrt(q / 2)) + 1) / 2
    phi = kernel(schema.ELU("elu", alpha=1.7))
    assert phi.second_moment(q) == pytest.approx(q / 2 + 1.7**2 * negative, rel=1e-12)
    assert phi.slope_moment(q) == pytest.approx(0.5 + 1.7**2 * special.erfcx(np.sqrt(2 * q)) / 2, rel=1e-12)


def test_a_steep_swish_is_close_to_relu_and_a_flat_one_to_half_the_identity():
    steep, flat = kernel(schema.Swish("swish", beta=300.0)), kernel(schema.Swish("swish", beta=1e-6))
    assert steep.second_moment(1.0) == pytest.approx(0.5, abs=1e-4)
    assert flat.second_moment(1.0) == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("name", ["relu", "identity", "erf", "gelu"])
def test_closed_forms_agree_with_quadrature(name):
    closed = kernel(activation(name))
    general = Kernel(closed.elementwise)
    q = np.array(VARIANCES)
    for method in ("second_moment", "slope_moment", "mean", "second_moment_derivative"):
        assert getattr(closed, method)(q) == pytest.approx(getattr(general, method)(q), rel=1e-11), method
    for q1, q2 in ((1e-4, 1.0), (1.0, 2.0), (30.0, 3.0)):
        for c in (-1.0, -0.7, 0.0, 0.3, 0.999999, 1.0):
            scale = math.sqrt(closed.second_moment(q1) * closed.second_moment(q2))
            slope_scale = math.sqrt(closed.slope_moment(q1) * closed.slope_moment(q2))
            assert closed.product(q1, q2, c) == pytest.approx(general.product(q1, q2, c), abs=1e-10 * scale)
            ours, other = closed.slope_product(q1, q2, c), general.slope_product(q1, q2, c)
            assert ours == pytest.approx(other, abs=1e-10 * slope_scale)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "selu", "gelu_tanh", "silu", "softplus"])
def test_two_input_kernels_agree_with_conditional_expectations(name):
    """E f(z1) E[f(z2) | z1], Gauss-Legendre on panels that end at the kinks."""
    phi = kernel(activation(name))
    nodes, weights = np.polynomial.legendre.leggauss(20)

    def panels(ends):  # (..., K + 1) -> nodes and weights (..., K * 20)
        low, high = ends[..., :-1, None], ends[..., 1:, None]
        points = (low + high) / 2 + (high - low) / 2 * nodes
        return points.reshape(*ends.shape[:-1], -1), ((high - low) / 2 * weights).reshape(*ends.shape[:-1], -1)

    q1, q2, c = 1.3, 0.6, 0.45
    u, du = panels(np.linspace(-10, 10, 21))
    kink = np.clip(-c * u / math.sqrt(1 - c * c), -10, 10)[:, None]  # where z2 = 0
    share = np.linspace(0, 1, 9)
    v, dv = panels(np.concatenate([-10 + (kink + 10) * share, kink + (10 - kink) * share[1:]], axis=1))
    z1, z2 = math.sqrt(q1) * u, math.sqrt(q2) * (c * u[:, None] + math.sqrt(1 - c * c) * v)
    density_u, density_v = (np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) for x in (u, v))
    for f, ours in zip(phi.elementwise, (phi.product(q1, q2, c), phi.slope_product(q1, q2, c)), strict=True):
        inner = np.sum(f(z2) * density_v * dv, axis=1)
        assert ours == pytest.approx(np.sum(f(z1) * inner * density_u * du), rel=1e-10)


@pytest.mark.parametrize("name", [*FUNCTIONS, *GATES])
def test_two_identical_inputs_give_v_and_d(name):
    phi = kernel(activation(name))
    for q in (1e-3, 1.0, 100.0):
        assert phi.product(q, q, 1.0) == pytest.approx(phi.second_moment(q), rel=1e-9)
        assert phi.slope_product(q, q, 1.0) == pytest.approx(phi.slope_moment(q), rel=1e-9)


@pytest.mark.parametrize("name", [*FUNCTIONS, *GATES, "rrelu"])
def test_the_derivative_of_v_is_its_derivative(name):
    phi, q = kernel(activation(name)), np.array([1e-3, 0.2, 1.0, 40.0])
    step = 1e-4 * q
    slope = (phi.second_moment(q + step) - phi.second_moment(q - step)) / (2 * step)
    assert phi.second_moment_derivative(q) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", [*GATES, "rrelu"])
def test_gates_and_random_slopes_agree_with_monte_carlo(name):
    rng, samples, q, c = np.random.default_rng(7), 400_000, 0.8, 0.6
    phi = kernel(activation(name))
    v, u = rng.normal(size=(2, samples)) * math.sqrt(q)
    other_v, other_u = (c * x + math.sqrt(1 - c * c) * math.sqrt(q) * rng.normal(size=samples) for x in (v, u))
    if name == "rrelu":
        slopes = rng.uniform(1 / 8, 1 / 3, (2, samples))
        a, b = np.where(u > 0, u, slopes[0] * u), np.where(other_u > 0, other_u, slopes[1] * other_u)
        slope_a, slope_b = np.where(u > 0, 1.0, slopes[0]), np.where(other_u > 0, 1.0, slopes[1])
        samples_of = [a**2, slope_a**2, a * b, slope_a * slope_b, a**4, slope_a**4, a**2 * slope_a**2]
    else:
        gate = kernel(activation(GATES[name])).elementwise
        g, other_g, dg, other_dg = (
            gate.function(u),
            gate.function(other_u),
            gate.derivative(u),
            gate.derivative(other_u),
        )
        squared = g**2 + (v * dg) ** 2
        samples_of = [(v * g) ** 2, squared, v * g * other_v * other_g, g * other_g + v * dg * other_v * other_dg]
        samples_of += [(v * g) ** 4, squared**2, (v * g) ** 2 * squared]
    theory = [phi.second_moment(q), phi.slope_moment(q), phi.product(q, q, c), phi.slope_product(q, q, c)]
    for sample, expected in zip(samples_of, [*theory, *phi.fourth_moments(q)], strict=True):
        error = np.std(sample) / math.sqrt(samples)
        assert abs(np.mean(sample) - expected) < 4 * error + 1e-12


def test_rectifiers_have_the_published_second_moments():
    # He et al. 2015, eq. 14, for a slope a; E a^2 of U(1/8, 1/3) is 0.05613 to five digits.
    assert kernel(activation("relu")).second_moment(3.0) == pytest.approx(1.5)
    assert kernel(schema.LeakyReLU("leaky_relu", 0.2)).slope_moment(3.0) == pytest.approx((1 + 0.04) / 2)
    assert 2 * kernel(activation("rrelu")).slope_moment(1.0) - 1 == pytest.approx(0.05613, abs=5e-6)


def test_erf_has_williams_closed_form():
    q, phi = 0.7, kernel(activation("erf"))
    assert phi.second_moment(q) == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-14)
    assert phi.slope_moment(q) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-14)


def mish(x):
    return x * np.tanh(np.logaddexp(0.0, x))


def mish_slope(x):
    t = np.tanh(np.logaddexp(0.0, x))
    return t + x * special.expit(x) * (1 - t**2)


def test_a_registered_function_has_kernels_by_quadrature(monkeypatch):
    config = replace(schema.Config(), activation=schema.Activation("mish"))
    with pytest.raises(NoTheory, match="activation=mish"):
        predict(config)
    monkeypatch.setitem(ELEMENTWISE, "mish", Elementwise(mish, mish_slope))
    phi = kernel(config.activation)
    for q in VARIANCES:
        assert phi.second_moment(q) == pytest.approx(integral(lambda x: float(mish(x)) ** 2, q), rel=1e-10)
        assert phi.slope_moment(q) == pytest.approx(integral(lambda x: float(mish_slope(x)) ** 2, q), rel=1e-10)
    for c, exact in ((1.0, phi.second_moment(2.0)), (0.0, phi.mean(2.0) ** 2)):
        assert phi.product(2.0, 2.0, c) == pytest.approx(float(exact), rel=1e-9)
    assert np.isfinite(predict(config).log_delta).all()


@pytest.mark.parametrize("dimension", [4, 7, 63, 500])
def test_the_sphere_rules_have_the_moments_of_a_uniform_direction(dimension):
    # E t^2 = 1 / d and E t^4 = 3 / (d (d + 2)) of one coordinate; the square of two has mean 2 / d.
    rule, radius = quadrature.sphere(dimension), quadrature.sphere_radius(dimension)
    assert 2 * rule.weights @ rule.nodes**2 == pytest.approx(1, rel=1e-9)
    assert 2 * rule.weights @ rule.nodes**4 == pytest.approx(3 * dimension / (dimension + 2), rel=1e-9)
    assert radius.weights @ radius.nodes**2 == pytest.approx(2, rel=1e-9)


def test_theory_borrows_from_neither_torch_nor_the_network():
    code = (
        "import sys, lab.theory; print(*[m for m in sys.modules if m.split('.')[0] in ('torch', 'scipy', 'hydra')"
        " or m in ('lab.network', 'lab.measure.probes')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
