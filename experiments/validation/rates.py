"""Statements 3, 5, 6, 7 and 11: published rates and critical points of plain networks.

He et al. 2015, "Delving Deep into Rectifiers"; Glorot and Bengio 2010, "Understanding the difficulty of training deep
feedforward neural networks"; Schoenholz et al. 2017, "Deep Information Propagation"; Klambauer et al. 2017,
"Self-Normalizing Neural Networks".
"""

from __future__ import annotations

import math
from functools import partial

from experiments.validation import networks, reference
from experiments.validation.expected import deep_chi, profile_row, published_rate_row, scattered_rate_row, stable_point
from experiments.validation.networks import Size
from experiments.validation.row import Row, Tolerance, half_unit, last_digit, rounding
from lab import schema
from lab.theory import critical_weight_var, kernel

RECTIFIERS = {
    "relu": (schema.Activation("relu"), 2.0, 0.0),
    "leaky_relu, slope .3": (schema.LeakyReLU("leaky_relu", 0.3), 2 / (1 + 0.3**2), 0.3**4),
    "prelu, slope .25": (schema.PReLU("prelu"), 2 / (1 + 0.25**2), 0.25**4),
    "rrelu": (schema.RReLU("rrelu"), 1.8937, reference.moments("rrelu", 1.0).D4 * 2 - 1),
}
"""Activation, critical weight_var, and the mean fourth power of the slope on the negative side."""

DEFAULT_CHI = {"relu": 1 / 6, "tanh": 1 / 3, "sigmoid": 0.0200, "gelu": 1 / 12, "silu": 1 / 12}
"""s D(0) of torch's default; of sigmoid at q*."""

TANH_CHI = {
    "weight_var 1.3": (1.3, 0.05, 0.880, 1e-3),
    "weight_var 1.7610": (1.7610, 0.05, 1.0, 1e-4),
    "weight_var 3.0": (3.0, 0.05, 1.209, 1e-3),
    "gain 5/3": ((5 / 3) ** 2, 0.0, 1.2098, 1e-4),
}
"""weight_var, bias_var, published chi, and a unit of its last digit."""


def rectifiers(size: Size) -> list[Row]:
    """Statement 3: slopes 1 and a are critical at weight_var = 2 / (1 + a^2)."""
    name, statement = "second moment of rrelu's slope", "E a^2 for a uniform in [1/8, 1/3], from D = (1 + E a^2) / 2"
    rows = [Row(name, statement, 0.05613, last_digit(1e-5), random_slope)]
    for name, (activation, weight_var, fourth) in RECTIFIERS.items():
        slope = ("activation.negative_slope=0.3",) if name.startswith("leaky") else ()
        init = (*slope, *networks.gaussian(weight_var), "probe.set=norms")
        case = networks.network(size, f"activation={activation.name}", *init)
        tolerance = rounding(1e-12) if name != "rrelu" else last_digit(1e-4)
        solved = partial(critical_weight_var, activation)
        step = 3 * (1 + fourth) / 2 * weight_var**2 - 1  # 3 E phi'^4 / (E phi'^2)^2 - 1, E phi'^2 = 1 / weight_var
        statement = "neither grows nor shrinks: ln chi = 0"
        rows += [
            Row(f"critical weight_var, {name}", "theory's 2 / (1 + a^2)", weight_var, tolerance, solved),
            scattered_rate_row(f"rate at the critical weight_var, {name}", statement, case, 0.0, step),
        ]
    for weight_var in (1.2, 3.0):
        case = networks.network(size, "activation=relu", *networks.gaussian(weight_var), "probe.set=norms")
        name, log_chi = f"rate of relu, weight_var {weight_var:g}", math.log(weight_var / 2)
        rows.append(scattered_rate_row(name, "chi = s/2", case, log_chi, 5.0))
    return rows


def random_slope() -> float:
    return float(2 * kernel(schema.RReLU("rrelu")).slope_moment(1.0) - 1)


