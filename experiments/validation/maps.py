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

from experiments.validation import networks, reference
from experiments.validation.expected import pair_row, profile_row, published_rate_row, table_rows
from experiments.validation.networks import Size
from experiments.validation.row import Row, Tolerance, rounding
from lab import schema, theory
from lab.theory.plain.signal import correlation_map, variance_map
from lab.typing import Array

QS = (0.3, 1.0, 3.0)
"""Variances at which moments are compared."""

BY_QUADRATURE = 1e-10
"""Relative tolerance. Both sides integrate in float64: theory to about 12 digits, the reference to more."""

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


def mean_field(size: Size) -> list[Row]:
    """Statement 1: q' = s V(q) + b with V = E phi^2; the gradient's rate is s D(q) with D = E phi'^2."""
    rows = [moments_row(name) for name in schema.ACTIVATIONS]
    for name, variances in POINTS.items():
        case = networks.network(size, f"activation={name}", *networks.gaussian(*variances))
        at = f"{name}, weight_var {variances[0]:g}, bias_var {variances[1]:g}"
        rows.append(profile_row(f"q, {at}", "q' = s V(q) + b at every layer", case, "pre_rms"))
        rows.append(profile_row(f"gradient, {at}", "the rate is s D(q) at every layer", case))
    critical, other = (
        networks.network(size, "activation=relu", *networks.gaussian(weight_var)) for weight_var in (2.0, 2.5)
    )
    name, statement = "relu with weight_var 2.5 is not critical", "a network with 2.5 where 2 was predicted is caught"
    row = published_rate_row(name, critical, 1.0, (2.0, 0.0))
    rows.append(row.control(name, statement, network=other.plus("probe.set=norms")))
    return [*rows, *table_rows(size, [name for name in schema.ACTIVATIONS if name not in schema.GATED])]


def moments_row(name: str) -> Row:
    own = [reference.moments(name, q) for q in QS]
    predicted = np.array([*(at.V for at in own), *(at.D for at in own)])
    statement = f"theory's E phi^2 and E phi'^2 at q = {', '.join(f'{q:g}' for q in QS)}, against torch's own {name}"
    tolerance = Tolerance(BY_QUADRATURE * predicted, "two quadratures, float64")
    return Row(f"V and D, {name}", statement, predicted, tolerance, partial(theory_moments, name, QS))


def theory_moments(name: str, q: Sequence[float] | Array) -> Array:
    """Return V and D at each of the variances."""
    at = theory.kernel(schema.ACTIVATIONS[name](name))
    return np.concatenate([at.second_moment(np.asarray(q)), at.slope_moment(np.asarray(q))])


def depth_scales(size: Size) -> list[Row]:
    """Statement 2: q and c converge by a factor e in xi_q and xi_c layers, gradients change by e in xi_grad."""
    scales = [depth_scales_row(*variances) for variances in (ORDERED, CHAOTIC)]
    return [*scales, approach_row(size), *correlation_rows(size)]


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
    name = f"depth scales, tanh, weight_var {s:g}, bias_var {b:g}"
    statement = "theory's q*, xi_q, c*, xi_c and xi_grad, against iterated quadrature and central differences"
    tolerance = Tolerance(1e-6 * np.abs(scales), "central differences of step 1e-4: 1e-8; the lengths amplify it")
    return Row(name, statement, scales, tolerance, partial(theory_scales, s, b))


def theory_scales(s: float, b: float) -> list[float]:
    scales = theory.depth_scales(schema.Activation("tanh"), s, b)
    return [scales.q_star, scales.xi_q, scales.c_star, scales.xi_c, scales.xi_grad]


def approach_row(size: Size) -> Row:
    s, b = ORDERED
    q, depth = reference.fixed_point("tanh", s, b), 8
    starts = (0.8 * q, 1.25 * q)
    lengths = np.sqrt([(start - b) / s for start in starts])  # of inputs along one direction
    low, high = (variance_map(schema.Activation("tanh"), s, b, depth, start) for start in starts)
    case = networks.network(size, "activation=tanh", *networks.gaussian(s, b), depth=depth)
    name = "xi_q: two variances approach each other, tanh, weight_var 1.3"
    statement = "ln of q2/q1 of two inputs that differ in size only, at each of 8 layers"
    gram = s * np.outer(lengths, lengths) + b
    return pair_row(name, statement, case, ORDERED, gram, np.log(high / low), log_ratio)


