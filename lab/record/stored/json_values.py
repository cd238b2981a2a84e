"""Values of JSON files that anybody may have written: each of the expected type, or None."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST_FILE = 64 * 2**20
"""Bytes; the summary of 100,000 replicas, the most there can be, is a quarter of it."""
LARGEST_AMOUNT = 10**12
"""Steps or seconds; no configuration has more steps."""


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is not a regular file, is too large, or is not JSON."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def number(value: Any) -> float | None:
    """A number that fits into 64 bits."""
    is_number = isinstance(value, float) or (type(value) is int and -(2**63) <= value < 2**63)
    return value if is_number else None


def amount(value: Any) -> float | None:
    """Seconds or steps: finite, not negative, at most `LARGEST_AMOUNT`."""
    return value if number(value) is not None and 0 <= value <= LARGEST_AMOUNT else None


def count(value: Any) -> int | None:
    """An amount that is an integer."""
    return value if isinstance(value, int) and amount(value) is not None else None


def printable(value: str) -> str:
    """Text that a terminal, a CSV and a NetCDF file can hold: unprintable characters become question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in value)
