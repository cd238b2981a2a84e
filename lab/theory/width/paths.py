"""The scatter of plain networks where it is too large for first order: simulated paths of the variance.

The same steps as in `lab.theory.width.bands`, a Gaussian step of ln q and one of ln delta^2 a layer with the variances
of width n, but taken at each path's own q, so that a network may end where mean-field theory does not: of gelu networks
with He's variances some keep their signal and others lose it. No weights are drawn, one path is one pair of numbers a
layer. Drawn from a fixed seed, the paths are part of the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lab.typing import Array

PATHS = 2000
"""Moments are right to a fiftieth of a standard deviation, 3% of a variance."""

MARGIN, SPACING, MOST_POINTS = 20.0, 0.1, 4000
"""The functions of ln q are tabulated this far beyond mean-field theory's range, this densely, in so many points."""


class Terms(NamedTuple):
    """Of points in q: ln of the next q, ln of the gradient's rate, and the (co)variances of the steps of both."""

    next_q: Array
    rate: Array
    xi: Array
    epsilon: Array
    covariance: Array


class Moments(NamedTuple):
    """Over paths, (depth,) each: of ln q over mean-field theory's, and of ln delta^2 relative to the last layer.

    `mean` is that of the logarithm, `log_mean` the logarithm of the mean, as for many examples that scatter alone.
    """

    q_mean: Array
    q_log_mean: Array
    q_variance: Array
    delta_mean: Array
    delta_log_mean: Array
    delta_variance: Array


def moments(terms_at: Callable[[Array], Terms], q: Array, least: float) -> Moments:
    """Follow paths that start at q[0] through the layers that have mean-field variances q (depth,).

    `least` is the smallest variance that `terms_at` can be asked for.
    """
    depth, ln_q = len(q), np.log(np.maximum(q, least))
    low, high = max(ln_q.min() - MARGIN, np.log(least)), ln_q.max() + MARGIN
    grid = np.linspace(low, high, min(MOST_POINTS, int((high - low) / SPACING)))
    terms = terms_at(np.exp(grid))
    deviation = np.sqrt(terms.xi)
    shared = np.divide(terms.covariance, deviation, out=np.zeros_like(grid), where=deviation > 0)
    own = np.sqrt(np.maximum(terms.epsilon - shared**2, 0.0))
    # A line between points is closest for what changes least, so the growth of ln q stands for the next one.
    drift, rate = terms.next_q - grid - terms.xi / 2, terms.rate - terms.epsilon / 2
    table = np.stack([drift, deviation, rate, shared, own], axis=1)  # (points, 5)
    slopes = np.diff(table, axis=0)
    rng = np.random.default_rng(0)
    place = np.full(PATHS, ln_q[0])
    places, rates = np.empty((depth, PATHS)), np.empty((depth - 1, PATHS))
    places[0] = place
    for layer in range(depth - 1):
        position = np.clip((place - low) / (grid[1] - low), 0, len(slopes) - 1e-9)
        index = position.astype(np.intp)
        drift, deviation, rate, shared, own = (table[index] + (position - index)[:, None] * slopes[index]).T
        first, second = rng.standard_normal((2, PATHS))
        rates[layer] = rate + shared * first + own * second
        place = place + drift + deviation * first
        places[layer + 1] = place
    delta = np.concatenate([np.cumsum(rates[::-1], axis=0)[::-1], np.zeros((1, PATHS))])
    places -= ln_q[:, None]
    return Moments(
        *(places.mean(1), _log_mean(places), places.var(1)),
        *(delta.mean(1), _log_mean(delta), delta.var(1)),
    )


def _log_mean(logs: Array) -> Array:
    """ln of the mean of exp over the last axis."""
    largest = logs.max(1, keepdims=True)
    return np.asarray(np.log(np.mean(np.exp(logs - largest), axis=1)) + largest[:, 0])
