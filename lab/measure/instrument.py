"""Reading a network's layers while it takes a step: ordinary hooks, put on for one step and taken off after it.

The hooks hand tensors to gatherers. A gatherer stacks the tensors of several layers up to about half a megabyte, which
still lies in a core's cache, and runs the probes on the stack: one call measures many small layers, and a large layer
is measured while it is warm. Nothing here waits for the device; the numbers stay there until `training` fetches them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lab.measure import probes
from lab.network.activations import ActivationLayer
from lab.network.network import Block, Network
from lab.network.parameters import Parameters, chunks

GROUP_BYTES = 2**19
"""How much is stacked before it is measured."""

Probe = Callable[[Tensor], Tensor]


class Instrument:
    """Measures the hidden layers of one network.

    Args:
        network: what to look at.
        parameters: its packed parameters.
        probe_set: (R, P, features) inputs on which dead units are counted.
        is_full: measure every quantity, not only those of `probe.set=norms`.
    """

    def __init__(self, network: Network, parameters: Parameters, probe_set: Tensor, is_full: bool) -> None:
        self.network, self.parameters, self.probe_set, self.is_full = network, parameters, probe_set, is_full
        self.blocks = [block for block in network.blocks if isinstance(block, Block)]
        self.activation: ActivationLayer = self.blocks[0].activation
        sections = network.sections()
        first = sections.index(self.blocks[0])
        self.layers = slice(first, first + len(self.blocks))  # where the hidden layers stand among the sections
        self.readout = sections.index(network.readout)
        self.kept: list[Tensor] = []
        self.stacks: dict[Hashable, Tensor] = {}

    @contextmanager
    def watching(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """Within the block, one forward and backward pass fills the yielded dictionary: quantity -> (layers, R)."""
        found: dict[str, Tensor] = {}
        gatherers = self._gatherers(batch)
        handles: list[RemovableHandle] = []  # hooks on modules and, as the forward pass makes them, on tensors
        handles += [
            block.activation.register_forward_hook(partial(self._on_activation, gatherers, handles, layer))
            for layer, block in enumerate(self.blocks)
        ]
        if self.is_full:
            self._watch_ends(gatherers["boundary"], handles)
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()
        for gatherer in gatherers.values():
            found |= gatherer.results()
        if self.is_full:
            rms = found.pop("boundary")  # (layers + 1, R)
            found["layer_gain"] = rms[:-1] / rms[1:]
            if self.activation.zero_is_saturated:
                found["saturated_fraction"] = found["zero_fraction"]

    def _gatherers(self, batch: int) -> dict[str, Gatherer]:
        """What is measured on which tensors of a layer."""
        gatherers = {"delta": Gatherer({"delta_rms": lambda g: batch * probes.rms(g)}, self.stacks)}
        if self.is_full:
            on_z: dict[str, Probe] = {"pre_rms": probes.rms, "pre_mean": probes.mean}
            on_a: dict[str, Probe] = {"act_rms": probes.rms, "act_mean": probes.mean}
            on_a["zero_fraction"] = probes.zero_fraction
            if not self.activation.is_alike:
                gatherers["saturated"] = Gatherer({"saturated_fraction": probes.mean}, self.stacks)
            elif not self.activation.zero_is_saturated:
                on_z["saturated_fraction"] = lambda z: probes.mean(self.activation.saturated(z))
            wanted: dict[str, dict[str, Probe]] = {"z": on_z, "a": on_a, "boundary": {"boundary": probes.rms}}
            gatherers |= {name: Gatherer(on_it, self.stacks) for name, on_it in wanted.items()}
        return gatherers

    def _on_activation(
        self,
        gatherers: Mapping[str, Gatherer],
        handles: list[RemovableHandle],
        layer: int,
        module: ActivationLayer,
        args: tuple[Tensor],
        a: Tensor,
    ) -> None:
        z = args[0]
        handles.append(z.register_hook(partial(gatherers["delta"].add, layer)))
        if self.is_full:
            gatherers["z"].add(layer, z)
            gatherers["a"].add(layer, a)
            if "saturated" in gatherers:
                gatherers["saturated"].add(layer, module.saturated(z.detach()))
            if self.blocks[layer].passes_activations_on:
                handles.append(a.register_hook(partial(gatherers["boundary"].add, layer + 1)))

    def _watch_ends(self, boundary: Gatherer, handles: list[RemovableHandle]) -> None:
        """Look at the gradient where layers hand over: boundary l is the input of layer l, the last one the output."""

        def on_input(module: Block, args: tuple[Tensor]) -> None:
            handles.append(args[0].register_hook(partial(boundary.add, 0)))

        def on_output(layer: int, module: Block, args: tuple[Tensor], output: Tensor) -> None:
            handles.append(output.register_hook(partial(boundary.add, layer + 1)))

        handles.append(self.blocks[0].register_forward_pre_hook(on_input))
        for layer, block in enumerate(self.blocks):
            if not block.passes_activations_on:  # else the activation is the output, and its hook looks at it
                handles.append(block.register_forward_hook(partial(on_output, layer)))

    @torch.no_grad()
    def dead_fraction(self) -> Tensor:
        """Share of dead units on the probe set, (layers, R); NaN where an exact 0 does not stop the gradient."""
        if not self.activation.zero_stops_gradient:
            shape = (len(self.blocks), len(self.probe_set))
            return torch.full(shape, torch.nan, dtype=torch.float64, device=self.probe_set.device)
        gatherer = Gatherer({"dead_fraction": probes.dead_fraction}, self.stacks)
        with self.network.untouched():
            for layer, activations in enumerate(self.network.activations(self.probe_set)):
                gatherer.add(layer, activations)
        return gatherer.results()["dead_fraction"]

    def gradients(self) -> dict[str, Tensor]:
        """Norms and non-finite counts of the parameter gradients as they are now: quantity -> (layers, R).

        Besides the hidden layers' quantities it holds `grad_norm` (R,) over all parameters and, for the readout,
        `readout_weight_grad_norm` (R,).
        """
        norms = self._norms([run.gradients for run in self.parameters.runs])
        bad = [_count_nonfinite(run.gradients, norms["total"]) for run in self.parameters.runs]
        found = {"weight_grad_norm": norms["weight"][self.layers], "nonfinite": torch.cat(bad)[self.layers]}
        if self.is_full:
            found["bias_grad_norm"] = norms["bias"][self.layers]
        found["grad_norm"] = probes.joint_norm(norms["total"])
        found["readout_weight_grad_norm"] = norms["weight"][self.readout]
        return found

    def weights(self) -> dict[str, Tensor]:
        """`weight_norm` and `parameter_norm` (layers, R) of the hidden layers, `readout_weight_norm` (R,)."""
        norms = self._norms([run.values for run in self.parameters.runs])
        return {
            "weight_norm": norms["weight"][self.layers],
            "parameter_norm": norms["total"][self.layers],
            "readout_weight_norm": norms["weight"][self.readout],
        }

    def remember(self) -> None:
        """Keep the parameters as they are now, for `change`."""
        if not self.kept:
            self.kept = [torch.empty_like(run.values) for run in self.parameters.runs]
        for kept, run in zip(self.kept, self.parameters.runs, strict=True):
            kept.copy_(run.values)

    def change(self) -> Tensor:
        """Norm of the hidden layers' parameter change since `remember`, which it forgets: (layers, R)."""
        norms = []
        for kept, run in zip(self.kept, self.parameters.runs, strict=True):
            parts = chunks(run, GROUP_BYTES)
            norms += [probes.norm(kept[part].sub_(run.values[part])[:, :, None]) for part in parts]
        return torch.cat(norms)[self.layers]

    def _norms(self, sources: Sequence[Tensor]) -> dict[str, Tensor]:
        """Norms of tensors shaped like the runs, by kind of parameter and in total: (sections, R) each."""
        found: dict[str, list[Tensor]] = {"weight": [], "bias": [], "total": []}
        for run, source in zip(self.parameters.runs, sources, strict=True):
            for part in chunks(run, GROUP_BYTES):
                norms = {s: probes.norm(source[part, :, None, s.start : s.stop]) for s in run.segments}  # (layers, R)
                for kind in ("weight", "bias"):
                    found[kind].append(_join([norm for s, norm in norms.items() if s.kind == kind], source[part]))
                found["total"].append(_join(list(norms.values()), source[part]))
        return {kind: torch.cat(parts) for kind, parts in found.items()}


