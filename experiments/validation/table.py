"""Every activation with every usual initialization: the gradient at each layer against theory's band."""

from __future__ import annotations

from experiments.validation import expected, networks
from experiments.validation.networks import Size
from experiments.validation.row import Row
from lab import schema

INITS = ("xavier_normal", "he_normal", "torch_default")


def rows(size: Size) -> list[Row]:
    """20 activations times 3 initializations."""
    return [cell(size, activation, init) for activation in schema.ACTIVATIONS for init in INITS]


def cell(size: Size, activation: str, init: str) -> Row:
    case = networks.network(size, f"activation={activation}", f"init={init}", "probe.set=norms", depth=size.depth)
    number = 24 if activation in schema.GATED else 1
    name = f"{activation}, {init}, depth {size.depth}"
    return expected.profile_row(number, name, "delta_rms over the last layer's, at every layer", case)
