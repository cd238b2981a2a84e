"""What a run leaves behind: records, one a reading, and the table that holds them all.

`LAYER_QUANTITIES` and `SCALAR_QUANTITIES` are the one list of what is measured; sinks, figures and documents read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
}
"""Quantities with dimensions (step, replica)."""

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
    """

    step: int
    layers: Mapping[str, Array]
    scalars: Mapping[str, Array]
    diverged_at: NDArray[np.int64]
    diverged_layer: NDArray[np.int64]
    seconds: float


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


def to_dataset(records: Sequence[Record], first_replica: int = 0, attrs: Mapping[str, str] | None = None) -> xr.Dataset:
    """The records as one table: dimensions (step, layer, replica), float64, each variable with long_name and units."""
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
    replicas = len(first.diverged_at)
    table.coords["replica"] = ("replica", first_replica + np.arange(replicas), {"long_name": "replica of the seed"})
    if "layer" in table.dims:
        table.coords["layer"] = (
            "layer",
            np.arange(table.sizes["layer"]),
            {"long_name": "hidden layer, 0 at the input"},
        )
    return table
