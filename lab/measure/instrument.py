"""Measurement of a model's layers during a training step, with hooks that are removed after it.

The hooks hand tensors to gatherers, which stack several layers up to half a megabyte, so that one call measures many
small layers and a large one is measured while it is in the cache. Nothing here synchronizes with the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lab.measure import probes
from lab.measure.anatomy import Anatomy
from lab.readings import NORMS

GROUP_BYTES = 2**19
"""Bytes that are stacked before they are measured."""

Probe = Callable[[Tensor], Tensor]
"""(..., B, N) -> (...), float64."""


@dataclass(frozen=True)
class LayerProbe:
    """A quantity measured on one tensor of every layer."""

    where: str  # "z" (pre-activations), "a" (activations) or "delta" (the per-example dL/dz)
    probe: Probe
    is_homogeneous: bool = False  # probe(c x) = c probe(x), which spares a multiplication of every delta


LAYER_PROBES: dict[str, LayerProbe] = {
    "pre_rms": LayerProbe("z", probes.rms),
    "pre_mean": LayerProbe("z", probes.mean),
    "act_rms": LayerProbe("a", probes.rms),
    "act_mean": LayerProbe("a", probes.mean),
    "zero_fraction": LayerProbe("a", probes.zero_fraction),
    "delta_rms": LayerProbe("delta", probes.rms, is_homogeneous=True),
}
"""Quantity -> its probe; `lab.register_quantity` adds to it. The others need more than one tensor of a layer."""


class Instrument:
    """Measures the layers of one model: every quantity if `is_full`, else those of `probe.set=norms`.

    Dead units are counted on the inputs `probe_set` (R, P, features).
    """

    def __init__(self, anatomy: Anatomy, probe_set: Tensor, is_full: bool) -> None:
        self.anatomy, self.probe_set, self.is_full = anatomy, probe_set, is_full
        self._before: list[Tensor] = []  # the parameters at `remember`
        self._stacks: dict[Hashable, Tensor] = {}

    @contextmanager
    def watching(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """Measure the forward and backward pass within the block: fill the yielded dictionary, quantity -> (layers, R).

        `batch` is the number of examples over which the loss is a mean.
        """
        readings: dict[str, Tensor] = {}
        gatherers = self._gatherers(batch)
        handles = self._attach(gatherers)
        try:
            yield readings
        finally:
            for handle in handles:
                handle.remove()
        for gatherer in gatherers.values():
            readings |= gatherer.results()
        if self.is_full:
            rms = readings.pop("boundary")  # (layers + 1, R)
            readings["layer_gain"] = rms[:-1] / rms[1:]
            readings.setdefault("saturated_fraction", readings["zero_fraction"])

    def _gatherers(self, batch: int) -> dict[str, Gatherer]:
        """Create a gatherer for each tensor of a layer that a probe reads."""
        measured: dict[str, dict[str, Probe]] = {}
        for name, row in LAYER_PROBES.items():
            if self.is_full or name in NORMS:
                probe = _on_delta(row, batch) if row.where == "delta" else row.probe
                measured.setdefault(row.where, {})[name] = probe
        if self.is_full:
            facts = self.anatomy.shared_facts
            measured["boundary"] = {"boundary": probes.rms}
            if facts is None:
                measured["saturated"] = {"saturated_fraction": probes.mean}
            elif not facts.zero_is_saturated:  # else it is the zero_fraction
                measured["z"]["saturated_fraction"] = lambda z: probes.mean(facts.saturated(z))
        return {where: Gatherer(by_name, self._stacks) for where, by_name in measured.items()}

    def _attach(self, gatherers: Mapping[str, Gatherer]) -> list[RemovableHandle]:
        """Add hooks to modules, which add hooks to tensors; boundary l is the input of layer l, the last the output."""
        handles: list[RemovableHandle] = []

        def watch_gradient(where: str, index: int, x: Tensor) -> None:
            handles.append(x.register_hook(partial(gatherers[where].add, index)))

        def on_activation(layer: int, module: nn.Module, args: tuple[Tensor], a: Tensor) -> None:
            z = args[0]
            watch_gradient("delta", layer, z)
            if self.is_full:
                gatherers["z"].add(layer, z)
                gatherers["a"].add(layer, a)
                if "saturated" in gatherers:
                    gatherers["saturated"].add(layer, sites[layer].facts.saturated(z.detach()))

        def on_input(module: nn.Module, args: tuple[Tensor]) -> None:
            watch_gradient("boundary", 0, args[0])

        def on_output(layer: int, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            watch_gradient("boundary", layer + 1, output)

        sites = self.anatomy.sites
        if self.is_full:
            handles.append(sites[0].layer.register_forward_pre_hook(on_input))
        for layer, site in enumerate(sites):
            handles.append(site.activation.register_forward_hook(partial(on_activation, layer)))
            if self.is_full:
                handles.append(site.layer.register_forward_hook(partial(on_output, layer)))
        return handles

    @torch.no_grad()
    def dead_fraction(self) -> Tensor:
        """Return the share of dead units on the probe set, (layers, R); NaN if exact zeros do not stop the gradient."""
        sites = self.anatomy.sites
        if not all(site.facts.zero_stops_gradient for site in sites):
            return self.probe_set.new_full((len(sites), self.anatomy.replicas), torch.nan, dtype=torch.float64)
        gatherer = Gatherer({"dead_fraction": probes.dead_fraction}, self._stacks)
        for layer, activations in enumerate(self.anatomy.activations(self.probe_set)):
            gatherer.add(layer, activations)
        return gatherer.results()["dead_fraction"]

    def gradients(self) -> dict[str, Tensor]:
        """Measure norms and non-finite counts of the current parameter gradients: quantity -> (layers, R).

        Besides the layers' quantities: `grad_norm` (R,) of all parameters and `readout_weight_grad_norm` (R,).
        """
        stacks, layers = self.anatomy.stacks, self.anatomy.layers
        norms = self._norms([stack.gradients for stack in stacks])
        nonfinite = [_count_nonfinite(stack.gradients, norms["total"]) for stack in stacks]
        readings = {"weight_grad_norm": norms["weight"][layers], "nonfinite": torch.cat(nonfinite)[layers]}
        if self.is_full:
            readings["bias_grad_norm"] = norms["bias"][layers]
        totals = {"grad_norm": probes.joint_norm(norms["total"])}
        return readings | totals | {"readout_weight_grad_norm": norms["weight"][self.anatomy.readout]}

    def weights(self) -> dict[str, Tensor]:
        """Measure `weight_norm` and `parameter_norm` (layers, R), and `readout_weight_norm` (R,)."""
        norms = self._norms([stack.values for stack in self.anatomy.stacks])
        return {
            "weight_norm": norms["weight"][self.anatomy.layers],
            "parameter_norm": norms["total"][self.anatomy.layers],
            "readout_weight_norm": norms["weight"][self.anatomy.readout],
        }

    def remember(self) -> None:
        """Save the parameters as they are now, for `change`."""
        stacks = self.anatomy.stacks
        self._before = self._before or [torch.empty_like(stack.values) for stack in stacks]
        for before, stack in zip(self._before, stacks, strict=True):
            before.copy_(stack.values)

    def change(self) -> Tensor:
        """Measure the norm of the layers' parameter change since `remember`, once: (layers, R)."""
        norms = [
            probes.norm(before[part].sub_(stack.values[part])[:, :, None])  # of (layers, R, 1, P)
            for before, stack in zip(self._before, self.anatomy.stacks, strict=True)
            for part in stack.chunks(GROUP_BYTES)
        ]
        return torch.cat(norms)[self.anatomy.layers]

    def _norms(self, sources: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute norms of tensors shaped like the stacks, by kind of parameter and in total: (sections, R) each."""
        norms: dict[str, list[Tensor]] = {"weight": [], "bias": [], "total": []}
        for stack, source in zip(self.anatomy.stacks, sources, strict=True):
            for part in stack.chunks(GROUP_BYTES):
                by_segment = [(s.kind, probes.norm(source[part, :, None, s.start : s.stop])) for s in stack.segments]
                for name, joined in norms.items():
                    joined.append(_join([norm for kind, norm in by_segment if name in (kind, "total")], source[part]))
        return {kind: torch.cat(parts) for kind, parts in norms.items()}


class Gatherer:
    """Collects one tensor (R, B, N) per layer, up or down the layers, and runs the probes of `measured` on stacks.

    `stacks` is memory to stack in, by shape and dtype: fresh memory costs more than the copy.
    """

    def __init__(self, measured: Mapping[str, Probe], stacks: dict[Hashable, Tensor]) -> None:
        self._probes, self._stacks = measured, stacks
        self._pending: list[Tensor] = []
        self._layers: list[int] = []
        self._results: dict[str, list[Tensor]] = {name: [] for name in measured}

    def add(self, layer: int, x: Tensor) -> None:
        if self._pending and x.shape != self._pending[0].shape:
            self._measure()
        self._pending.append(x.detach())
        self._layers.append(layer)
        if len(self._pending) * x.numel() * x.element_size() >= GROUP_BYTES:
            self._measure()

    def results(self) -> dict[str, Tensor]:
        """Return quantity -> (layers, R), in the order of the layers."""
        if self._pending:
            self._measure()
        joined = {name: torch.cat(values) for name, values in self._results.items()}
        is_backward = self._layers[0] > self._layers[-1]  # indexing with a list would synchronize with the device
        return {name: values.flip(0) for name, values in joined.items()} if is_backward else joined

    def _measure(self) -> None:
        """Run the probes on the pending tensors, stacked: (k, R, B, N)."""
        first, count, key = self._pending[0], len(self._pending), (self._pending[0].shape, self._pending[0].dtype)
        if count > 1 and key not in self._stacks:
            most = math.ceil(GROUP_BYTES / (first.numel() * first.element_size()))
            self._stacks[key] = first.new_empty(most, *first.shape)
        stacked = first[None] if count == 1 else torch.stack(self._pending, out=self._stacks[key][:count])
        self._pending = []
        for name, probe in self._probes.items():
            self._results[name].append(probe(stacked))


def _on_delta(row: LayerProbe, batch: int) -> Probe:
    """Apply a probe to gradients of a mean over `batch` examples as if they were per example."""
    if row.is_homogeneous:
        return lambda gradient: batch * row.probe(gradient)
    return lambda gradient: row.probe(batch * gradient)


def _join(norms: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the joint norm of the parts, (layers, R), or NaN (not applicable) if there are none."""
    if not norms:
        return like.new_full(like.shape[:2], torch.nan, dtype=torch.float64)
    return norms[0] if len(norms) == 1 else probes.joint_norm(torch.stack(list(norms)))


def _count_nonfinite(gradients: Tensor, norms: Tensor) -> Tensor:
    """Count non-finite entries of (layers, R, P); on the CPU only if a norm shows one."""
    if norms.device.type == "cpu" and bool(norms.isfinite().all()):
        return gradients.new_zeros(gradients.shape[:2], dtype=torch.float64)
    return probes.nonfinite(gradients)
