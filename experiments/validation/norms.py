"""Statements 19 and 20: plain networks at initialization with a norm between map and activation.

Yang et al. 2019, "A Mean Field Theory of Batch Normalization", for batch norm.
"""

from __future__ import annotations

import math
from functools import partial

from experiments.validation import networks, reference
from experiments.validation.expected import deep_chi, rate_error, scattered_rate_row
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row, Tolerance, half_unit

BATCH_RATES = {"tanh": 1.178, "silu": 1.212, "gelu": 1.319, "elu": 1.079, "sigmoid": 1.034}
"""D(1) / Var phi(u)."""

UNIT_RATES = {
    "relu": (1.0, 1e-9),
    "tanh": (1.178, 1e-3),
    "gelu": (1.072, 1e-3),
    "elu": (1.036, 1e-3),
    "sigmoid": (0.153, 1e-3),
}
"""D(1) / V(1) under layer and RMS norm, and a unit of the last digit."""

SMALL_BATCHES = (8, 32)
BATCH_ERROR, WIDTH_ERROR = 2.0, 5.0
"""Change of ln of a rate by a finite batch and width: 2/B + 5/n."""

FIRST = 5
"""First layer of a rate: the layers before it have not reached the fixed point."""


def batch_norm(size: Size) -> list[Row]:
    """Statement 19: gradients explode, by (B-2)/(B-3) per layer if linear, by D(1) / Var phi for large B."""
    return [*_linear_rows(size), *_batch_rows(size)]


def layer_and_rms_norm(size: Size) -> list[Row]:
    """Statement 20: the rate is D(1) / V(1)."""
    rows = []
    for name, (published, unit) in UNIT_RATES.items():
        at = reference.moments(name, 1.0)
        chi, tolerance = at.D / at.V, Tolerance([half_unit(unit), 1e-9], "last digit published; quadrature")
        statement = "theory's rate, against the published one and an independent quadrature"
        for norm in ("layer", "rms"):
            case = networks.network(size, f"norm={norm}", "norm.eps=0", f"activation={name}", "probe.set=norms")
            rate_name = f"rate with {norm} norm, {name}"
            rows += [
                Row(f"D(1)/V(1), {name}, {norm} norm", statement, [published, chi], tolerance, chi_twice, case),
                scattered_rate_row(rate_name, "ln of D(1)/V(1)", case, math.log(chi), _step(name), FIRST),
            ]
    return rows


def _step(activation: str) -> float:
    """Return n times a layer's variance of ln of a squared gradient: behind a norm, of forward and backward pass."""
    at = reference.moments(activation, 1.0)
    return (3 * at.D4 / at.D**2 - 1) + (at.V4 / at.V**2 - 1)


def batch_case(size: Size, activation: str, batch: int) -> NetworkCase:
    sizes = {"depth": size.norm_depth, "width": size.norm_width, "replicas": size.norm_replicas, "batch": batch}
    return networks.network(size, "norm=batch", "norm.eps=0", f"activation={activation}", "probe.set=norms", **sizes)


def batch_tolerance(case: NetworkCase, systematic: float, derivation: str) -> Tolerance:
    allowed = systematic + rate_error(case, _step(case.config().activation.name), FIRST)
    return Tolerance(allowed, derivation)


def _linear_rows(size: Size) -> list[Row]:
    rows, measure = [], partial(networks.rate, first=FIRST)
    for batch in SMALL_BATCHES:
        case, chi = batch_case(size, "identity", batch), (batch - 2) / (batch - 3)
        name, statement = f"rate of a linear network, batch {batch}", "ln (B-2)/(B-3)"
        by_quadrature = Tolerance(1e-9, "quadrature and rounding")
        tolerance = batch_tolerance(case, WIDTH_ERROR / size.norm_width, "5/n + 3 sqrt(v/(nLS))")
        rows.append(Row(f"theory's {name}", "(B-2)/(B-3)", chi, by_quadrature, deep_chi, case))
        rows.append(Row(name, statement, math.log(chi), tolerance, measure, case))
    return rows


def _batch_rows(size: Size) -> list[Row]:
    rows, batch, huge = [], size.norm_batch, 100_000
    systematic = BATCH_ERROR / batch + WIDTH_ERROR / size.norm_width
    theory = Tolerance([half_unit(1e-3), 2 * BATCH_ERROR / huge], "last digit published; the batch, 4/B")
    statement = "theory's rate for a batch of 100,000, against the published one and an independent quadrature"
    explodes, measure = "ln of D(1)/Var phi: it explodes", partial(networks.rate, first=FIRST)
    for name, published in BATCH_RATES.items():
        case, at = batch_case(size, name, batch), reference.moments(name, 1.0)
        chi, large = at.D / (at.V - at.mean**2), case.plus(f"batch_size={huge}")
        tolerance = batch_tolerance(case, systematic, f"2/B + 5/n + 3 sqrt(v/(nLS)), B = {batch}")
        rows += [
            Row(f"D(1)/Var phi, {name}", statement, [published, chi], theory, chi_twice, large),
            Row(f"rate with batch norm, {name}", explodes, math.log(chi), tolerance, measure, case),
        ]
    tanh = next(row for row in rows if row.name == "rate with batch norm, tanh")
    return [*rows, tanh.control("batch norm keeps the gradient, tanh", "rate 1 would be healthy", predicted=0.0)]


def chi_twice(case: NetworkCase) -> list[float]:
    """Return theory's rate, once for each of the two numbers it is compared with."""
    return [deep_chi(case)] * 2
