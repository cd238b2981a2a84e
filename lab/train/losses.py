"""The loss, and the evaluation on held-out data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.data import Dataset
from lab.network.network import Network

EVAL_ROWS = 2048
"""Held-out examples evaluated at once: bounds the memory of a large test set."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Each replica's mean cross-entropy in nats: logits (R, B, C), labels (R, B) -> (R,)."""
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")  # (R B,)
    return losses.view(y.shape).mean(1)


@torch.no_grad()
def evaluate(network: Network, dataset: Dataset) -> dict[str, Tensor]:
    """Loss and accuracy of every replica on the held-out data: (R,) each, float64; both NaN where a logit is NaN."""
    replicas = network.readout.weight.shape[0]
    loss = torch.zeros(replicas, dtype=torch.float64, device=dataset.test_x.device)
    hits = torch.zeros_like(loss)
    with network.evaluating():
        for x, y in zip(dataset.test_x.split(EVAL_ROWS), dataset.test_y.split(EVAL_ROWS), strict=True):
            logits = network(x.expand(replicas, -1, -1))  # (R, rows, C)
            labels = y.expand(replicas, -1)
            loss += cross_entropy(logits, labels).double() * len(y)
            hits += (logits.argmax(-1) == labels).sum(1)
    examples = len(dataset.test_y)
    # A maximum over NaN picks some class or other, which is no answer.
    return {"eval_loss": loss / examples, "eval_accuracy": torch.where(loss.isnan(), torch.nan, hits / examples)}
