"""Plain networks: fixed points, chi, depth scales, the critical line and the phase map, against published numbers,
iteration of the maps and independent root finding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, optimize

from lab import schema
from lab.theory import critical_line, critical_weight_var, depth_scales, fixed_points, phase_map
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.signal import correlation_map, gradient_map, limit, variance_map


def activation(name: str, *values: float) -> schema.Activation:
    return schema.ACTIVATIONS[name](name, *values)


# Rounded as published or as computed by others; the tolerance is half a unit of the last digit given.
CHI = [
    # activation, weight_var, bias_var, q*, chi
    ("tanh", 1.7610, 0.05, 0.5700, 1.000),
    ("tanh", 1.3, 0.05, None, 0.880),
    ("tanh", 3.0, 0.05, None, 1.209),
    ("tanh", 25 / 9, 0.0, None, 1.2098),  # torch.nn.init.calculate_gain("tanh") = 5 / 3
    ("tanh", 1 / 3, 0.0, 0.0, 1 / 3),  # torch.nn.Linear's default has weight_var 1 / 3
    ("sigmoid", 1.0, 0.0, 0.2647, 0.05572),
    ("sigmoid", 1 / 3, 0.0, None, 0.0200),
    ("relu", 1 / 3, 0.0, 0.0, 1 / 6),
    ("gelu", 1 / 3, 0.0, 0.0, 1 / 12),
    ("silu", 1 / 3, 0.0, 0.0, 1 / 12),
    ("selu", 1.0, 0.0, 1.0000, 1.0716),
    ("gelu", 1.98306, 0.17292, 3.562, 1.000),
    ("silu", 1.98800, 0.55514, 14.320, 1.000),
]


@pytest.mark.parametrize(("name", "weight_var", "bias_var", "q_star", "chi"), CHI)
def test_fixed_points_have_the_published_q_and_chi(name, weight_var, bias_var, q_star, chi):
    scales = depth_scales(activation(name), weight_var, bias_var)
    assert scales.chi == pytest.approx(chi, abs=5e-4 if chi > 0.5 else 5e-5)
    if q_star is not None:  # a half-stable point lies where a parabola touches: its q is known to 1% only
        assert scales.q_star == pytest.approx(q_star, rel=1e-2 if q_star > 2 else 2e-4, abs=1e-12)


def test_xavier_sigmoid_shrinks_gradients_by_236_thousandths_a_layer():
    assert math.sqrt(depth_scales(activation("sigmoid"), 1.0, 0.0).chi) == pytest.approx(0.236, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "weight_var", "bias_var", "phase"),
    [
        ("tanh", 1.7610, 0.05, "critical"),
        ("tanh", 1.3, 0.05, "vanishing"),
        ("tanh", 3.0, 0.05, "exploding"),
        ("tanh", 1.0, 0.0, "critical"),
        ("relu", 2.0, 0.0, "critical"),
        ("relu", 1.9, 0.0, "vanishing"),
        ("relu", 2.1, 0.0, "exploding"),
        ("gelu", 2.0, 0.0, "vanishing"),
        ("silu", 2.0, 0.0, "vanishing"),
        ("selu", 1.0, 0.0, "exploding"),
        ("gelu", 1.98306, 0.17292, "critical"),
        ("silu", 1.98800, 0.55514, "critical"),
        ("rrelu", 1.8937, 0.0, "critical"),
        ("sigmoid", 103.0, 0.0, "critical"),
    ],
)
def test_phases(name, weight_var, bias_var, phase):
    assert depth_scales(activation(name), weight_var, bias_var).phase == phase


def test_relu_has_its_closed_forms():
    scales = depth_scales(activation("relu"), 1.2, 0.3)
    assert scales.q_star == pytest.approx(0.3 / (1 - 0.6))
    assert scales.chi == pytest.approx(0.6)
    assert (scales.xi_q, scales.xi_c, scales.xi_grad) == pytest.approx(3 * (-1 / math.log(0.6),))


def test_what_happens_without_a_fixed_point_is_said():
    fates = {
        ("relu", 2.0, 0.0): "stays",
        ("relu", 1.9, 0.0): "vanishes",
        ("relu", 2.1, 0.0): "grows",
        ("relu", 2.0, 0.1): "grows",
        ("tanh", 2.0, 0.1): "settles",
        ("swiglu", 1.0, 0.0): "vanishes",
        ("swiglu", 2.5, 0.0): "grows",
        ("bilinear", 1.0, 0.0): "balances",
        ("bilinear", 1.01, 0.0): "grows",
    }
    for (name, weight_var, bias_var), fate in fates.items():
        assert depth_scales(activation(name), weight_var, bias_var).variance == fate, name
    assert depth_scales(activation("relu"), 2.0, 0.1).phase == "critical"  # chi is 1 whatever the variance does


def test_every_root_of_the_variance_map_is_found_with_its_stability():
    # gelu with weight_var 2.02: two by an independent root search on adaptive quadrature, and 0.
    phi = kernel(activation("gelu"))
    points = fixed_points(activation("gelu"), 2.02, 0.0)
    assert [point.stability for point in points] == ["stable", "unstable"]

    def added(q):
        value = integrate.quad(
            lambda u: float(phi.elementwise.function(np.array(math.sqrt(q) * u))) ** 2 * math.exp(-u * u / 2), -12, 12
        )[0]
        return 2.02 * value / math.sqrt(2 * math.pi) - q

    assert points[1].q == pytest.approx(optimize.brentq(added, 1.0, 1e3), rel=1e-8)


@pytest.mark.parametrize(("name", "q"), [("swiglu", 2.430), ("geglu", 2.155), ("bilinear", 1.0), ("reglu", 2.0)])
def test_gated_stacks_are_doubly_exponential_on_either_side_of_an_unstable_point(name, q):
    point = fixed_points(activation(name), 1.0, 0.0)[-1]
    assert point.stability == "unstable"
    assert point.q == pytest.approx(q, abs=5e-4)
    below, above = (variance_map(activation(name), 1.0, 0.0, 40, share * point.q) for share in (0.9, 1.1))
    assert below[-1] < 1e-30
    assert math.isinf(above[-1])
    finite = above[np.isfinite(above) & (above > 1e3)]
    assert np.log(finite[1:]) / np.log(finite[:-1]) == pytest.approx(2, rel=0.15)  # q' is about q^2


@pytest.mark.parametrize(("name", "power"), [("bilinear", 1.0), ("reglu", 0.5)])
def test_simple_gated_maps(name, power):
    q = variance_map(activation(name), 1.0, 0.0, 4, 1.5)
    assert q[1:] == pytest.approx(power * q[:-1] ** 2)


def test_critical_tanh_loses_gradients_as_a_power_law():
    q = variance_map(activation("tanh"), 1.0, 0.0, 201, 1.0)
    assert 2 * 200 * q[200] == pytest.approx(1, abs=0.02)  # q tends to 1 / (2 l)
    for depth, ratio in ((50, 0.0143), (100, 0.00713), (200, 0.00355)):
        assert math.exp(gradient_map(activation("tanh"), 1.0, q[: depth + 1])[0]) == pytest.approx(ratio, rel=4e-3)


def test_he_gelu_is_subcritical():
    q = variance_map(activation("gelu"), 2.0, 0.0, 51, 1.0)
    for depth, ratio in ((10, 0.0533), (20, 6.0e-5), (50, 5.6e-14)):
        assert math.exp(gradient_map(activation("gelu"), 2.0, q[: depth + 1])[0]) == pytest.approx(ratio, rel=6e-3)


def test_relu_correlations_approach_1_as_a_power_law():
    # 1 - c tends to 9 pi^2 / (2 l^2), with a relative correction of order ln(l) / l.
    depth = 4000
    c = correlation_map(activation("relu"), 2.0, 0.0, depth, 2.0, 0.3)
    assert c[1] == pytest.approx((math.sqrt(1 - 0.09) + 0.3 * (math.pi - math.acos(0.3))) / math.pi)
    assert (1 - c[-1]) * 2 * depth**2 / (9 * math.pi**2) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize(("weight_var", "bias_var"), [(1.3, 0.05), (3.0, 0.05)])
def test_depth_scales_are_those_of_the_iterated_maps(weight_var, bias_var):
    tanh = activation("tanh")
    scales = depth_scales(tanh, weight_var, bias_var)
    q = variance_map(tanh, weight_var, bias_var, 16, 0.3)
    approach = np.abs(q - scales.q_star)
    assert -1 / math.log(approach[12] / approach[11]) == pytest.approx(scales.xi_q, rel=1e-2)
    c = correlation_map(tanh, weight_var, bias_var, 61, scales.q_star, 0.9)
    approach = np.abs(c - scales.c_star)
    assert -1 / math.log(approach[60] / approach[59]) == pytest.approx(scales.xi_c, rel=1e-2)
    log_gradient = gradient_map(tanh, weight_var, np.full(11, scales.q_star))
    assert 10 / abs(log_gradient[0]) == pytest.approx(scales.xi_grad)
    assert scales.trainable_depth == pytest.approx(6 * min(scales.xi_c, scales.xi_grad))


def test_correlations_settle_at_1_in_order_and_below_in_chaos():
    assert depth_scales(activation("tanh"), 1.3, 0.05).c_star == 1
    chaotic = depth_scales(activation("tanh"), 3.0, 0.05)
    phi, c, q = kernel(activation("tanh")), chaotic.c_star, chaotic.q_star
    assert 0 < c < 1
    assert (3.0 * phi.product(q, q, c) + 0.05) / q == pytest.approx(c, rel=1e-9)
    assert depth_scales(activation("tanh"), 3.0, 0.0).c_star == pytest.approx(0, abs=1e-9)
    # The noise of rrelu keeps two copies of one example apart.
    rrelu = kernel(activation("rrelu"))
    c = depth_scales(activation("rrelu"), 1.8936986301369862, 0.0).c_star
    assert 0.9 < c < 0.95
    assert rrelu.product(1.0, 1.0, c) / rrelu.second_moment(1.0) == pytest.approx(c, rel=1e-9)


@pytest.mark.parametrize(
    ("act", "bias_var", "weight_var", "tolerance"),
    [
        (activation("relu"), 0.0, 2.0, 1e-12),
        (activation("leaky_relu", 0.3), 0.0, 2 / 1.09, 1e-12),
        (activation("prelu"), 0.0, 2 / (1 + 0.25**2), 1e-12),
        (activation("rrelu"), 0.0, 1.8937, 5e-5),
        (activation("identity"), 0.0, 1.0, 1e-12),
        (activation("tanh"), 0.0, 1.0, 1e-12),
        (activation("tanh"), 0.05, 1.7610, 5e-5),
        (activation("erf"), 0.0, math.pi / 4, 1e-12),
        (activation("elu"), 0.0, 1.0, 1e-12),
        (activation("sigmoid"), 0.0, 103.0, 0.5),
        (activation("gelu"), 0.17292, 1.98306, 5e-5),
        (activation("silu"), 0.55514, 1.98800, 5e-5),
    ],
)
def test_critical_weight_vars(act, bias_var, weight_var, tolerance):
    assert critical_weight_var(act, bias_var) == pytest.approx(weight_var, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "bias_var"),
    [
        ("tanh", 0.2),
        ("sigmoid", 0.7),
        ("elu", 0.3),
        ("selu", 0.1),
        ("erf", 1.0),
        ("gelu", 0.4),
        ("gelu_tanh", 0.5),
        ("silu", 0.8),
        ("glu", 0.4),
    ],
)
def test_gradients_keep_their_size_on_the_critical_line_when_the_map_is_iterated(name, bias_var):
    weight_var = critical_weight_var(activation(name), bias_var)
    q = variance_map(activation(name), weight_var, bias_var, 3000)
    assert math.exp(gradient_map(activation(name), weight_var, q[-2:])[0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "bias_var", "remedy"),
    [
        ("relu", 0.1, "init.bias_var=0"),
        ("gelu", 0.0, "init.bias_var=0.178 or more"),
        ("silu", 0.1, "init.bias_var=0.57 or more"),
        ("softplus", 0.0, "init=he_normal"),
        ("swiglu", 0.0, "norm=rms"),
        ("glu", 0.0, "init.bias_var=0.231 or more"),
    ],
)
def test_where_there_is_no_critical_point_the_remedy_is_named(name, bias_var, remedy):
    with pytest.raises(schema.ConfigError, match=f"init=critical: activation={name} .*{remedy}") as refusal:
        critical_weight_var(activation(name), bias_var)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(("name", "bias_var"), [("gelu", 0.173), ("silu", 0.556), ("glu", 0.224), ("relu", 0.0)])
def test_the_remedy_works(name, bias_var):
    assert critical_weight_var(activation(name), bias_var) > 0


def test_the_critical_line_is_nan_where_there_is_none():
    line = critical_line(activation("gelu"), np.array([[0.0, 0.1], [0.2, 0.5]]))
    assert np.isnan(line).tolist() == [[True, True], [False, False]]
    assert line[1, 1] == critical_weight_var(activation("gelu"), 0.5)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu", "gelu", "selu", "swiglu", "softplus"])
def test_the_phase_map_agrees_with_points_taken_one_by_one(name):
    weight_vars, bias_vars = np.array([0.2, 1.0, 1.7, 2.0, 2.3, 3.9]), np.array([0.0, 0.03, 0.4, 1.0])
    table = phase_map(activation(name), weight_vars, bias_vars)
    for (row, column), chi in np.ndenumerate(table.chi):
        s, b = float(weight_vars[column]), float(bias_vars[row])
        point = limit(activation(name), s, b, s + b)
        assert table.q_star[row, column] == pytest.approx(point.q, rel=1e-9), (s, b)
        assert chi == pytest.approx(point.chi, rel=1e-9), (s, b)
        assert table.slope[row, column] == pytest.approx(point.slope, rel=1e-6, nan_ok=True), (s, b)


def test_the_phase_map_changes_sides_on_the_critical_line():
    bias_vars = np.array([0.05, 0.3])
    for bias_var, critical in zip(bias_vars, critical_line(activation("tanh"), bias_vars), strict=True):
        table = phase_map(activation("tanh"), critical * np.array([0.99, 1.0, 1.01]), np.array([bias_var]))
        below, on, above = table.chi[0]
        assert below < on < above
        assert on == pytest.approx(1, abs=1e-9)
    assert table.xi_grad[0, 1] > 1e6
