"""GELU written by hand in both forms, against torch's own in float32 and float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import by_hand
from lab.typing import Array

if TYPE_CHECKING:
    from lab.plot.gelu import GeluDifference

FORMATS = ("float32", "float64")


def grid() -> Array:
    """Return the grid of the comparison: -10 to 10 in steps of 1/1024, exact in both formats."""
    return np.arange(-10 * 1024, 10 * 1024 + 1) / 1024


def compare(x: Array) -> list[GeluDifference]:
    """Compare the tanh form with the exact one, and both by hand with torch's; x must be exact in float32.

    Args:
        x: (X,)
    """
    import torch
    import torch.nn.functional as F

    from lab.plot.gelu import GeluDifference

    values: dict[tuple[str, str], torch.Tensor] = {}
    for name in FORMATS:
        points = torch.from_numpy(x).to(getattr(torch, name))
        values |= {
            ("exact by hand", name): by_hand.gelu(points, torch),
            ("tanh form by hand", name): by_hand.gelu_tanh(points, torch),
            ("torch's exact", name): F.gelu(points),
            ("torch's tanh form", name): F.gelu(points, approximate="tanh"),
        }
    known = {key: value.double().numpy() for key, value in values.items()}
    pairs = (
        ("torch's tanh form", "torch's exact"),
        ("exact by hand", "torch's exact"),
        ("tanh form by hand", "torch's tanh form"),
    )
    return [
        GeluDifference(first, second, name, x, known[first, name] - known[second, name])
        for first, second in pairs
        for name in FORMATS
    ]
