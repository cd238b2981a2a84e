"""The order-to-chaos map as a table: what theory says of every point, and which points are worth a look."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lab import __version__, schema
from lab.theory import critical_line, depth_scales, phase_map, resolve_critical
from lab.theory.deep.maps import maps
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.critical import CriticalLine
from lab.typing import Array

ROUND_NUMBERS = tuple(
    scale * number for scale in (0.1, 1.0, 10.0, 100.0) for number in (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
)
"""Where an axis may end."""

TWICE = 1.75
"""The map reaches to the first round number that is at least so many times the critical weight_var."""

BIAS_SHARE = 0.1
"""bias_var reaches to this share of weight_var, where the line of tanh has bent to a bit under twice its beginning."""

INITS = {
    "torch_default": "torch_default",
    "xavier": "xavier_normal",
    "lecun": "lecun_normal",
    "orthogonal": "orthogonal",
    "he": "he_normal",
}
"""Labels of the initializations on every map; uniform and normal kinds have the same variances."""

WEIGHT_VAR, BIAS_VAR = "fan_in times the variance of a weight", "variance of a bias"


class Range(NamedTuple):
    """Where an axis begins and ends."""

    low: float
    high: float

    def centres(self, cells: int) -> Array:
        """Centres of equal cells that fill the range: (cells,)."""
        edges = np.linspace(self.low, self.high, cells + 1)
        return np.asarray((edges[1:] + edges[:-1]) / 2)


def phase_table(config: schema.Config, weight_var: Range, bias_var: Range, points: int) -> xr.Dataset:
    """The map of the configured activation, (bias_var, weight_var), its critical line, and where the inits stand."""
    weight_vars, bias_vars = np.linspace(*weight_var, points), np.linspace(*bias_var, points)
    found = phase_map(config.activation, weight_vars, bias_vars)
    table = xr.Dataset(
        attrs={
            "activation": config.activation.name,
            "config": json.dumps(schema.as_dict(config)),
            "gradlab": __version__,
        }
    )
    add(table, "weight_var", ("weight_var",), weight_vars, WEIGHT_VAR)
    add(table, "bias_var", ("bias_var",), bias_vars, BIAS_VAR)
    over = ("bias_var", "weight_var")
    add(table, "q_star", over, found.q_star, "variance of the pre-activations in the limit of depth")
    add(
        table, "chi", over, found.chi, "ratio of E delta^2 of a layer to that of the layer above, in the limit of depth"
    )
    add(table, "xi_grad", over, found.xi_grad, "depth over which E delta^2 changes by a factor of e", "layer")
    add(table, "xi_q", over, found.xi_q, "depth over which q comes closer to q_star by a factor of e", "layer")
    line = critical_line(config.activation, bias_vars)
    add(table, "critical_weight_var", ("bias_var",), line, "weight_var of the critical line; NaN where it has no point")

    inits = init_points(config)
    table.coords["init"] = ("init", np.array(list(inits), dtype=object), {"long_name": "initialization"})
    places = np.array(list(inits.values()))  # (inits, 2)
    add(table, "init_weight_var", ("init",), places[:, 0], f"{WEIGHT_VAR}, in hidden layers")
    add(table, "init_bias_var", ("init",), places[:, 1], f"{BIAS_VAR}, in hidden layers")
    rates = np.array([depth_scales(config.activation, *place).chi for place in places.tolist()])
    add(table, "init_chi", ("init",), rates, "chi of the initialization")
    is_own = np.array([name not in INITS for name in inits], dtype=np.int8)
    add(table, "init_is_own", ("init",), is_own, "1 for the configuration's own")
    return table


def add(
    table: xr.Dataset, name: str, dims: tuple[str, ...], values: NDArray[Any], long_name: str, units: str = "1"
) -> None:
    """Add a described variable to a table; one named as its only dimension becomes a coordinate."""
    table[name] = (dims, values, {"long_name": long_name, "units": units})


def default_ranges(activation: schema.Activation) -> tuple[Range, Range]:
    """The part of the map that shows the critical line: weight_var to about twice the critical one.

    bias_var reaches to `BIAS_SHARE` of that, or to twice the bias_var at which the line begins. Where there is no line
    it is the same part as for relu.
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
    """Where the critical line begins; NaN if there is none."""
    line = CriticalLine(kernel(activation))
    return 0.0 if np.isfinite(line.solve(0.0)) else line.next_bias_var(0.0)


def init_points(config: schema.Config) -> dict[str, tuple[float, float]]:
    """Label -> weight_var and bias_var in hidden layers: of `INITS`, and the configuration's own if it is another."""
    points = {label: _point(replace(config, init=schema.Init(name))) for label, name in INITS.items()}
    init = config.init
    if isinstance(init, schema.Gaussian | schema.Critical) or init.gain != 1:
        gain = f", gain {init.gain:g}" if init.gain != 1 else ""
        points[f"init={init.name}{gain}"] = _point(config)
    return points


def _point(config: schema.Config) -> tuple[float, float]:
    up = maps(resolve_critical(config), config.model.width).up
    return up.weight_var, up.bias_var


def trained_bias_var(config: schema.Config, bias_var: Range) -> float:
    """The bias_var at which networks are trained.

    The configuration's own where its init has one. Else an eighth of the map's height, which is .05 for tanh, as in
    Schoenholz et al. 2017, figure 5; or where the critical line begins, if it does not reach down to that.
    """
    if isinstance(config.init, schema.Gaussian | schema.Critical):
        return config.init.bias_var
    wanted = bias_var.low + (bias_var.high - bias_var.low) / 8
    if np.isfinite(critical_line(config.activation, np.array([wanted]))[0]):
        return wanted
    start = least_critical_bias_var(config.activation)
    return wanted if np.isnan(start) else start
