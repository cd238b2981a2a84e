"""One configuration, trained into a folder or in memory, or predicted by theory."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.run.execution import run, run_together
    from lab.run.prediction import predict
    from lab.run.simulation import side_by_side, simulate

__all__ = ["predict", "run", "run_together", "side_by_side", "simulate"]


def __getattr__(name: str) -> Any:
    """Import the functions on first use: they need torch."""
    from importlib import import_module

    modules = {"predict": "prediction", "run": "execution", "run_together": "execution"}
    if name not in __all__:
        raise AttributeError(f"module 'lab.run' has no attribute {name!r}")
    return getattr(import_module(f"lab.run.{modules.get(name, 'simulation')}"), name)
