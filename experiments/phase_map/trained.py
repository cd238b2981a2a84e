"""Accuracy of networks trained over depth and weight_var, and the depths that theory expects to train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from experiments.phase_map.table import WEIGHT_VAR, Range, described
from lab import schema
from lab.theory import critical_line, depth_scales
from lab.theory.plain.signal import TRAINABLE
from lab.typing import Array

CURVE_POINTS = 128


def accuracy(config: schema.Config, depth: int, weight_vars: Array, bias_var: float, replicas: int) -> Array:
    """Train networks of one depth side by side and return their held-out accuracy, (weight_vars, replicas)."""
    from lab.run.simulation import side_by_side

    probe = schema.Probe(every=0, eval_every=0, set="norms")
    base = replace(config, model=replace(config.model, depth=depth), probe=probe, replicas=1)
    inits = [schema.Gaussian("gaussian", 1.0, s, bias_var) for s in np.repeat(weight_vars, replicas).tolist()]
    first = config.first_replica
    configs = [replace(base, init=init, first_replica=first + index) for index, init in enumerate(inits)]
    last = side_by_side(configs)["eval_accuracy"][-1].to_numpy()
    return np.asarray(last.reshape(len(weight_vars), replicas))


def trained_table(
    config: schema.Config,
    depths: Sequence[int],
    weight_var: Range,
    weight_vars: Array,
    bias_var: float,
    accuracies: Sequence[Array],
) -> xr.Dataset:
    """Return the accuracies (weight_vars, replicas) of each depth, and the depths that theory expects to train.

    Those are 6 xi_c for the differences between two inputs, 6 xi_grad for a gradient (Schoenholz et al. 2017, sec. 5).
    """
    critical = float(critical_line(config.activation, np.array(bias_var)))
    curve = np.linspace(*weight_var, CURVE_POINTS + 1)[1:]  # without the lower end, which may be 0
    scales = [depth_scales(config.activation, float(s), bias_var) for s in curve]
    xi_c, xi_grad = (np.array([getattr(scale, name) for scale in scales]) for name in ("xi_c", "xi_grad"))
    along, expected = "curve_weight_var", "the depth that theory expects to train"
    long_name = "accuracy on held-out data after training; NaN where a logit is not finite"
    attributes = {"trained_config": json.dumps(schema.as_dict(config)), "trained_bias_var": bias_var}
    return xr.Dataset(
        {
            "depth": described("depth", depths, "hidden layers of a trained network"),
            "trained_weight_var": described("trained_weight_var", weight_vars, WEIGHT_VAR),
            "accuracy": described("depth trained_weight_var trained_replica", np.stack(accuracies), long_name),
            "curve_weight_var": described(along, curve, WEIGHT_VAR),
            "trainable_depth_c": described(along, TRAINABLE * xi_c, f"6 xi_c, {expected}", "layer"),
            "trainable_depth_grad": described(along, TRAINABLE * xi_grad, f"6 xi_grad, {expected}", "layer"),
        },
        attrs=attributes | {"trained_critical_weight_var": critical},
    )
