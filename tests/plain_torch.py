"""The lab's networks once more, one replica at a time and from torch.nn's own modules: what the tests compare with."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab import schema
from lab.network import Network
from lab.network.seeding import streams

CPU = torch.device("cpu")
TINY = 1e-300
"""For an eps of 0, which torch's batch norm refuses."""
PLAIN: Mapping[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "erf": lambda: torch.erf,
    "identity": nn.Identity,
}
GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "glu": lambda z: F.glu(z, -1),
    "bilinear": lambda z: z.chunk(2, -1)[0] * z.chunk(2, -1)[1],
    "reglu": lambda z: z.chunk(2, -1)[0] * F.relu(z.chunk(2, -1)[1]),
    "geglu": lambda z: z.chunk(2, -1)[0] * F.gelu(z.chunk(2, -1)[1]),
    "swiglu": lambda z: z.chunk(2, -1)[0] * F.silu(z.chunk(2, -1)[1]),
}


def configure(**choices) -> schema.Config:
    """A checked configuration; a group takes a name or a dict of its options, model and probe take dicts."""
    parts: dict[str, Any] = {}
    for key, value in choices.items():
        if key in schema.CHOICES:
            options = {"name": value} if isinstance(value, str) else value
            parts[key] = schema.CHOICES[key][options["name"]](**options)
        elif key in ("model", "probe"):
            parts[key] = {"model": schema.Model, "probe": schema.Probe}[key](**value)
        else:
            parts[key] = value
    return schema.check(schema.Config(**parts))


def build(config: schema.Config, features: int, classes: int) -> Network:
    """The lab's network of a configuration."""
    replicas = range(config.first_replica, config.first_replica + config.replicas)
    return Network(config, features, classes, [streams(config.seed, r) for r in replicas], CPU)


def blocks(network: Network) -> list[Any]:
    """Its hidden layers, without torch's narrow idea of what a ModuleList holds."""
    return list(network.blocks)


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> None:
    """Move every parameter, so that none is 0 or 1 as initialization leaves biases, gains and shifts."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


class TorchNetwork(nn.Module):
    """The network of a configuration, one replica of it, in torch.nn's modules."""

    def __init__(self, config: schema.Config, features: int, classes: int) -> None:
        super().__init__()
        width, depth = config.model.width, config.model.depth
        has_embedding = config.residual.name != "none" or config.model.block == "ffn"
        self.embedding = nn.Linear(features, width, config.model.bias) if has_embedding else None
        sizes = [width if has_embedding else features] + [width] * (depth - 1)
        self.blocks: list[TorchBlock] = []
        for layer, fan_in in enumerate(sizes):
            self.blocks.append(TorchBlock(config, fan_in))
            self.add_module(f"block{layer}", self.blocks[-1])
        is_pre = getattr(config.norm, "place", "") == "pre"
        self.final_norm = norm(config.norm, width) if is_pre and config.residual.name != "none" else None
        self.readout = nn.Linear(width, classes, config.model.bias)
        self.to(getattr(torch, config.dtype))

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return self.readout(x)

    @torch.no_grad()
    def copy(self, network: Network, replica: int) -> "TorchNetwork":
        """Take over all parameters of one replica."""
        for theirs, view, mine in pairs(network, self):
            mine.copy_(view(theirs[replica]))
        return self

    def take_slopes(self, network: Network, replica: int) -> None:
        """In training, use the random slopes of the network's last training pass (rrelu)."""
        for block, theirs in zip(self.blocks, blocks(network), strict=True):
            drawn = getattr(theirs.activation, "drawn", None)
            block.slopes = None if drawn is None else drawn[replica]


