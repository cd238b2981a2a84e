"""The gradient lab: configure deep networks, train them, and read every layer's gradient while they train."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.run.prediction import predict
    from lab.run.registration import register_activation, register_init, register_optimizer, register_quantity
    from lab.run.simulation import simulate
    from lab.sweep.results import load

__all__ = [
    "load",
    "predict",
    "register_activation",
    "register_init",
    "register_optimizer",
    "register_quantity",
    "simulate",
]
__version__ = "0.1.0"

_MODULES = {
    "load": "lab.sweep.results",
    "predict": "lab.run.prediction",
    "register_activation": "lab.run.registration",
    "register_init": "lab.run.registration",
    "register_optimizer": "lab.run.registration",
    "register_quantity": "lab.run.registration",
    "simulate": "lab.run.simulation",
}
"""Public name -> module, imported on first use, so that importing the package costs nothing."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
