"""What a run leaves behind: records, one a reading, and the table that holds them all.

`LAYER_QUANTITIES` and `SCALAR_QUANTITIES` are the one list of what is measured; sinks, figures and documents read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]


class Quantity(NamedTuple):
    """How a quantity is named and looked at: one that `is_scale` on a logarithmic axis, a fraction on a linear one."""

    long_name: str
    units: str
    is_scale: bool = False


LAYER_QUANTITIES: Mapping[str, Quantity] = {
    "pre_rms": Quantity("root mean square of the pre-activations over batch and units", "1", True),
    "pre_mean": Quantity("mean of the pre-activations over batch and units", "1"),
    "act_rms": Quantity("root mean square of the activations over batch and units", "1", True),
    "act_mean": Quantity("mean of the activations over batch and units", "1"),
    "zero_fraction": Quantity("share of activations that are exactly 0", "1"),
    "dead_fraction": Quantity("share of units that are 0 for every example of the fixed probe set", "1"),
    "saturated_fraction": Quantity("share of pre-activations whose slope is below 1% of the largest slope", "1"),
    "delta_rms": Quantity(
        "rms over batch and units of the per-example gradient dL/dz", "loss per pre-activation", True
    ),
    "weight_grad_norm": Quantity("L2 norm of dL/dW before clipping", "loss per weight", True),
    "bias_grad_norm": Quantity("L2 norm of dL/db before clipping", "loss per bias", True),
    "weight_norm": Quantity("L2 norm of the weights", "1", True),
    "layer_gain": Quantity("rms of dL/d(layer input) over rms of dL/d(layer output)", "1", True),
    "update_ratio": Quantity("norm of the step's parameter change over the norm of the parameters", "1", True),
    "nonfinite": Quantity("count of NaN or Inf among the layer's gradients", "entries"),
}
"""Quantities with dimensions (step, layer, replica)."""

SCALAR_QUANTITIES: Mapping[str, Quantity] = {
    "loss": Quantity("training loss on the batch (cross-entropy)", "nat"),
    "eval_loss": Quantity("loss on held-out data (cross-entropy); NaN where it was not evaluated", "nat"),
    "eval_accuracy": Quantity("accuracy on held-out data; NaN where it was not evaluated", "1"),
    "grad_norm": Quantity("L2 norm of all gradients before clipping", "loss per parameter", True),
    "clipped_grad_norm": Quantity("L2 norm of all gradients after clipping", "loss per parameter", True),
    "delta_slope": Quantity("least-squares slope of log10 delta_rms against layer index", "decades per layer"),
    "readout_weight_grad_norm": Quantity("L2 norm of the readout's dL/dW before clipping", "loss per weight", True),
    "readout_weight_norm": Quantity("L2 norm of the readout's weights", "1", True),
    "jacobian_mean": Quantity("mean of the squared singular values of the Jacobian", "1", True),
    "jacobian_relative_variance": Quantity("variance of the squared singular values over their squared mean", "1"),
}
"""Quantities with dimensions (step, replica)."""

SPECTRA: Mapping[str, Quantity] = {
    "jacobian_sv": Quantity(
        "singular values of d(last hidden layer)/d(input) at one example, the largest first; NaN where not measured",
        "1",
        True,
    ),
}
"""Quantities with dimensions (step, singular_value, replica), with `probe.jacobian=true`."""

JACOBIAN_MOMENTS = ("jacobian_mean", "jacobian_relative_variance")
"""The scalar quantities that only `probe.jacobian=true` has."""

NORMS = ("weight_grad_norm", "delta_rms", "dead_fraction", "nonfinite")
"""The layer quantities of `probe.set=norms`; `full` has all of them."""


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


def delta_slope(delta_rms: Array) -> Array:
    """Decades of gradient gained per layer towards the loss, by least squares on log10.

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


def to_dataset(
    records: Sequence[Record],
    first_replica: int = 0,
    attrs: Mapping[str, str] | None = None,
    predictions: Iterable[tuple[str, Array, str, str]] = (),
) -> xr.Dataset:
    """The records as one table: dimensions (step, layer, replica), float64, each variable with long_name and units.

    Args:
        predictions: (name, values, long_name, units) of what theory says, (layer,) or a number.
    """
    import xarray as xr

    if not records:
        raise ValueError("There is no reading to put into a table.")
    first = records[0]
    table = xr.Dataset(attrs=dict(attrs or {}))
    table.coords["step"] = ("step", [record.step for record in records], {"long_name": "parameter updates made"})
    for name, what in LAYER_QUANTITIES.items():
        if name in first.layers:
            table[name] = (("step", "layer", "replica"), np.stack([record.layers[name] for record in records]))
            table[name].attrs = {"long_name": what.long_name, "units": what.units}
    for name, what in SCALAR_QUANTITIES.items():
        if name in first.scalars:
            table[name] = (("step", "replica"), np.stack([record.scalars[name] for record in records]))
            table[name].attrs = {"long_name": what.long_name, "units": what.units}
    for name, what in SPECTRA.items():
        if name in first.spectra:
            missing = np.full_like(first.spectra[name], np.nan)
            values = np.stack([record.spectra.get(name, missing) for record in records])
            table[name] = (("step", "singular_value", "replica"), values)
            table.coords["singular_value"] = (
                "singular_value",
                np.arange(values.shape[1]),
                {"long_name": "0 is largest"},
            )
            table[name].attrs = {"long_name": what.long_name, "units": what.units}
    for name, values, long_name, units in predictions:
        table[name] = (("layer",) if values.ndim else (), values, {"long_name": long_name, "units": units})
    replicas = len(first.diverged_at)
    table.coords["replica"] = ("replica", first_replica + np.arange(replicas), {"long_name": "replica of the seed"})
    if "layer" in table.dims:
        table.coords["layer"] = (
            "layer",
            np.arange(table.sizes["layer"]),
            {"long_name": "hidden layer, 0 at the input"},
        )
    return table
