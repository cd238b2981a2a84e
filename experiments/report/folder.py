"""The folder of a run: refused before anything is measured if it cannot take the results, and one run's at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.report import DATA, PAGE, PICTURES, SAMPLES, TEXT
from lab.schema import ConfigError


@contextmanager
def taken(folder: Path, ids: Sequence[str]) -> Iterator[None]:
    """Make the folder, have it for this process alone, and see that the results of these claims can be written.

    Raises:
        ConfigError: it cannot be made or written in, something else is in a result's place, or another run has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _refusal(folder, error.strerror or str(error)) from None
    try:
        _lock(folder, opened)
        _probe(folder, ids)
        yield
    finally:
        os.close(opened)  # which also ends the lock, as does the end of the process


def _lock(folder: Path, opened: int) -> None:
    """The lock is on the folder itself, so that no file is left behind; where a system has none, there is none."""
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--folder {folder}: another gradlab reproduce is at work there; wait for it, or choose another."
            ) from None
        except OSError:  # a file system without locks
            return


def _probe(folder: Path, ids: Sequence[str]) -> None:
    files = [Path(name) for name in (PAGE, TEXT, DATA)]
    files += [Path(part, f"{id_}{ending}") for part, ending in ((SAMPLES, ".npz"), (PICTURES, ".png")) for id_ in ids]
    for part in (SAMPLES, PICTURES):
        if (folder / part).exists() and not (folder / part).is_dir():
            raise _refusal(folder, f"{part} is no folder")
    for file in files:
        if (folder / file).is_dir():
            raise _refusal(folder, f"{file} is a folder")
    for place in (folder, folder / SAMPLES, folder / PICTURES):
        try:
            if place.exists():
                with tempfile.TemporaryFile(dir=place) as draft:
                    draft.write(b"?")
        except OSError as error:
            raise _refusal(folder, error.strerror or str(error)) from None


def _refusal(folder: Path, reason: str) -> ConfigError:
    return ConfigError(f"--folder {folder}: results cannot be written there ({reason}); choose another, or mend it.")
