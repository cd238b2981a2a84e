"""The guide's claims, one module per topic, in the guide's order."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from experiments.claims.claim import Claim

TOPICS = (
    *("linear", "gradients", "recurrent", "fixes", "norms_and_skips", "sigmoid", "tanh", "relu", "dying_relu"),
    *("relu_family", "elu", "gelu", "swish", "better", "gated", "costs", "exercises"),
)
"""Modules of this package, each with its `CLAIMS`."""


def claims() -> Mapping[str, Claim]:
    """Return every claim by its id, in order."""
    found = [claim for topic in TOPICS for claim in import_module(f"experiments.claims.{topic}").CLAIMS]
    return {claim.id: claim for claim in found}
