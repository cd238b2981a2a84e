"""Statement 24: gated stacks without norm at weight_var 1, doubly exponential on either side of an unstable point.

The activations are those of Shazeer 2020, "GLU Variants Improve Transformer".
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy.optimize import brentq

from experiments.validation import networks, reference
from experiments.validation.expected import pair_row, table_rows
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row, Tolerance, last_digit, rounding
from lab import schema
from lab.theory import fixed_points
from lab.theory.plain.signal import variance_map
from lab.typing import Array

UNSTABLE = {"bilinear": (1.0, 1e-9), "reglu": (2.0, 1e-9), "geglu": (2.155, 1e-3), "swiglu": (2.430, 1e-3)}
"""The fixed point at weight_var 1, and a unit of its last digit."""

SIDES = {"above": 1.4, "below": 1 / 1.4}
"""Starts, as multiples of the fixed point."""

DEPTH = 6
"""Layers; each doubles the scatter of ln q."""

RANGE = (1e-300, 1e300)
"""Variances outside are lost in float64."""

LARGEST_STEP = 17.0
"""n Var of ln E a^2: E a^4 / (E a^2)^2 - 1 is 8 for bilinear, 17 for reglu, and between for the others."""


def gated_stacks(size: Size) -> list[Row]:
    """Statement 24: the fixed point of q' = q V_gate(q) is unstable: ln q / q* doubles per layer."""
    return [*point_rows(), *map_rows(size), *range_rows(size), *table_rows(size, schema.GATED)]


def point_rows() -> list[Row]:
    rows = []
    for name, (q, unit) in UNSTABLE.items():
        tolerance = last_digit(unit)
        if unit < 1e-6:
            tolerance = tolerance._replace(derivation="root of the map, float64")
        statement = "theory's fixed point at weight_var 1"
        rows.append(Row(f"unstable point, {name}", statement, q, tolerance, partial(unstable_q, name)))
    for name, factor, formula in (("bilinear", 1.0, "q^2"), ("reglu", 0.5, "q^2/2")):
        variances = [0.9]
        for _ in range(DEPTH - 1):
            variances.append(factor * variances[-1] ** 2)
        statement, theory = f"theory's q' = {formula} over {DEPTH} layers", partial(theory_logs, name, 0.9)
        rows.append(Row(f"variance map, {name}", statement, np.log(variances), rounding(1e-12), theory))
    return rows


def unstable_q(name: str) -> float:
    (q,) = (p.q for p in fixed_points(schema.Activation(name), 1.0, 0.0) if p.stability == "unstable")
    return q


def theory_logs(name: str, first_q: float) -> Array:
    return np.log(variance_map(schema.Activation(name), 1.0, 0.0, DEPTH, first_q))


def map_rows(size: Size) -> list[Row]:
    rows, width, replicas = [], size.norm_width, 4 * size.replicas
    for name, (q, _) in UNSTABLE.items():
        overrides = (f"activation={name}", *networks.gaussian(1.0))
        case = networks.network(size, *overrides, depth=DEPTH, width=width, replicas=replicas)
        for side, multiple in SIDES.items():
            row_name = f"q of {name} from {side} its unstable point"
            statement = f"ln q of {DEPTH} layers from {multiple:.3g} times {q:g}: doubly exponential"
            gram, center = multiple * q * np.eye(2), theory_logs(name, multiple * q)
            rows.append(pair_row(row_name, statement, case, (1.0, 0.0), gram, center, log_q))
    return rows


def log_q(gram: Array) -> Array:
    """Return ln q of the first of two examples."""
    return np.log(gram[..., 0, 0])


def range_rows(size: Size) -> list[Row]:
    """Find the layer at which usual initializations leave the range of float64; theory refuses to predict them."""
    rows, width = [], size.norm_width
    for name, weight_var in (("reglu", 1.0), ("geglu", 1.0), ("swiglu", 1.0), ("bilinear", 2.0), ("swiglu", 2.0)):
        q = [weight_var]
        while RANGE[0] < q[-1] < RANGE[1]:
            q.append(weight_var * reference.moments(name, q[-1]).V)
        # ln q / q* doubles per layer; relative to its start, a layer l adds (1/2)^(l+1) of a step.
        unstable = brentq(lambda q, name=name, s=weight_var: s * reference.moments(name, q).V - q, 1e-3, 1e3)
        distance = abs(math.log(weight_var / unstable))
        bias, deviation = LARGEST_STEP / (2 * width), math.sqrt(LARGEST_STEP / (3 * width * size.replicas))
        shift = -math.log2(1 - (bias + reference.SIGMAS * deviation) / distance)
        tolerance = Tolerance(math.ceil(shift), f"scatter moves it by {shift:.2f} layers at most, so by a whole one")
        row_name = f"{name} at weight_var {weight_var:g} leaves float64"
        statement = "the first layer whose q is not between 1e-300 and 1e300"
        case = networks.network(size, f"activation={name}", *networks.gaussian(weight_var), depth=14, width=width)
        rows.append(Row(row_name, statement, len(q) - 1, tolerance, first_lost, case))
    return rows


def first_lost(case: NetworkCase) -> float:
    """Return the median over replicas of the first layer whose q is out of range."""
    q = networks.readings(case)["pre_rms"] ** 2
    lost = ~((q > RANGE[0]) & (q < RANGE[1]))
    return float(np.median(lost.argmax(0))) if lost.any(0).all() else math.nan
