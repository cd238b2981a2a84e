"""Detection of diverged replicas, without synchronizing with the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.measure import ParameterStack

STATE = ("alive", "survived", "is_finite")
"""The monitor's state."""


class DivergenceMonitor:
    """Tracks, on the device, which replicas have diverged: whose loss or gradient was not finite at some step.

    `survived` (R,) counts the steps taken alive, so for a diverged replica the step at which it diverged; its column of
    `is_finite` (sections, R) stays as it was at that step.
    """

    def __init__(self, stacks: Sequence[ParameterStack], layers: slice) -> None:
        self._stacks, self._layers = stacks, layers
        replicas, device = stacks[0].values.shape[1], stacks[0].values.device
        self.alive = torch.ones(replicas, dtype=torch.bool, device=device)
        self.survived = torch.zeros(replicas, dtype=torch.int64, device=device)
        sections = sum(len(stack.values) for stack in stacks)
        self.is_finite = torch.ones(sections, replicas, dtype=torch.bool, device=device)

    def update(self, loss: Tensor) -> Tensor | None:
        """Check this step's losses (R,) and the gradients in the stacks; return `alive`, or None if all are."""
        is_finite = self._finite_sections()
        self.is_finite = torch.where(self.alive, is_finite, self.is_finite)
        self.alive = self.alive & loss.isfinite() & is_finite.all(0)
        self.survived += self.alive
        if self.alive.device.type == "cpu" and bool(self.alive.all()):
            return None
        return self.alive

    def _finite_sections(self) -> Tensor:
        """Check that every gradient entry is finite, (sections, R)."""
        if self.alive.device.type == "cpu":
            # NaN and Inf survive a sum, which is many times faster there; finite entries that overflow one are rare.
            sums = torch.cat([stack.gradients.sum(-1) for stack in self._stacks])
            if bool(sums.isfinite().all()):
                return torch.ones_like(self.is_finite)
        return torch.cat([stack.gradients.isfinite().all(-1) for stack in self._stacks])

    def report(self) -> dict[str, Tensor]:
        """Return `diverged_at` and `diverged_layer`, (R,) each, as in a record."""
        is_finite = self.is_finite[self._layers]  # (layers, R)
        layer = torch.arange(len(is_finite), device=is_finite.device)[:, None]
        nearest_the_loss = torch.where(is_finite, -1, layer).amax(0)
        return {
            "diverged_at": torch.where(self.alive, -1, self.survived),
            "diverged_layer": torch.where(self.alive, -1, nearest_the_loss),
        }
