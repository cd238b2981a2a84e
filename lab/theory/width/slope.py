"""The slope of log10 delta_rms against depth that theory predicts, and its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lab import schema
from lab.theory.deep.prediction import Prediction
from lab.theory.width.noise import noise

WORTHLESS = 1.0  # decades per layer; a standard error at least as large makes a z-score meaningless


@dataclass(frozen=True)
class Slope:
    """Decades of delta_rms gained per layer towards the loss.

    `shift` of the mean over replicas by finite width is the middle of its possible range; the standard error of that
    mean is from the scatter over replicas and this range, taken as uniform and independent.
    """

    mean_field: float
    shift: float
    standard_error: float

    def z(self, measured: float) -> float:
        """Standard errors by which a measured mean exceeds the predicted one; NaN for none or a `WORTHLESS` one."""
        if not 0 < self.standard_error < WORTHLESS:
            return math.nan
        return (measured - self.mean_field - self.shift) / self.standard_error


def expected_slope(config: schema.Config, prediction: Prediction, replicas: int | None = None) -> Slope:
    """Predict the least-squares slope over all layers, as `lab.readings.delta_slope` measures it.

    ln(delta_l^2 / delta_L^2), with L the last layer, is a sum of one independent random term per layer from l to L
    (`lab.theory.width.noise`). Two layers share the terms from the later one to L, so their covariance is the variance
    at the later one. With least-squares weights w_l, the variance of the slope is
    sum_k (w_0 + ... + w_k)^2 Var(term_k), where term k lies between layers k and k + 1. The standard error is that of a
    mean over `replicas` networks, by default `config.replicas`.
    """
    depth = len(prediction.q)
    scatter = noise(config, prediction)
    to_decades = 1 / (2 * math.log(10))  # from ln of the square
    centred = np.arange(depth) - (depth - 1) / 2
    weights = centred / max(float(centred @ centred), 1e-300)  # (depth,), whose product with a curve is its slope
    steps = np.maximum(scatter.delta[:-1] - scatter.delta[1:], 0.0)
    variance = float(np.sum(steps * np.cumsum(weights)[:-1] ** 2)) * to_decades**2
    shifts = [float(weights @ shift) * to_decades for shift in (*scatter.delta_shift, np.zeros(depth))]
    lowest, highest = min(shifts), max(shifts)
    expected = float(weights @ prediction.log_delta) / math.log(10)
    spread = (highest - lowest) / math.sqrt(12)  # of a uniform distribution
    count = config.replicas if replicas is None else replicas
    return Slope(expected, (lowest + highest) / 2, math.hypot(math.sqrt(variance / count), spread))
