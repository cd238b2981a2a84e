"""Gradient and signal against depth at initialization, with theory.

A random gradient enters at the last hidden layer, so that it depends on the layers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import networks
from experiments.claims.claim import Number, Samples
from experiments.claims.statistics import interval, is_above, is_below
from lab.readings import delta_slope
from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FADING = 0.03
"""Decades per layer: a factor of 2 in 10 layers, 30 in 50. Smaller changes do not prevent training; larger ones count
as exponential vanishing or explosion."""

ALLOWED = 0.05
"""Share of the layers that may leave the band of 3 sigma by chance."""

ROUNDING = 1e-9

QUANTITIES = ("delta_rms", "pre_rms")
ENDS = ("", "_lower", "_upper")


def measure(arms: Mapping[str, Sequence[str]], replicas: int) -> dict[str, Array]:
    """Measure `ARM: delta_rms`, `ARM: pre_rms` (layers, replicas) and theory, `ARM: QUANTITY expected` (3, layers).

    The three rows of theory are the expected value and the band of the geometric mean over replicas.
    """
    samples = {}
    for arm, overrides in arms.items():
        reading = networks.initial(overrides, replicas, "probe.cotangent=random")
        for name in QUANTITIES:
            samples[f"{arm}: {name}"] = reading[name].transpose("layer", "replica").to_numpy()
            samples[f"{arm}: {name} expected"] = np.stack(
                [reading[f"predicted_{name}{end}"].to_numpy() for end in ENDS]
            )
    return samples


def slope(samples: Samples, arm: str, quantity: str = "delta_rms") -> Number:
    """Return the decades per layer that a quantity gains towards the loss; positive for a vanishing gradient."""
    expected = samples[f"{arm}: {quantity} expected"][:1].T  # (layers, 1)
    return interval(
        f"{quantity}, {arm}",
        delta_slope(samples[f"{arm}: {quantity}"]),
        "decades per layer",
        predicted=float(delta_slope(expected)[0]),
    )


def vanishes(number: Number) -> bool:
    return is_above(number, FADING)


def explodes(number: Number) -> bool:
    return is_below(number, -FADING)


def stays(number: Number) -> bool:
    return is_above(number, -FADING) and is_below(number, FADING)


def outside(samples: Samples, arms: Iterable[str], quantity: str = "delta_rms") -> list[str]:
    """Return the arms whose geometric mean over replicas leaves theory's band in more than `ALLOWED` of the layers."""
    arms_outside = []
    for arm in arms:
        with np.errstate(divide="ignore"):
            mean = np.log(samples[f"{arm}: {quantity}"]).mean(1)
            _, lower, upper = np.log(samples[f"{arm}: {quantity} expected"])
        is_outside = ~((mean >= lower - ROUNDING) & (mean <= upper + ROUNDING))
        if is_outside.mean() > ALLOWED:
            arms_outside.append(arm)
    return arms_outside


def text(number: Number, digits: int = 3) -> str:
    """Format a number with its interval for a sentence; a rounded 0 has no sign."""
    value, *ends = (
        None if x is None else f"{round(x, digits) + 0.0:.{digits}f}"
        for x in (number.value, number.lower, number.upper)
    )
    return f"{value}" if None in ends else f"{value} [{', '.join(map(str, ends))}]"


def draw(
    ax: Axes, samples: Samples, arms: Sequence[str], quantity: str = "delta_rms", base: int = -1, colour: int = 0
) -> None:
    """Plot a quantity over its value at layer `base`: median, range over replicas, and theory (dashed)."""
    from lab.plot.style import COLOURS, MARKERS

    for number, arm in enumerate(arms, colour):
        values, expected = samples[f"{arm}: {quantity}"], samples[f"{arm}: {quantity} expected"][0]
        middle = np.median(values, axis=1)
        layer, hue = np.arange(len(values)), COLOURS[number % len(COLOURS)]
        every = (number % 5, max(1, len(layer) // 6))
        ax.fill_between(
            layer, values.min(1) / middle[base], values.max(1) / middle[base], color=hue, alpha=0.15, linewidth=0
        )
        ax.plot(
            layer,
            middle / middle[base],
            color=hue,
            marker=MARKERS[number % len(MARKERS)],
            markevery=every,
            markersize=5,
            label=arm,
        )
        ax.plot(layer, expected / expected[base], "--", color="black", linewidth=1, zorder=3)
    ax.plot([], [], "--", color="black", linewidth=1, label="theory")
    ax.set_yscale("log")