class TorchBlock(nn.Module):
    """One hidden layer; it keeps its input x, pre-activation z, activation a and output y of the last pass."""

    x: Tensor
    z: Tensor
    a: Tensor
    y: Tensor

    def __init__(self, config: schema.Config, fan_in: int) -> None:
        super().__init__()
        width, activation = config.model.width, config.activation
        is_ffn, is_gated = config.model.block == "ffn", activation.name in GATES
        place = getattr(config.norm, "place", "none")
        hidden = width
        if is_ffn:
            expansion = 4 if config.model.expansion is None else config.model.expansion
            hidden = round(expansion * width * (2 / 3 if is_gated else 1))
        self.pre_norm = norm(config.norm, fan_in) if place == "pre" else nn.Identity()
        self.maps = nn.ModuleList(nn.Linear(fan_in, hidden, config.model.bias) for _ in range(2 if is_gated else 1))
        self.inner_norm = norm(config.norm, hidden) if place == "inner" else nn.Identity()
        self.slope = nn.PReLU(init=activation.negative_slope) if isinstance(activation, schema.PReLU) else None
        self.beta = None
        if isinstance(activation, schema.Swish):
            self.beta = nn.Parameter(
                torch.tensor(activation.beta, dtype=torch.float64), requires_grad=activation.learnable
            )
        self.function = function(activation)
        self.slopes: Tensor | None = None
        self.down = nn.Linear(hidden, width, config.model.bias) if is_ffn else nn.Identity()
        self.residual = config.residual.name
        alpha = torch.tensor(getattr(config.residual, "alpha", 1.0), dtype=torch.float64)
        self.alpha = nn.Parameter(alpha, requires_grad=self.residual == "rezero")
        self.post_norm = norm(config.norm, width) if place == "post" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        h = self.pre_norm(x)
        self.z = self.inner_norm(torch.cat([linear(h) for linear in self.maps], -1))
        self.a = self.activate(self.z)
        branch = self.down(self.a)
        self.y = self.post_norm(branch if self.residual == "none" else x + self.alpha * branch)
        return self.y

    def activate(self, z: Tensor) -> Tensor:
        if self.slope is not None:
            return self.slope(z)
        if self.beta is not None:
            return z * torch.sigmoid(self.beta * z)
        if self.slopes is not None and self.training:
            return torch.where(z > 0, z, self.slopes * z)
        if isinstance(self.function, nn.RReLU):
            assert not self.function.training, "torch's own random slopes can be compared with nobody's"
        return self.function(z)


def function(activation: schema.Activation) -> Callable[[Tensor], Tensor]:
    """torch's own activation of that name."""
    match activation:
        case schema.LeakyReLU():
            return nn.LeakyReLU(activation.negative_slope)
        case schema.RReLU():
            return nn.RReLU(activation.lower, activation.upper)
        case schema.ELU():
            return nn.ELU(activation.alpha)
        case schema.PReLU() | schema.Swish():
            return nn.Identity()  # they have parameters, which the block holds
    return PLAIN[activation.name]() if activation.name in PLAIN else GATES[activation.name]


def norm(config: schema.Norm, units: int) -> nn.Module:
    """torch's own norm layer."""
    assert isinstance(config, schema.LayerNorm)
    if isinstance(config, schema.BatchNorm):
        return nn.BatchNorm1d(units, config.eps or TINY, config.momentum, config.affine)
    kind = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.name]
    return kind(units, eps=config.eps, elementwise_affine=config.affine)


Pair = tuple[nn.Parameter, Callable[[Tensor], Tensor], nn.Parameter]


def pairs(network: Network, reference: TorchNetwork) -> Iterator[Pair]:
    """(the lab's parameter, how one replica's part of it looks in torch, torch's parameter), all there are."""
    if network.embedding is not None:
        yield from _linear_pairs(network.embedding, [reference.embedding])
    for mine, theirs in zip(blocks(network), reference.blocks, strict=True):
        for name in ("pre_norm", "inner_norm", "post_norm"):
            yield from _norm_pairs(getattr(mine, name), getattr(theirs, name))
        yield from _linear_pairs(mine.up, list(theirs.maps))
        if mine.down is not None:
            yield from _linear_pairs(mine.down, [theirs.down])
        if theirs.slope is not None:
            yield mine.activation.negative_slope, torch.flatten, theirs.slope.weight
        if theirs.beta is not None and theirs.beta.requires_grad:
            yield mine.activation.beta, torch.squeeze, theirs.beta
        if theirs.alpha.requires_grad:
            yield mine.skip.alpha, torch.squeeze, theirs.alpha
    yield from _norm_pairs(network.final_norm, reference.final_norm)
    yield from _linear_pairs(network.readout, [reference.readout])


def _linear_pairs(mine: Any, maps: list[Any]) -> Iterator[Pair]:
    size = mine.weight.shape[-1] // len(maps)
    for index, linear in enumerate(maps):
        part = slice(index * size, (index + 1) * size)
        yield mine.weight, partial(_columns, part), linear.weight
        if mine.bias is not None:
            yield mine.bias, partial(_entries, part), linear.bias


def _norm_pairs(mine: Any, theirs: Any) -> Iterator[Pair]:
    if mine is None or mine.affine is None:
        return
    yield mine.affine.gain, torch.squeeze, theirs.weight
    if mine.affine.shift is not None:
        yield mine.affine.shift, torch.squeeze, theirs.bias


def _columns(part: slice, weight: Tensor) -> Tensor:
    return weight[:, part].T


def _entries(part: slice, bias: Tensor) -> Tensor:
    return bias[0, part]
