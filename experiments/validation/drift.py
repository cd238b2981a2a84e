"""Statements 8, 9 and 10: networks whose variance drifts without end, so that only the iterated map can be compared."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.expected import profile_row, rate_error, scattered_rate_row
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row, Tolerance, half_unit, last_digit
from lab import schema
from lab.theory import kernel
from lab.theory.plain.signal import gradient_map, variance_map
from lab.typing import Array

POWER_LAW = {50: (0.0143, 1e-4), 100: (0.00713, 1e-5), 200: (0.00355, 1e-5)}
"""tanh at weight_var 1, by steps: published squared gradient, first layer over last, and a unit of its last digit."""

GELU_AT_HE = {10: (0.0533, 1e-4), 20: (6.0e-5, 1e-6), 50: (5.6e-14, 1e-15)}
"""The same for gelu at weight_var 2."""

HALF_STABLE = {"gelu": (1.98306, 0.17292, 3.562), "silu": (1.98800, 0.55514, 14.320)}
"""weight_var, bias_var and q where chi and dq'/dq are 1 and the variance map touches the diagonal."""


def first_over_last(name: str, weight_var: float, steps: int) -> float:
    """Return theory's squared gradient at the first layer, where q = 1, over that `steps` layers further on."""
    activation = schema.Activation(name)
    q = variance_map(activation, weight_var, 0.0, steps + 1, 1.0)
    return math.exp(gradient_map(activation, weight_var, q)[0])


def tanh_at_criticality(size: Size) -> list[Row]:
    """Statement 8: at weight_var 1 without biases q_l tends to 1/(2l), and the gradient is a power law of depth."""
    far = 20_000
    tolerance = Tolerance(math.log(far) / far, "next terms of the map: (5/12 ln l + a constant) / l, below ln l / l")
    statement = f"2 l q_l tends to 1, at layer {far}"
    rows = [Row("tanh's variance far down", statement, 1.0, tolerance, partial(far_variance, far))]
    for steps, (ratio, unit) in POWER_LAW.items():
        name, statement = f"tanh's power law over {steps} layers", "theory's squared gradient, first over last"
        theory = partial(first_over_last, "tanh", 1.0, steps)
        rows.append(Row(name, statement, ratio, last_digit(unit), theory))
    tanh, depth = ("activation=tanh", "init=lecun_normal"), size.depth
    case = networks.network(size, *tanh, depth=depth + 1)
    double = networks.network(size, *tanh, "probe.set=norms", depth=2 * depth + 1, group=max(1, size.group // 2))
    gradient = profile_row(f"gradient of tanh over {depth} layers", "falls as a power law", case)
    below, above = gradient.reach
    return [
        *rows,
        gradient,
        profile_row(f"q of tanh over {depth} layers", "q_l tends to 1/(2l)", case, "pre_rms"),
        gradient.control(
            "tanh at criticality keeps its gradient",
            "chi = 1 at q* = 0 alone would say so; the iterated map does not",
            predicted=0.0,
            tolerance=gradient.tolerance._replace(allowed=(below[0], above[0])),
            measure=first_decades,
        ),
        profile_row(f"gradient of tanh over {2 * depth} layers", "half the square over half as many", double),
    ]


def far_variance(layer: int) -> float:
    q = variance_map(schema.Activation("tanh"), 1.0, 0.0, layer + 1, 1.0)
    return float(2 * layer * q[layer])


def first_decades(case: NetworkCase) -> float:
    """Return log10 of delta_rms at the first layer over the last's."""
    return float(networks.relative_profile(case)[0])


def relu_with_xavier(size: Size) -> list[Row]:
    """Statement 9: delta^2 halves per layer towards the input; the weights' gradient is the same in all layers."""
    case = networks.network(size, "activation=relu", "init=xavier_normal", "model.bias=false", "probe.set=norms")
    # The forward loss up to a layer and the backward loss down to it add up to the same for each layer: no bias.
    tolerance = Tolerance(
        rate_error(case, 10), "3 sqrt(10/(nLS)): forward and backward pass scatter by 5/n per layer each"
    )
    statement = "delta^2 falls by 1/2 per layer towards the input"
    weight_gradient = partial(networks.rate, quantity="weight_grad_norm")
    return [
        scattered_rate_row("relu with Xavier: delta", statement, case, math.log(0.5), 5.0),
        Row("relu with Xavier: weight gradient", "is the same in all layers", 0.0, tolerance, weight_gradient, case),
    ]


def gelu_and_silu(size: Size) -> list[Row]:
    """Statement 10: at He variance and gradient vanish; at a half-stable point the gradient keeps its size."""
    rows = []
    for steps, (ratio, unit) in GELU_AT_HE.items():
        name, statement = f"gelu at He over {steps} layers", "theory's squared gradient, first over last, from q = 1"
        rows.append(Row(name, statement, ratio, last_digit(unit), partial(first_over_last, "gelu", 2.0, steps)))
    for name in ("gelu", "silu"):
        unit_variance = ("init=he_normal", "data.variance=0.5")  # q = 1 in the first layer
        case = networks.network(size, f"activation={name}", *unit_variance, depth=21)
        rows.append(profile_row(f"gradient of {name} at He", "vanishes, over 20 layers from q = 1", case))
        rows.append(profile_row(f"q of {name} at He", "drifts to 0", case, "pre_rms"))
    return [*rows, *_half_stable_rows(size)]


def _half_stable_rows(size: Size) -> list[Row]:
    rows = []
    for name, (weight_var, bias_var, q) in HALF_STABLE.items():
        at, step = reference.moments(name, q), 1e-3 * q
        above, below = q + step, q - step
        chi_slope = weight_var * abs(reference.moments(name, above).D - reference.moments(name, below).D) / (2 * step)
        bend = abs(reference.slope(name, weight_var, above) - reference.slope(name, weight_var, below)) / (2 * step)
        s_error, b_error, q_error = (half_unit(unit) for unit in (1e-5, 1e-5, 1e-3))
        # The error of q does not move q' - q to first order, because the slope there is 1.
        allowed = [
            s_error * at.V + b_error + bend * q_error**2,
            s_error / weight_var + bend * q_error,
            s_error * at.D + chi_slope * q_error,
        ]
        start = ("probe.set=norms", f"data.variance={(q - bias_var) / weight_var!r}")
        case = networks.network(size, f"activation={name}", *networks.gaussian(weight_var, bias_var), *start)
        tolerance = Tolerance(allowed, "last digits published, through V, D and their slopes")
        statement = "theory's s V(q) + b = q, dq'/dq = 1 and chi = 1 at the published point"
        theory = partial(theory_point, name, weight_var, bias_var, q)
        rows.append(Row(f"half-stable point of {name}", statement, [q, 1.0, 1.0], tolerance, theory))
        rows.append(profile_row(f"gradient of {name} at its half-stable point", "keeps its size there", case))
    return rows


def theory_point(name: str, weight_var: float, bias_var: float, q: float) -> Array:
    """Return q', dq'/dq and chi at q."""
    at = kernel(schema.Activation(name))
    moments = np.array([at.second_moment(q), at.second_moment_derivative(q), at.slope_moment(q)])
    return weight_var * moments + [bias_var, 0.0, 0.0]
