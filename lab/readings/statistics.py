"""Statistics of a reading over layers and replicas; every view takes its numbers from here."""

import numpy as np

from lab.readings.records import Record
from lab.typing import Array


def delta_slope(delta_rms: Array) -> Array:
    """Fit the decades of gradient gained per layer towards the loss, by least squares on log10.

    Args:
        delta_rms: (layers, replicas).

    Returns:
        (replicas,) slope over the layers whose delta_rms is finite and above 0; NaN with fewer than two of them.
    """
    usable = np.isfinite(delta_rms) & (delta_rms > 0)
    log = np.log10(np.where(usable, delta_rms, 1.0))
    layer = np.arange(len(delta_rms), dtype=np.float64)[:, None]
    count = np.maximum(usable.sum(0), 1)
    x = np.where(usable, layer - np.sum(layer * usable, 0) / count, 0.0)
    squares = np.sum(x**2, 0)
    return np.where(squares > 0, np.sum(x * log, 0) / np.where(squares > 0, squares, 1.0), np.nan)


def first_over_last(record: Record) -> Array:
    """Divide delta_rms at the first layer by that at the last, (replicas,)."""
    delta = record.layers["delta_rms"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(delta[0] / delta[-1])


def median(values: Array) -> float | None:
    """Return the median of the finite values, None if there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None
