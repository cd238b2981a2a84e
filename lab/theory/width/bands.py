"""Prediction bands of finite width: the range in which the geometric mean over replicas is expected."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lab import schema
from lab.theory.deep.prediction import Prediction
from lab.theory.deep.propagation import RANGE
from lab.theory.errors import NoTheory
from lab.theory.width.noise import Noise, noise
from lab.typing import Array

SIGMAS = 3.0  # half the width of a band, in standard deviations of a mean over replicas


class Band(NamedTuple):
    """Lower and upper end, (depth,) each, for a geometric mean over replicas."""

    lower: Array
    upper: Array


class Bands(NamedTuple):
    """Bands for delta_rms over the last layer's, and for pre_rms."""

    delta_rms: Band
    pre_rms: Band


def bands(config: schema.Config, prediction: Prediction, replicas: int | None = None, sigmas: float = SIGMAS) -> Bands:
    """Compute the bands for a geometric mean over `replicas`, by default `config.replicas`.

    Raises:
        NoTheory: at this width the variance of some replicas may leave the range of the network's dtype.
    """
    scatter, log_q = noise(config, prediction), np.log(prediction.q)
    _check_range(config, log_q, scatter)
    count = config.replicas if replicas is None else replicas

    def band(log_center: Array, variance: Array, shift: tuple[Array, Array]) -> Band:
        reach, (lowest, highest) = sigmas * np.sqrt(variance / count), shift
        with np.errstate(over="ignore"):  # an end at infinity: where scatter amplifies itself nothing is excluded
            return Band(np.exp(log_center + (lowest - reach) / 2), np.exp(log_center + (highest + reach) / 2))

    delta_rms = band(prediction.log_delta, scatter.delta, scatter.delta_shift)
    return Bands(delta_rms, band(log_q / 2, scatter.q, scatter.q_shift))


def _check_range(config: schema.Config, log_q: Array, scatter: Noise) -> None:
    least, most = RANGE[config.dtype]
    reach = SIGMAS * np.sqrt(scatter.q)
    lost = np.flatnonzero(~((log_q - reach > math.log(least)) & (log_q + reach < math.log(most))))
    if len(lost) and np.any(reach[lost] > 1):
        raise NoTheory(
            f"model.width={config.model.width}: from layer {lost[0]} on replicas of this width scatter so much that the"
            f" variance of some leaves the range of dtype={config.dtype}, and theory cannot tell of which; choose a"
            " larger width, fewer layers or a norm."
        )


def probability_dead(width: int, depth: int) -> float:
    """Probability that one input is dead after `depth` relu layers without biases: 1 - (1 - 2^-width)^depth.

    For one input and symmetric weights; Lu et al. 2019, "Dying ReLU and Initialization", have bounds for data sets.
    """
    return -math.expm1(depth * math.log1p(-(0.5**width))) if width > 0 else 1.0
