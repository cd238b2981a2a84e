"""Statements 8, 9 and 10: networks whose variance drifts on and on, so that only the iterated map can be compared."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from experiments.validation import expected, networks, reference
from experiments.validation.networks import Size
from experiments.validation.rates import published
from experiments.validation.row import Row
from lab import schema
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.signal import gradient_map, variance_map
from lab.typing import Array

POWER_LAW = {50: 0.0143, 100: 0.00713, 200: 0.00355}
"""tanh, weight_var 1, no biases, q = 1 in the first layer: squared gradient, first over last, by steps between them."""

GELU_AT_HE = {10: (0.0533, 1e-4), 20: (6.0e-5, 1e-6), 50: (5.6e-14, 1e-15)}
"""The same for gelu at weight_var 2: the number and a unit of its last digit."""

HALF_STABLE = {"gelu": (1.98306, 0.17292, 3.562), "silu": (1.98800, 0.55514, 14.320)}
"""weight_var, bias_var and q where chi and dq'/dq are 1 and the variance map touches the diagonal."""


def rows(size: Size) -> list[Row]:
    return [*tanh_rows(size), *xavier_relu_rows(size), *subcritical_rows(size)]


def first_over_last(name: str, weight_var: float, steps: int, first_q: float = 1.0) -> float:
    """Theory's squared gradient at the first layer over that `steps` layers on."""
    activation = schema.Activation(name)
    q = variance_map(activation, weight_var, 0.0, steps + 1, first_q)
    return math.exp(gradient_map(activation, weight_var, q)[0])


# --- tanh at criticality --------------------------------------------------------------------------------------------


def tanh_rows(size: Size) -> list[Row]:
    far = 20_000
    found = [
        Row(
            8,
            "tanh's variance far down",
            f"2 l q_l tends to 1, at layer {far}",
            1.0,
            math.log(far) / far,
            "next terms of the map: (5/12 ln l + a constant) / l, below ln l / l",
            partial(far_variance, far),
        )
    ]
    for steps, expected_ratio in POWER_LAW.items():
        digit = 1e-4 if expected_ratio > 0.01 else 1e-5
        found.append(
            Row(
                8,
                f"tanh's power law over {steps} layers",
                "theory's squared gradient, first over last",
                expected_ratio,
                published(digit),
                "last digit published",
                partial(first_over_last, "tanh", 1.0, steps),
            )
        )
    tanh = ("activation=tanh", "init=lecun_normal")
    run = networks.network(size, *tanh, depth=size.depth + 1)
    shallow = expected.profile_row(8, f"gradient of tanh over {size.depth} layers", "falls as a power law", run)
    found += [
        shallow,
        expected.profile_row(8, f"q of tanh over {size.depth} layers", "q_l tends to 1/(2l)", run, "pre_rms"),
        Row(
            8,
            "control: tanh at criticality keeps its gradient",
            "chi = 1 at q* = 0 alone would say so; the iterated map does not",
            0.0,
            (shallow.reach[0][0], shallow.reach[1][0]),
            shallow.derivation,
            partial(first_decades, run),
            run,
            True,
        ),
    ]
    double = networks.network(size, *tanh, "probe.set=norms", depth=2 * size.depth + 1)
    double = networks.NetworkCase(double.overrides, double.replicas, max(1, double.group // 2))
    found.append(
        expected.profile_row(
            8, f"gradient of tanh over {2 * size.depth} layers", "half of the square that is left", double
        )
    )
    return found


def far_variance(layer: int) -> float:
    q = variance_map(schema.Activation("tanh"), 1.0, 0.0, layer + 1, 1.0)
    return float(2 * layer * q[layer])


def first_decades(run: networks.NetworkCase) -> float:
    """log10 of delta_rms at the first layer over the last's."""
    return float(networks.relative_profile(run, "delta_rms")[0])


# --- Xavier and relu ------------------------------------------------------------------------------------------------


def xavier_relu_rows(size: Size) -> list[Row]:
    run = networks.network(size, "activation=relu", "init=xavier_normal", "model.bias=false", "probe.set=norms")
    layers = size.rate_depth - 1
    return [
        Row(
            9,
            "relu with Xavier: delta",
            "delta^2 falls by 1/2 a layer towards the input",
            math.log(0.5),
            reference.rate_tolerance(5.0, size.width, layers, size.replicas),
            "5/(2n) + 3 sqrt(5/(nLS))",
            partial(networks.rate, run, "delta_rms", 0),
            run,
        ),
        Row(
            9,
            "relu with Xavier: weight gradient",
            "the weights' gradient stays flat",
            0.0,
            # What is lost forwards up to a layer and backwards down to it adds up to the same for each: no bias.
            reference.SIGMAS * math.sqrt(10 / (size.width * layers * size.replicas)),
            "3 sqrt(10/(nLS)): forward and backward pass scatter by 5/n a layer each",
            partial(networks.rate, run, "weight_grad_norm", 0),
            run,
        ),
    ]


# --- gelu and silu --------------------------------------------------------------------------------------------------


def subcritical_rows(size: Size) -> list[Row]:
    found = [
        Row(
            10,
            f"gelu at He over {steps} layers",
            "theory's squared gradient, first over last, from q = 1",
            ratio,
            published(digit),
            "last digit published",
            partial(first_over_last, "gelu", 2.0, steps),
        )
        for steps, (ratio, digit) in GELU_AT_HE.items()
    ]
    for name in ("gelu", "silu"):
        half = ("init=he_normal", "data.variance=0.5")  # first layer: q = 1
        run = networks.network(size, f"activation={name}", *half, depth=21)
        found.append(expected.profile_row(10, f"gradient of {name} at He", "dies, 20 layers from q = 1", run))
        found.append(expected.profile_row(10, f"q of {name} at He", "drifts to 0", run, "pre_rms"))
    for name, (weight_var, bias_var, q) in HALF_STABLE.items():
        at, units = reference.moments(name, q), [published(1e-5), published(1e-5), published(1e-3)]
        step = 1e-3 * q
        above, below = (reference.moments(name, q + side * step) for side in (1, -1))
        chi_slope = weight_var * abs(above.D - below.D) / (2 * step)
        bend = abs(reference.slope(name, weight_var, q + step) - reference.slope(name, weight_var, q - step)) / (
            2 * step
        )
        found.append(
            Row(
                10,
                f"half-stable point of {name}",
                "theory's s V(q) + b = q, dq'/dq = 1 and chi = 1 at the published point",
                [q, 1.0, 1.0],
                # Half a unit of s, b and q; that of q moves q' - q by nothing, the slope being 1.
                [
                    units[0] * at.V + units[1] + bend * units[2] ** 2,
                    units[0] / weight_var + bend * units[2],
                    units[0] * at.D + chi_slope * units[2],
                ],
                "last digits published, through V, D and their slopes",
                partial(theory_point, name, weight_var, bias_var, q),
            )
        )
        start = (q - bias_var) / weight_var
        run = networks.network(
            size,
            f"activation={name}",
            *networks.gaussian(weight_var, bias_var),
            f"data.variance={start!r}",
            "probe.set=norms",
        )
        found.append(
            expected.profile_row(10, f"gradient of {name} at its half-stable point", "keeps its size there", run)
        )
    return found


def theory_point(name: str, weight_var: float, bias_var: float, q: float) -> Array:
    """q', dq'/dq and chi at q."""
    at = kernel(schema.Activation(name))
    return np.array(
        [
            weight_var * float(at.second_moment(q)) + bias_var,
            weight_var * float(at.second_moment_derivative(q)),
            weight_var * float(at.slope_moment(q)),
        ]
    )
