"""Measurements shared by claims: gradients at initialization, and training of each arm at its own best rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lab.typing import Array

if TYPE_CHECKING:
    import xarray as xr

SEED = 1
"""Of every network. The rules were settled while looking at seed 0, and some were mended then; what is on record was
measured on networks of this one. A review of that record made some rules stricter."""

ALONE = ("device=cpu", "threads=1", f"seed={SEED}")
"""What is read is the same on every machine, and the processes beside this one keep their cores."""

SELECTED_ON = 100
"""Replicas from this number on choose the learning rate; those that are compared start at 0."""


def initial(overrides: Sequence[str], replicas: int, *more: str) -> xr.Dataset:
    """Return the reading at initialization, on one thread of the CPU: dimensions (layer, replica)."""
    import lab

    return lab.simulate(*overrides, f"replicas={replicas}", "steps=0", *ALONE, *more).isel(step=0)


def trained(overrides: Sequence[str], replicas: int, steps: int, *more: str) -> xr.Dataset:
    """Return all readings of a training run, on one thread of the CPU: dimensions (step, layer, replica)."""
    import lab

    return lab.simulate(*overrides, f"replicas={replicas}", f"steps={steps}", *ALONE, *more)


def first_over_last(reading: xr.Dataset, quantity: str = "delta_rms") -> Array:
    """Return log10 of a quantity at layer 0 over that at the last layer, (replicas,)."""
    values = reading[quantity].transpose("layer", "replica").to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(values[0]) - np.log10(values[-1]))


def tuned(
    overrides: Sequence[str],
    rates: Sequence[float],
    replicas: int,
    steps: int,
    every: int,
    metric: str = "eval_accuracy",
) -> dict[str, Array]:
    """Train at the learning rate that is best for these overrides, of a grid shared by all arms.

    All rates train side by side as replicas of one network. Half of the replicas choose the rate, by the mean of the
    metric at the end (a diverged one counts as worst); the other half, which had no say, is what is compared.

    Args:
        overrides: of the arm, without optimizer.lr, replicas and steps.
        rates: the grid.
        replicas: how many are compared.
        steps: the budget.
        every: steps between readings, at which held-out data is evaluated too.
        metric: `eval_accuracy` (higher is better), or `eval_loss` or `loss` (lower is better).

    Returns:
        `steps` (S,), `loss`, `eval_loss` and `eval_accuracy` (S, replicas) of the chosen rate, `rate` (1,), and
        `grid` (rates, replicas): the metric at the end, of the replicas that chose.
    """
    from lab import compose
    from lab.run import simulation

    common = ("replicas=1", f"steps={steps}", f"probe.every={every}", f"probe.eval_every={every}", "probe.set=norms")
    base = compose.compose([*overrides, *common, *ALONE])
    numbers = [*range(replicas), *range(SELECTED_ON, SELECTED_ON + replicas)]
    arms = [
        replace(base, first_replica=number, optimizer=replace(base.optimizer, lr=rate))
        for rate in rates
        for number in numbers
    ]
    table = simulation.side_by_side(arms)
    shape = (table.sizes["step"], len(rates), 2, replicas)
    curves = {name: table[name].to_numpy().reshape(shape) for name in ("loss", "eval_loss", "eval_accuracy")}
    worst = 0.0 if metric == "eval_accuracy" else np.inf
    final = np.where(np.isfinite(curves[metric][-1]), curves[metric][-1], worst)  # (rates, 2, replicas)
    means = final[:, 1].mean(-1)
    best = int(np.argmax(means) if metric == "eval_accuracy" else np.argmin(means))
    chosen = {name: values[:, best, 0] for name, values in curves.items()}
    return {
        "steps": table["step"].to_numpy().astype(np.float64),
        **chosen,
        "rate": np.array([rates[best]]),
        "grid": final[:, 1],
    }
