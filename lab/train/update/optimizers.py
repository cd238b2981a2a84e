"""Optimizers for networks side by side: torch.optim's update rules on tensors with a replica axis.

Each replica may have a learning rate of its own, and one that has diverged keeps its parameters while the others
continue. Nothing here synchronizes with the device: no branch depends on a tensor's value.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab import schema

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}  # the integers of the same size


def build(config: schema.Optimizer, parameters: Sequence[Tensor], lr: Tensor | None = None) -> ReplicaOptimizer:
    """Build the optimizer that `config` names."""
    return OPTIMIZERS[config.name](config, parameters, lr)


class ReplicaOptimizer(ABC):
    """Base of all optimizers. A subclass names its state tensors and updates one parameter tensor.

    Args:
        config: the optimizer's options.
        parameters: each (layers, R, P), with layers and P of its own, contiguous or not; updated in place.
        lr: (R,) learning rates in place of `config.lr`.

    Raises:
        ValueError: `lr` does not have one entry per replica.
    """

    def __init__(self, config: Any, parameters: Sequence[Tensor], lr: Tensor | None = None) -> None:
        replicas = parameters[0].shape[1]
        if lr is not None and lr.shape != (replicas,):
            raise ValueError(f"lr has shape {tuple(lr.shape)}: give one learning rate for each of {replicas} replicas.")
        self.steps = 0  # made so far, by every replica; Adam's bias corrections follow from it
        self.config = config
        self.lr = config.lr if lr is None else lr.detach().to(parameters[0])[:, None]  # float or (R, 1)
        self._parameters = [parameter.detach() for parameter in parameters]
        self.state = {  # torch.optim's name -> one tensor (layers, R, P) per parameter
            name: [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self._parameters]
            for name in self.state_names()
        }
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], alive: Tensor | None = None) -> None:
        """Update every parameter in place; the gradients, shaped like the parameters, stay as they are.

        A replica that is not `alive` (R,) keeps its parameters bit for bit, whatever its gradient holds, and its state
        becomes 0; the others are updated as they are without `alive`.
        """
        self.steps += 1
        bits = BITS[self._parameters[0].dtype]
        mask = None if alive is None else alive.to(bits).neg_()[:, None]  # (R, 1), every bit 1 if alive, else 0
        for index, (parameter, gradient) in enumerate(zip(self._parameters, gradients, strict=True)):
            state = {name: tensors[index] for name, tensors in self.state.items()}
            gradient = self.decay(parameter, gradient, mask)
            if mask is not None:  # with gradient and state at +0 no update rule moves a parameter
                gradient = _mask(gradient, mask, out=self.scratch("gradient", gradient))
                for values in state.values():
                    _mask(values, mask, out=values)
            self.update(parameter, gradient, state)

    @abstractmethod
    def state_names(self) -> tuple[str, ...]:
        """Name the state tensors."""

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        """Update one parameter and its state in place, replica by replica; all tensors are (layers, R, P).

        The gradient includes weight decay and must not be changed. Where gradient and state are 0 the parameter must
        not change: that is how a diverged replica is frozen.
        """

    def decay(self, parameter: Tensor, gradient: Tensor, mask: Tensor | None) -> Tensor:
        """Add the L2 penalty's gradient; `mask` (R, 1) is 0 for diverged replicas, which need not be spared here."""
        if self.config.weight_decay == 0:
            return gradient
        out = self.scratch("gradient", parameter)
        return torch.add(gradient, parameter, alpha=self.config.weight_decay, out=out)

    def scratch(self, purpose: str, like: Tensor) -> Tensor:
        """Return working memory in the shape of `like`, allocated once and shared by all parameters and steps."""
        if purpose not in self._memory:
            self._memory[purpose] = like.new_empty(max(parameter.numel() for parameter in self._parameters))
        return self._memory[purpose][: like.numel()].view(like.shape)

    def root(self, square: Tensor, eps: float) -> Tensor:
        """Compute sqrt(square) + eps, never 0: an eps that underflows would make the update of a zero gradient 0/0."""
        root = torch.sqrt(square, out=self.scratch("root", square))
        return root.add_(max(eps, torch.finfo(square.dtype).tiny))

    def descend(self, parameter: Tensor, numerator: Tensor, root: Tensor | None = None, scale: float = 1.0) -> None:
        """Subtract lr * scale * numerator / root from the parameter; `root` is overwritten."""
        if isinstance(self.lr, Tensor):
            direction = numerator if root is None else torch.div(numerator, root, out=root)
            parameter.addcmul_(direction, self.lr, value=-scale)
        elif root is None:
            parameter.add_(numerator, alpha=-self.lr * scale)
        else:
            parameter.addcdiv_(numerator, root, value=-self.lr * scale)


