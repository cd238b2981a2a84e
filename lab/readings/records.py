"""Record: everything that one reading measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lab.typing import Array


@dataclass(frozen=True)
class Record:
    """One reading: everything measured at one step, on the host.

    Attributes:
        step: number of parameter updates made before this reading.
        layers: quantity -> float64 array (layers, replicas).
        scalars: quantity -> float64 array (replicas,).
        diverged_at: (replicas,) step at which the replica's loss or gradient became non-finite, -1 if it did not.
        diverged_layer: (replicas,) the layer nearest the loss with a non-finite gradient at that step, where the
            backward pass met it first; -1 if there was none or only the loss was non-finite.
        seconds: wall time since the run started.
        spectra: quantity -> float64 array (singular values, replicas), where they were measured.
    """

    step: int
    layers: Mapping[str, Array]
    scalars: Mapping[str, Array]
    diverged_at: NDArray[np.int64]
    diverged_layer: NDArray[np.int64]
    seconds: float
    spectra: Mapping[str, Array] = field(default_factory=dict)


def split(record: Record, sizes: Sequence[int]) -> list[Record]:
    """Split the reading of runs trained together into one per run; `sizes` are their numbers of replicas."""
    parts = []
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        own = slice(end - size, end)
        layers, scalars, spectra = (
            {name: array[..., own] for name, array in group.items()}
            for group in (record.layers, record.scalars, record.spectra)
        )
        fates = record.diverged_at[own], record.diverged_layer[own]
        parts.append(Record(record.step, layers, scalars, *fates, record.seconds, spectra))
    return parts
