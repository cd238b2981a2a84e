"""The states of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

DONE = ("finished", "diverged")


IN_TROUBLE = ("failed", "interrupted", "killed", "unreadable")
"""States of runs that nothing works on any more and that have not come to their end."""


STATES = (*DONE, "running", *IN_TROUBLE, "waiting")


def batch_label(fingerprints: Sequence[str]) -> str:
    """What runs that are trained together are known by; the folder in which they are kept is named so."""
    return hashlib.sha256(" ".join(fingerprints).encode(errors="replace")).hexdigest()[:16]
