"""Gradient and signal against depth at initialization, with what theory expects: what several claims look at.

The gradient is a random one that enters at the last hidden layer, so that the layers alone decide what becomes of it.
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
"""Decades per layer: a factor of 2 in 10 layers, 30 in 50. Gradients that change less do not keep such networks from
training; what changes more is counted as vanishing or exploding exponentially."""

ALLOWED = 0.05
"""Share of the layers: the band is one of 3 sigma at each of them, which one of hundreds leaves by chance."""

ROUNDING = 1e-9

QUANTITIES = ("delta_rms", "pre_rms")
ENDS = ("", "_lower", "_upper")


def measure(arms: Mapping[str, Sequence[str]], replicas: int) -> dict[str, Array]:
    """For each arm `ARM: delta_rms` and `ARM: pre_rms`, (layers, replicas), and of theory `ARM: QUANTITY expected`.

    The latter is (3, layers): the middle, the lower and the upper end of the band in which the geometric mean over
    replicas lies if theory is right.
    """
    found = {}
    for arm, overrides in arms.items():
        reading = networks.initial(overrides, replicas, "probe.cotangent=random")
        for name in QUANTITIES:
            found[f"{arm}: {name}"] = reading[name].transpose("layer", "replica").to_numpy()
            found[f"{arm}: {name} expected"] = np.stack([reading[f"predicted_{name}{end}"].to_numpy() for end in ENDS])
    return found


def slope(samples: Samples, arm: str, quantity: str = "delta_rms") -> Number:
    """Decades per layer that a quantity gains towards the loss: for the gradient positive is vanishing."""
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
    """The arms whose geometric mean over replicas leaves theory's band in more than `ALLOWED` of the layers."""
    found = []
    for arm in arms:
        with np.errstate(divide="ignore"):
            mean = np.log(samples[f"{arm}: {quantity}"]).mean(1)
            _, lower, upper = np.log(samples[f"{arm}: {quantity} expected"])
        is_outside = ~((mean >= lower - ROUNDING) & (mean <= upper + ROUNDING))
        if is_outside.mean() > ALLOWED:
            found.append(arm)
    return found


def text(number: Number, digits: int = 3) -> str:
    """A number with its interval, for a sentence; what rounds to 0 has no sign."""
    value, *ends = (
        None if x is None else f"{round(x, digits) + 0.0:.{digits}f}"
        for x in (number.value, number.lower, number.upper)
    )
    return f"{value}" if None in ends else f"{value} [{', '.join(map(str, ends))}]"


def draw(
    ax: Axes, samples: Samples, arms: Sequence[str], quantity: str = "delta_rms", base: int = -1, colour: int = 0
) -> None:
    """A quantity over its value at layer `base`: median and range over replicas, theory dashed; `colour` is first."""
    from lab.plot.figures import COLOURS, MARKERS

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