def _mask(x: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    """Write `x` (layers, R, P) to `out` with +0 for diverged replicas, even where it is NaN or Inf.

    Bitwise, which the CPU vectorizes: it costs a quarter of torch.where or less.
    """
    torch.bitwise_and(x.view(mask.dtype), mask, out=out.view(mask.dtype))
    return out


class ReplicaSGD(ReplicaOptimizer):
    """torch.optim.SGD: plain, with momentum (no dampening), or with Nesterov's momentum."""

    config: schema.SGD

    def state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.config.momentum != 0 else ()

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        momentum = self.config.momentum
        if momentum == 0:
            self.descend(parameter, gradient)
            return
        direction = state["momentum_buffer"]
        torch.add(gradient, direction, alpha=momentum, out=direction)
        if self.config.nesterov:
            direction = torch.add(gradient, direction, alpha=momentum, out=self.scratch("gradient", parameter))
        self.descend(parameter, direction)


class ReplicaAdam(ReplicaOptimizer):
    """torch.optim.Adam (Kingma & Ba 2015), in the order of the paper's section 2: both bias corrections in the step."""

    config: schema.Adam

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        beta1, beta2, eps = self.config.beta1, self.config.beta2, self.config.eps
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        correction = math.sqrt(1 - beta2**self.steps)
        scale = correction / (1 - beta1**self.steps)
        self.descend(parameter, mean, self.root(square, eps * correction), scale)


class ReplicaAdamW(ReplicaAdam):
    """torch.optim.AdamW (Loshchilov & Hutter 2019): the weight decay shrinks the parameter directly."""

    config: schema.AdamW

    def decay(self, parameter: Tensor, gradient: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.weight_decay != 0:
            shrink = 1 - self.lr * self.config.weight_decay  # float or (R, 1)
            parameter.mul_(shrink if mask is None else torch.where(mask == 0, parameter.new_ones(()), shrink))
        return gradient


class ReplicaRMSprop(ReplicaOptimizer):
    """torch.optim.RMSprop (Hinton 2012, Coursera lecture 6e): eps outside the root, momentum on the quotient."""

    config: schema.RMSprop

    def state_names(self) -> tuple[str, ...]:
        return ("square_avg", "momentum_buffer") if self.config.momentum != 0 else ("square_avg",)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        alpha, momentum, square = self.config.alpha, self.config.momentum, state["square_avg"]
        square.mul_(alpha).addcmul_(gradient, gradient, value=1 - alpha)
        root = self.root(square, self.config.eps)
        if momentum == 0:
            self.descend(parameter, gradient, root)
        else:
            self.descend(parameter, state["momentum_buffer"].mul_(momentum).addcdiv_(gradient, root))


OPTIMIZERS: dict[str, type[ReplicaOptimizer]]
OPTIMIZERS = {"sgd": ReplicaSGD, "adam": ReplicaAdam, "adamw": ReplicaAdamW, "rmsprop": ReplicaRMSprop}
"""Optimizer -> its class; `lab.register_optimizer` adds to it."""
