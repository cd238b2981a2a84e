"""Statements 3, 5, 6, 7 and 11: published rates and critical points of plain networks."""

from __future__ import annotations

import math
from functools import partial

from experiments.validation import expected, networks, reference
from experiments.validation.networks import Size
from experiments.validation.row import Row
from lab import schema
from lab.compose import compose
from lab.theory import critical_weight_var, fixed_points, predict
from lab.theory.kernels.kernels import kernel

DROPPED = 10
"""Layers nearest the input that a rate leaves out: the variance is still on its way there."""

SECOND_MOMENT_OF_RANDOM_SLOPE = 0.05613
"""rrelu's slope is uniform in [1/8, 1/3]."""


def rows(size: Size) -> list[Row]:
    return [*rectifier_rows(size), *default_rows(size), *sigmoid_rows(size), *tanh_rows(size), *selu_rows(size)]


def published(digits: float) -> float:
    """Half a unit of the last digit of a published number, and rounding."""
    return 0.5 * digits * (1 + 1e-9)


# --- relu and its kin -----------------------------------------------------------------------------------------------


def rectifier_rows(size: Size) -> list[Row]:
    criticals = {
        "relu": ("activation=relu", schema.Activation("relu"), 2.0, 1e-12),
        "leaky_relu, slope .3": (
            "activation=leaky_relu",
            schema.LeakyReLU("leaky_relu", 0.3),
            2 / (1 + 0.3**2),
            1e-12,
        ),
        "prelu, slope .25": ("activation=prelu", schema.PReLU("prelu"), 2 / (1 + 0.25**2), 1e-12),
        "rrelu": ("activation=rrelu", schema.RReLU("rrelu"), 1.8937, published(1e-4)),
    }
    slope_fourth = {"relu": 0.0, "leaky_relu, slope .3": 0.3**4, "prelu, slope .25": 0.25**4}
    found = [
        Row(
            3,
            "second moment of rrelu's slope",
            "E a^2 for a uniform in [1/8, 1/3], from theory's D = (1 + E a^2) / 2",
            SECOND_MOMENT_OF_RANDOM_SLOPE,
            published(1e-5),
            "last digit published",
            random_slope,
        )
    ]
    for name, (override, activation, weight_var, digits) in criticals.items():
        found.append(
            Row(
                3,
                f"critical weight_var, {name}",
                "theory solves for 2 / (1 + a^2)",
                weight_var,
                digits,
                "last digit published" if name == "rrelu" else "rounding, float64",
                partial(critical_weight_var, activation),
            )
        )
        slope = ("activation.negative_slope=0.3",) if name.startswith("leaky") else ()
        run = networks.network(size, override, *slope, *networks.gaussian(weight_var), "probe.set=norms")
        # v = 3 E phi'^4 / (E phi'^2)^2 - 1 with E phi'^2 = 1 / weight_var; for relu that is 5.
        fourth = slope_fourth.get(name, reference.moments("rrelu", 1.0).D4 * 2 - 1)
        step = 3 * (1 + fourth) / 2 * weight_var**2 - 1
        layers = size.rate_depth - 1
        found.append(
            Row(
                3,
                f"rate at the critical weight_var, {name}",
                "neither grows nor shrinks: ln chi = 0",
                0.0,
                reference.rate_tolerance(step, size.width, layers, size.replicas),
                f"v/(2n) + 3 sqrt(v/(nLS)), v = {step:.3g}",
                partial(networks.rate, run, "delta_rms", 0),
                run,
            )
        )
    for weight_var in (1.2, 3.0):
        run = networks.network(size, "activation=relu", *networks.gaussian(weight_var), "probe.set=norms")
        found.append(
            Row(
                3,
                f"rate of relu, weight_var {weight_var:g}",
                "chi = s/2",
                math.log(weight_var / 2),
                reference.rate_tolerance(5.0, size.width, size.rate_depth - 1, size.replicas),
                "5/(2n) + 3 sqrt(5/(nLS))",
                partial(networks.rate, run, "delta_rms", 0),
                run,
            )
        )
    return found


def random_slope() -> float:
    return float(2 * kernel(schema.RReLU("rrelu")).slope_moment(1.0) - 1)


# --- torch's default ------------------------------------------------------------------------------------------------


def default_rows(size: Size) -> list[Row]:
    """Weights U(+-1/sqrt(fan_in)), s = 1/3; biases of variance 1/(3 fan_in) keep q* small but above 0."""
    found = []
    small = 1 / (2 * size.width)  # q* = s V + b with V about D(0) q at most q: at most b / (1 - s)
    # D(q) = D(0) + curvature q: tanh 1 - 2q, gelu 1/4 + (2/pi) q, silu 1/4 + q/4; sigmoid's chi at its own q*.
    slack = {"relu": 0.0, "tanh": 2 / 3 * small, "gelu": 2 / (3 * math.pi) * small, "silu": small / 12}
    for name, chi in {"relu": 1 / 6, "tanh": 1 / 3, "sigmoid": 0.0200, "gelu": 1 / 12, "silu": 1 / 12}.items():
        run = networks.network(size, f"activation={name}", "init=torch_default", "probe.set=norms")
        far = (*run.overrides, "model.depth=200")
        found.append(
            Row(
                5,
                f"chi of torch's default, {name}",
                "theory's rate 200 layers down",
                chi,
                slack.get(name, published(1e-4)) + 1e-9,
                "last digit published" if name == "sigmoid" else "D(q*) - D(0) at q* = 1/(2n)",
                partial(deep_chi, far),
            )
        )
        found.append(
            expected.rate_row(
                5, f"rate of torch's default, {name}", f"the network's chi is {chi:.4g}", run, chi, name, DROPPED
            )
        )
    return found


