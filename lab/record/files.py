"""Names of the files in a run's or a sweep's folder."""

from pathlib import Path

SUMMARY, READINGS, PICTURE, EVENTS = "summary.json", "readings.nc", "gradients.png", "events.out.tfevents.*"

PRODUCTS = (SUMMARY, READINGS, PICTURE, EVENTS)
"""Files of a run, besides .hydra/."""

LOCK, PROGRESS, CHECKPOINTS = ".lock", "progress.json", "checkpoints"
"""Present while a run is in progress; the checkpoints until it is complete."""

COLLECTED, SUMMARIES = "collected.nc", "summaries.csv"
"""Files that `gradlab collect` writes into a folder of runs."""

SWEEP = "sweep.json"
"""The list of runs in a sweep's folder."""

BATCHES = ".batches"
"""Folder below a sweep's with the checkpoints of runs that are trained together, and the list of these runs."""


def clear(folder: Path) -> None:
    """Remove the products of an earlier run, except its summary, which says whose folder it is."""
    for pattern in PRODUCTS:
        for old in folder.glob(pattern) if pattern != SUMMARY else ():
            old.unlink()
