"""init=critical for a whole configuration: the weight_var at which gradients neither grow nor shrink.

A plain stack has the critical line of `lab.theory.plain.critical`, with two maps in a row if its blocks are ffn. Where
a norm fixes the variance, the rate of the gradient settles within a few layers, and its root in weight_var is critical.
With a skip there is none, unless a norm follows it: a branch can only add to the gradient that passes it by.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from lab import schema
from lab.theory.deep.maps import branch_scale, check_covered, norm_place
from lab.theory.deep.prediction import predict
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.critical import TOLERANCE, bisect, critical_weight_var

SEARCHED = np.geomspace(1e-3, 1e3, 25)  # weight_vars between which a root is searched


def resolve_critical(config: schema.Config) -> schema.Config:
    """Replace init=critical by init=gaussian of the solved weight_var; return any other configuration unchanged.

    Raises:
        ConfigError: no weight_var is critical, or (NoTheory) none is known.
    """
    init = config.init
    if not isinstance(init, schema.Critical):
        return config
    weight_var = critical_weight_var_of(config)
    return replace(config, init=schema.Gaussian("gaussian", init.gain, weight_var, init.bias_var))


def critical_weight_var_of(config: schema.Config) -> float:
    """The critical weight_var for init.gain=1 at the bias_var of the init; raises like `resolve_critical`."""
    parts: dict[str, Any] = {name: getattr(config, name) for name in ("activation", "norm", "residual", "batch_size")}
    relevant = schema.Config(model=replace(config.model, depth=1), dtype="float64", **parts)
    return _solve(relevant, getattr(config.init, "bias_var", 0.0) if config.model.bias else 0.0)


@lru_cache(maxsize=64)
def _solve(config: schema.Config, bias_var: float) -> float:
    """`critical_weight_var_of` for a configuration whose irrelevant parts have their defaults."""
    check_covered(config)
    residual, place = config.residual.name, norm_place(config)
    if residual != "none" and branch_scale(config) == 0:
        return 1.0  # the branches are closed: every weight_var is critical
    if residual != "none" and place != "post":
        raise schema.ConfigError(
            f"init=critical: residual={residual} adds every branch's gradient to the one that passes it by, so that no"
            " weight_var keeps it from growing; choose init=lecun_normal, or residual=none."
        )
    maps = 2 if config.model.block == "ffn" else 1
    if place == "none":
        return critical_weight_var(config.activation, bias_var, maps)
    rates = np.array([_rate(config, weight_var, bias_var) for weight_var in SEARCHED.tolist()])
    crossings = np.flatnonzero(rates[:-1] * rates[1:] < 0)
    plain = math.exp(-math.log(float(kernel(config.activation).slope_moment(1.0))) / maps)
    if not crossings.size and abs(_rate(config, plain, bias_var)) <= TOLERANCE:
        return plain  # positively homogeneous activations: the norm cancels weight_var, up to its eps
    if not crossings.size:
        least = np.exp(np.min(np.abs(rates)))
        raise schema.ConfigError(
            f"init=critical: with norm={config.norm.name} norm.place={place} activation={config.activation.name}"
            f" squared gradients change by a factor of {least:.4g} or more per layer, whatever weight_var; choose"
            " norm=none or init=lecun_normal."
        )
    nearest = min(crossings, key=lambda i: abs(np.log(SEARCHED[i])))
    return bisect(lambda s: _rate(config, s, bias_var), *SEARCHED[nearest : nearest + 2].tolist())


def _rate(config: schema.Config, weight_var: float, bias_var: float) -> float:
    """ln of the ratio of E delta^2 between neighbouring layers, above the first ones, which depend on the data."""
    depth = 40 if config.residual.name == "none" else 300  # a scaled branch settles slowly
    init, model = schema.Gaussian("gaussian", 1.0, weight_var, bias_var), replace(config.model, depth=depth)
    log_delta = predict(replace(config, init=init, model=model), features=model.width).log_delta
    return float(2 * (log_delta[-3] - log_delta[-2]))