def torch_default(size: Size) -> list[Row]:
    """Statement 5: weights and biases U(+-1/sqrt(fan_in)), s = 1/3 and b = 1/(3 fan_in): chi is about D(0) / 3."""
    rows = []
    small = 1 / (2 * size.width)  # bounds q* = s V + b: V is about D(0) q, at most q, so q* is at most b / (1 - s)
    # D(q) = D(0) + curvature q: tanh 1 - 2q, gelu 1/4 + (2/pi) q, silu 1/4 + q/4; sigmoid's chi at its own q*.
    slack = {"relu": 0.0, "tanh": 2 / 3 * small, "gelu": 2 / (3 * math.pi) * small, "silu": small / 12}
    for name, chi in DEFAULT_CHI.items():
        case = networks.network(size, f"activation={name}", "init=torch_default", "probe.set=norms")
        far = case.plus("model.depth=200")
        derivation = "D(q*) - D(0) at q* = 1/(2n)" if name in slack else "last digit published"
        tolerance = Tolerance(slack.get(name, half_unit(1e-4)) + 1e-9, derivation)
        rows += [
            Row(f"chi of torch's default, {name}", "theory's rate 200 layers down", chi, tolerance, deep_chi, far),
            published_rate_row(f"rate of torch's default, {name}", case, chi, (1 / 3, 1 / (3 * size.width))),
        ]
    return rows


def sigmoid(size: Size) -> list[Row]:
    """Statement 6: with Xavier the gradient's norm falls to 0.236 per layer; only weight_var 103 would keep it."""
    xavier = networks.network(size, "activation=sigmoid", "init=xavier_normal")
    critical = networks.network(size, "activation=sigmoid", "init=critical", "probe.set=norms")
    chi = partial(stable_point, "chi", "sigmoid", 1.0, 0.0)
    q = partial(stable_point, "q", "sigmoid", 1.0, 0.0)
    solved = partial(critical_weight_var, schema.Activation("sigmoid"))
    return [
        Row("q* of Xavier", "theory's fixed point", 0.2647, last_digit(1e-4), q),
        Row("chi of Xavier", "theory's chi there", 0.05572, last_digit(1e-5), chi),
        Row("factor of the norm, Xavier", "sqrt(chi), per layer", 0.236, last_digit(1e-3), sigmoid_factor),
        published_rate_row("rate of Xavier", xavier, 0.05572),
        profile_row("q of Xavier", "q tends to .2647", xavier, "pre_rms"),
        Row("critical weight_var", "only at about 103", 103.0, last_digit(1.0), solved),
        profile_row("gradient at init=critical", "keeps its size", critical),
    ]


def sigmoid_factor() -> float:
    return math.sqrt(stable_point("chi", "sigmoid", 1.0, 0.0))


def tanh(size: Size) -> list[Row]:
    """Statement 7: tanh with bias_var .05 is critical at weight_var 1.7610."""
    critical, fixed = partial(critical_weight_var, schema.Activation("tanh"), 0.05), "theory's fixed point there"
    rows = [
        Row("critical weight_var of tanh, bias_var .05", "theory's", 1.7610, last_digit(1e-4), critical),
        Row("q* of critical tanh, bias_var .05", fixed, 0.5700, last_digit(1e-4), critical_q),
    ]
    for name, (weight_var, bias_var, chi, unit) in TANH_CHI.items():
        init = networks.gaussian(weight_var, bias_var)
        if name == "gain 5/3":
            init = ("init=xavier_normal", f"init.gain={5 / 3!r}")
        case = networks.network(size, "activation=tanh", *init, "probe.set=norms")
        theory = partial(stable_point, "chi", "tanh", weight_var, bias_var)
        rows += [
            Row(f"chi of tanh, {name}", "theory's chi at its fixed point", chi, last_digit(unit), theory),
            published_rate_row(f"rate of tanh, {name}", case, chi, (weight_var, bias_var)),
        ]
    return rows


def critical_q() -> float:
    return stable_point("q", "tanh", critical_weight_var(schema.Activation("tanh"), 0.05), 0.05)


def selu(size: Size) -> list[Row]:
    """Statement 11: with LeCun's weights q* = 1, where the gradient grows by 1.0716 per layer."""
    case = networks.network(size, "activation=selu", "init=lecun_normal")
    by_design = Tolerance(1e-9, "the constants are chosen so; 10 digits")
    q, chi = (partial(stable_point, attribute, "selu", 1.0, 0.0) for attribute in ("q", "chi"))
    return [
        Row("q* of selu with LeCun", "theory's fixed point", 1.0, by_design, q),
        Row("chi of selu with LeCun", "theory's chi there", 1.0716, last_digit(1e-4), chi),
        profile_row("q of selu with LeCun", "stays 1", case, "pre_rms"),
        published_rate_row("rate of selu with LeCun", case, 1.0716, first=0),
    ]
