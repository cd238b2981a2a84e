"""R independent deep networks side by side: weights (R, fan_in, fan_out), activations (R, B, N), a map is one baddbmm.

depth 1, width N, block=linear:     x -> layer 0 -> readout
depth 3, residual or block=ffn:     x -> embedding -> layer 0 -> layer 1 -> layer 2 -> (final norm) -> readout

The embedding, a linear map from the features to the width, gives all layers the same shape; in a plain stack layer 0
takes the data. The final norm ends a residual stack with norm.place=pre, whose sum is not normalized otherwise.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from lab import schema
from lab.network import initialization, normalization
from lab.network.activations import RReLULayer
from lab.network.blocks import Block, Linear
from lab.network.normalization import BatchNormLayer
from lab.network.seeding import Streams, torch_generator


class Network(nn.Module):
    """The network of a configuration, drawn from each replica's own streams.

    Args:
        config: the run; init=critical must have been resolved (TypeError).
        features, classes: size of an input and of the output.
        streams: the random streams, one per replica.
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
        pairs = zip(variants, streams, strict=True)
        draws = [partial(initialization.draw, variant.init, rng=stream.weights) for variant, stream in pairs]
        alphas = [getattr(variant.residual, "alpha", 1.0) for variant in variants]
        self.width = width
        self.noise = [torch_generator(stream.noise, device) for stream in streams]  # that rrelu draws from
        has_residual = config.residual.name != "none"
        has_embedding = has_residual or config.model.block == "ffn"
        self.embedding = Linear(config, features, width, draws) if has_embedding else None
        self.blocks = nn.ModuleList(
            Block(config, features if layer == 0 and not has_embedding else width, draws, alphas, self.noise)
            for layer in range(config.model.depth)
        )
        has_final_norm = has_residual and getattr(config.norm, "place", "none") == "pre"
        self.final_norm = normalization.build(config.norm, replicas, width) if has_final_norm else None
        self.readout = Linear(config, width, classes, draws)
        self.to(device=device, dtype=getattr(torch, config.dtype))
        self.batch_norms = [module for module in self.modules() if isinstance(module, BatchNormLayer)]
        self._random = [module for module in self.modules() if isinstance(module, RReLULayer)]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (R, B, classes) of inputs (R, B, features)."""
        return self.head(self.trunk(x))

    def trunk(self, x: Tensor) -> Tensor:
        """Compute the last hidden layer's output (R, B, N)."""
        x = x if self.embedding is None else self.embedding(x)  # (R, B, N)
        for block in self.blocks:
            x = block(x)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Compute the logits (R, B, classes) from the last hidden layer's output (R, B, N)."""
        return self.readout(x if self.final_norm is None else self.final_norm(x))

    def activations(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the activations (R, B, N) of each hidden layer in turn, for inputs (R, B, features)."""
        x = x if self.embedding is None else self.embedding(x)  # (R, B, N)
        for block in self.layers():
            a = block.hidden(x)
            yield a
            x = block.output(x, a)

    def layers(self) -> list[Block]:
        """Return the hidden layers."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def sections(self) -> list[nn.Module]:
        """Return the modules that hold parameters, from input to output."""
        parts = [self.embedding, *self.blocks, self.final_norm, self.readout]
        return [part for part in parts if part is not None and any(True for _ in part.parameters())]

    @contextmanager
    def evaluating(self, batch_statistics: bool = False) -> Iterator[None]:
        """Make forward passes deterministic and free of side effects: mean slope of rrelu, no running update.

        Args:
            batch_statistics: normalize by the statistics of the batch, as in training, not by the running statistics.
        """
        self._set_mode(batch_statistics, is_tracking=False, is_random=False)
        try:
            yield
        finally:
            self._set_mode(True, is_tracking=True, is_random=True)

    def _set_mode(self, batch_statistics: bool, is_tracking: bool, is_random: bool) -> None:
        for norm in self.batch_norms:
            norm.training, norm.is_tracking = batch_statistics, is_tracking
        for activation in self._random:
            activation.training = is_random
