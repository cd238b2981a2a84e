"""Record: all that one reading measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass
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
        seconds: wall time since the run began.
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
    """A reading of several runs side by side as one of each.

    Args:
        sizes: how many replicas each run has; all of the record's together.
    """
    if len(sizes) == 1:
        return [record]
    ends = np.cumsum(sizes)[:-1]

    def each(found: Mapping[str, Array]) -> list[dict[str, Array]]:
        pieces = {name: np.split(values, ends, axis=-1) for name, values in found.items()}
        return [{name: values[k] for name, values in pieces.items()} for k in range(len(sizes))]

    rows = zip(
        each(record.layers),
        each(record.scalars),
        np.split(record.diverged_at, ends),
        np.split(record.diverged_layer, ends),
        each(record.spectra),
        strict=True,
    )
    return [
        Record(record.step, layers, scalars, at, layer, record.seconds, spectra)
        for layers, scalars, at, layer, spectra in rows
    ]
