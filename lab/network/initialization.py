"""Random weights and biases: (fan_in, fan_out) matrices in float64, drawn from one replica's generator."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lab import schema
from lab.typing import Array

Drawn = tuple[Array, Array]
Draw = Callable[[Any, int, int, np.random.Generator], Drawn]
"""(the init's options, fan_in, fan_out, rng) -> weights, multiplied by `gain`, and biases."""


def draw(init: schema.Init, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
    """Draw the weights (fan_in, fan_out) and biases (fan_out,) of one map.

    Raises:
        TypeError: the init has no drawing function, as init=critical, which theory.resolve_critical replaces.
    """
    if init.name not in INITS:
        raise TypeError(f"init={init.name} draws no weights; replace init=critical by theory.resolve_critical first.")
    return INITS[init.name](init, fan_in, fan_out, rng)


def _uniform(bound_of: Callable[[int, int], float]) -> Draw:
    def draw(init: schema.Init, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
        bound = init.gain * bound_of(fan_in, fan_out)
        return rng.uniform(-bound, bound, (fan_in, fan_out)), np.zeros(fan_out)

    return draw


def _normal(deviation_of: Callable[[int, int], float]) -> Draw:
    def draw(init: schema.Init, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
        return rng.normal(0, init.gain * deviation_of(fan_in, fan_out), (fan_in, fan_out)), np.zeros(fan_out)

    return draw


def _orthogonal(init: schema.Init, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
    """Orthonormal columns, or rows if those are fewer, uniform over all such matrices (Mezzadri 2007, section 5)."""
    q, r = np.linalg.qr(rng.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out))))
    q = q * np.sign(np.diag(r))
    return init.gain * (q if fan_in >= fan_out else q.T), np.zeros(fan_out)


def _torch_default(init: schema.Init, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
    """torch.nn.Linear.reset_parameters; `gain` scales the weights alone."""
    weight_bound, bound = init.gain / math.sqrt(fan_in), 1 / math.sqrt(fan_in)
    return rng.uniform(-weight_bound, weight_bound, (fan_in, fan_out)), rng.uniform(-bound, bound, fan_out)


def _gaussian(init: schema.Gaussian, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
    deviation = init.gain * math.sqrt(init.weight_var / fan_in)
    return rng.normal(0, deviation, (fan_in, fan_out)), rng.normal(0, math.sqrt(init.bias_var), fan_out)


INITS: dict[str, Draw] = {
    "xavier_uniform": _uniform(lambda i, o: math.sqrt(6 / (i + o))),  # Glorot and Bengio 2010, eq. 16
    "xavier_normal": _normal(lambda i, o: math.sqrt(2 / (i + o))),  # the same variance, eq. 12
    "he_uniform": _uniform(lambda i, _: math.sqrt(6 / i)),  # He et al. 2015, eq. 10
    "he_normal": _normal(lambda i, _: math.sqrt(2 / i)),
    "lecun_normal": _normal(lambda i, _: math.sqrt(1 / i)),  # LeCun et al. 1998, section 4.6
    "orthogonal": _orthogonal,
    "torch_default": _torch_default,
    "gaussian": _gaussian,
}
"""Init -> its drawing function; `lab.register_init` adds to it."""
