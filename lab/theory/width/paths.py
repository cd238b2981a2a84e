"""The scatter of plain networks beyond first order: simulated paths of the variance.

The steps are those of `lab.theory.width.noise`, but taken at each path's own q, so that a network may end where
mean-field theory does not: of gelu networks with He's variances some keep their signal and others lose it. A path is
one pair of numbers per layer. The seed is fixed, so that the paths are part of the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lab.theory.deep.prediction import log_mean
from lab.typing import Array

PATHS = 2000  # means then have an error of 1/45 of a standard deviation, variances one of 3%

MARGIN, SPACING, MOST_POINTS = 20.0, 0.1, 4000
"""Range beyond mean-field theory's, spacing and number of the points of ln q at which functions are tabulated."""


class Terms(NamedTuple):
    """Functions of q, (points,) each: ln of the next q and of the gradient's rate, (co)variances of their steps."""

    next_q: Array
    rate: Array
    xi: Array
    epsilon: Array
    covariance: Array


class PathMoments(NamedTuple):
    """Over paths, (depth,) each: of ln q over mean-field theory's, and of ln delta^2 relative to the last layer.

    `log_mean` is the logarithm of the mean, as for many examples with independent scatter.
    """

    q_mean: Array
    q_log_mean: Array
    q_variance: Array
    delta_mean: Array
    delta_log_mean: Array
    delta_variance: Array


def moments(terms_at: Callable[[Array], Terms], q: Array, least: float) -> PathMoments:
    """Follow paths from q[0] through layers of mean-field variances q (depth,); `terms_at` accepts `least` or more."""
    depth, ln_q = len(q), np.log(np.maximum(q, least))
    low, high = max(ln_q.min() - MARGIN, np.log(least)), ln_q.max() + MARGIN
    grid = np.linspace(low, high, min(MOST_POINTS, int((high - low) / SPACING)))
    terms = terms_at(np.exp(grid))
    deviation = np.sqrt(terms.xi)
    shared = np.divide(terms.covariance, deviation, out=np.zeros_like(grid), where=deviation > 0)
    own = np.sqrt(np.maximum(terms.epsilon - shared**2, 0.0))
    # Linear interpolation is closest for what changes least, so the table holds the growth of ln q, not the next ln q.
    drift, rate = terms.next_q - grid - terms.xi / 2, terms.rate - terms.epsilon / 2
    table = np.stack([drift, deviation, rate, shared, own], axis=1)  # (points, 5)
    slopes = np.diff(table, axis=0)
    rng = np.random.default_rng(0)
    log_q, rates = np.empty((depth, PATHS)), np.empty((depth - 1, PATHS))
    log_q[0] = ln_q[0]
    for layer in range(depth - 1):
        position = np.clip((log_q[layer] - low) / (grid[1] - low), 0, len(slopes) - 1e-9)
        index = position.astype(np.intp)
        drift, deviation, rate, shared, own = (table[index] + (position - index)[:, None] * slopes[index]).T
        first, second = rng.standard_normal((2, PATHS))
        rates[layer] = rate + shared * first + own * second
        log_q[layer + 1] = log_q[layer] + drift + deviation * first
    delta = np.concatenate([np.cumsum(rates[::-1], axis=0)[::-1], np.zeros((1, PATHS))])
    log_q -= ln_q[:, None]
    return PathMoments(
        *(log_q.mean(1), log_mean(log_q), log_q.var(1)),
        *(delta.mean(1), log_mean(delta), delta.var(1)),
    )
