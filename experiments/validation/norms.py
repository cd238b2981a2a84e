"""Statements 19 and 20: norms between the map and the activation of plain networks, at initialization."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.rates import deep_chi, published
from experiments.validation.row import Row

BATCH_RATES = {"tanh": 1.178, "silu": 1.212, "gelu": 1.319, "elu": 1.079, "sigmoid": 1.034}
"""D(1) / Var phi(u): Yang et al. 2019."""

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
"""What a batch and a width that are not large change in ln of a rate: 2/B + 5/n."""

DROPPED = 5


def rows(size: Size) -> list[Row]:
    return [*linear_rows(size), *batch_rows(size), *unit_rows(size)]


def with_norm(size: Size, norm: str, activation: str, batch: int) -> NetworkCase:
    run = networks.network(
        size,
        f"norm={norm}",
        "norm.eps=0",
        f"activation={activation}",
        f"batch_size={batch}",
        f"data.examples={max(20, 2 * batch)}",
        "probe.set=norms",
        depth=size.norm_depth,
        width=size.norm_width,
    )
    return NetworkCase(run.overrides, size.norm_replicas, size.group)


def tolerance(size: Size, activation: str, systematic: float) -> float:
    """Of ln of a rate: a systematic part, and the scatter of forward and backward pass over the layers compared."""
    step = reference.step_variance(activation) + reference.forward_variance(activation)
    layers = size.norm_depth - 1 - DROPPED
    return systematic + reference.SIGMAS * math.sqrt(step / (size.norm_width * layers * size.norm_replicas))


def theory_chi(overrides: tuple[str, ...], *more: str) -> float:
    return deep_chi((*overrides, *more))


# --- batch norm -----------------------------------------------------------------------------------------------------


def linear_rows(size: Size) -> list[Row]:
    found = []
    for batch in SMALL_BATCHES:
        run, chi = with_norm(size, "batch", "identity", batch), (batch - 2) / (batch - 3)
        found.append(
            Row(
                19,
                f"theory's rate of a linear network, batch {batch}",
                "(B-2)/(B-3)",
                chi,
                1e-9,
                "quadrature and rounding",
                partial(theory_chi, run.overrides),
            )
        )
        found.append(
            Row(
                19,
                f"rate of a linear network, batch {batch}",
                "ln (B-2)/(B-3)",
                math.log(chi),
                tolerance(size, "identity", WIDTH_ERROR / size.norm_width),
                "5/n + 3 sqrt(v/(nLS))",
                partial(networks.rate, run, "delta_rms", DROPPED),
                run,
            )
        )
    return found


def batch_rows(size: Size) -> list[Row]:
    found = []
    for name, chi in BATCH_RATES.items():
        run, at = with_norm(size, "batch", name, size.norm_batch), reference.moments(name, 1.0)
        own = at.D / (at.V - at.mean**2)
        found.append(
            Row(
                19,
                f"D(1)/Var phi, {name}",
                "theory's rate for a batch of 100,000, and by quadrature of its own",
                [chi, own],
                [published(1e-3), 2 * BATCH_ERROR / 1e5],
                "last digit published; the batch, 4/B",
                partial(twice_chi, run.overrides),
            )
        )
        found.append(
            Row(
                19,
                f"rate with batch norm, {name}",
                "ln of D(1)/Var phi: it explodes",
                math.log(own),
                tolerance(size, name, BATCH_ERROR / size.norm_batch + WIDTH_ERROR / size.norm_width),
                f"2/B + 5/n + 3 sqrt(v/(nLS)), B = {size.norm_batch}",
                partial(networks.rate, run, "delta_rms", DROPPED),
                run,
            )
        )
    row = next(row for row in found if row.name == "rate with batch norm, tanh")
    name, statement = "control: batch norm keeps the gradient, tanh", "rate 1 would be healthy"
    return [*found, replace(row, name=name, statement=statement, predicted=0.0, is_control=True)]


def twice_chi(overrides: tuple[str, ...]) -> list[float]:
    """Theory's rate for a batch so large that it does not matter, once for either number it is compared with."""
    return [theory_chi(overrides, "batch_size=100000")] * 2


# --- layer and RMS norm ---------------------------------------------------------------------------------------------


def unit_rows(size: Size) -> list[Row]:
    found = []
    for name, (chi, digit) in UNIT_RATES.items():
        at = reference.moments(name, 1.0)
        own = at.D / at.V
        for norm in ("layer", "rms"):
            run = networks.network(
                size, f"norm={norm}", "norm.eps=0", f"activation={name}", "probe.set=norms", depth=size.rate_depth
            )
            # Means in either direction by half of what forward and backward pass scatter.
            step = reference.step_variance(name) + reference.forward_variance(name)
            layers = size.rate_depth - 1 - DROPPED
            found.append(
                Row(
                    20,
                    f"D(1)/V(1), {name}, {norm} norm",
                    "theory's rate, against the published one and quadrature of its own",
                    [chi, own],
                    [published(digit), 1e-9],
                    "last digit published; quadrature",
                    partial(twice_deep_chi, run.overrides),
                )
            )
            found.append(
                Row(
                    20,
                    f"rate with {norm} norm, {name}",
                    "ln of D(1)/V(1)",
                    math.log(own),
                    reference.rate_tolerance(step, size.width, layers, size.replicas),
                    f"v/(2n) + 3 sqrt(v/(nLS)), v = {step:.3g}",
                    partial(networks.rate, run, "delta_rms", DROPPED),
                    run,
                )
            )
    return found


def twice_deep_chi(overrides: tuple[str, ...]) -> np.ndarray:
    return np.full(2, deep_chi(overrides))
