"""Dataclass fields with a range, a list of allowed words, or the meaning of a path."""

from dataclasses import field
from typing import Any


def number(default: float | int | None, **bounds: float) -> Any:
    """Return a numeric field of the default's type; `check` enforces `above`, `at_least`, `below` and `at_most`."""
    return field(default=default, metadata={"bounds": bounds})


def choice(default: str, *others: str) -> Any:
    """Return a text field that takes `default` or one of the `others`."""
    return field(default=default, metadata={"allowed": (default, *others)})


def path(default: str) -> Any:
    """Return a text field that names a file or folder."""
    return field(default=default, metadata={"path": True})
