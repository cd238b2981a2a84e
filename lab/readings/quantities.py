"""Quantities: everything that is measured, with long names and units."""

from collections import ChainMap
from collections.abc import Mapping
from typing import NamedTuple


class Quantity(NamedTuple):
    """Long name and units of a quantity; one with `is_scale` is shown on a logarithmic axis."""

    long_name: str
    units: str
    is_scale: bool = False


LAYER_QUANTITIES: dict[str, Quantity] = {
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
"""Quantities with dimensions (step, layer, replica); `lab.register_quantity` adds to them."""

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
    )
}
"""Quantities with dimensions (step, singular_value, replica), with `probe.jacobian=true`."""

QUANTITIES: Mapping[str, Quantity] = ChainMap(LAYER_QUANTITIES, dict(SCALAR_QUANTITIES), dict(SPECTRA))
"""All quantities, registered ones included."""

JACOBIAN_MOMENTS = ("jacobian_mean", "jacobian_relative_variance")
"""Scalar quantities measured with `probe.jacobian=true` only."""

NORMS = ("weight_grad_norm", "delta_rms", "dead_fraction", "nonfinite")
"""Layer quantities of `probe.set=norms`; `full` has all of them."""