def correlation_rows(size: Size) -> list[Row]:
    """Compare c, which tends to 1 in the ordered phase and to c* < 1 in the chaotic one, with theory's map."""
    rows, depth = [], 16
    for variances, start, quantity, statistic in (
        (ORDERED, 0.9, "ln(1 - c) in the ordered phase", log_distance),
        (CHAOTIC, 0.95, "c in the chaotic phase", correlation),
    ):
        q = reference.fixed_point("tanh", *variances)
        c = correlation_map(schema.Activation("tanh"), *variances, depth, q, start)
        center = np.log(1 - c) if statistic is log_distance else c
        case = networks.network(size, "activation=tanh", *networks.gaussian(*variances), depth=depth)
        name = f"xi_c: {quantity}, tanh, weight_var {variances[0]:g}"
        statement = f"{quantity} at each of {depth} layers, from c = {start:g}"
        gram = q * np.array([[1, start], [start, 1]])
        rows.append(pair_row(name, statement, case, variances, gram, center, statistic))
    return rows


def log_ratio(gram: Array) -> Array:
    """Return ln of q2 / q1."""
    return np.log(gram[..., 1, 1] / gram[..., 0, 0])


def correlation(gram: Array) -> Array:
    return gram[..., 0, 1] / np.sqrt(gram[..., 0, 0] * gram[..., 1, 1])


def log_distance(gram: Array) -> Array:
    """Return ln of 1 - c."""
    return np.log(1 - correlation(gram))


def erf(size: Size) -> list[Row]:
    """Statement 4: V(q) = (2/pi) asin(2q / (1 + 2q)) and D(q) = (4/pi) / sqrt(1 + 4q)."""
    q = np.geomspace(1e-3, 1e3, 13)
    closed = np.concatenate([2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)), 4 / math.pi / np.sqrt(1 + 4 * q)])
    statement, measure = "theory's V and D at 13 variances from .001 to 1000", partial(theory_moments, "erf", q)
    case = networks.network(size, "activation=erf", *networks.gaussian(2.0, 0.1))
    return [
        Row("closed forms of erf", statement, closed, rounding(1e-13 * closed), measure),
        profile_row("q of erf, weight_var 2, bias_var .1", "q at every layer", case, "pre_rms"),
        profile_row("gradient of erf, weight_var 2, bias_var .1", "delta at every layer", case),
    ]


def relu_correlation(size: Size) -> list[Row]:
    """Statement 12: c' = [sqrt(1 - c^2) + c (pi - acos c)] / pi, and l^2 (1 - c_l) tends to 9 pi^2 / 2."""
    c = np.linspace(-1, 1, 21)
    mapped = [reference.relu_correlation(float(x)) for x in c]
    far, depth, limit = 10_000, 20, 9 * math.pi**2 / 2
    next_terms = Tolerance(
        limit * (3 * math.log(far) + 3 * math.pi * math.sqrt(2)) / far,
        "next terms of the map: (3 ln l + 3 pi sqrt(2)) / l",
    )
    far_statement, far_measure = f"l^2 (1 - c) tends to 9 pi^2 / 2, at layer {far}", partial(far_correlation, far)
    formula, measure = "c' = [sqrt(1 - c^2) + c (pi - acos c)] / pi at 21 correlations", partial(theory_correlation, c)
    profile = np.log(1 - correlation_map(schema.Activation("relu"), 2.0, 0.0, depth, 1.0, 0.0))
    name, statement = (
        f"correlation of two inputs through {depth} layers of relu",
        "ln(1 - c) at every layer, from c = 0",
    )
    case = networks.network(size, "activation=relu", "init=he_normal", depth=depth)
    return [
        Row("relu's correlation map", formula, mapped, rounding(1e-14), measure),
        Row("relu's correlation far down", far_statement, limit, next_terms, far_measure),
        pair_row(name, statement, case, (2.0, 0.0), np.eye(2), profile, log_distance),
    ]


def theory_correlation(c: Array) -> ArrayLike:
    return theory.kernel(schema.Activation("relu")).product(2.0, 2.0, c) * 2 / 2.0


def far_correlation(layer: int) -> float:
    c = correlation_map(schema.Activation("relu"), 2.0, 0.0, layer + 1, 1.0, 0.0)
    return float(layer**2 * (1 - c[layer]))
