"""Reading a network's layers while it takes a step: ordinary hooks, put on for one step and taken off after it.

The hooks hand tensors to gatherers. A gatherer stacks the tensors of several layers up to about half a megabyte, which
still lies in a core's cache, and runs the probes on the stack: one call measures many small layers, and a large layer
is measured while it is warm. Nothing here waits for the device; the numbers stay there until `training` fetches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from lab import probes
from lab.activations import ActivationLayer
from lab.network import Block, Network
from lab.parameters import Parameters, Run, chunks

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
        self.first_block = sections.index(self.blocks[0])
        self.readout = sections.index(network.readout)

    @contextmanager
    def watching(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """Within the block, one forward and backward pass fills the yielded dictionary: quantity -> (layers, R)."""
        found: dict[str, Tensor] = {}
        gatherers = {"delta": Gatherer({"delta_rms": lambda g: batch * probes.rms(g)})}
        if self.is_full:
            gatherers["z"] = Gatherer({"pre_rms": probes.rms, "pre_mean": probes.mean})
            gatherers["a"] = Gatherer(
                {"act_rms": probes.rms, "act_mean": probes.mean, "zero_fraction": probes.zero_fraction}
            )
            gatherers["boundary"] = Gatherer({"boundary": probes.rms})
            gatherers["saturated"] = Gatherer({"saturated_fraction": probes.mean})
        handles = []
        for layer, block in enumerate(self.blocks):
            handles.append(block.activation.register_forward_hook(partial(_on_activation, layer, gatherers)))
            if self.is_full:
                handles.append(block.register_forward_pre_hook(partial(_on_input, layer, gatherers["boundary"])))
        if self.is_full:
            handles.append(self.blocks[-1].register_forward_hook(partial(_on_output, len(self.blocks), gatherers)))
        try:
            yield found
            for gatherer in gatherers.values():
                found |= gatherer.results()
        finally:
            for handle in handles:
                handle.remove()
        if self.is_full:
            boundary = found.pop("boundary")  # (layers + 1, R)
            found["layer_gain"] = boundary[:-1] / boundary[1:]

    @torch.no_grad()
    def dead_fraction(self) -> Tensor:
        """Share of dead units on the probe set, (layers, R); NaN where an exact 0 does not stop the gradient."""
        if not self.activation.zero_stops_gradient:
            return torch.full((len(self.blocks), len(self.probe_set)), torch.nan, dtype=torch.float64)
        gatherer = Gatherer({"dead_fraction": probes.dead_fraction})

        def keep(layer: int, module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            gatherer.add(layer, output)

        handles = [
            block.activation.register_forward_hook(partial(keep, layer)) for layer, block in enumerate(self.blocks)
        ]
        try:
            with self.network.untouched():
                self.network(self.probe_set)
        finally:
            for handle in handles:
                handle.remove()
        return gatherer.results()["dead_fraction"]

    def gradients(self) -> dict[str, Tensor]:
        """Norms and non-finite counts of the parameter gradients as they are now: quantity -> (layers, R).

        Besides the hidden layers' quantities it holds `grad_norm` (R,) over all parameters and, for the readout,
        `readout_weight_grad_norm` (R,).
        """
        weight, bias, total, bad = [], [], [], []
        for run in self.parameters.runs:
            for part in chunks(run, GROUP_BYTES):
                chunk = run.gradients[part]  # (layers, R, P)
                weight.append(_segment_norm(run, chunk, "weight"))
                bias.append(_segment_norm(run, chunk, "bias"))
                total.append(probes.norm(chunk[..., None, :]))
                bad.append(_count_nonfinite(chunk, total[-1]))
        weights, totals = torch.cat(weight), torch.cat(total)
        here = slice(self.first_block, self.first_block + len(self.blocks))
        found = {"weight_grad_norm": weights[here], "nonfinite": torch.cat(bad)[here]}
        if self.is_full:
            found["bias_grad_norm"] = torch.cat(bias)[here]
        found["grad_norm"] = torch.linalg.vector_norm(totals, dim=0)
        found["readout_weight_grad_norm"] = weights[self.readout]
        return found

    def weights(self) -> dict[str, Tensor]:
        """`weight_norm` and `parameter_norm` (layers, R) of the hidden layers, `readout_weight_norm` (R,)."""
        weight, total = [], []
        for run in self.parameters.runs:
            for part in chunks(run, GROUP_BYTES):
                chunk = run.values[part]  # (layers, R, P)
                weight.append(_segment_norm(run, chunk, "weight"))
                total.append(probes.norm(chunk[..., None, :]))
        weights, here = torch.cat(weight), slice(self.first_block, self.first_block + len(self.blocks))
        return {
            "weight_norm": weights[here],
            "parameter_norm": torch.cat(total)[here],
            "readout_weight_norm": weights[self.readout],
        }

    def change_since(self, before: list[Tensor]) -> Tensor:
        """Norm of the hidden layers' parameter change since `before`, copies of the runs' values: (layers, R)."""
        change = []
        for run, old in zip(self.parameters.runs, before, strict=True):
            parts = chunks(run, GROUP_BYTES)
            change += [probes.norm((run.values[part] - old[part])[..., None, :]) for part in parts]
        return torch.cat(change)[self.first_block : self.first_block + len(self.blocks)]


class Gatherer:
    """Collects one tensor (R, B, N) a layer, in any order of layers, and runs probes on stacks of them."""

    def __init__(self, wanted: Mapping[str, Probe]) -> None:
        self.wanted = wanted
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
        order = sorted(range(len(self.layers)), key=self.layers.__getitem__)
        is_sorted = order == list(range(len(order)))
        joined = {name: torch.cat(values) for name, values in self.measured.items()}
        return joined if is_sorted else {name: values[order] for name, values in joined.items()}

    def _measure(self) -> None:
        stacked = self.pending[0][None] if len(self.pending) == 1 else torch.stack(self.pending)  # (k, R, B, N)
        self.pending = []
        for name, probe in self.wanted.items():
            self.measured[name].append(probe(stacked))


def _on_activation(
    layer: int,
    gatherers: Mapping[str, Gatherer],
    module: ActivationLayer,
    args: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    z = args[0]
    z.register_hook(partial(gatherers["delta"].add, layer))
    if "z" in gatherers:
        gatherers["z"].add(layer, z)
        gatherers["a"].add(layer, output)
        gatherers["saturated"].add(layer, module.saturated(z.detach()))


def _on_input(layer: int, gatherer: Gatherer, module: Block, args: tuple[Tensor, ...]) -> None:
    args[0].register_hook(partial(gatherer.add, layer))


def _on_output(layer: int, gatherers: Mapping[str, Gatherer], module: Block, args: object, output: Tensor) -> None:
    output.register_hook(partial(gatherers["boundary"].add, layer))


def _segment_norm(run: Run, chunk: Tensor, kind: str) -> Tensor:
    """Norm of all segments of a kind together, (layers, R, P) -> (layers, R); 0 where the section has none."""
    parts = [probes.norm(view[..., None, :]) for view in run.select(chunk, kind)]
    if not parts:
        return torch.zeros(chunk.shape[:2], dtype=torch.float64, device=chunk.device)
    return parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts), dim=0)


def _count_nonfinite(chunk: Tensor, norms: Tensor) -> Tensor:
    """Non-finite entries of (layers, R, P); on the CPU, where a look costs nothing, counted only if a norm shows one."""
    if norms.device.type == "cpu" and bool(norms.isfinite().all()):
        return torch.zeros_like(norms)
    return probes.nonfinite(chunk)
