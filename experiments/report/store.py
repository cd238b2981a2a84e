"""Samples on disk: one .npz per claim, written atomically, reused only if the same code made it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from experiments.report import SAMPLES
from experiments.report.measurement import Measurement
from lab.machine.files import atomic_write
from lab.machine.locks import PATIENCE, file_lock
from lab.schema import ConfigError

PREFIX = "samples/"
"""Prefix of the arrays' names, which keeps them apart from `ABOUT` and from numpy.savez's own arguments."""
ABOUT = "about"
"""JSON text: key, seconds, date, machine, warnings, names of the samples."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder of a report and hold its lock.

    Raises:
        ConfigError: it cannot be created or written to, or another process holds the lock.
    """
    from filelock import Timeout

    with ExitStack() as stack:
        try:
            (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(folder / ".lock", PATIENCE))
        except Timeout:
            raise ConfigError(
                f"--folder {folder}: another gradlab reproduce is running there; wait for it, or choose another."
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--folder {folder}: cannot be written to ({reason}); choose another.") from None
        yield


class Store:
    """The measurements in a folder.

    A measurement is stored with the key of the code that made it (see `fingerprint`). One with another key, or a
    damaged one, is treated as missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, id_: str) -> Path:
        return self.folder / f"{id_}.npz"

    def save(self, id_: str, key: str, measurement: Measurement) -> None:
        """Store a measurement, replacing an earlier one of the same claim."""
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
        """Return the measurement with this key, None if there is none."""
        stored_key, measurement = self._read(id_)
        return measurement if stored_key == key else None

    def seconds(self, id_: str) -> float:
        """Return the duration of the last measurement of a claim, whatever its key; infinite if there is none."""
        _, measurement = self._read(id_)
        return math.inf if measurement is None else measurement.seconds

    def forget(self, id_: str) -> None:
        """Delete the measurement of a claim."""
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
        except Exception:  # a damaged archive can raise anything; the claim is measured again
            return "", None
