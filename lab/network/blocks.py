"""The parts of a network: hidden layers, linear maps and skips, each with a replica axis."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lab import schema
from lab.network import activations, normalization
from lab.typing import Array

Draw = Callable[[int, int], tuple[Array, Array]]
"""(fan_in, fan_out) -> weights (fan_in, fan_out) and biases (fan_out,), from one replica's stream."""


class Block(nn.Module):
    """One hidden layer, which the probes call a layer.

    linear:  z = W x + b,  a = phi(z),  y = a
    ffn:     z = W x + b,  a = phi(z),  y = V a + c

    norm.place puts the norm before W (pre), on z (inner) or last of all (post); a residual makes it x + alpha * y.
    """

    def __init__(
        self,
        config: schema.Config,
        fan_in: int,
        draws: Sequence[Draw],
        alphas: Sequence[float],
        noise: Sequence[torch.Generator],
    ) -> None:
        super().__init__()
        replicas, width = len(draws), config.model.width
        place = getattr(config.norm, "place", "none")
        is_gated, is_ffn = config.activation.name in schema.GATED, config.model.block == "ffn"
        hidden = schema.hidden_units(config.model, config.activation) if is_ffn else width
        self.pre_norm = normalization.build(config.norm, replicas, fan_in) if place == "pre" else None
        self.up = Linear(config, fan_in, hidden, draws, parts=2 if is_gated else 1)
        self.inner_norm = normalization.build(config.norm, replicas, hidden) if place == "inner" else None
        self.activation = activations.build(config.activation, replicas, noise)
        self.down = Linear(config, hidden, width, draws) if is_ffn else None
        self.skip = Skip(alphas, config.residual.name == "rezero") if config.residual.name != "none" else None
        self.post_norm = normalization.build(config.norm, replicas, width) if place == "post" else None

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x, self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Compute the layer's activations (R, B, N), or (R, B, hidden units) of an ffn block."""
        z = self.up(x if self.pre_norm is None else self.pre_norm(x))  # (R, B, N), or (R, B, 2N) if gated
        return self.activation(z if self.inner_norm is None else self.inner_norm(z))

    def output(self, x: Tensor, a: Tensor) -> Tensor:
        """Compute the layer's output (R, B, N) from its input and its activations."""
        y = a if self.down is None else self.down(a)
        if self.skip is not None:
            y = self.skip(x, y)
        return y if self.post_norm is None else self.post_norm(y)


class Linear(nn.Module):
    """x W + b for each replica: weight (R, fan_in, parts * fan_out), bias (R, 1, parts * fan_out).

    parts=2 draws two maps one after the other and stores them side by side, for a gated activation.
    """

    def __init__(self, config: schema.Config, fan_in: int, fan_out: int, draws: Sequence[Draw], parts: int = 1) -> None:
        super().__init__()
        weights, biases = [], []
        for draw in draws:
            drawn = [draw(fan_in, fan_out) for _ in range(parts)]
            weights.append(np.concatenate([weight for weight, _ in drawn], axis=1))
            biases.append(np.concatenate([bias for _, bias in drawn]))
        self.weight = nn.Parameter(torch.from_numpy(np.stack(weights)))
        self.bias = nn.Parameter(torch.from_numpy(np.stack(biases)).unsqueeze(1)) if config.model.bias else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)


class Skip(nn.Module):
    """x + alpha * branch, with one alpha per replica: learnable parameters (R, 1, 1) if `is_learnable`."""

    def __init__(self, alphas: Sequence[float], is_learnable: bool) -> None:
        super().__init__()
        values = torch.tensor(alphas, dtype=torch.float64)[:, None, None]
        fixed = nn.Buffer(values) if len(set(alphas)) > 1 else alphas[0]
        self.alpha: float | Tensor = nn.Parameter(values) if is_learnable else fixed

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        if not isinstance(self.alpha, Tensor):
            return torch.add(x, branch, alpha=self.alpha)
        return torch.addcmul(x, self.alpha, branch)
