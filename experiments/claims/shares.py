"""A share of replicas with an interval that holds for few of them, and for none or all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from experiments.claims.claim import Number
from experiments.claims.statistics import LEVEL


def share(name: str, indicators: ArrayLike) -> Number:
    """Mean of zeros and ones, with its exact binomial interval (Clopper and Pearson 1934).

    Resampling replicas that all agree would claim that their number says everything.
    """
    ones = np.asarray(indicators, dtype=np.float64).ravel()
    found = stats.binomtest(int(ones.sum()), len(ones)).proportion_ci(LEVEL, method="exact")
    return Number(name, float(ones.mean()), float(found.low), float(found.high))
