"""Dataclass fields with a range, a list of allowed words, or the meaning of a path."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any


def number(
    default: float | int | None,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> Any:
    """A numeric field with its allowed range; `check` enforces it, and always refuses NaN and infinity."""
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    return field(default=default, metadata={"bounds": {word: x for word, x in bounds.items() if math.isfinite(x)}})


def choice(default: str, *allowed: str) -> Any:
    """A text field that takes one of the `allowed` words."""
    return field(default=default, metadata={"allowed": (default, *allowed)})


def path(default: str) -> Any:
    """A text field that names a file or folder."""
    return field(default=default, metadata={"path": True})
