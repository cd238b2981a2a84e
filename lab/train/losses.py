"""The loss, and the evaluation on held-out data."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.data import Dataset
from lab.network import Network

EVAL_ROWS = 2048
"""Number of held-out examples evaluated at once, which bounds the memory for a large test set."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Compute each replica's mean cross-entropy in nats: logits (R, B, C), labels (R, B) -> (R,)."""
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")  # (R B,)
    return losses.view(y.shape).mean(1)


@torch.no_grad()
def evaluate(network: Network, dataset: Dataset) -> dict[str, Tensor]:
    """Measure loss and accuracy of every replica on the held-out data: (R,) each, float64, NaN where a logit is NaN."""
    replicas = len(network.readout.weight)
    loss = torch.zeros(replicas, dtype=torch.float64, device=dataset.test_x.device)
    hits = torch.zeros_like(loss)
    with network.evaluating():
        for x, y in zip(dataset.test_x.split(EVAL_ROWS), dataset.test_y.split(EVAL_ROWS), strict=True):
            logits = network(x.expand(replicas, -1, -1))  # (R, rows, C)
            labels = y.expand(replicas, -1)
            loss += cross_entropy(logits, labels).double() * len(y)
            hits += (logits.argmax(-1) == labels).sum(1)
    examples = len(dataset.test_y)
    # The argmax of NaN is a class, but no answer.
    return {"eval_loss": loss / examples, "eval_accuracy": torch.where(loss.isnan(), torch.nan, hits / examples)}
