"""Shares: of replicas, with an interval that holds for few of them, and of the digits that a network gets right."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from experiments.claims.claim import Number
from experiments.claims.statistics import LEVEL
from lab.typing import Array

GUESSING = 0.1
"""Share of the ten digits that a network gets right which has learnt nothing."""


def answered(accuracy: Array) -> Array:
    """Accuracies on the digits, where a network that diverged (NaN) counts as one that guesses."""
    return np.nan_to_num(accuracy, nan=GUESSING)


def share(name: str, indicators: ArrayLike) -> Number:
    """Mean of zeros and ones, with its exact binomial interval (Clopper and Pearson 1934).

    Resampling replicas that all agree would claim that their number says everything.
    """
    ones = np.asarray(indicators, dtype=np.float64).ravel()
    found = stats.binomtest(int(ones.sum()), len(ones)).proportion_ci(LEVEL, method="exact")
    return Number(name, float(ones.mean()), float(found.low), float(found.high))