def deep_chi(overrides: tuple[str, ...]) -> float:
    """The rate between the two last but one layers."""
    log_delta = predict(compose(overrides)).log_delta
    return math.exp(2 * (log_delta[-3] - log_delta[-2]))


# --- sigmoid --------------------------------------------------------------------------------------------------------


def sigmoid_rows(size: Size) -> list[Row]:
    sigmoid = schema.Activation("sigmoid")
    xavier = networks.network(size, "activation=sigmoid", "init=xavier_normal")
    critical = networks.network(size, "activation=sigmoid", "init=critical", "probe.set=norms")
    return [
        Row(6, "q* of Xavier", "theory's fixed point", 0.2647, published(1e-4), "last digit published", sigmoid_q),
        Row(6, "chi of Xavier", "theory's chi there", 0.05572, published(1e-5), "last digit published", sigmoid_chi),
        Row(
            6,
            "factor of the norm, Xavier",
            "its square root, the factor a layer in norm",
            0.236,
            published(1e-3),
            "last digit published",
            sigmoid_factor,
        ),
        expected.rate_row(6, "rate of Xavier", "the network's chi is .05572", xavier, 0.05572, "sigmoid", DROPPED),
        expected.profile_row(6, "q of Xavier", "q goes to .2647", xavier, "pre_rms"),
        Row(
            6,
            "critical weight_var",
            "only at about 103",
            103.0,
            published(1.0),
            "last digit published",
            partial(critical_weight_var, sigmoid),
        ),
        expected.profile_row(6, "gradient at init=critical", "stays as it is", critical),
    ]


def sigmoid_q() -> float:
    (point,) = fixed_points(schema.Activation("sigmoid"), 1.0, 0.0)
    return point.q


def sigmoid_chi() -> float:
    (point,) = fixed_points(schema.Activation("sigmoid"), 1.0, 0.0)
    return point.chi


def sigmoid_factor() -> float:
    return math.sqrt(sigmoid_chi())


# --- tanh and selu --------------------------------------------------------------------------------------------------


def tanh_rows(size: Size) -> list[Row]:
    tanh, bias_var, gain = schema.Activation("tanh"), 0.05, 5 / 3
    found = [
        Row(
            7,
            "critical weight_var of tanh, bias_var .05",
            "theory solves for it",
            1.7610,
            published(1e-4),
            "last digit published",
            partial(critical_weight_var, tanh, bias_var),
        ),
        Row(
            7,
            "q* of critical tanh, bias_var .05",
            "theory's fixed point there",
            0.5700,
            published(1e-4),
            "last digit published",
            partial(critical_q, "tanh", bias_var),
        ),
    ]
    points = {
        "weight_var 1.3": (1.3, bias_var, 0.880, 1e-3),
        "weight_var 1.7610": (1.7610, bias_var, 1.0, 1e-4),
        "weight_var 3.0": (3.0, bias_var, 1.209, 1e-3),
        "gain 5/3": (gain**2, 0.0, 1.2098, 1e-4),
    }
    for name, (weight_var, b, chi, digits) in points.items():
        init = networks.gaussian(weight_var, b)
        if name == "gain 5/3":
            init = ("init=xavier_normal", f"init.gain={gain!r}")
        run = networks.network(size, "activation=tanh", *init, "probe.set=norms")
        found.append(
            Row(
                7,
                f"chi of tanh, {name}",
                "theory's chi at its fixed point",
                chi,
                published(digits),
                "last digit published",
                partial(stable_chi, "tanh", weight_var, b),
            )
        )
        found.append(
            expected.rate_row(7, f"rate of tanh, {name}", f"the network's chi is {chi:g}", run, chi, "tanh", DROPPED)
        )
    return found


def stable_q(name: str, weight_var: float, bias_var: float) -> float:
    return [p.q for p in fixed_points(schema.Activation(name), weight_var, bias_var) if p.stability == "stable"][-1]


def critical_q(name: str, bias_var: float) -> float:
    return stable_q(name, critical_weight_var(schema.Activation(name), bias_var), bias_var)


def stable_chi(name: str, weight_var: float, bias_var: float) -> float:
    return [p.chi for p in fixed_points(schema.Activation(name), weight_var, bias_var) if p.stability == "stable"][-1]


def selu_rows(size: Size) -> list[Row]:
    run = networks.network(size, "activation=selu", "init=lecun_normal")
    return [
        Row(
            11,
            "q* of selu with LeCun",
            "theory's fixed point",
            1.0,
            1e-9,
            "the constants are chosen so; 10 digits",
            partial(stable_q, "selu", 1.0, 0.0),
        ),
        Row(
            11,
            "chi of selu with LeCun",
            "theory's chi there",
            1.0716,
            published(1e-4),
            "last digit published",
            partial(stable_chi, "selu", 1.0, 0.0),
        ),
        expected.profile_row(11, "q of selu with LeCun", "stays 1", run, "pre_rms"),
        expected.rate_row(
            11, "rate of selu with LeCun", "the network's gradient grows by 1.0716", run, 1.0716, "selu", 0
        ),
    ]
