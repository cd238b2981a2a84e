"""Statements 1, 2, 4 and 12: the maps of variance, gradient and correlation, and their depth scales.

Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos", and Schoenholz et al.
2017, "Deep Information Propagation", for statements 1 and 2; Williams 1997, "Computing with Infinite Networks", for
erf; Cho and Saul 2009, "Kernel Methods for Deep Learning", for the correlation map of relu.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from experiments.validation import expected, networks, reference
from experiments.validation.networks import Size
from experiments.validation.row import Row, Tolerance, rounding
from lab import schema
from lab.theory import depth_scales, kernel
from lab.theory.plain.signal import correlation_map, variance_map
from lab.typing import Array

QS = (0.3, 1.0, 3.0)
"""Variances at which moments are compared."""

BY_QUADRATURE = 1e-10
"""Relative; both sides integrate in float64, theory's rule to about 12 digits, the reference's panels to more."""

POINTS = {
    "sigmoid": (4.0, 0.5),
    "tanh": (1.5, 0.1),
    "elu": (1.2, 0.1),
    "gelu": (1.5, 0.3),
    "softplus": (1.0, 0.2),
    "silu": (1.2, 0.4),
}
"""(weight_var, bias_var) at which profiles are compared; each has a stable fixed point with q* > 0."""

ORDERED, CHAOTIC = (1.3, 0.05), (3.0, 0.05)
"""weight_var and bias_var of tanh, below and above its critical weight_var of 1.7610 at this bias_var."""


def rows(size: Size) -> list[Row]:
    return [
        *(moments_row(name) for name in schema.ACTIVATIONS),
        *profile_rows(size),
        *(depth_scales_row(*variances) for variances in (ORDERED, CHAOTIC)),
        approach_row(size),
        *correlation_rows(size),
        *erf_rows(size),
        *relu_rows(size),
    ]


# --- 1: q' = s V(q) + b, and the gradient's rate s D(q) -------------------------------------------------------------


def moments_row(name: str) -> Row:
    own = [reference.moments(name, q) for q in QS]
    predicted = np.array([*(at.V for at in own), *(at.D for at in own)])
    return Row(
        1,
        f"V and D, {name}",
        f"theory's E phi^2 and E phi'^2 at q = {', '.join(f'{q:g}' for q in QS)}, against torch's own {name}",
        predicted,
        Tolerance(BY_QUADRATURE * predicted, "two quadratures, float64"),
        partial(theory_moments, name, QS),
    )


def theory_moments(name: str, q: Sequence[float] | Array) -> Array:
    """V and D at each of the variances."""
    at = kernel(schema.ACTIVATIONS[name](name))
    return np.concatenate([at.second_moment(np.asarray(q)), at.slope_moment(np.asarray(q))])


def profile_rows(size: Size) -> list[Row]:
    rows = []
    for name, (weight_var, bias_var) in POINTS.items():
        case = networks.network(size, f"activation={name}", *networks.gaussian(weight_var, bias_var))
        at = f"{name}, weight_var {weight_var:g}, bias_var {bias_var:g}"
        rows.append(expected.profile_row(1, f"q, {at}", "q' = s V(q) + b at every layer", case, "pre_rms"))
        rows.append(expected.profile_row(1, f"gradient, {at}", "the rate is s D(q) at every layer", case))
    critical, other = (
        networks.network(size, "activation=relu", *networks.gaussian(weight_var)) for weight_var in (2.0, 2.5)
    )
    name, statement = "relu with weight_var 2.5 is not critical", "a network with 2.5 where 2 was predicted is caught"
    row = expected.published_rate_row(1, name, statement, critical, 1.0, "relu")
    return [*rows, row.control(name, statement, network=other.plus("probe.set=norms"))]


# --- 2: depth scales ------------------------------------------------------------------------------------------------


def depth_scales_row(s: float, b: float) -> Row:
    q = reference.fixed_point("tanh", s, b)
    chi, c = s * reference.moments("tanh", q).D, 1.0
    if chi > 1:
        c = 0.5
        for _ in range(500):
            c = (s * reference.pair("tanh", q, c) + b) / q
    contraction = s * reference.pair("tanh", q, c, of_slopes=True)
    xi_q = -1 / math.log(reference.slope("tanh", s, q))
    scales = np.array([q, xi_q, c, -1 / math.log(contraction), 1 / abs(math.log(chi))])
    return Row(
        2,
        f"depth scales, tanh, weight_var {s:g}, bias_var {b:g}",
        "theory's q*, xi_q, c*, xi_c and xi_grad, against iterated quadrature and central differences",
        scales,
        Tolerance(1e-6 * np.abs(scales), "central differences of step 1e-4: 1e-8; the lengths amplify it"),
        partial(theory_scales, s, b),
    )


def theory_scales(s: float, b: float) -> list[float]:
    scales = depth_scales(schema.Activation("tanh"), s, b)
    return [scales.q_star, scales.xi_q, scales.c_star, scales.xi_c, scales.xi_grad]


def approach_row(size: Size) -> Row:
    """The difference of two variances falls by e in xi_q layers."""
    s, b = ORDERED
    q, depth = reference.fixed_point("tanh", s, b), 8
    starts = (0.8 * q, 1.25 * q)
    lengths = np.sqrt([(start - b) / s for start in starts])  # of inputs along one direction
    low, high = (variance_map(schema.Activation("tanh"), s, b, depth, start) for start in starts)
    return expected.pair_row(
        2,
        "xi_q: two variances approach each other, tanh, weight_var 1.3",
        "ln of q2/q1 of two inputs that differ in size only, at each of 8 layers",
        networks.network(size, "activation=tanh", *networks.gaussian(s, b), depth=depth),
        s * np.outer(lengths, lengths) + b,
        np.log(high / low),
        log_ratio,
    )


def correlation_rows(size: Size) -> list[Row]:
    """Ordered: c tends to 1, and 1 - c falls by e in xi_c layers. Chaotic: c tends to c* below 1."""
    rows, depth = [], 16
    for (s, b), start, statistic, quantity in (
        (ORDERED, 0.9, log_distance, "ln(1 - c) in the ordered phase"),
        (CHAOTIC, 0.95, correlation, "c in the chaotic phase"),
    ):
        q = reference.fixed_point("tanh", s, b)
        c = correlation_map(schema.Activation("tanh"), s, b, depth, q, start)
        rows.append(
            expected.pair_row(
                2,
                f"xi_c: {quantity}, tanh, weight_var {s:g}",
                f"{quantity} at each of {depth} layers, from c = {start:g}",
                networks.network(size, "activation=tanh", *networks.gaussian(s, b), depth=depth),
                q * np.array([[1, start], [start, 1]]),
                np.log(1 - c) if statistic is log_distance else c,
                statistic,
            )
        )
    return rows


def log_ratio(gram: Array) -> Array:
    """ln of q2 / q1."""
    return np.log(gram[..., 1, 1] / gram[..., 0, 0])


def correlation(gram: Array) -> Array:
    return gram[..., 0, 1] / np.sqrt(gram[..., 0, 0] * gram[..., 1, 1])


def log_distance(gram: Array) -> Array:
    """ln of 1 - c."""
    return np.log(1 - correlation(gram))


# --- 4: erf ---------------------------------------------------------------------------------------------------------


def erf_rows(size: Size) -> list[Row]:
    q = np.geomspace(1e-3, 1e3, 13)
    closed = np.concatenate([2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)), 4 / math.pi / np.sqrt(1 + 4 * q)])  # V, D
    statement, theory = "theory's V and D at 13 variances from .001 to 1000", partial(theory_moments, "erf", q)
    case = networks.network(size, "activation=erf", *networks.gaussian(2.0, 0.1))
    return [
        Row(4, "closed forms of erf", statement, closed, rounding(1e-13 * closed), theory),
        expected.profile_row(4, "q of erf, weight_var 2, bias_var .1", "q at every layer", case, "pre_rms"),
        expected.profile_row(4, "gradient of erf, weight_var 2, bias_var .1", "delta at every layer", case),
    ]


# --- 12: relu's correlations ----------------------------------------------------------------------------------------


def relu_rows(size: Size) -> list[Row]:
    c = np.linspace(-1, 1, 21)
    following = [reference.relu_correlation(float(x)) for x in c]
    far, depth, limit = 10_000, 20, 9 * math.pi**2 / 2
    next_terms = limit * (3 * math.log(far) + 3 * math.pi * math.sqrt(2)) / far
    return [
        Row(
            12,
            "relu's correlation map",
            "c' = [sqrt(1 - c^2) + c (pi - acos c)] / pi at 21 correlations",
            following,
            rounding(1e-14),
            partial(theory_correlation, c),
        ),
        Row(
            12,
            "relu's correlation far down",
            f"l^2 (1 - c) tends to 9 pi^2 / 2, at layer {far}",
            limit,
            Tolerance(next_terms, "next terms of the map: (3 ln l + 3 pi sqrt(2)) / l"),
            partial(far_correlation, far),
        ),
        expected.pair_row(
            12,
            f"correlation of two inputs through {depth} layers of relu",
            "ln(1 - c) at every layer, from c = 0",
            networks.network(size, "activation=relu", "init=he_normal", depth=depth),
            np.eye(2),
            np.log(1 - correlation_map(schema.Activation("relu"), 2.0, 0.0, depth, 1.0, 0.0)),
            log_distance,
        ),
    ]


def theory_correlation(c: Array) -> ArrayLike:
    return kernel(schema.Activation("relu")).product(2.0, 2.0, c) * 2 / 2.0


def far_correlation(layer: int) -> float:
    c = correlation_map(schema.Activation("relu"), 2.0, 0.0, layer + 1, 1.0, 0.0)
    return float(layer**2 * (1 - c[layer]))
