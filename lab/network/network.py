"""R independent deep networks side by side: weights (R, fan_in, fan_out), activations (R, B, N), a map is one baddbmm.

depth 1, width N, block=linear:     x -> layer 0 -> readout
depth 3, residual or block=ffn:     x -> embedding -> layer 0 -> layer 1 -> layer 2 -> (final norm) -> readout

The embedding is one linear map that brings the data to the width, so that all layers of a residual or feed-forward
stack are alike; a plain stack needs none, its layer 0 takes the data. The final norm ends a residual stack with
norm.place=pre, whose sum nothing has normalized yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lab import schema
from lab.network import activations, initialization, normalization
from lab.network.seeding import Streams
from lab.typing import Array

Draw = Callable[[int, int], tuple[Array, Array]]
"""(fan_in, fan_out) -> weights (fan_in, fan_out) and biases (fan_out,), from one replica's stream."""

GATED_SHARE = 2 / 3
"""Hidden units of a gated ffn block over a plain one's: three matrices of 2/3 the size (Shazeer 2020, section 3)."""


class Network(nn.Module):
    """The network of a configuration, drawn from each replica's own streams.

    Args:
        config: what to build.
        features: size of an input.
        classes: size of the output.
        streams: the random streams, one a replica; their number is the number of replicas.
        device: where the parameters live.
        variants: each replica's own configuration, which differs from `config` in `schema.PER_REPLICA` at most.
    """

    def __init__(
        self,
        config: schema.Config,
        features: int,
        classes: int,
        streams: Sequence[Streams],
        device: torch.device,
        variants: Sequence[schema.Config] | None = None,
    ) -> None:
        super().__init__()
        replicas, width = len(streams), config.model.width
        variants = variants or [config] * replicas
        draws = [
            partial(initialization.draw, variant, rng=stream.weights)
            for variant, stream in zip(variants, streams, strict=True)
        ]
        alphas = [getattr(variant.residual, "alpha", 1.0) for variant in variants]
        self.noise = [torch_generator(stream.noise, device) for stream in streams]
        has_embedding = config.residual.name != "none" or config.model.block == "ffn"
        self.embedding = Linear(config, features, width, draws) if has_embedding else None
        self.blocks = nn.ModuleList(
            Block(config, features if layer == 0 and not has_embedding else width, draws, alphas, self.noise)
            for layer in range(config.model.depth)
        )
        has_final_norm = config.residual.name != "none" and _place(config) == "pre"
        self.final_norm = normalization.build(config.norm, replicas, width) if has_final_norm else None
        self.readout = Linear(config, width, classes, draws)
        self.to(device=device, dtype=getattr(torch, config.dtype))
        self._with_modes = [
            part for part in self.modules() if isinstance(part, normalization.BatchNorm | activations.RReLU)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (R, B, classes) of inputs (R, B, features)."""
        return self.head(self.trunk(x))

    def trunk(self, x: Tensor) -> Tensor:
        """The last hidden layer's output (R, B, N)."""
        if self.embedding is not None:
            x = self.embedding(x)  # (R, B, N)
        for block in self.blocks:
            x = block(x)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Logits (R, B, classes) of the last hidden layer's output (R, B, N)."""
        return self.readout(x if self.final_norm is None else self.final_norm(x))

    def activations(self, x: Tensor) -> Iterator[Tensor]:
        """The activations (R, B, N) of each hidden layer in turn, for inputs (R, B, features)."""
        if self.embedding is not None:
            x = self.embedding(x)  # (R, B, N)
        for block in self.blocks:
            assert isinstance(block, Block)
            a = block.hidden(x)
            yield a
            x = block.output(x, a)

    def sections(self) -> list[nn.Module]:
        """The parts that hold parameters, from input to output."""
        parts = [self.embedding, *self.blocks, self.final_norm, self.readout]
        return [part for part in parts if part is not None and any(True for _ in part.parameters())]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Running statistics and mean slopes, as with `eval()` but without a walk through every module."""
        for part in self._with_modes:
            part.training = False
        try:
            yield
        finally:
            for part in self._with_modes:
                part.training = True

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Batch statistics within the block, but nothing is remembered or drawn: a look that changes nothing."""
        for part in self._with_modes:
            if isinstance(part, normalization.BatchNorm):
                part.is_tracking = False
            else:
                part.training = False
        try:
            yield
        finally:
            for part in self._with_modes:
                part.training = True
                if isinstance(part, normalization.BatchNorm):
                    part.is_tracking = True


class Block(nn.Module):
    """One hidden layer: what the probes call a layer.

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
        place = _place(config)
        is_gated = config.activation.name in schema.GATED
        hidden = hidden_units(config) if config.model.block == "ffn" else width
        self.pre_norm = normalization.build(config.norm, replicas, fan_in) if place == "pre" else None
        self.up = Linear(config, fan_in, hidden, draws, parts=2 if is_gated else 1)
        self.inner_norm = normalization.build(config.norm, replicas, hidden) if place == "inner" else None
        self.activation = activations.build(config.activation, replicas, noise)
        self.down = Linear(config, hidden, width, draws) if config.model.block == "ffn" else None
        self.skip = Skip(alphas, config.residual.name == "rezero") if config.residual.name != "none" else None
        self.post_norm = normalization.build(config.norm, replicas, width) if place == "post" else None

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x, self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """The layer's activations (R, B, N), or (R, B, hidden units) of an ffn block."""
        z = self.up(x if self.pre_norm is None else self.pre_norm(x))  # (R, B, N), or (R, B, 2N) if gated
        return self.activation(z if self.inner_norm is None else self.inner_norm(z))

    def output(self, x: Tensor, a: Tensor) -> Tensor:
        """What the layer passes on, (R, B, N), given its input and its activations."""
        y = a if self.down is None else self.down(a)
        if self.skip is not None:
            y = self.skip(x, y)
        return y if self.post_norm is None else self.post_norm(y)

    @property
    def passes_activations_on(self) -> bool:
        """Whether the layer's output is its activations, with nothing done to them."""
        return self.down is None and self.skip is None and self.post_norm is None


class Linear(nn.Module):
    """x W + b for each replica: weight (R, fan_in, parts * fan_out), bias (R, 1, parts * fan_out).

    With parts=2 it is two maps drawn one after the other and kept side by side, as a gated activation wants them.
    """

    def __init__(
        self,
        config: schema.Config,
        fan_in: int,
        fan_out: int,
        draws: Sequence[Draw],
        parts: int = 1,
    ) -> None:
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
    """x + alpha * branch; `alphas` are the replicas' own, with `is_learnt` where their parameters (R, 1, 1) start."""

    alpha: float | Tensor

    def __init__(self, alphas: Sequence[float], is_learnt: bool) -> None:
        super().__init__()
        of_each = torch.tensor(alphas, dtype=torch.float64)[:, None, None]
        if is_learnt:
            self.alpha = nn.Parameter(of_each)
        elif len(set(alphas)) > 1:
            self.register_buffer("alpha", of_each)
        else:
            self.alpha = alphas[0]

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        if not isinstance(self.alpha, Tensor):
            return torch.add(x, branch, alpha=self.alpha)
        return torch.addcmul(x, self.alpha, branch)


def hidden_units(config: schema.Config) -> int:
    """Units between the two maps of an ffn block; a gated one has 2/3 of them, for as many parameters."""
    share = GATED_SHARE if config.activation.name in schema.GATED else 1.0
    expansion = 4.0 if config.model.expansion is None else config.model.expansion
    return max(1, math.floor(expansion * share * config.model.width + 0.5))


def _place(config: schema.Config) -> str:
    return config.norm.place if isinstance(config.norm, schema.LayerNorm) else "none"


def torch_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """A generator of torch's on `device`, seeded from one of NumPy's."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))
