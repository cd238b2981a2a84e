"""Predicts a configuration's first reading from theory, without training."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from lab import compose, schema
from lab.readings import LAYER_QUANTITIES
from lab.theory import resolve_critical
from lab.theory.report.report import TheoryReport, report

if TYPE_CHECKING:
    import xarray as xr

SCALARS = {
    "q_star": ("fixed point of the variance of the pre-activations", "1"),
    "c_star": ("fixed point of the correlation between two inputs", "1"),
    "chi": ("factor of the squared gradient per layer, deep in the network", "1"),
    "xi_q": ("depth scale of the variance", "layer"),
    "xi_c": ("depth scale of the correlation", "layer"),
    "xi_grad": ("depth scale of the gradient", "layer"),
    "trainable_depth": ("depth that theory expects to train", "layer"),
    "predicted_delta_slope": ("decades of delta_rms gained per layer towards the loss", "decades per layer"),
    "critical_weight_var": ("weight_var at which chi is 1, all else equal", "1"),
}
"""Numbers of the whole network: name -> long_name, units."""


def predict(*overrides: str, input_q: float | None = None, features: int | None = None) -> xr.Dataset:
    """Predict a configuration's layers at initialization, as `gradlab theory` does.

    Args:
        overrides: as on the command line, for example "activation=tanh", "model.depth=50".
        input_q: mean square of the inputs over features and examples; by default that of the configured data.
        features: size of an input, where the configuration does not have it (data=npz).

    Returns:
        `predicted_delta_rms`, relative to the last layer, and `predicted_pre_rms` with the ends of their bands
        (`_lower`, `_upper`), `predicted_act_rms`, each (layer,); `predicted_delta_slope`, `chi`, `q_star`, the depth
        scales and `critical_weight_var`, each (). A number that does not exist is NaN. `attrs` hold config,
        fingerprint, phase, fate, advice, assumptions and, as JSON, the reasons for what is missing.

    Raises:
        ConfigError: the configuration cannot be used, or init=critical where nothing is critical.
    """
    config = compose.compose(overrides)
    return to_dataset(config, report(resolve_critical(config), input_q, features))


def to_dataset(config: schema.Config, theory: TheoryReport) -> xr.Dataset:
    """Convert the report on a configuration into a table."""
    import xarray as xr

    scales = theory.scales
    table = xr.Dataset(
        attrs={
            "config": json.dumps(schema.as_dict(config)),
            "fingerprint": schema.fingerprint(config),
            "phase": scales.phase if scales else "",
            "fate": theory.fate,
            "advice": theory.advice,
            "assumptions": json.dumps(theory.assumptions),
            "reasons": json.dumps(dict(theory.reasons)),
        }
    )
    for name, values, long_name, units in _layers(theory):
        table[f"predicted_{name}"] = ("layer", values, {"long_name": long_name, "units": units})
    if "layer" in table.dims:
        layers = np.arange(table.sizes["layer"])
        table.coords["layer"] = ("layer", layers, {"long_name": "hidden layer, 0 at the input"})
    numbers = asdict(scales) if scales else {}
    numbers |= {"predicted_delta_slope": theory.delta_slope, "critical_weight_var": theory.critical_weight_var}
    for name, (long_name, units) in SCALARS.items():
        table[name] = ((), numbers.get(name, np.nan), {"long_name": long_name, "units": units})
    return table


def _layers(theory: TheoryReport) -> list[tuple[str, np.ndarray, str, str]]:
    """List (name, values (layer,), long_name, units)."""
    layers = theory.layers
    if layers is None:
        return []
    ends = {"": "", "_lower": ", lower end of its band", "_upper": ", upper end of its band"}
    with np.errstate(over="ignore"):
        deltas = np.exp([layers.log_delta, layers.log_delta_band.lower, layers.log_delta_band.upper])
    pre_rms, pre_name = (np.sqrt(layers.q), *layers.pre_rms), LAYER_QUANTITIES["pre_rms"].long_name
    rows = [("act_rms", layers.act_rms, LAYER_QUANTITIES["act_rms"].long_name, "1")]
    for (end, text), delta_rms, rms in zip(ends.items(), deltas, pre_rms, strict=True):
        rows.append((f"delta_rms{end}", delta_rms, f"delta_rms relative to the last layer{text}", "1"))
        rows.append((f"pre_rms{end}", rms, f"{pre_name}{text}", "1"))
    return rows
