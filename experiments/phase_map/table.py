"""The order-to-chaos map as a table: depth limits across the map, its critical line, and the initializations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from lab import __version__, schema
from lab.theory import critical_line, depth_scales, kernel, phase_map, resolve_critical
from lab.theory.deep.maps import maps
from lab.theory.plain.critical import CriticalLine
from lab.typing import Array

DECADE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
ROUND_NUMBERS = [scale * number for scale in (0.1, 1.0, 10.0, 100.0) for number in DECADE]  # ends of axes
TWICE = 1.75  # weight_var reaches to the first round number that is at least this multiple of the critical weight_var

BIAS_SHARE = 0.1
"""bias_var reaches to this share of weight_var, where tanh's critical line has bent to nearly twice its start."""

INITS = {
    name.removesuffix("_normal"): name
    for name in ("torch_default", "xavier_normal", "lecun_normal", "orthogonal", "he_normal")
}
"""Labels of the initializations on every map; uniform and normal variants have the same variances."""

WEIGHT_VAR, BIAS_VAR = "fan_in times the variance of a weight", "variance of a bias"
MAP = "bias_var weight_var"  # dimensions of the map


class Range(NamedTuple):
    """The ends of an axis."""

    low: float
    high: float

    def centres(self, cells: int) -> Array:
        """Return the centres of equal cells that fill the range, (cells,)."""
        edges = np.linspace(*self, cells + 1)
        return np.asarray((edges[1:] + edges[:-1]) / 2)


def phase_table(config: schema.Config, weight_var: Range, bias_var: Range, points: int) -> xr.Dataset:
    """Compute the map of the configured activation, (bias_var, weight_var), its critical line, and the inits on it.

    Raises:
        ConfigError: init=critical, where nothing is critical.
    """
    inits = init_points(config)
    init_weight_vars, init_bias_vars = np.array(list(inits.values())).T
    init_rates = [depth_scales(config.activation, *variances).chi for variances in inits.values()]
    is_own = np.array([name not in INITS for name in inits])
    weight_vars, bias_vars = np.linspace(*weight_var, points), np.linspace(*bias_var, points)
    limits = phase_map(config.activation, weight_vars, bias_vars)
    ratio = "ratio of E delta^2 of a layer to that of the layer above, in the limit of depth"
    line = "weight_var of the critical line; NaN where it has no point"
    attributes = {"activation": config.activation.name, "config": json.dumps(schema.as_dict(config))}
    return xr.Dataset(
        {
            "weight_var": described("weight_var", weight_vars, WEIGHT_VAR),
            "bias_var": described("bias_var", bias_vars, BIAS_VAR),
            "q_star": described(MAP, limits.q_star, "variance of the pre-activations in the limit of depth"),
            "chi": described(MAP, limits.chi, ratio),
            "xi_grad": described(MAP, limits.xi_grad, "depth over which E delta^2 changes by a factor of e", "layer"),
            "xi_q": described(MAP, limits.xi_q, "depth over which q approaches q_star by a factor of e", "layer"),
            "critical_weight_var": described("bias_var", critical_line(config.activation, bias_vars), line),
            "init": ("init", np.array(list(inits), dtype=object), {"long_name": "initialization"}),
            "init_weight_var": described("init", init_weight_vars, f"{WEIGHT_VAR}, in hidden layers"),
            "init_bias_var": described("init", init_bias_vars, f"{BIAS_VAR}, in hidden layers"),
            "init_chi": described("init", init_rates, "chi of the initialization"),
            "init_is_own": described("init", is_own.astype(np.int8), "1 for the configuration's own"),
        },
        attrs=attributes | {"gradlab": __version__},
    )


def described(dims: str, values: ArrayLike, long_name: str, units: str = "1") -> tuple[list[str], NDArray[Any], Any]:
    """Return a variable of a dataset; `dims` are separated by spaces."""
    return dims.split(), np.asarray(values), {"long_name": long_name, "units": units}


def default_ranges(activation: schema.Activation) -> tuple[Range, Range]:
    """Return ranges of weight_var and bias_var with the critical line, or without one that of relu, in the middle.

    weight_var reaches to about twice the critical one; bias_var to `BIAS_SHARE` of that, or to twice the line's start.
    """
    start = least_critical_bias_var(activation)
    if np.isnan(start):
        activation, start = schema.Activation("relu"), 0.0
    for high in ROUND_NUMBERS:
        bias_high = next(number for number in ROUND_NUMBERS if number >= max(BIAS_SHARE * high, 2 * start))
        line = critical_line(activation, np.linspace(start, bias_high, 21))
        if high >= TWICE * np.nanmedian(line):
            break
    return Range(0.0, high), Range(0.0, bias_high)


def least_critical_bias_var(activation: schema.Activation) -> float:
    """Return the bias_var at which the critical line starts; NaN if there is none."""
    line = CriticalLine(kernel(activation))
    return 0.0 if np.isfinite(line.solve(0.0)) else line.next_bias_var(0.0)


def init_points(config: schema.Config) -> dict[str, tuple[float, float]]:
    """Return label -> (weight_var, bias_var) in hidden layers, of `INITS` and of the configuration's own init."""
    configs = {label: replace(config, init=schema.Init(name)) for label, name in INITS.items()}
    resolved, gain = resolve_critical(config), config.init.gain
    if isinstance(resolved.init, schema.Gaussian) or gain != 1:
        configs[f"init={config.init.name}" + (f", gain {gain:g}" if gain != 1 else "")] = resolved
    return {label: maps(chosen, chosen.model.width).up[2:] for label, chosen in configs.items()}


def trained_bias_var(config: schema.Config, bias_var: Range) -> float:
    """Return the bias_var of the trained networks: that of the configuration if its init has one.

    Else an eighth of the map's height, which is 0.05 for tanh, as in figure 5 of Schoenholz et al. 2017; or the start
    of the critical line if it does not reach down to that.
    """
    if isinstance(config.init, schema.Gaussian | schema.Critical):
        return config.init.bias_var
    eighth = bias_var.low + (bias_var.high - bias_var.low) / 8
    start = least_critical_bias_var(config.activation)
    is_below_line = np.isnan(critical_line(config.activation, np.array(eighth))) and not np.isnan(start)
    return start if is_below_line else eighth
