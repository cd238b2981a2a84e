"""Phrases shared by judgements: names of pairs within a sentence, and theory's bands as rows of numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from experiments.claims.claim import Number, Samples

WORDS = {"delta_rms": "gradient", "pre_rms": "signal"}


def pair(name: str) -> str:
    """Rename an arm for a list with commas: "Xavier, tanh" becomes "Xavier with tanh"."""
    return " with ".join(name.split(", "))


def bands(samples: Samples, arms: Iterable[str], quantity: str = "delta_rms", layer: int = 0) -> list[Number]:
    """Return the geometric mean over replicas at one layer for each arm, with theory's band as its interval.

    In place of the interval stand the ends of the band (3 sigma), in which the measured value has to lie.
    """
    numbers = []
    for arm in arms:
        with np.errstate(divide="ignore"):
            measured = np.log10(samples[f"{arm}: {quantity}"]).mean(1)[layer]
            middle, lower, upper = np.log10(samples[f"{arm}: {quantity} expected"][:, layer])
        where = "first" if layer == 0 else "last"
        name = f"{WORDS[quantity]} at the {where} layer, with theory's band for the interval, {arm}"
        numbers.append(Number(name, float(measured), float(lower), float(upper), "log10", float(middle)))
    return numbers
