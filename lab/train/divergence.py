"""Detects replicas that diverged, without synchronizing with the device."""

from __future__ import annotations

import torch
from torch import Tensor

from lab.measure.instrument import Instrument
from lab.network.parameters import Parameters

WATCHED = ("alive", "survived", "is_finite")
"""What a watch remembers from step to step."""


class DivergenceMonitor:
    """Notices which replicas have diverged, on the device, without asking it.

    Attributes:
        alive: (R,) bool; a replica whose loss or gradient became non-finite never comes back.
        survived: (R,) steps taken alive, so for a diverged replica the step at which it diverged.
        is_finite: (sections, R) bool; a diverged replica's column stays as it was at that step.
    """

    def __init__(self, parameters: Parameters, instrument: Instrument, replicas: int, device: torch.device) -> None:
        self.parameters = parameters
        self.blocks = instrument.layers
        self.alive = torch.ones(replicas, dtype=torch.bool, device=device)
        self.survived = torch.zeros(replicas, dtype=torch.int64, device=device)
        sections = sum(len(run.values) for run in parameters.runs)
        self.is_finite = torch.ones(sections, replicas, dtype=torch.bool, device=device)

    def look(self, loss: Tensor) -> Tensor | None:
        """Judge this step's losses (R,) and the gradients in the runs; the mask for the optimizer, None if all live."""
        is_finite = self._finite_sections()
        self.is_finite = torch.where(self.alive, is_finite, self.is_finite)
        self.alive = self.alive & loss.isfinite() & is_finite.all(0)
        self.survived += self.alive
        if self.alive.device.type == "cpu" and bool(self.alive.all()):
            return None
        return self.alive

    def _finite_sections(self) -> Tensor:
        """Whether every gradient entry is finite, (sections, R)."""
        if self.alive.device.type == "cpu":
            # NaN and Inf survive a sum, which is many times faster there; finite entries that overflow one are rare.
            sums = torch.cat([run.gradients.sum(-1) for run in self.parameters.runs])
            if bool(sums.isfinite().all()):
                return torch.ones_like(self.is_finite)
        return torch.cat([run.gradients.isfinite().all(-1) for run in self.parameters.runs])

    def state(self) -> dict[str, Tensor]:
        """What a record says of it: (R,) each; the layer nearest the loss whose gradient was not finite, or -1."""
        blocks = self.is_finite[self.blocks]  # (layers, R)
        layer = torch.arange(len(blocks), device=blocks.device)[:, None]
        nearest = torch.where(blocks, -1, layer).amax(0)
        return {
            "diverged_at": torch.where(self.alive, -1, self.survived),
            "diverged_layer": torch.where(self.alive, -1, nearest),
        }
