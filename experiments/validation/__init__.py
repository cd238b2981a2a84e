"""The rows of `python -m experiments.validate`: what theory says of signal propagation, one module a topic.

Rows are numbered by the statement they belong to:

1 the maps of mean field, 2 depth scales, 3 relu and its kin, 4 erf, 5 torch's default, 6 the sigmoid, 7 tanh with
biases, 8 tanh's power law, 9 Xavier with relu, 10 gelu and silu, 11 selu, 12 the correlation map of relu;
13 to 16 exact identities: weight-gradient products, norms, clipping, dead networks; 17 scatter at finite width,
18 the Jacobian; 19 batch norm, 20 layer and RMS norm; 21 skips, 22 pre-norm, 23 the last block; 24 gates.
"""

from __future__ import annotations

from experiments.validation.networks import Size
from experiments.validation.row import Row

NUMBERS = range(1, 25)


def rows(size: Size) -> list[Row]:
    """Every row, in the order of the statements; theory is asked here, nothing is measured yet."""
    from experiments.validation import drift, gates, identities, maps, norms, rates, scatter, skips, table

    modules = (maps, rates, drift, identities, scatter, norms, skips, gates, table)
    found = [row for module in modules for row in module.rows(size)]
    ids = [row.id for row in found]
    assert len(set(ids)) == len(ids), "Two rows have the same id."
    return sorted(found, key=lambda row: row.number)
