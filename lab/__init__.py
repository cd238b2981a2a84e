"""The gradient lab: configure deep networks, train them, and read every layer's gradient while they train."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.run.simulation import simulate
    from lab.sweep.results import load

__all__ = ["load", "simulate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Fetch `simulate` and `load` when they are asked for, so that importing the package costs nothing."""
    if name == "simulate":
        from lab.run.simulation import simulate

        return simulate
    if name == "load":
        from lab.sweep.results import load

        return load
    raise AttributeError(f"module 'lab' has no attribute {name!r}")
