"""Names of the files in a run's or a sweep's folder."""

from __future__ import annotations

from pathlib import Path

SUMMARY, READINGS, PICTURE, EVENTS = "summary.json", "readings.nc", "gradients.png", "events.out.tfevents.*"


PRODUCTS = (SUMMARY, READINGS, PICTURE, EVENTS)
"""What a run leaves in its folder besides .hydra/."""


LOCK, PROGRESS, CHECKPOINTS = ".lock", "progress.json", "checkpoints"
"""What is there while it works, or until it has come to its end: who works on it, how far it is, how it can go on."""


COLLECTED, SUMMARIES = "collected.nc", "summaries.csv"
"""What `gradlab collect` writes into a folder of runs."""


SWEEP = "sweep.json"
"""The runs of a sweep, in its folder."""


BATCHES, MEMBERS = ".batches", "members.json"
"""Below a sweep's folder, of runs that are trained together: a folder with their checkpoints, and whose these are."""


def clear(folder: Path) -> None:
    """Remove the products of an earlier run, but for its summary, which says whose folder it is."""
    for pattern in PRODUCTS:
        for old in folder.glob(pattern) if pattern != SUMMARY else ():
            old.unlink()
