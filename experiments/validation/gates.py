"""Statement 24: gated stacks without norm at weight_var 1, doubly exponential on either side of an unstable point."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.maps import measured_pair
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.rates import published
from experiments.validation.row import Row
from lab import schema
from lab.theory import fixed_points
from lab.theory.plain.signal import variance_map
from lab.typing import Array

UNSTABLE = {"bilinear": (1.0, 1e-9), "reglu": (2.0, 1e-9), "geglu": (2.155, 1e-3), "swiglu": (2.430, 1e-3)}
"""The fixed point at weight_var 1, and a unit of the last digit published."""

SIDES = {"above": 1.4, "below": 1 / 1.4}
"""Starts, as multiples of the fixed point."""

DEPTH = 6
"""Layers: each doubles the scatter of ln q."""

RANGE = (1e-300, 1e300)
"""Variances beyond are lost in float64."""

MOST_STEP = 17.0
"""n Var of ln E a^2: E a^4 / (E a^2)^2 - 1 is 8 for bilinear, 17 for reglu, and between for the others."""


def rows(size: Size) -> list[Row]:
    return [*point_rows(), *map_rows(size), *range_rows(size)]


def point_rows() -> list[Row]:
    found = [
        Row(
            24,
            f"unstable point, {name}",
            "theory's fixed point at weight_var 1",
            q,
            published(digit),
            "last digit published" if digit > 1e-6 else "root of the map, float64",
            partial(unstable_q, name),
        )
        for name, (q, digit) in UNSTABLE.items()
    ]
    for name, factor in (("bilinear", 1.0), ("reglu", 0.5)):
        q = [0.9]
        for _ in range(DEPTH - 1):
            q.append(factor * q[-1] ** 2)
        found.append(
            Row(
                24,
                f"variance map, {name}",
                f"theory's q' = q^2{'' if name == 'bilinear' else '/2'} over {DEPTH} layers",
                np.log(q),
                1e-12,
                "rounding, float64",
                partial(theory_logs, name, 0.9),
            )
        )
    return found


def unstable_q(name: str) -> float:
    (q,) = (p.q for p in fixed_points(schema.Activation(name), 1.0, 0.0) if p.stability == "unstable")
    return q


def theory_logs(name: str, first_q: float) -> Array:
    return np.log(variance_map(schema.Activation(name), 1.0, 0.0, DEPTH, first_q))


def log_q(gram: Array) -> Array:
    """ln q of the first of two examples."""
    return np.log(gram[..., 0, 0])


def map_rows(size: Size) -> list[Row]:
    found = []
    for name, (q, _) in UNSTABLE.items():
        for side, multiple in SIDES.items():
            gram = multiple * q * np.eye(2)
            run = networks.network(
                size, f"activation={name}", *networks.gaussian(1.0), depth=DEPTH, width=size.norm_width
            )
            run = NetworkCase(run.overrides, 4 * size.replicas, size.group)
            center = theory_logs(name, multiple * q)
            chain = reference.gram_chain(name, 1.0, 0.0, gram, DEPTH, size.norm_width, log_q)
            found.append(
                Row(
                    24,
                    f"q of {name} from {side} its unstable point",
                    f"ln q of {DEPTH} layers from {multiple:.3g} times {q:g}: doubly exponential",
                    center,
                    reference.chain_tolerance(*chain, center, run.replicas),
                    f"bias and 3 sigma of {run.replicas} finite networks, from their Markov chain",
                    partial(measured_pair, run, gram, log_q),
                    run,
                )
            )
    return found


# --- out of range ---------------------------------------------------------------------------------------------------


def range_rows(size: Size) -> list[Row]:
    """The layer at which usual initializations leave the numbers that float64 has: where theory declines to predict."""
    found = []
    for name, weight_var in (("reglu", 1.0), ("geglu", 1.0), ("swiglu", 1.0), ("bilinear", 2.0), ("swiglu", 2.0)):
        q = [weight_var]
        while RANGE[0] < q[-1] < RANGE[1]:
            q.append(weight_var * reference.moments(name, q[-1]).V)
        run = networks.network(
            size, f"activation={name}", *networks.gaussian(weight_var), depth=14, width=size.norm_width
        )
        # ln q / q* doubles a layer; in units of its start, what the layers add to it is (1/2)^(l+1) of a step each.
        distance = abs(math.log(q[0] / _turning_point(name, weight_var)))
        bias, deviation = (
            MOST_STEP / (2 * size.norm_width),
            math.sqrt(MOST_STEP / (3 * size.norm_width * size.replicas)),
        )
        shift = -math.log2(1 - (bias + reference.SIGMAS * deviation) / distance)
        found.append(
            Row(
                24,
                f"{name} at weight_var {weight_var:g} leaves float64",
                "the first layer whose q is no number between 1e-300 and 1e300",
                len(q) - 1,
                math.ceil(shift),
                f"scatter moves it by {shift:.2f} layers at most, so by a whole one",
                partial(first_lost, run),
                run,
            )
        )
    return found


def _turning_point(name: str, weight_var: float) -> float:
    """The unstable fixed point, by bisection."""
    low, high = 1e-3, 1e3
    for _ in range(100):
        middle = math.sqrt(low * high)
        grows = weight_var * reference.moments(name, middle).V > middle
        low, high = (low, middle) if grows else (middle, high)
    return low


def first_lost(run: NetworkCase) -> float:
    """Median over replicas of the first layer whose q is out of range."""
    q = networks.readings(run)["pre_rms"] ** 2
    lost = ~((q > RANGE[0]) & (q < RANGE[1]))
    return math.nan if not lost.any(0).all() else float(np.median(lost.argmax(0)))
