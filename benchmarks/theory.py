"""The cost of theory on one core: `python -m benchmarks.theory`.

The order-to-chaos map at 200 x 200 points, its critical line, and the prediction with bands at depth 1000. The aims,
without imports: a map in 5 s, a prediction in 0.5 s.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

POINTS, DEPTH = 200, 1000
MAP_AIM, PREDICTION_AIM = 5.0, 0.5
"""Seconds."""
ACTIVATIONS = ("tanh", "relu", "sigmoid", "gelu", "silu", "softplus", "swiglu")
NETWORKS = {
    "relu, he": ("activation=relu", "init=he_normal"),
    "tanh, critical": ("activation=tanh", "init=critical", "init.bias_var=0.05"),
    "gelu, critical": ("activation=gelu", "init=critical", "init.bias_var=0.2"),
    "sigmoid, xavier": ("activation=sigmoid", "init=xavier_normal"),
    "relu, batch norm": ("activation=relu", "norm=batch"),
    "relu, pre-norm residual": ("activation=relu", "norm=layer", "norm.place=pre", "residual=identity"),
    "swiglu, rms norm, ffn": ("activation=swiglu", "norm=rms", "norm.place=pre", "model.block=ffn"),
}


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.theory", description="The cost of theory on one core.")
    parser.add_argument("--turns", type=int, default=5, help="timed turns (default: 5)")
    options = parser.parse_args(arguments or None)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from benchmarks.timing import Step, interleave, machine
    from lab import compose, schema
    from lab.theory import bands, critical_line, phase_map, predict, resolve_critical

    weight_vars, bias_vars = np.linspace(0, 4, POINTS), np.linspace(0, 0.4, POINTS)
    sides: dict[str, Step] = {}
    aims: dict[str, float] = {}
    for name in ACTIVATIONS:
        activation = compose.compose([f"activation={name}"]).activation
        sides[f"map, {name}"] = partial(phase_map, activation, weight_vars, bias_vars)
        sides[f"critical line, {name}"] = partial(critical_line, activation, bias_vars)
        aims |= {f"map, {name}": MAP_AIM, f"critical line, {name}": MAP_AIM}

    def predicted(config: schema.Config) -> object:
        return bands(config, predict(config))

    for name, overrides in NETWORKS.items():
        config = resolve_critical(compose.compose([*overrides, f"model.depth={DEPTH}"]))
        sides[f"prediction and bands, {name}"] = partial(predicted, config)
        aims[f"prediction and bands, {name}"] = PREDICTION_AIM
    seconds = interleave(sides, options.turns, warm_up=1)
    table = Table("computation", "median s", "aim s", box=MARKDOWN)
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{aims[name]:g}")
    console = Console(width=120)
    console.print(f"Map and line at {POINTS} x {POINTS} points, predictions at depth {DEPTH}; one core\n")
    console.print(table)
    console.print(machine())


if __name__ == "__main__":
    main()
