"""Measurements shared by claims: gradients at initialization, and training of each arm at its own best rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lab.typing import Array

if TYPE_CHECKING:
    import xarray as xr

    from lab import schema

SEED = 1
"""Seed of every network. The rules were developed, and some corrected, on seed 0; the recorded verdicts were measured
on this seed. A later review made some rules stricter."""

ALONE = ("device=cpu", "threads=1", f"seed={SEED}")
"""Makes readings independent of the machine, and leaves the other cores to parallel processes."""

SELECTED_ON = 100
"""First of the replicas that choose the learning rate; those that are compared start at 0."""


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


def at_rates(base: schema.Config, rates: Sequence[float], numbers: Sequence[int]) -> list[schema.Config]:
    """Return one configuration per learning rate and replica number, ordered by rate."""
    return [
        replace(base, first_replica=number, optimizer=replace(base.optimizer, lr=rate))
        for rate in rates
        for number in numbers
    ]


def compared_and_selecting(replicas: int) -> list[int]:
    """Return the numbers of the replicas that are compared, then of those that choose the learning rate."""
    return [*range(replicas), *range(SELECTED_ON, SELECTED_ON + replicas)]


def tuned(
    overrides: Sequence[str],
    rates: Sequence[float],
    replicas: int,
    steps: int,
    every: int,
    metric: str = "eval_accuracy",
) -> dict[str, Array]:
    """Train at the learning rate that is best for these overrides, of a grid shared by all arms.

    All rates train side by side as replicas of one network. Half of the replicas choose the rate by the mean of the
    final metric (a diverged one counts as worst); the other half is compared.

    Args:
        overrides: of the arm, without optimizer.lr, replicas and steps.
        rates: the grid.
        replicas: number of compared replicas; as many choose the rate.
        steps: number of training steps.
        every: steps between readings, which include the held-out data.
        metric: `eval_accuracy` (higher is better), or `eval_loss` or `loss` (lower is better).

    Returns:
        `steps` (S,), `loss`, `eval_loss` and `eval_accuracy` (S, replicas) of the chosen rate, `rate` (1,), and
        `grid` (rates, replicas): the final metric of the replicas that choose.
    """
    from lab import compose
    from lab.run import simulation

    common = ("replicas=1", f"steps={steps}", f"probe.every={every}", f"probe.eval_every={every}", "probe.set=norms")
    base = compose.compose([*overrides, *common, *ALONE])
    table = simulation.side_by_side(at_rates(base, rates, compared_and_selecting(replicas)))
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
