"""Rows that several statements share: profiles, rates, and statistics of two inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import product

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.reference import SIGMAS
from experiments.validation.row import Row, Tolerance, refused
from lab import schema
from lab.theory import NoTheory, bands, fixed_points, predict
from lab.theory.width.noise import noise
from lab.typing import Array

Variances = tuple[float, float]
"""weight_var and bias_var of the maps between hidden layers."""

DROPPED = 10
"""Layers nearest the input that a rate leaves out, because the variance has not yet reached q*."""

INITS = ("xavier_normal", "he_normal", "torch_default")


def table_rows(size: Size, activations: Iterable[str]) -> list[Row]:
    """Compare the gradient at each layer with theory's band, for activations with every usual initialization."""
    rows = []
    for activation, init in product(activations, INITS):
        name, statement = f"{activation}, {init}, depth {size.depth}", "delta_rms over the last layer's, at every layer"
        overrides = (f"activation={activation}", f"init={init}", "probe.set=norms")
        rows.append(profile_row(name, statement, networks.network(size, *overrides, depth=size.depth)))
    return rows


def profile_row(name: str, statement: str, case: NetworkCase, quantity: str = "delta_rms") -> Row:
    """Compare a profile over the layers with theory's band: log10 of delta_rms over the last layer's, or of pre_rms.

    A gradient accumulates the scatter of the layers above, so that its layers are inside or outside together. The
    variances of layers are nearly independent: they are as many observations as layers, with one chance of error.
    """
    config = case.config()
    is_relative = quantity == "delta_rms"
    sigmas = SIGMAS if is_relative else reference.simultaneous_sigmas(config.model.depth)
    try:
        prediction = predict(config, _input_q(config))
        with np.errstate(over="ignore", divide="ignore"):
            band = getattr(bands(config, prediction, sigmas=sigmas), quantity)
            lower, upper = np.log10(band.lower), np.log10(band.upper)
    except NoTheory as refusal:
        return refused(name, statement, str(refusal))
    center = prediction.log_delta / math.log(10) if is_relative else np.log10(prediction.q) / 2
    tolerance = Tolerance((center - lower, upper - center), f"band: finite width, {sigmas:.3g} sigma")
    measure = networks.relative_profile if is_relative else networks.profile
    return Row(name, statement, center, tolerance, partial(measure, quantity=quantity), case)


def published_rate_row(
    name: str, case: NetworkCase, chi: float, variances: Variances = (1.0, 0.0), first: int = DROPPED
) -> Row:
    """Compare the rate of the squared gradient of a plain network, from layer `first` on, with a published chi.

    The tolerance is the scatter of finite networks between those layers, and the distance of the iterated map, by an
    independent quadrature, from the published number: its rounding, and the remaining distance from q*.
    """
    config = case.config()
    scatter = noise(config, predict(config, _input_q(config)))
    layers = config.model.depth - 1 - first
    low, high = (bound[first] / layers for bound in scatter.delta_shift)
    error = SIGMAS * math.sqrt(scatter.delta[first] / case.replicas) / layers
    activation, (weight_var, bias_var) = config.activation.name, variances
    first_q = weight_var * _input_q(config) + bias_var
    q = reference.variances(activation, weight_var, bias_var, first_q, config.model.depth)
    drift = abs(reference.log_rates(activation, weight_var, q[first:-1]).mean() - math.log(chi))
    tolerance = Tolerance(
        (error - low + drift, error + high + drift),
        f"scatter of width {config.model.width} over {layers} layers, 3 sigma; drift to q* {drift:.1g}",
    )
    statement = f"the network's chi is {chi:.5g}"
    return Row(name, statement, math.log(chi), tolerance, partial(networks.rate, first=first), case)


def scattered_rate_row(
    name: str, statement: str, case: NetworkCase, log_chi: float, step: float, first: int = 0
) -> Row:
    """Compare a rate whose layers scatter independently; each adds a variance of `step` / n to ln of the square."""
    allowed = step / (2 * case.config().model.width) + rate_error(case, step, first)
    tolerance = Tolerance(allowed, f"v/(2n) + 3 sqrt(v/(nLS)), v = {step:.3g}")
    return Row(name, statement, log_chi, tolerance, partial(networks.rate, first=first), case)


def rate_error(case: NetworkCase, step: float, first: int = 0) -> float:
    """Return three standard deviations of a mean rate over the layers from `first` on and over replicas."""
    model = case.config().model
    return SIGMAS * math.sqrt(step / (model.width * (model.depth - 1 - first) * case.replicas))


def pair_row(
    name: str,
    statement: str,
    case: NetworkCase,
    variances: Variances,
    gram: Array,
    center: Array,
    statistic: reference.Statistic,
) -> Row:
    """Compare a statistic of two inputs at each layer; `gram` (2, 2) is the first layer's covariance."""
    (weight_var, bias_var), model = variances, case.config().model
    chain = reference.gram_chain(
        case.config().activation.name, weight_var, bias_var, gram, model.depth, model.width, statistic
    )
    allowed = reference.sampled_tolerance(chain, center, case.replicas)
    derivation = f"bias and 3 sigma of {case.replicas} finite networks, from the Markov chain of their Gram matrices"
    measure = partial(networks.pair_statistic, gram=(gram - bias_var) / weight_var, statistic=statistic)
    return Row(name, statement, center, Tolerance(allowed, derivation), measure, case)


def stable_point(attribute: str, activation: str, weight_var: float, bias_var: float) -> float:
    """Return theory's q or chi at the stable fixed point of largest variance."""
    points = fixed_points(schema.Activation(activation), weight_var, bias_var)
    return float(getattr([point for point in points if point.stability == "stable"][-1], attribute))


def deep_chi(case: NetworkCase) -> float:
    """Return theory's rate of the squared gradient near the end of a network."""
    log_delta = predict(case.config()).log_delta
    return math.exp(2 * (log_delta[-3] - log_delta[-2]))


def _input_q(config: schema.Config) -> float:
    """Return the mean square of the Gaussian inputs."""
    assert isinstance(config.data, schema.GaussianData)
    return config.data.variance
