"""Theory of signal propagation against the lab's own networks: the rows of `python -m experiments.validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from experiments.validation import drift, gates, identities, maps, norms, rates, scatter, skips
from experiments.validation.networks import FULL, QUICK, Size
from experiments.validation.row import Row, RowResult, failed, judge

__all__ = ["FULL", "QUICK", "STATEMENTS", "Row", "RowResult", "Size", "failed", "judge", "rows"]

STATEMENTS: Mapping[int, Callable[[Size], list[Row]]] = {
    1: maps.mean_field,
    2: maps.depth_scales,
    3: rates.rectifiers,
    4: maps.erf,
    5: rates.torch_default,
    6: rates.sigmoid,
    7: rates.tanh,
    8: drift.tanh_at_criticality,
    9: drift.relu_with_xavier,
    10: drift.gelu_and_silu,
    11: rates.selu,
    12: maps.relu_correlation,
    13: identities.weight_gradient_products,
    14: identities.norms_of_weights,
    15: identities.clipping,
    16: identities.dead_networks,
    17: scatter.finite_width,
    18: scatter.jacobian,
    19: norms.batch_norm,
    20: norms.layer_and_rms_norm,
    21: skips.scaled_branch,
    22: skips.pre_norm,
    23: skips.last_block,
    24: gates.gated_stacks,
}
"""The statements on signal propagation, by number."""


def rows(size: Size, numbers: Iterable[int] = STATEMENTS) -> list[Row]:
    """Return the rows of some statements, by default of all; theory predicts here, nothing is measured yet."""
    numbered = [replace(row, number=number) for number in sorted(numbers) for row in STATEMENTS[number](size)]
    assert len({row.id for row in numbered}) == len(numbered), "Two rows have the same id."
    return numbered
