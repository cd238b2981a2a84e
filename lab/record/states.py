"""States of a run."""

import hashlib
from collections.abc import Sequence

DONE = ("finished", "diverged")

IN_TROUBLE = ("failed", "interrupted", "killed", "unreadable")
"""States of incomplete runs that no process works on."""

STATES = (*DONE, "running", *IN_TROUBLE, "waiting")


def batch_label(fingerprints: Sequence[str]) -> str:
    """Hash the fingerprints of runs that are trained together: the fingerprint of their checkpoints."""
    return hashlib.sha256(" ".join(fingerprints).encode(errors="replace")).hexdigest()[:16]
