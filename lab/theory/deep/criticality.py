"""init=critical for a whole configuration: the weight_var at which gradients neither grow nor shrink.

A plain stack has the critical line of `lab.theory.plain.critical`, with two maps in a row if its blocks are ffn. Where
a norm holds the variance, the rate at which squared gradients change from layer to layer settles within a few layers,
and a root of it in weight_var is sought. A skip leaves none, unless a norm follows it: it carries the gradient past the
branch, which can only add to it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lab import schema
from lab.theory.deep.prediction import predict
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.critical import TOLERANCE, bisect, critical_weight_var

SEARCHED = np.geomspace(1e-3, 1e3, 25)
"""weight_vars between which a root is looked for."""


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
    """weight_var of init=critical (init.gain not yet applied) for activation, norm, residual and block together.

    Raises:
        ConfigError: no weight_var makes gradients keep their size, or (NoTheory) none is known.
    """
    bias_var = config.init.bias_var if isinstance(config.init, schema.Critical) and config.model.bias else 0.0
    return _solve(
        replace(
            schema.Config(),
            activation=config.activation,
            norm=config.norm,
            residual=config.residual,
            model=replace(config.model, depth=1),
            init=schema.Gaussian("gaussian", bias_var=bias_var),
            batch_size=config.batch_size,
            dtype="float64",
        )
    )


def solved(config: schema.Config) -> schema.Config:
    """The configuration with init=gaussian of the same variances in place of init=critical."""
    assert isinstance(config.init, schema.Critical)
    init = config.init
    drawn = schema.Gaussian("gaussian", init.gain, critical_weight_var_of(config), init.bias_var)
    return replace(config, init=drawn)


@lru_cache(maxsize=64)
def _solve(config: schema.Config) -> float:
    """The answer for the parts of a configuration that matter, the others at their defaults."""
    assert isinstance(config.init, schema.Gaussian)
    bias_var, residual = config.init.bias_var, config.residual.name
    if residual != "none" and getattr(config.residual, "alpha", 1.0) == 0:
        return 1.0  # the branches are closed: every weight_var is critical
    place = config.norm.place if isinstance(config.norm, schema.LayerNorm) else "none"
    if residual != "none" and place != "post":
        raise schema.ConfigError(
            f"init=critical: residual={residual} adds every branch's gradient to the one that passes it by, so that no"
            " weight_var keeps it from growing; choose init=lecun_normal, or residual=none."
        )
    maps = 2 if config.model.block == "ffn" else 1
    if place == "none":
        return critical_weight_var(config.activation, bias_var, maps)

    rates = np.array([_rate(config, float(weight_var)) for weight_var in SEARCHED])
    crossings = np.flatnonzero(rates[:-1] * rates[1:] < 0)
    plain = math.exp(-math.log(float(kernel(config.activation).slope_moment(1.0))) / maps)
    if not crossings.size and abs(_rate(config, plain)) <= TOLERANCE:
        return plain  # relu and its kin: the norm takes weight_var out again, but for its eps
    if not crossings.size:
        least = np.exp(np.min(np.abs(rates)))
        raise schema.ConfigError(
            f"init=critical: norm={config.norm.name} norm.place={place} activation={config.activation.name} squared"
            f" gradients change by a factor of {least:.4g} a layer or more, whatever weight_var; choose norm=none or"
            " init=lecun_normal."
        )
    nearest = min(crossings, key=lambda i: abs(np.log(SEARCHED[i])))
    return bisect(lambda s: _rate(config, s), float(SEARCHED[nearest]), float(SEARCHED[nearest + 1]))


def _rate(config: schema.Config, weight_var: float) -> float:
    """ln of the ratio of E delta^2 between neighbouring layers, above the first ones, which know the data."""
    assert isinstance(config.init, schema.Gaussian)
    # Under a skip the mean over the units settles slowly, as the branch is scaled.
    depth = 40 if config.residual.name == "none" else 300
    log_delta = predict(
        replace(
            config,
            init=replace(config.init, weight_var=weight_var),
            model=replace(config.model, depth=depth),
            data=schema.GaussianData("gaussian", features=config.model.width),
        )
    ).log_delta
    return float(2 * (log_delta[-3] - log_delta[-2]))
