"""A row of the validation: what is predicted, how far a measurement may be from it, how to measure, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lab.typing import Array

Allowed = ArrayLike | tuple[ArrayLike, ArrayLike]
"""How far off a measurement may be, on either side or (below, above)."""


@dataclass(frozen=True, eq=False)
class Row:
    """One comparison, with everything but the measurement fixed beforehand.

    Attributes:
        number: which of the 24 statements on signal propagation it belongs to.
        name: what is compared, in a few words; with the number it is the row's id.
        statement: what is claimed.
        predicted: the number or numbers expected, each to be met.
        allowed: how far off each measured number may be.
        derivation: where `allowed` comes from, in words.
        measure: returns the measured number or numbers; a function of a module, so that another process can call it.
        network: rows that name the same network are measured by one process, which makes it once.
        is_control: a comparison that is wrong on purpose and has to be found out.
        refusal: theory's own sentence where it makes no prediction; there is nothing to measure then.
    """

    number: int
    name: str
    statement: str
    predicted: ArrayLike
    allowed: Allowed
    derivation: str
    measure: Callable[[], ArrayLike]
    network: Any = None
    is_control: bool = False
    refusal: str = ""

    @property
    def id(self) -> str:
        return f"{self.number:02d} {self.name}"

    @property
    def center(self) -> Array:
        """The predicted numbers, (k,)."""
        return np.atleast_1d(np.asarray(self.predicted, dtype=np.float64))

    @property
    def reach(self) -> tuple[Array, Array]:
        """How far below and above each of them a measurement may be, (k,) each."""
        below, above = self.allowed if isinstance(self.allowed, tuple) else (self.allowed, self.allowed)
        shape = self.center.shape
        return np.broadcast_to(np.asarray(below, float), shape), np.broadcast_to(np.asarray(above, float), shape)


def refused(number: int, name: str, statement: str, sentence: str) -> Row:
    """A row that theory declines beforehand."""
    return Row(number, name, statement, np.nan, np.nan, "theory makes no prediction", _nothing, refusal=sentence)


def _nothing() -> float:
    return np.nan


@dataclass(frozen=True, eq=False)
class RowResult:
    """A row measured and judged.

    Attributes:
        measured: the numbers, in the shape of the row's `center`.
        position: the worst of them, as its deviation over the allowed one: within [-1, 1] is in.
        worst: its index.
        verdict: in, OUT, caught, NOT CAUGHT (controls), "assumption fails: ..." or "failed: ..." with an error.
        is_passed: whether the row speaks for theory and network.
    """

    row: Row
    measured: Array
    position: float
    worst: int
    verdict: str
    is_passed: bool


def judge(row: Row, measured: ArrayLike | None) -> RowResult:
    """Compare; a number or a limit that is not finite is out and no catch, and so is a wrong count of numbers."""
    if row.refusal:
        return RowResult(row, np.array([np.nan]), np.nan, 0, f"assumption fails: {row.refusal}", True)
    if measured is None:
        return failed(row, "it was not measured")
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
        is_caught = 1 < abs(position) < np.inf
        return RowResult(row, values, position, worst, "caught" if is_caught else "NOT CAUGHT", is_caught)
    is_inside = abs(position) <= 1
    return RowResult(row, values, position, worst, "in" if is_inside else "OUT", is_inside)


def failed(row: Row, error: str) -> RowResult:
    """A row whose measurement broke down, which is no pass, for a control neither."""
    return RowResult(row, np.full_like(row.center, np.nan), np.nan, 0, f"failed: {error}", False)


def exit_code(outcomes: list[RowResult]) -> int:
    """0 if every row passed and there is one, else 1."""
    return 0 if outcomes and all(outcome.is_passed for outcome in outcomes) else 1
