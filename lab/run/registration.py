"""User-defined options and quantities, registered from Python without editing the package.

A registered option is selected like any other: `lab.simulate("activation=mish")`. Registering it again has no effect.
Every process that uses an option must register it, so the workers of a sweep import the module that does so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lab import schema
from lab.measure import LAYER_PROBES, LayerProbe
from lab.network.activations import FUNCTIONS, ActivationFunction
from lab.network.initialization import INITS, Drawn
from lab.readings import LAYER_QUANTITIES, SCALAR_QUANTITIES, Quantity
from lab.theory.kernels.activations import ELEMENTWISE, Elementwise
from lab.train.update.optimizers import OPTIMIZERS, ReplicaOptimizer

if TYPE_CHECKING:
    from lab.typing import Array

SEARCHED, POINTS, ROUNDS = 100.0, 200_001, 4
"""The largest slope is sought on a grid of this half-width and size, refined this many times around its maximum."""

_registered: dict[tuple[str, str], object] = {}


def register_activation(name: str, function: Callable[[Tensor], Tensor], *, zero_stops_gradient: bool = False) -> None:
    """Make an elementwise function available as `activation=NAME`, with all quantities and with theory.

    The slope comes from autograd, the largest slope from a search over |z| <= 100, and theory integrates the function
    numerically. A name that is taken is a ValueError.

    Args:
        name: of the option.
        function: elementwise and differentiable, tensor of any shape and floating-point dtype -> tensor of the same.
        zero_stops_gradient: where the function is exactly 0 its slope is 0 too, as for relu; `dead_fraction` is
            measured for such activations and NaN for all others.

    Example:
        >>> lab.register_activation("mish", torch.nn.functional.mish)
        >>> lab.simulate("activation=mish", "model.depth=30")
    """
    _register("activation", name, schema.Activation, function)

    def derivative(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            a = function(z)
            return torch.autograd.grad(a, z, torch.ones_like(a))[0]

    FUNCTIONS[name] = ActivationFunction(function, derivative, _largest(derivative), zero_stops_gradient)
    ELEMENTWISE[name] = Elementwise(_in_numpy(function), _in_numpy(derivative))


def register_init(
    name: str,
    draw: Callable[[Any, int, int, np.random.Generator], Array | Drawn],
    options: type[schema.Init] = schema.Init,
) -> None:
    """Make a weight initialization available as `init=NAME`, without a theory. A name that is taken is a ValueError.

    Args:
        name: of the option.
        draw: (options, fan_in, fan_out, rng) -> weights (fan_in, fan_out), or weights and biases (fan_out,), float64,
            drawn from `rng` alone. Biases are 0 where there are none; `init.gain` multiplies the weights afterwards.
        options: frozen dataclass that extends `schema.Init`, whose fields are set with init.FIELD=VALUE.

    Example:
        >>> def sparse(options, fan_in, fan_out, rng):
        ...     return rng.normal(size=(fan_in, fan_out)) * (rng.random((fan_in, fan_out)) < 0.1)
        >>> lab.register_init("sparse", sparse)
    """
    _register("init", name, options, draw)

    def scaled(options: Any, fan_in: int, fan_out: int, rng: np.random.Generator) -> Drawn:
        drawn = draw(options, fan_in, fan_out, rng)
        weights, biases = drawn if isinstance(drawn, tuple) else (drawn, np.zeros(fan_out))
        return options.gain * weights, biases

    INITS[name] = scaled


def register_optimizer(
    name: str, optimizer: type[ReplicaOptimizer], options: type[schema.Optimizer] = schema.Optimizer
) -> None:
    """Make an optimizer available as `optimizer=NAME`. A name that is taken is a ValueError.

    Args:
        name: of the option.
        optimizer: subclass of `lab.train.update.optimizers.ReplicaOptimizer`.
        options: frozen dataclass that extends `schema.Optimizer`, whose fields are set with optimizer.FIELD=VALUE.

    Example:
        >>> class SignDescent(ReplicaOptimizer):
        ...     def state_names(self):
        ...         return ()
        ...     def update(self, parameter, gradient, state):
        ...         self.descend(parameter, gradient.sign())
        >>> lab.register_optimizer("sign", SignDescent)
    """
    _register("optimizer", name, options, optimizer)
    OPTIMIZERS[name] = optimizer


def register_quantity(
    name: str, function: Callable[[Tensor], Tensor], *, where: str, units: str, long_name: str, is_scale: bool = False
) -> None:
    """Measure a quantity of every layer at every reading of `probe.set=full`.

    Args:
        name, units, long_name: of the variable in the table of readings.
        function: (..., B, N) -> (...): reduces the last two dimensions, batch and units, of stacked layers.
        where: "z" (pre-activations), "a" (activations) or "delta" (the per-example gradient dL/dz).
        is_scale: positive and spread over orders of magnitude, so that plots use a logarithmic axis.

    Raises:
        ValueError: the name is taken, or `where` is none of the three.

    Example:
        >>> def kurtosis(z):
        ...     z = z.double() - z.double().mean((-2, -1), keepdim=True)
        ...     return z.pow(4).mean((-2, -1)) / z.square().mean((-2, -1)).square()
        >>> lab.register_quantity("pre_kurtosis", kurtosis, where="z", units="1", long_name="kurtosis of z")
    """
    if where not in ("z", "a", "delta"):
        raise ValueError(f"where={where}: choose z, a or delta.")
    if name in {*LAYER_QUANTITIES, *SCALAR_QUANTITIES} and _registered.get(("quantity", name)) is not function:
        raise ValueError(f"{name}: there is a quantity of this name; choose another one.")
    _registered["quantity", name] = function
    LAYER_PROBES[name] = LayerProbe(where, lambda x: function(x).double())
    LAYER_QUANTITIES[name] = Quantity(long_name, units, is_scale)


def _register(group: str, name: str, options: type, implementation: object) -> None:
    """Add an option to the schema; accept one that has been registered with the same implementation."""
    if name in schema.CHOICES[group] and _registered.get((group, name)) is not implementation:
        raise ValueError(f"{group}={name}: there is an option of this name; choose another one.")
    schema.register_option(group, name, options)
    _registered[group, name] = implementation


def _largest(derivative: Callable[[Tensor], Tensor]) -> float:
    """Find the largest |slope| on a grid, refined around its maximum; values that are not finite do not count."""
    centre, half_width, largest = 0.0, SEARCHED, 0.0
    for _ in range(1 + ROUNDS):
        z = torch.linspace(centre - half_width, centre + half_width, POINTS, dtype=torch.float64)
        slopes = derivative(z).abs().nan_to_num(0.0, 0.0, 0.0)
        best = int(slopes.argmax())
        largest, centre, half_width = max(largest, float(slopes[best])), float(z[best]), 2 * half_width / POINTS
    return largest


def _in_numpy(function: Callable[[Tensor], Tensor]) -> Callable[[Array], Array]:
    def wrapped(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(function(torch.tensor(x, dtype=torch.float64)).numpy())

    return wrapped
