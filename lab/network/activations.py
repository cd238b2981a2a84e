"""Activation layers: the function, its slope, and which of its values are saturated or dead.

An activation layer maps pre-activations z (R, B, N) to activations a (R, B, N); a gated one takes z (R, B, 2N), the
value in the first half and the gate in the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab import schema

SATURATED_BELOW = 0.01
"""A pre-activation is saturated where the slope is below this share of the activation's largest slope."""


def build(config: schema.Activation, replicas: int, generators: Sequence[torch.Generator]) -> ActivationLayer:
    """Build the activation layer of a configuration; rrelu draws from `generators`, one per replica."""
    if config.name in LAYERS:
        return LAYERS[config.name](config, replicas, generators)
    if config.name in schema.GATES:
        return GatedLayer(FUNCTIONS[schema.GATES[config.name]])
    return ElementwiseLayer(FUNCTIONS[config.name])


class ActivationLayer(nn.Module):
    """Base of all activation layers; `lab.measure.ActivationFacts` explains the first two attributes."""

    zero_stops_gradient = False
    zero_is_saturated = False
    is_shared = True  # the function is the same in every layer and pass, so layers can be measured together

    def slope(self, z: Tensor) -> Tensor:
        """Compute the derivative at each pre-activation; of a gated layer, that of the gate function at each gate."""
        raise NotImplementedError

    def largest_slope(self) -> float | Tensor:
        """Return the supremum of |slope| over all z, a number or (R, 1, 1)."""
        raise NotImplementedError

    def saturated(self, z: Tensor) -> Tensor:
        """Return 1 where |slope| is below 1% of the largest, else 0, in the dtype of z: (R, B, N)."""
        return indicator(torch.lt, self.slope(z).abs_(), SATURATED_BELOW * self.largest_slope())


def indicator(compare: Callable[..., Tensor], x: Tensor, threshold: float | Tensor) -> Tensor:
    """Return 1 where the comparison holds, else 0, in the dtype of x: many times faster than a bool on a CPU."""
    return compare(x, threshold, out=torch.empty_like(x))


