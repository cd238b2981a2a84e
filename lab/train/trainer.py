"""Trainer: a network with its data, optimizer and instrument, and the step that joins them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab import schema
from lab.data import Batches, Dataset
from lab.measure import jacobian
from lab.measure.instrument import Instrument
from lab.network.network import Network, torch_generator
from lab.network.parameters import Parameters
from lab.network.seeding import streams
from lab.readings import JACOBIAN_MOMENTS, NORMS, SPECTRA, Record, delta_slope
from lab.train import clipping, optimizers
from lab.train.divergence import WATCHED, DivergenceMonitor
from lab.train.losses import cross_entropy, evaluate

OF_THE_COTANGENT = ("weight_grad_norm", "bias_grad_norm")
"""With `probe.cotangent=random` these, and all that hooks see, are of the injected gradient; the rest is the loss's."""


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
        lr = _if_they_differ([variant.optimizer.lr for variant in variants], device)
        self.optimizer = optimizers.build(config.optimizer, [run.values for run in self.parameters.runs], lr)
        self.max_norm = _if_they_differ([getattr(variant.clip, "max_norm", 0.0) for variant in variants], device)
        self.batches = Batches(dataset, config.batch_size, [stream.batches for stream in replicas])
        probe_set = dataset.train_x[: config.probe.examples].expand(config.replicas, -1, -1)  # (R, P, features)
        self.instrument = Instrument(self.network, self.parameters, probe_set, is_full=config.probe.set == "full")
        self.watch = DivergenceMonitor(self.parameters, self.instrument, config.replicas, device)
        self.cotangents: list[torch.Generator] = []
        if config.probe.cotangent == "random":
            self.cotangents = [torch_generator(stream.cotangents, device) for stream in replicas]
        self.steps = 0
        self.started = time.perf_counter()

    def step(
        self, is_reading: bool, is_evaluated: bool = False, has_update: bool = True, has_jacobian: bool = False
    ) -> Record | None:
        """One batch: forward, backward, and with `has_update` clip and update; a record if `is_reading`."""
        config, instrument, parameters = self.config, self.instrument, self.parameters
        x, y = self.batches.next()  # (R, B, features), (R, B)
        if is_reading and instrument.is_full:
            x.requires_grad_()  # layer 0's gain needs the gradient of its input
        loss, measured = self._backward(x, y, is_reading)
        with torch.no_grad():
            alive = self.watch.look(loss)
            if is_reading:
                measured = instrument.gradients() | measured  # what a random gradient showed stays
                if instrument.is_full:
                    measured |= instrument.weights()
                measured["dead_fraction"] = instrument.dead_fraction()
                if has_jacobian:
                    measured |= jacobian.spectrum(config, self.network, instrument.probe_set)
                if is_evaluated:
                    measured |= evaluate(self.network, self.dataset)
            clipping.clip(config.clip, parameters, self.max_norm)
            if is_reading:
                has_clip = config.clip.name != "none"
                measured["clipped_grad_norm"] = clipping.total_norm(parameters) if has_clip else measured["grad_norm"]
            if has_update:
                is_compared = is_reading and instrument.is_full
                if is_compared:
                    instrument.remember()
                self.optimizer.step([run.gradients for run in parameters.runs], alive)
                if is_compared:
                    measured["update_ratio"] = instrument.change() / measured["parameter_norm"]
        self.steps += has_update
        if not is_reading:
            return None
        step = self.steps - has_update
        return fetch(step, loss, measured, self.watch, time.perf_counter() - self.started, config)

    def state(self) -> dict[str, Any]:
        """All that decides the steps to come, on the host: tensors, numbers, texts, lists and dictionaries.

        The configuration, the data and the device are not in it; `restore` wants a trainer made of the same.
        """
        optimizer, watch = self.optimizer, self.watch
        return {
            "steps": self.steps,
            "seconds": time.perf_counter() - self.started,
            "values": [_on_host(run.values) for run in self.parameters.runs],
            "buffers": {name: _on_host(value) for name, value in self.network.named_buffers()},
            "optimizer": {name: list(map(_on_host, tensors)) for name, tensors in optimizer.state_tensors().items()},
            "updates": optimizer.steps,
            "batches": self.batches.state(),
            "noise": [generator.get_state() for generator in self.network.noise],
            "cotangents": [generator.get_state() for generator in self.cotangents],
            "watch": {name: _on_host(getattr(watch, name)) for name in WATCHED},
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the trainer that `state` was taken of; afterwards every step is the same, bit for bit on the CPU.

        Raises:
            ValueError, KeyError: the state is that of another configuration.
        """
        for run, values in zip(self.parameters.runs, state["values"], strict=True):
            run.values.copy_(values)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(state["buffers"][name])
        for name, tensors in self.optimizer.state_tensors().items():
            for mine, theirs in zip(tensors, state["optimizer"][name], strict=True):
                mine.copy_(theirs)
        self.optimizer.steps = state["updates"]
        self.batches.restore(state["batches"])
        generators = [*self.network.noise, *self.cotangents]
        for generator, found in zip(generators, [*state["noise"], *state["cotangents"]], strict=True):
            generator.set_state(found)
        for name in WATCHED:
            getattr(self.watch, name).copy_(state["watch"][name])
        self.steps = state["steps"]
        self.started = time.perf_counter() - state["seconds"]

    def _backward(self, x: Tensor, y: Tensor, is_reading: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Put the loss's gradients into the runs; return each replica's loss (R,) and what the instrument saw."""
        instrument, parameters = self.instrument, self.parameters
        watching: AbstractContextManager[dict[str, Tensor]] = (
            instrument.watching(self.config.batch_size) if is_reading else nullcontext({})
        )
        has_cotangent = is_reading and bool(self.cotangents)
        with watching as measured:
            top = self.network.trunk(x)  # (R, B, N)
            loss = cross_entropy(self.network.head(top), y)  # (R,)
            wanted = [*parameters.tensors, *([x] if x.requires_grad else [])]
            if has_cotangent:
                self._take(torch.autograd.grad(top, wanted, self._cotangent(top), True, materialize_grads=True))
            else:
                self._take(torch.autograd.grad(loss.sum(), wanted))
        if has_cotangent:
            seen = instrument.gradients()
            measured |= {name: seen[name] for name in OF_THE_COTANGENT if name in seen}
            self._take(torch.autograd.grad(loss.sum(), parameters.tensors))
        return loss.detach(), measured

    def _cotangent(self, like: Tensor) -> Tensor:
        """A random dL/dx for x (R, B, N): 1 in rms for each example, before the 1/B of a mean loss."""
        batch, units = like.shape[1:]
        drawn = [
            torch.randn(batch, units, generator=generator, dtype=like.dtype, device=like.device)
            for generator in self.cotangents
        ]
        return torch.stack(drawn) / batch

    @torch.no_grad()
    def _take(self, gradients: Sequence[Tensor]) -> None:
        self.parameters.take(gradients[: len(self.parameters.tensors)])


def alone(config: schema.Config) -> list[schema.Config]:
    """Each replica of a configuration as a configuration of its own."""
    return [replace(config, replicas=1, first_replica=config.first_replica + r) for r in range(config.replicas)]


def _on_host(values: Tensor) -> Tensor:
    """A copy that no later step changes."""
    return values.detach().clone().cpu()


def _if_they_differ(values: Sequence[float], device: torch.device) -> Tensor | None:
    """One number a replica, (R,) float64; None if they are all the same."""
    return torch.tensor(values, dtype=torch.float64, device=device) if len(set(values)) > 1 else None


def fetch(
    step: int,
    loss: Tensor,
    measured: dict[str, Tensor],
    watch: DivergenceMonitor,
    seconds: float,
    config: schema.Config,
) -> Record:
    """Bring everything measured to the host, in one transfer, as a record."""
    everything = {**measured, "loss": loss, **watch.state()}
    packed = torch.cat([value.double().flatten() for value in everything.values()]).cpu().numpy()
    ends = np.cumsum([value.numel() for value in everything.values()])[:-1]
    values = {
        name: part.reshape(value.shape)
        for (name, value), part in zip(everything.items(), np.split(packed, ends), strict=True)
    }
    diverged_at = values.pop("diverged_at").astype(np.int64)
    diverged_layer = values.pop("diverged_layer").astype(np.int64)
    depth, replicas = config.model.depth, config.replicas
    spectra = {name: values.pop(name) for name in SPECTRA if name in values}
    layers = {name: value for name, value in values.items() if value.ndim == 2 and name != "parameter_norm"}
    if config.probe.set == "norms":
        layers = {name: layers[name] for name in NORMS}
    else:
        layers.setdefault("update_ratio", np.full((depth, replicas), np.nan))
    scalars = {name: value for name, value in values.items() if value.ndim == 1}
    for name in ("eval_loss", "eval_accuracy", *(JACOBIAN_MOMENTS if config.probe.jacobian else ())):
        scalars.setdefault(name, np.full(replicas, np.nan))
    scalars["delta_slope"] = delta_slope(layers["delta_rms"])
    return Record(step, layers, scalars, diverged_at, diverged_layer, seconds, spectra)
