"""Shares: of replicas, with an interval valid for few of them, and of digits classified correctly."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from experiments.claims.claim import Number
from experiments.claims.statistics import LEVEL
from lab.typing import Array

GUESSING = 0.1
"""Accuracy of guessing one of ten digits."""


def answered(accuracy: Array) -> Array:
    """Return accuracies on the digits; a diverged network (NaN) counts as guessing."""
    return np.nan_to_num(accuracy, nan=GUESSING)


def share(name: str, indicators: ArrayLike) -> Number:
    """Return the mean of zeros and ones with its exact binomial interval (Clopper and Pearson 1934).

    The bootstrap of replicas that all agree would have an interval of width 0.
    """
    ones = np.asarray(indicators, dtype=np.float64).ravel()
    ends = stats.binomtest(int(ones.sum()), len(ones)).proportion_ci(LEVEL, method="exact")
    return Number(name, float(ones.mean()), float(ends.low), float(ends.high))