class Gatherer:
    """Collects one tensor (R, B, N) a layer, up or down the layers, and runs probes on stacks of them.

    Args:
        wanted: name of the result -> probe.
        stacks: memory to stack in, by shape and dtype, which may be shared: fresh memory costs more than the copy.
    """

    def __init__(self, wanted: Mapping[str, Probe], stacks: dict[Hashable, Tensor]) -> None:
        self.wanted, self.stacks = wanted, stacks
        self.pending: list[Tensor] = []
        self.layers: list[int] = []
        self.measured: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def add(self, layer: int, x: Tensor) -> None:
        if self.pending and x.shape != self.pending[0].shape:
            self._measure()
        self.pending.append(x.detach())
        self.layers.append(layer)
        if len(self.pending) * x.numel() * x.element_size() >= GROUP_BYTES:
            self._measure()

    def results(self) -> dict[str, Tensor]:
        """Quantity -> (layers, R), in the order of the layers."""
        if self.pending:
            self._measure()
        joined = {name: torch.cat(values) for name, values in self.measured.items()}
        is_backward = self.layers[0] > self.layers[-1]  # an index list would be sent to the device, and be waited for
        return {name: values.flip(0) for name, values in joined.items()} if is_backward else joined

    def _measure(self) -> None:
        stacked = self._stack()
        self.pending = []
        for name, probe in self.wanted.items():
            self.measured[name].append(probe(stacked))

    def _stack(self) -> Tensor:
        """The pending tensors as one, (k, R, B, N)."""
        first, count = self.pending[0], len(self.pending)
        if count == 1:
            return first[None]
        shape_and_type = (first.shape, first.dtype)
        if shape_and_type not in self.stacks:
            most = math.ceil(GROUP_BYTES / (first.numel() * first.element_size()))
            self.stacks[shape_and_type] = first.new_empty(most, *first.shape)
        return torch.stack(self.pending, out=self.stacks[shape_and_type][:count])


def _join(norms: Sequence[Tensor], like: Tensor) -> Tensor:
    """The norm of parts together, (layers, R); NaN, not applicable, where there is none."""
    if not norms:
        return torch.full(like.shape[:2], torch.nan, dtype=torch.float64, device=like.device)
    return norms[0] if len(norms) == 1 else probes.joint_norm(torch.stack(list(norms)))


def _count_nonfinite(gradients: Tensor, norms: Tensor) -> Tensor:
    """Non-finite entries of (layers, R, P); on the CPU, where a look is free, only if a norm shows one."""
    if norms.device.type == "cpu" and bool(norms.isfinite().all()):
        return gradients.new_zeros(gradients.shape[:2], dtype=torch.float64)
    return probes.nonfinite(gradients)
