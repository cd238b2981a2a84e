"""Rows of the validation: a prediction, its tolerance, how to measure it, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lab.typing import Array

if TYPE_CHECKING:
    from experiments.validation.networks import NetworkCase


class Tolerance(NamedTuple):
    """The deviation a measurement may have, and where it comes from."""

    allowed: ArrayLike | tuple[ArrayLike, ArrayLike]  # of each number, on either side or (below, above)
    derivation: str


def half_unit(unit: float) -> float:
    """Return half a unit of the last digit of a published number, and rounding."""
    return 0.5 * unit * (1 + 1e-9)


def last_digit(unit: float) -> Tolerance:
    return Tolerance(half_unit(unit), "last digit published")


def rounding(allowed: ArrayLike) -> Tolerance:
    return Tolerance(allowed, "rounding, float64")


@dataclass(frozen=True, eq=False)
class Row:
    """One comparison; everything but the measurement is fixed beforehand."""

    name: str  # what is compared, in a few words; with the number it is the row's id
    statement: str  # the claim
    predicted: ArrayLike  # the number or numbers expected
    tolerance: Tolerance
    measure: Callable[..., ArrayLike]  # called with `network` if there is one; picklable, for another process
    network: NetworkCase | None = None  # one process measures all rows of a network, and simulates it once
    is_control: bool = False  # wrong on purpose: must exceed the tolerance
    refusal: str = ""  # theory's own sentence where it makes no prediction; nothing is measured then
    number: int = 0  # the statement on signal propagation it belongs to, 1 to 24

    @property
    def id(self) -> str:
        return f"{self.number:02d} {self.name}"

    @property
    def center(self) -> Array:
        """Return the predicted numbers, (k,)."""
        return np.atleast_1d(np.asarray(self.predicted, dtype=np.float64))

    @property
    def reach(self) -> tuple[Array, Array]:
        """Return the allowed deviation below and above each of them, (k,) each."""
        allowed, shape = self.tolerance.allowed, self.center.shape
        below, above = allowed if isinstance(allowed, tuple) else (allowed, allowed)
        return np.broadcast_to(np.asarray(below, float), shape), np.broadcast_to(np.asarray(above, float), shape)

    def control(self, name: str, statement: str, **changes: Any) -> Row:
        """Return this row with a change that makes it wrong: its deviation must exceed the tolerance."""
        return replace(self, name=f"control: {name}", statement=statement, is_control=True, **changes)


def refused(name: str, statement: str, sentence: str) -> Row:
    """Return a row for which theory makes no prediction."""
    return Row(name, statement, np.nan, Tolerance(np.nan, "theory makes no prediction"), float, refusal=sentence)


@dataclass(frozen=True, eq=False)
class RowResult:
    """A row, measured and judged."""

    row: Row
    measured: Array  # in the shape of the row's `center`
    position: float  # the worst deviation over the allowed one: within [-1, 1] is in
    worst: int  # index of that number
    verdict: str  # in, OUT, caught, NOT CAUGHT (controls), "assumption fails: ..." or "failed: ..." with an error
    is_passed: bool  # whether the row supports theory and network


def judge(row: Row, measured: ArrayLike | None) -> RowResult:
    """Compare. Nothing passes, not even a control, if a number or limit is not finite or their count is wrong."""
    if row.refusal:
        return RowResult(row, np.array([np.nan]), np.nan, 0, f"assumption fails: {row.refusal}", True)
    values = np.atleast_1d(np.asarray(measured, dtype=np.float64))
    if values.shape != row.center.shape:
        return failed(row, f"{values.shape[0]} numbers measured where {row.center.shape[0]} were predicted")
    deviation = values - row.center
    below, above = row.reach
    allowed = np.where(deviation < 0, below, above)
    with np.errstate(divide="ignore", invalid="ignore"):
        positions = np.where(deviation == 0, 0.0, deviation / allowed)
    positions = np.where(np.isfinite(values) & np.isfinite(allowed), positions, np.inf)
    worst = int(np.argmax(np.abs(positions)))
    position = float(positions[worst])
    if row.is_control:
        is_passed = 1 < abs(position) < np.inf
        verdict = "caught" if is_passed else "NOT CAUGHT"
    else:
        is_passed = abs(position) <= 1
        verdict = "in" if is_passed else "OUT"
    return RowResult(row, values, position, worst, verdict, is_passed)


def failed(row: Row, error: str) -> RowResult:
    """Return the result of a row whose measurement raised an error; it does not pass, not even as a control."""
    return RowResult(row, np.full_like(row.center, np.nan), np.nan, 0, f"failed: {error}", False)
