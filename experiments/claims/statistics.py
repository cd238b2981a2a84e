"""Bootstrap intervals over replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from experiments.claims.claim import Number
from lab.typing import Array

LEVEL = 0.95
RESAMPLES = 5000

Statistic = Callable[..., Any]


def interval(
    name: str,
    values: ArrayLike,
    units: str = "",
    predicted: float | None = None,
    statistic: Statistic = np.mean,
) -> Number:
    """Return a statistic of replicas (R,) with its 95% interval, ignoring NaNs. One replica has no interval.

    Replicas are resampled (Efron and Tibshirani 1993, chapter 13) with a fixed seed.
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    sample = sample[~np.isnan(sample)]
    if not len(sample):
        return Number(name, float("nan"), None, None, units, predicted)
    value = float(statistic(sample))
    lower, upper = _percentiles((sample,), statistic)
    return Number(name, value, lower, upper, units, predicted)


def difference(
    name: str, first: ArrayLike, second: ArrayLike, units: str = "", statistic: Statistic = np.mean
) -> Number:
    """Return statistic(first) - statistic(second) of independent replicas with its interval."""
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (first, second))
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not len(a) or not len(b):
        return Number(name, float("nan"), None, None, units)

    def compare(x: Array, y: Array, axis: int = -1) -> Any:
        return statistic(x, axis=axis) - statistic(y, axis=axis)

    value = float(compare(a, b))
    lower, upper = _percentiles((a, b), compare)
    return Number(name, value, lower, upper, units)


def combined(name: str, statistic: Statistic, *samples: ArrayLike, units: str = "") -> Number:
    """Return a statistic of several independent samples (R,), each a positional argument, with its interval."""
    known = tuple(sample[~np.isnan(sample)] for sample in (np.asarray(s, dtype=np.float64).ravel() for s in samples))
    if not all(map(len, known)):
        return Number(name, float("nan"), None, None, units)
    lower, upper = _percentiles(known, statistic)
    return Number(name, float(statistic(*known, axis=-1)), lower, upper, units)


def wider(first: ArrayLike, second: ArrayLike, comparisons: int) -> Number:
    """Return mean(first) - mean(second) with an interval valid for several comparisons at once.

    Bonferroni: the error level of 5% is divided by the number of comparisons.
    """
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (first, second))
    ends = stats.bootstrap(
        (a, b),
        lambda x, y, axis=-1: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        n_resamples=4 * RESAMPLES,
        confidence_level=1 - (1 - LEVEL) / comparisons,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Number("", float(a.mean() - b.mean()), float(ends.low), float(ends.high))


def _percentiles(samples: tuple[Array, ...], statistic: Statistic) -> tuple[float | None, float | None]:
    if min(len(sample) for sample in samples) < 2:
        return None, None
    if all(np.ptp(sample) == 0 for sample in samples):
        value = float(statistic(*samples))
        return value, value
    ends = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def is_above(number: Number, bound: float) -> bool:
    """Return True if the whole interval lies above the bound."""
    return number.lower is not None and number.lower > bound


def is_below(number: Number, bound: float) -> bool:
    """Return True if the whole interval lies below the bound."""
    return number.upper is not None and number.upper < bound
