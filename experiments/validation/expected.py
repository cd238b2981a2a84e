"""Rows made from theory's own predictions and bands, and from published rates."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase
from experiments.validation.row import Row, refused
from lab import schema
from lab.theory import NoTheory, bands, predict
from lab.theory.width.noise import noise


def input_q(config: schema.Config) -> float:
    """Mean square of the Gaussian inputs."""
    assert isinstance(config.data, schema.GaussianData)
    return config.data.variance


def profile_row(number: int, name: str, statement: str, run: NetworkCase, quantity: str = "delta_rms") -> Row:
    """Theory's whole profile over the layers in its band: log10 of delta_rms over the last layer's, or of pre_rms.

    A gradient sums up what the layers above did to it, so that its layers are inside or outside together. The variances
    of layers hardly know each other: as many looks as layers, which together get the chance of error of one.
    """
    config = run.config()
    is_relative = quantity == "delta_rms"
    sigmas = reference.SIGMAS if is_relative else reference.sigmas_of_looks(config.model.depth)
    try:
        prediction = predict(config, input_q(config))
        with np.errstate(over="ignore", divide="ignore"):
            band = getattr(bands(config, prediction, sigmas=sigmas), quantity)
            lower, upper = np.log10(band.lower), np.log10(band.upper)
    except NoTheory as refusal:
        return refused(number, name, statement, str(refusal))
    center = prediction.log_delta / math.log(10) if is_relative else np.log10(prediction.q) / 2
    return Row(
        number,
        name,
        statement,
        center,
        (center - lower, upper - center),
        f"band: finite width, {sigmas:.3g} sigma",
        partial(networks.relative_profile if is_relative else networks.profile, run, quantity),
        run,
    )


def rate_row(
    number: int, name: str, statement: str, run: NetworkCase, chi: float, activation: str, drop: int = 10
) -> Row:
    """A published rate of the squared gradient of a plain network, met by the layers from `drop` on.

    The deviation allowed is the scatter of finite networks between those layers, and how far the iterated map, by
    quadrature of its own, is from the published number there: rounding, and what is left of the way to q*.
    """
    config = run.config()
    scatter = noise(config, predict(config, input_q(config)))
    layers = config.model.depth - 1 - drop
    low, high = (bound[drop] / layers for bound in scatter.delta_shift)
    error = reference.SIGMAS * math.sqrt(scatter.delta[drop] / run.replicas) / layers
    sizes = _variances(config)
    q = reference.variances(activation, *sizes, sizes[0] * input_q(config) + sizes[1], config.model.depth)
    drift = abs(reference.log_rates(activation, sizes[0], q[drop:-1]).mean() - math.log(chi))
    return Row(
        number,
        name,
        statement,
        math.log(chi),
        (error - low + drift, error + high + drift),
        f"scatter of width {config.model.width} over {layers} layers, 3 sigma; drift to q* {drift:.1g}",
        partial(networks.rate, run, "delta_rms", drop),
        run,
    )


def _variances(config: schema.Config) -> tuple[float, float]:
    """weight_var and bias_var of the maps between hidden layers, by the definitions of the initializations."""
    init, width = config.init, config.model.width
    if isinstance(init, schema.Gaussian):
        return init.weight_var * init.gain**2, init.bias_var
    found = {
        "xavier_normal": (1.0, 0.0),
        "lecun_normal": (1.0, 0.0),
        "he_normal": (2.0, 0.0),
        "torch_default": (1 / 3, 1 / (3 * width)),
    }
    weight_var, bias_var = found[init.name]
    return weight_var * init.gain**2, bias_var
