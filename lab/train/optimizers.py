"""Optimizers for networks side by side: torch.optim's update rules on tensors with a replica axis.

Each replica may have a learning rate of its own, and one that has diverged keeps its parameters while the others go on.
Nothing here waits for the device: no branch depends on a tensor's value.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lab import schema

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}  # the integers of the same size


def build(config: schema.Optimizer, parameters: Sequence[Tensor], lr: Tensor | None = None) -> ReplicaOptimizer:
    """The optimizer that `config` names, with torch.optim's semantics.

    Args:
        config: of one of the classes in `schema.OPTIMIZERS`.
        parameters: each (layers, R, P), where layers and P may differ from one to the next; float32 or float64, all on
            one device, contiguous or not. They are updated in place.
        lr: (R,) learning rates, one a replica, in place of `config.lr`.

    Raises:
        ValueError: `lr` does not have one entry a replica.
    """
    return OPTIMIZERS[config.name](config, parameters, lr)


class ReplicaOptimizer(ABC):
    """What all update rules share: the step count, the state, working memory, and the care for each replica.

    Attributes:
        steps: updates made so far, the same for every replica; Adam's bias corrections follow from it.
    """

    def __init__(self, config: schema.Optimizer, parameters: Sequence[Tensor], lr: Tensor | None = None) -> None:
        replicas = parameters[0].shape[1]
        if lr is not None and lr.shape != (replicas,):
            raise ValueError(f"lr has shape {tuple(lr.shape)}: give one learning rate for each of {replicas} replicas.")
        self.steps = 0
        self.config = config
        self._parameters = [parameter.detach() for parameter in parameters]  # each (layers, R, P)
        self._lr = config.lr if lr is None else lr.detach().to(parameters[0])[:, None]  # float or (R, 1)
        self._state = {
            name: [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self._parameters]
            for name in self._state_names()
        }
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], alive: Tensor | None = None) -> None:
        """Update every parameter in place; the gradients stay as they are.

        Args:
            gradients: shaped like the parameters.
            alive: (R,) bool, None if all are. A replica that is not alive keeps its parameters bit for bit, whatever
                its gradient holds, and its state becomes 0; the others are updated as they are without `alive`.
        """
        self.steps += 1
        mask = None
        if alive is not None:
            mask = alive.to(BITS[self._parameters[0].dtype]).neg_()[:, None]  # (R, 1), every bit 1 if alive, else 0
        for index, (parameter, gradient) in enumerate(zip(self._parameters, gradients, strict=True)):
            state = {name: tensors[index] for name, tensors in self._state.items()}
            self._update(parameter, gradient, state, mask)

    def state_tensors(self) -> dict[str, list[Tensor]]:
        """The state itself, no copy of it: torch.optim's name -> one tensor (layers, R, P) a parameter."""
        return self._state

    @abstractmethod
    def _state_names(self) -> tuple[str, ...]: ...

    @abstractmethod
    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], mask: Tensor | None) -> None:
        """Update one parameter and its state; all tensors are (layers, R, P), the mask (R, 1)."""

    def _scratch(self, purpose: str, like: Tensor) -> Tensor:
        """Working memory in the shape of `like`, allocated at first use and shared by all parameters and steps."""
        if purpose not in self._memory:
            self._memory[purpose] = like.new_empty(max(parameter.numel() for parameter in self._parameters))
        return self._memory[purpose][: like.numel()].view(like.shape)

    def _decay(self, parameter: Tensor, gradient: Tensor, mask: Tensor | None) -> Tensor:
        """The gradient with the L2 penalty's added; replicas that are not alive are still in it."""
        if self.config.weight_decay == 0:
            return gradient
        out = self._scratch("gradient", parameter)
        return torch.add(gradient, parameter, alpha=self.config.weight_decay, out=out)

    def _alive_only(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` with +0 for the replicas that are not alive; `x` itself is left as it is."""
        if mask is None:
            return x
        cleared = self._scratch("gradient", x)
        torch.bitwise_and(x.view(mask.dtype), mask, out=cleared.view(mask.dtype))
        return cleared

    def _root(self, square: Tensor, eps: float) -> Tensor:
        """sqrt(square) + eps, never 0: an eps that underflows would turn the update of a zero gradient into 0/0."""
        root = torch.sqrt(square, out=self._scratch("root", square))
        return root.add_(max(eps, torch.finfo(square.dtype).tiny))

    def _descend(self, parameter: Tensor, numerator: Tensor, root: Tensor | None = None, scale: float = 1.0) -> None:
        """parameter -= lr * scale * numerator / root, where `root` is used up.

        A numerator of +0 subtracts +0, which leaves every number as it is, -0 included.
        """
        if isinstance(self._lr, Tensor):
            direction = numerator if root is None else torch.div(numerator, root, out=root)
            parameter.addcmul_(direction, self._lr, value=-scale)
        elif root is None:
            parameter.add_(numerator, alpha=-self._lr * scale)
        else:
            parameter.addcdiv_(numerator, root, value=-self._lr * scale)


class SGD(ReplicaOptimizer):
    """torch.optim.SGD: plain, with momentum (no dampening), or with Nesterov's momentum."""

    config: schema.SGD

    def _state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.config.momentum != 0 else ()

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], mask: Tensor | None) -> None:
        momentum = self.config.momentum
        gradient = self._decay(parameter, gradient, mask)
        if momentum == 0:
            self._descend(parameter, self._alive_only(gradient, mask))
            return
        direction = state["momentum_buffer"]
        torch.add(gradient, direction, alpha=momentum, out=direction)
        _clear_dead(direction, mask)
        if self.config.nesterov:
            ahead = torch.add(gradient, direction, alpha=momentum, out=self._scratch("gradient", parameter))
            direction = self._alive_only(ahead, mask)
        self._descend(parameter, direction)


class Adam(ReplicaOptimizer):
    """torch.optim.Adam (Kingma & Ba 2015), in the order of the paper's section 2: both bias corrections in the step."""

    config: schema.Adam

    def _state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], mask: Tensor | None) -> None:
        beta1, beta2, eps = self.config.beta1, self.config.beta2, self.config.eps
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        gradient = self._decay(parameter, gradient, mask)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        _clear_dead(mean, mask)
        _clear_dead(square, mask)
        correction = math.sqrt(1 - beta2**self.steps)
        scale = correction / (1 - beta1**self.steps)
        self._descend(parameter, mean, self._root(square, eps * correction), scale)


class AdamW(Adam):
    """torch.optim.AdamW (Loshchilov & Hutter 2019): the weight decay acts on the parameter, apart from the gradient."""

    config: schema.AdamW

    def _decay(self, parameter: Tensor, gradient: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.weight_decay != 0:
            shrink = 1 - self._lr * self.config.weight_decay  # float or (R, 1)
            parameter.mul_(shrink if mask is None else torch.where(mask == 0, parameter.new_ones(()), shrink))
        return gradient


class RMSprop(ReplicaOptimizer):
    """torch.optim.RMSprop (Hinton 2012, Coursera lecture 6e): eps outside the root, momentum on the quotient."""

    config: schema.RMSprop

    def _state_names(self) -> tuple[str, ...]:
        return ("square_avg", "momentum_buffer") if self.config.momentum != 0 else ("square_avg",)

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], mask: Tensor | None) -> None:
        alpha, momentum, square = self.config.alpha, self.config.momentum, state["square_avg"]
        gradient = self._decay(parameter, gradient, mask)
        square.mul_(alpha).addcmul_(gradient, gradient, value=1 - alpha)
        _clear_dead(square, mask)
        root = self._root(square, self.config.eps)
        if momentum == 0:
            self._descend(parameter, self._alive_only(gradient, mask), root)
        else:
            buffer = state["momentum_buffer"].mul_(momentum).addcdiv_(gradient, root)
            _clear_dead(buffer, mask)
            self._descend(parameter, buffer)


OPTIMIZERS: Mapping[str, type[ReplicaOptimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def _clear_dead(x: Tensor, mask: Tensor | None) -> None:
    """Set `x` (layers, R, P) to +0 in place for the replicas that are not alive, even where it is NaN or Inf.

    Bitwise, because the CPU's vector units do that: it costs a quarter of torch.where or less.
    """
    if mask is not None:
        x.view(mask.dtype).bitwise_and_(mask)
