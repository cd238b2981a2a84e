"""Vocabulary of a comparison: which readings of a run are shown, and the order of a swept key's values."""

import math
from collections.abc import Sequence
from typing import Any

FIRST, LAST = "first", "last"
"""A run's first and last reading."""
MISSING = "-"
"""Stands for the value of a key that a run does not have."""


def in_order(values: Sequence[Any]) -> list[Any]:
    """Distinct values as `shown`: numbers in increasing order, then texts in order of appearance."""
    distinct = list(dict.fromkeys(map(shown, values)))
    numbers = sorted(value for value in distinct if not isinstance(value, str))
    return [*numbers, *(value for value in distinct if isinstance(value, str))]


def shown(value: Any) -> Any:
    """A key's value as displayed: whole numbers without a decimal point, `MISSING` for NaN and the empty text."""
    if isinstance(value, float):
        return MISSING if math.isnan(value) else int(value) if value.is_integer() and abs(value) < 1e6 else value
    return MISSING if value == "" else value
