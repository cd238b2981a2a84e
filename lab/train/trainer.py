"""Trainer: a network with its data, optimizer and instrument, and the step that joins them."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab import schema
from lab.data import Batches, Dataset
from lab.measure import Instrument
from lab.network import Network, streams, torch_generator
from lab.readings import JACOBIAN_MOMENTS, NORMS, SPECTRA, Record, delta_slope
from lab.train import anatomy, divergence, jacobian
from lab.train.losses import cross_entropy, evaluate
from lab.train.parameters import Parameters
from lab.train.update import clipping, optimizers

FROM_COTANGENT = ("weight_grad_norm", "bias_grad_norm")
"""With `probe.cotangent=random` these, and all that hooks measure, are of the injected gradient."""


@dataclass(frozen=True)
class Due:
    """The tasks of a training step besides its forward and backward pass."""

    reading: bool = False
    evaluation: bool = False  # of the held-out data, at a reading
    jacobian: bool = False  # its singular values, at a reading
    update: bool = True


UPDATE = Due()
"""A step without a reading."""


class Trainer:
    """A network with its data, optimizer and instrument, and the step that joins them."""

    def __init__(
        self,
        config: schema.Config,
        dataset: Dataset,
        device: torch.device,
        variants: Sequence[schema.Config] | None = None,
    ) -> None:
        variants = variants or alone(config)
        replicas = [streams(variant.seed, variant.first_replica) for variant in variants]
        self.config, self.dataset = config, dataset
        self.network = Network(config, dataset.features, dataset.classes, replicas, device, variants)
        self.parameters = Parameters(self.network.sections())
        self.anatomy = anatomy.of_network(self.network, self.parameters)
        lr = _per_replica([variant.optimizer.lr for variant in variants], device)
        self.optimizer = optimizers.build(config.optimizer, [stack.values for stack in self.parameters.stacks], lr)
        self.max_norm = _per_replica([getattr(variant.clip, "max_norm", 0.0) for variant in variants], device)
        self.batches = Batches(dataset, config.batch_size, [stream.batches for stream in replicas])
        probe_set = dataset.train_x[: config.probe.examples].expand(config.replicas, -1, -1)  # (R, P, features)
        self.instrument = Instrument(self.anatomy, probe_set, is_full=config.probe.set == "full")
        self.divergence = divergence.DivergenceMonitor(self.parameters.stacks, self.anatomy.layers)
        has_cotangents = config.probe.cotangent == "random"
        self.cotangents = [torch_generator(stream.cotangents, device) for stream in replicas if has_cotangents]
        self.steps = 0
        self.started = time.perf_counter()

    def step(self, due: Due = UPDATE) -> Record | None:
        """Take one step on the next batch; return a record if a reading is due."""
        config, instrument, stacks = self.config, self.instrument, self.parameters.stacks
        x, y = self.batches.next()  # (R, B, features), (R, B)
        loss, measured = self._backward(x, y, due)
        with torch.no_grad():
            alive = self.divergence.update(loss)
            if due.reading:
                measured = instrument.gradients() | measured  # with a random cotangent its norms stay
                if instrument.is_full:
                    measured |= instrument.weights()
                measured["dead_fraction"] = instrument.dead_fraction()
                if due.jacobian:
                    measured |= jacobian.spectrum(self.network, instrument.probe_set)
                if due.evaluation:
                    measured |= evaluate(self.network, self.dataset)
            clipping.clip(config.clip, stacks, self.max_norm)
            if due.reading:
                has_clip = config.clip.name != "none"
                measured["clipped_grad_norm"] = clipping.total_norm(stacks) if has_clip else measured["grad_norm"]
            has_ratio = due.reading and due.update and instrument.is_full
            if has_ratio:
                instrument.remember()
            if due.update:
                self.optimizer.step([stack.gradients for stack in stacks], alive)
            if has_ratio:
                measured["update_ratio"] = instrument.change() / measured["parameter_norm"]
        step = self.steps
        self.steps += due.update
        if not due.reading:
            return None
        return fetch(step, loss, measured, self.divergence.report(), time.perf_counter() - self.started, config)

    def state(self) -> dict[str, Any]:
        """Return all that decides later steps but configuration and data, on the host, in plain types and tensors."""
        return {
            "steps": self.steps,
            "seconds": time.perf_counter() - self.started,
            "values": [_on_host(stack.values) for stack in self.parameters.stacks],
            "buffers": {name: _on_host(value) for name, value in self.network.named_buffers()},
            "optimizer": {name: [_on_host(x) for x in tensors] for name, tensors in self.optimizer.state.items()},
            "updates": self.optimizer.steps,
            "batches": self.batches.state(),
            "noise": [generator.get_state() for generator in self.network.noise],
            "cotangents": [generator.get_state() for generator in self.cotangents],
            "watch": {name: _on_host(getattr(self.divergence, name)) for name in divergence.STATE},
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`; every later step is the same, bit for bit on the CPU.

        Raises:
            ValueError, KeyError: the state is that of another configuration.
        """
        for stack, values in zip(self.parameters.stacks, state["values"], strict=True):
            stack.values.copy_(values)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(state["buffers"][name])
        for name, tensors in self.optimizer.state.items():
            for tensor, saved in zip(tensors, state["optimizer"][name], strict=True):
                tensor.copy_(saved)
        self.optimizer.steps = state["updates"]
        self.batches.restore(state["batches"])
        generators = [*self.network.noise, *self.cotangents]
        for generator, saved in zip(generators, [*state["noise"], *state["cotangents"]], strict=True):
            generator.set_state(saved)
        for name in divergence.STATE:
            getattr(self.divergence, name).copy_(state["watch"][name])
        self.steps = state["steps"]
        self.started = time.perf_counter() - state["seconds"]

    def _backward(self, x: Tensor, y: Tensor, due: Due) -> tuple[Tensor, dict[str, Tensor]]:
        """Put the loss's gradients into the stacks; return each replica's loss (R,) and what was measured."""
        instrument, parameters = self.instrument, self.parameters
        watching: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
        inputs: list[Tensor] = list(parameters.tensors)
        if due.reading:
            watching = instrument.watching(self.config.batch_size)
            if instrument.is_full:
                inputs.append(x.requires_grad_())  # the gain of layer 0 needs the gradient of its input
        has_cotangent = due.reading and bool(self.cotangents)
        with watching as measured:
            top = self.network.trunk(x)  # (R, B, N)
            loss = cross_entropy(self.network.head(top), y)  # (R,)
            if has_cotangent:
                gradients = torch.autograd.grad(top, inputs, self._cotangent(top), True, materialize_grads=True)
            else:
                gradients = torch.autograd.grad(loss.sum(), inputs)
            parameters.take(gradients)
        if has_cotangent:
            injected = instrument.gradients()
            measured |= {name: injected[name] for name in FROM_COTANGENT if name in injected}
            parameters.take(torch.autograd.grad(loss.sum(), parameters.tensors))
        return loss.detach(), measured

    def _cotangent(self, like: Tensor) -> Tensor:
        """Draw a random dL/dx for x (R, B, N): 1 in rms for each example, before the 1/B of a mean loss."""
        batch, units = like.shape[1:]
        kind: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        return torch.stack([torch.randn(batch, units, generator=x, **kind) for x in self.cotangents]) / batch


