"""Samples on disk: one .npz a claim, written at once and whole, and read only where the same code made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments.report.measurement import Measurement
from lab.machine.files import atomic_write

PREFIX = "samples/"
"""Stands before the names of samples, which so cannot be in the way of anything."""
ABOUT = "about"
"""JSON text: key, seconds, date, machine, warnings, names of the samples."""


class Store:
    """The measurements in a folder.

    A measurement is stored with a key that says which code made it; one with another key, a damaged one, or one that
    lacks arrays, is as good as none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, id_: str) -> Path:
        return self.folder / f"{id_}.npz"

    def save(self, id_: str, key: str, measurement: Measurement) -> None:
        """Store a measurement in place of what was there."""
        about = {
            "key": key,
            "seconds": measurement.seconds,
            "date": measurement.date,
            "machine": measurement.machine,
            "warnings": list(measurement.warnings),
            "names": list(measurement.samples),
        }
        samples = {PREFIX + name: values for name, values in measurement.samples.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path(id_)) as draft:
            np.savez_compressed(draft, allow_pickle=False, **{ABOUT: np.array(json.dumps(about)), **samples})

    def load(self, id_: str, key: str) -> Measurement | None:
        """The measurement with this key, None if there is none."""
        found, measurement = self._read(id_)
        return measurement if found == key else None

    def seconds(self, id_: str) -> float | None:
        """How long the claim took when it was last measured, by whatever code."""
        _, measurement = self._read(id_)
        return None if measurement is None else measurement.seconds

    def forget(self, id_: str) -> None:
        """Remove what is stored of a claim."""
        self.path(id_).unlink(missing_ok=True)

    def _read(self, id_: str) -> tuple[str, Measurement | None]:
        try:
            with self.path(id_).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = json.loads(str(file[ABOUT][()]))
                samples = {name.removeprefix(PREFIX): file[name] for name in file.files if name.startswith(PREFIX)}
            if sorted(samples) != sorted(about["names"]):
                return "", None
            origin = float(about["seconds"]), str(about["date"]), str(about["machine"]), tuple(about["warnings"])
            return str(about["key"]), Measurement(samples, *origin)
        except Exception:  # a damaged archive raises whatever its bytes lead to; it is measured again
            return "", None
