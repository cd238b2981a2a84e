"""Real networks on the order-to-chaos map: rates of gradients measured, and networks trained.

Every point of a picture is one replica or a few, so that a whole grid of variances costs one network's passes.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from experiments.phase_map.table import BIAS_VAR, WEIGHT_VAR, Range, add
from lab import schema
from lab.theory import NoTheory, critical_line, depth_scales, predict
from lab.theory.plain.signal import TRAINABLE
from lab.theory.width.noise import noise
from lab.typing import Array

SIGMAS = 3.0
"""Half the width of the allowance of a measured rate, in standard deviations of the mean over its replicas."""

WIDEST = 10.0
"""A rate that may be off by more than this factor is not bounded at all."""

TOP = 2
"""Layers next to the injected gradient that a fit leaves out."""

LEAST_DEPTH = 12
"""Fewer hidden layers leave too few to fit a rate to."""

LARGEST_BATCH = 128
"""Replicas side by side; more are measured one batch after the other, for the sake of memory."""

EXAMPLES = 64
"""Inputs whose mean squares stand for all of the data's."""

CURVE_POINTS = 128

# --- measured -------------------------------------------------------------------------------------------------------


def fitted(depth: int) -> slice:
    """The layers a rate is fitted to.

    Not the lowest third, where the variance is still on its way from that of the data to its limit, and not those at
    the top, where a gradient enters that has been through no layer yet.
    """
    return slice(depth // 3, depth - TOP)


def measure(config: schema.Config, weight_vars: Array, bias_vars: Array, replicas: int) -> xr.Dataset:
    """Measure the rate of E delta^2 at points (P,) of the map, and predict it.

    The rate is exp of minus the least-squares slope of ln E delta^2 over the layers of `fitted`. A random gradient
    enters at the last hidden layer: it is independent of the activations, as theory has it. Prediction and allowance
    are of the same slope at this depth and width, where the map's background is the limit of both.
    """
    from lab.run.simulation import side_by_side

    points = [at(config, float(s), float(b)) for s, b in zip(weight_vars, bias_vars, strict=True)]
    copies = [point for point in points for _ in range(replicas)]
    configs = [replace(copy, first_replica=config.first_replica + r) for r, copy in enumerate(copies)]
    delta = np.concatenate(
        [
            side_by_side(configs[start : start + LARGEST_BATCH])["delta_rms"][0].transpose("replica", "layer")
            for start in range(0, len(configs), LARGEST_BATCH)
        ]
    )  # (P replicas, layers)
    found = rate(delta).reshape(len(points), replicas)
    inputs = input_squares(config)
    expected = np.array([allowance(point, inputs, replicas) for point in points])  # (P, 3)
    is_inside = (geometric_mean(found) >= expected[:, 1]) & (geometric_mean(found) <= expected[:, 2])

    what = "ratio of E delta^2 of a layer to that of the layer above, over the layers that a rate is fitted to"
    table = xr.Dataset(attrs={"measured_config": json.dumps(schema.as_dict(config))})
    over = ("measured_point",)
    add(table, "measured_weight_var", over, weight_vars, WEIGHT_VAR)
    add(table, "measured_bias_var", over, bias_vars, BIAS_VAR)
    add(table, "measured_chi", (*over, "measured_replica"), found, f"{what}; NaN where arithmetic does not hold it")
    add(table, "predicted_chi", over, expected[:, 0], f"{what}, from theory; NaN where arithmetic does not hold it")
    add(table, "lowest_chi", over, expected[:, 1], "lower end of what finite width allows to the geometric mean")
    add(table, "highest_chi", over, expected[:, 2], "upper end of what finite width allows to the geometric mean")
    add(table, "is_inside", over, is_inside.astype(np.int8), "1 where the geometric mean over replicas is between them")
    return table


def at(config: schema.Config, weight_var: float, bias_var: float) -> schema.Config:
    """One replica of the configuration at a point of the map, at initialization, under a random gradient."""
    init = schema.Gaussian("gaussian", weight_var=weight_var, bias_var=bias_var)
    probe = schema.Probe(every=0, eval_every=0, set="norms", cotangent="random")
    return replace(config, init=init, probe=probe, replicas=1, steps=0)


def rate(delta: Array) -> Array:
    """The rate of E delta^2 from delta_rms: (..., layers) -> (...); NaN where a layer's is 0 or not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(delta[..., fitted(delta.shape[-1])])
        rates = np.exp(-(logs @ slope_weights(logs.shape[-1])))
    return np.where(np.isfinite(logs).all(-1), rates, np.nan)


def geometric_mean(rates: Array) -> Array:
    """Over the last axis."""
    return np.asarray(np.exp(np.log(rates).mean(-1)))


def allowance(config: schema.Config, input_q: Array, replicas: int) -> tuple[float, float, float]:
    """The rate that a fit should find, and the ends of where the geometric mean over replicas may lie.

    What scatters ln delta^2 of a layer scatters that of all layers below it as well, so that the covariance of two is
    the variance of the upper one (`lab.theory.width.bands`). All NaN where q leaves what the network's arithmetic
    holds, and the ends where they would be a factor of `WIDEST` away, so that first-order scatter means nothing (gated
    activations on their way to infinity).
    """
    layers = fitted(config.model.depth)
    try:
        prediction = predict(config, input_q)
    except NoTheory:
        return math.nan, math.nan, math.nan
    scatter = noise(config, prediction)
    variance = scatter.delta[layers]
    weights = slope_weights(len(variance))
    upper = np.maximum.outer(np.arange(len(variance)), np.arange(len(variance)))
    reach = SIGMAS * np.sqrt(weights @ variance[upper] @ weights / replicas)
    shifts = [0.0, *(-float(weights @ shift[layers]) for shift in scatter.delta_shift)]
    expected = -2 * float(weights @ prediction.log_delta[layers])
    down, up = min(shifts) - reach, max(shifts) + reach
    if max(-down, up) > math.log(WIDEST):
        return math.exp(expected), math.nan, math.nan
    return math.exp(expected), math.exp(expected + down), math.exp(expected + up)


def slope_weights(layers: int) -> Array:
    """What a least-squares slope over neighbouring layers weighs their values with: (layers,)."""
    centred = np.arange(layers) - (layers - 1) / 2
    return np.asarray(centred / (centred @ centred))


def input_squares(config: schema.Config) -> Array:
    """Mean squares of inputs over their features, evenly spaced among the data's in order of size."""
    import torch

    from lab import data

    inputs = data.load(config.data, torch.float64, torch.device("cpu")).train_x
    squares = np.sort(inputs.square().mean(-1).numpy())
    return np.asarray(squares[np.linspace(0, len(squares) - 1, min(EXAMPLES, len(squares))).astype(int)])


# --- trained --------------------------------------------------------------------------------------------------------


def accuracy(config: schema.Config, depth: int, weight_vars: Array, bias_var: float, replicas: int) -> Array:
    """Held-out accuracy after the configured steps at one depth: (weight_vars, replicas); NaN if not finite."""
    from lab.run.simulation import side_by_side

    probe = schema.Probe(every=0, eval_every=0, set="norms")
    base = replace(config, model=replace(config.model, depth=depth), probe=probe, replicas=1)
    configs = [
        replace(
            base,
            init=schema.Gaussian("gaussian", weight_var=float(weight_var), bias_var=bias_var),
            first_replica=config.first_replica + r,
        )
        for r, weight_var in enumerate(np.repeat(weight_vars, replicas))
    ]
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
    """The accuracies (weight_vars, replicas) of each depth, and the depths that theory expects to train.

    A network trains if what tells two inputs apart gets from one end to the other, 6 xi_c layers, and a gradient back,
    6 xi_grad layers (Schoenholz et al. 2017, section 5).
    """
    critical = float(critical_line(config.activation, np.array([bias_var]))[0])
    table = xr.Dataset(
        attrs={
            "trained_config": json.dumps(schema.as_dict(config)),
            "trained_bias_var": bias_var,
            "trained_critical_weight_var": critical,
        }
    )
    over = ("depth", "trained_weight_var")
    add(table, "depth", over[:1], np.array(depths), "hidden layers of a trained network")
    add(table, "trained_weight_var", over[1:], weight_vars, WEIGHT_VAR)
    what = "accuracy on held-out data after training; NaN where a logit is no finite number"
    add(table, "accuracy", (*over, "trained_replica"), np.stack(accuracies), what)

    curve = np.linspace(*weight_var, CURVE_POINTS + 1)[1:]  # without the lower end, which may be 0
    scales = [depth_scales(config.activation, float(s), bias_var) for s in curve]
    add(table, "curve_weight_var", ("curve_weight_var",), curve, WEIGHT_VAR)
    for name, xi in (("c", [scale.xi_c for scale in scales]), ("grad", [scale.xi_grad for scale in scales])):
        long_name = f"6 xi_{name}, the depth that theory expects to train"
        add(table, f"trainable_depth_{name}", ("curve_weight_var",), TRAINABLE * np.array(xi), long_name, "layer")
    return table


# --- in processes ---------------------------------------------------------------------------------------------------

Job = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of a module and its arguments, which can be sent to another process."""


WORK = "Batches of networks"


def work(jobs: Sequence[Job]) -> list[Any]:
    """The jobs' results in order, from as many processes as there are cores; the heaviest should come first.

    Ctrl-C ends the processes at once.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)

    def watched(results: Iterator[Any]) -> list[Any]:
        found = []
        hidden = not console.is_terminal
        for result in track(results, WORK, len(jobs), console=console, transient=True, disable=hidden):
            found.append(result)
            if hidden:
                console.print(f"{WORK}: {len(found)} of {len(jobs)}")
        return found

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(cores, len(jobs)) < 2:
        return watched(map(_call, jobs))
    with multiprocessing.get_context("spawn").Pool(min(cores, len(jobs)), _ignore_interrupts) as pool:
        return watched(pool.imap(_call, jobs))


def _call(job: Job) -> Any:
    function, arguments = job
    return function(*arguments)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; here the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