def alone(config: schema.Config) -> list[schema.Config]:
    """Split a configuration into one configuration per replica."""
    return [replace(config, replicas=1, first_replica=config.first_replica + r) for r in range(config.replicas)]


def _on_host(values: Tensor) -> Tensor:
    """Copy a tensor, so that no later step changes it."""
    return values.detach().clone().cpu()


def _per_replica(values: Sequence[float], device: torch.device) -> Tensor | None:
    """Return one number per replica, (R,) float64; None if they are all the same."""
    return torch.tensor(values, dtype=torch.float64, device=device) if len(set(values)) > 1 else None


def fetch(
    step: int,
    loss: Tensor,
    measured: dict[str, Tensor],
    fates: dict[str, Tensor],
    seconds: float,
    config: schema.Config,
) -> Record:
    """Copy everything measured to the host, in one transfer, as a record."""
    tensors = {**measured, "loss": loss, **fates}
    packed = torch.cat([tensor.double().flatten() for tensor in tensors.values()]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors.values()])[:-1]
    parts = zip(tensors.items(), np.split(packed, ends), strict=True)
    values = {name: part.reshape(tensor.shape) for (name, tensor), part in parts}
    diverged_at, diverged_layer = (values.pop(name).astype(np.int64) for name in fates)
    spectra = {name: values.pop(name) for name in SPECTRA if name in values}
    values.pop("parameter_norm", None)
    layers = {name: value for name, value in values.items() if value.ndim == 2}
    scalars = {name: value for name, value in values.items() if value.ndim == 1}
    if config.probe.set == "norms":
        layers = {name: layers[name] for name in NORMS}
    else:
        layers.setdefault("update_ratio", np.full((config.model.depth, config.replicas), np.nan))
    for name in ("eval_loss", "eval_accuracy", *(JACOBIAN_MOMENTS if config.probe.jacobian else ())):
        scalars.setdefault(name, np.full(config.replicas, np.nan))
    scalars["delta_slope"] = delta_slope(layers["delta_rms"])
    return Record(step, layers, scalars, diverged_at, diverged_layer, seconds, spectra)
