"""Rates at which gradients change per layer, measured in networks across the order-to-chaos map.

Every point is a few replicas of one large network, so a grid of variances costs only the passes of one network.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import xarray as xr

from experiments.phase_map.table import BIAS_VAR, WEIGHT_VAR, described
from lab import schema
from lab.theory import NoTheory, predict
from lab.theory.width.noise import noise
from lab.typing import Array

SIGMAS = 3.0  # half width of the allowance of a rate, in standard deviations of the mean over its replicas
WIDEST = 10.0  # a rate whose allowance exceeds this factor is not bounded at all
TOP = 2  # layers next to the injected gradient that a fit leaves out
LEAST_DEPTH = 12  # fewer hidden layers are too few to fit a rate to
LARGEST_BATCH = 128  # replicas side by side; more are measured in batches, to save memory
EXAMPLES = 64  # inputs whose mean squares represent those of all data


def measure(config: schema.Config, weight_vars: Array, bias_vars: Array, replicas: int) -> xr.Dataset:
    """Measure the rate of E delta^2 at points (P,) of the map, and predict it.

    A random gradient enters at the last hidden layer: it is independent of the activations, as theory assumes.
    Prediction and allowance are of the same slope at this depth and width, whose limit is the map's background.
    """
    from lab.run.simulation import side_by_side

    points = [at(config, float(s), float(b)) for s, b in zip(weight_vars, bias_vars, strict=True)]
    copies = [point for point in points for _ in range(replicas)]
    configs = [replace(copy, first_replica=config.first_replica + r) for r, copy in enumerate(copies)]
    batches = [configs[start : start + LARGEST_BATCH] for start in range(0, len(configs), LARGEST_BATCH)]
    tables = [side_by_side(batch).isel(step=0)["delta_rms"].transpose("replica", "layer") for batch in batches]
    rates = rate(np.concatenate(tables)).reshape(len(points), replicas)
    inputs = input_squares(config)
    expected, lowest, highest = np.array([allowance(point, inputs, replicas) for point in points]).T  # (P,) each
    means = np.exp(np.log(rates).mean(-1))
    is_inside = (means >= lowest) & (means <= highest)
    ratio = "ratio of E delta^2 of a layer to that of the layer above, over the layers that a rate is fitted to"
    end = "end of what finite width allows for the geometric mean over replicas"
    lost, point = "NaN where it is out of range", "measured_point"
    return xr.Dataset(
        {
            "measured_weight_var": described(point, weight_vars, WEIGHT_VAR),
            "measured_bias_var": described(point, bias_vars, BIAS_VAR),
            "measured_chi": described(f"{point} measured_replica", rates, f"{ratio}; {lost}"),
            "predicted_chi": described(point, expected, f"{ratio}, from theory; {lost}"),
            "lowest_chi": described(point, lowest, f"lower {end}"),
            "highest_chi": described(point, highest, f"upper {end}"),
            "is_inside": described(point, is_inside.astype(np.int8), "1 where the geometric mean is between them"),
        },
        attrs={"measured_config": json.dumps(schema.as_dict(config))},
    )


def at(config: schema.Config, weight_var: float, bias_var: float) -> schema.Config:
    """Return one replica of the configuration at a point of the map, at initialization, under a random gradient."""
    init = schema.Gaussian("gaussian", weight_var=weight_var, bias_var=bias_var)
    probe = schema.Probe(every=0, eval_every=0, set="norms", cotangent="random")
    return replace(config, init=init, probe=probe, replicas=1, steps=0)


def fitted(depth: int) -> slice:
    """Return the layers that a rate is fitted to: not the lowest third, where the variance approaches its limit."""
    return slice(depth // 3, depth - TOP)


def rate(delta: Array) -> Array:
    """Return the rate of E delta^2, fitted to delta_rms, (..., layers) -> (...); NaN where one is 0 or not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(delta[..., fitted(delta.shape[-1])])
        rates = np.exp(-(logs @ slope_weights(logs.shape[-1])))
    return np.where(np.isfinite(logs).all(-1), rates, np.nan)


def allowance(config: schema.Config, input_q: Array, replicas: int) -> tuple[float, float, float]:
    """Return the expected rate, and the lower and upper end of the geometric mean over replicas.

    The covariance of ln delta^2 of two layers is the variance of the upper one (`lab.theory.width.slope`). All are NaN
    where q leaves the range of the network's dtype, the ends where they exceed a factor of `WIDEST`, for which
    first-order scatter is meaningless (gated activations on their way to infinity).
    """
    layers = fitted(config.model.depth)
    try:
        prediction = predict(config, input_q)
    except NoTheory:
        return math.nan, math.nan, math.nan
    scatter = noise(config, prediction)
    variance = scatter.delta[layers]
    weights = slope_weights(len(variance))
    upper = np.maximum.outer(np.arange(len(variance)), np.arange(len(variance)))
    reach = SIGMAS * np.sqrt(weights @ variance[upper] @ weights / replicas)
    shifts = [0.0, *(-float(weights @ shift[layers]) for shift in scatter.delta_shift)]
    expected = -2 * float(weights @ prediction.log_delta[layers])
    down, up = min(shifts) - reach, max(shifts) + reach
    if max(-down, up) > math.log(WIDEST):
        return math.exp(expected), math.nan, math.nan
    return math.exp(expected), math.exp(expected + down), math.exp(expected + up)


def slope_weights(layers: int) -> Array:
    """Return the weights, (layers,), of a least-squares slope over consecutive layers."""
    centred = np.arange(layers) - (layers - 1) / 2
    return np.asarray(centred / (centred @ centred))


def input_squares(config: schema.Config) -> Array:
    """Return mean squares of inputs over their features: quantiles, evenly spaced, of those of all data."""
    import torch

    from lab import data

    inputs = data.load(config.data, torch.float64, torch.device("cpu")).train_x
    squares = np.sort(inputs.square().mean(-1).numpy())
    return np.asarray(squares[np.linspace(0, len(squares) - 1, min(EXAMPLES, len(squares))).astype(int)])