@dataclass(frozen=True)
class ActivationFunction:
    """An elementwise function with its derivative, the supremum of |derivative|, and the meaning of an exact 0."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    largest_slope: float
    zero_stops_gradient: bool = False


class ElementwiseLayer(ActivationLayer):
    """An activation without parameters."""

    def __init__(self, function: ActivationFunction) -> None:
        super().__init__()
        self.function = function
        self.zero_stops_gradient = function.zero_stops_gradient
        self.zero_is_saturated = function is FUNCTIONS["relu"]

    def forward(self, z: Tensor) -> Tensor:
        return self.function.function(z)

    def slope(self, z: Tensor) -> Tensor:
        return self.function.derivative(z)

    def largest_slope(self) -> float:
        return self.function.largest_slope

    def saturated(self, z: Tensor) -> Tensor:
        return indicator(torch.le, z, 0.0) if self.zero_is_saturated else super().saturated(z)


class GatedLayer(ActivationLayer):
    """value * gate_function(gate). Dauphin et al. 2017, eq. 1; Shazeer 2020, section 2."""

    def __init__(self, gate: ActivationFunction) -> None:
        super().__init__()
        self.gate = ElementwiseLayer(gate)
        self.zero_stops_gradient = gate.zero_stops_gradient

    def forward(self, z: Tensor) -> Tensor:
        value, gate = z.chunk(2, dim=-1)  # (R, B, N) each
        return value * self.gate(gate)

    def slope(self, z: Tensor) -> Tensor:
        return self.gate.slope(z.chunk(2, dim=-1)[1])

    def largest_slope(self) -> float:
        return self.gate.largest_slope()

    def saturated(self, z: Tensor) -> Tensor:
        return self.gate.saturated(z.chunk(2, dim=-1)[1].contiguous())


class LeakyReLULayer(ElementwiseLayer):
    """z above 0, negative_slope * z below. Maas et al. 2013, section 2."""

    def __init__(self, negative_slope: float) -> None:
        function = ActivationFunction(
            lambda z: F.leaky_relu(z, negative_slope),
            lambda z: torch.where(z > 0, 1.0, z.new_full((), negative_slope)),
            largest_slope=max(1.0, negative_slope),
            zero_stops_gradient=negative_slope == 0,
        )
        super().__init__(function)


class PReLULayer(ActivationLayer):
    """Leaky ReLU with a learnable slope per layer and replica. He et al. 2015, section 2.1."""

    is_shared = False

    def __init__(self, replicas: int, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = nn.Parameter(torch.full((replicas, 1, 1), negative_slope, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, z, self.negative_slope * z)

    def slope(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, 1.0, self.negative_slope.detach())

    def largest_slope(self) -> Tensor:
        return self.negative_slope.detach().abs().clamp(min=1.0)  # (R, 1, 1)


class RReLULayer(ActivationLayer):
    """A slope drawn for each negative z in training, the mean slope in evaluation. Xu et al. 2015, section 2.4."""

    is_shared = False

    def __init__(self, lower: float, upper: float, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.lower, self.upper, self.generators = lower, upper, generators
        self.drawn: Tensor | None = None  # (R, B, N), the slopes of the last training pass

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return F.leaky_relu(z, (self.lower + self.upper) / 2)
        drawn = torch.empty_like(z)
        for replica, generator in enumerate(self.generators):
            drawn[replica].uniform_(self.lower, self.upper, generator=generator)
        self.drawn = drawn
        return torch.where(z > 0, z, drawn * z)

    def slope(self, z: Tensor) -> Tensor:
        mean = z.new_full((), (self.lower + self.upper) / 2)
        return torch.where(z > 0, 1.0, self.drawn if self.training and self.drawn is not None else mean)

    def largest_slope(self) -> float:
        return max(1.0, self.upper)


class SwishLayer(ActivationLayer):
    """z * sigmoid(beta * z), beta fixed or learnable per layer and replica. Ramachandran et al. 2017, section 4."""

    is_shared = False

    def __init__(self, replicas: int, beta: float, is_learnable: bool) -> None:
        super().__init__()
        value = torch.full((replicas, 1, 1), beta, dtype=torch.float64)
        self.beta: Tensor = nn.Parameter(value) if is_learnable else nn.Buffer(value)

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(self.beta * z)

    def slope(self, z: Tensor) -> Tensor:
        return _silu_derivative(self.beta.detach() * z)

    def largest_slope(self) -> Tensor:
        # The slope depends on beta * z alone, so its supremum is SiLU's for every beta but 0, where it is 1/2.
        beta = self.beta.detach()
        return torch.where(beta == 0, 0.5, beta.new_full((), SILU_LARGEST_SLOPE))  # (R, 1, 1)


# --- the elementwise functions --------------------------------------------------------------------------------------

SILU_LARGEST_SLOPE = 1.0998393201288669  # of s(x) + x s(x) (1 - s(x)), at x = 2.3994, the root of x tanh(x / 2) = 2
GELU_LARGEST_SLOPE = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)  # of Phi(x) + x phi(x), at sqrt(2)
GELU_TANH_LARGEST_SLOPE = 1.1289930686587718  # at x = 1.4185
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, section 2


def _silu_derivative(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))  # 1 - sigmoid(z) would cancel for large z


def _gelu_derivative(z: Tensor) -> Tensor:
    distribution = 0.5 * torch.erfc(-z / math.sqrt(2))
    return distribution + z * (torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def _gelu_tanh_derivative(z: Tensor) -> Tensor:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715  # Hendrycks and Gimpel 2016, section 2
    t = torch.tanh(scale * (z + cubic * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * scale * (1 + 3 * cubic * z**2)


def _elu_derivative(z: Tensor, alpha: float) -> Tensor:
    return torch.where(z > 0, 1.0, alpha * torch.exp(z.clamp(max=0)))


def _elu(alpha: float) -> ActivationFunction:
    return ActivationFunction(lambda z: F.elu(z, alpha), lambda z: _elu_derivative(z, alpha), max(1.0, alpha))


FUNCTIONS: dict[str, ActivationFunction] = {
    "sigmoid": ActivationFunction(torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), 0.25),
    "tanh": ActivationFunction(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, 1.0),
    "relu": ActivationFunction(torch.relu, lambda z: indicator(torch.gt, z, 0.0), 1.0, zero_stops_gradient=True),
    "selu": ActivationFunction(F.selu, lambda z: SELU_SCALE * _elu_derivative(z, SELU_ALPHA), SELU_SCALE * SELU_ALPHA),
    "gelu": ActivationFunction(F.gelu, _gelu_derivative, GELU_LARGEST_SLOPE),
    "gelu_tanh": ActivationFunction(
        lambda z: F.gelu(z, approximate="tanh"), _gelu_tanh_derivative, GELU_TANH_LARGEST_SLOPE
    ),
    "silu": ActivationFunction(F.silu, _silu_derivative, SILU_LARGEST_SLOPE),
    "softplus": ActivationFunction(F.softplus, torch.sigmoid, 1.0),
    "erf": ActivationFunction(torch.erf, lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z), 2 / math.sqrt(math.pi)),
    "identity": ActivationFunction(lambda z: z, torch.ones_like, 1.0),
}
"""Activations without parameters; `lab.register_activation` adds to it."""

LAYERS: dict[str, Callable[[Any, int, Sequence[torch.Generator]], ActivationLayer]] = {
    "leaky_relu": lambda config, replicas, generators: LeakyReLULayer(config.negative_slope),
    "prelu": lambda config, replicas, generators: PReLULayer(replicas, config.negative_slope),
    "rrelu": lambda config, replicas, generators: RReLULayer(config.lower, config.upper, generators),
    "elu": lambda config, replicas, generators: ElementwiseLayer(_elu(config.alpha)),
    "swish": lambda config, replicas, generators: SwishLayer(replicas, config.beta, config.learnable),
}
"""Activations with options: (options, replicas, generators) -> layer."""
