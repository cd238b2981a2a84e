"""Checkpoints: all that a run needs to go on as if it had never stopped, in files that are whole or not there at all.

A file is one line with the SHA-256 of what follows, then what `torch.save` makes of tensors, numbers, texts, lists and
dictionaries. It is read with `weights_only`, which builds nothing else, so that no file can make this process run code.
The newest two are kept: if one is damaged, the run goes on from the one before.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lab.machine.files import atomic_write
from lab.readings import Record, to_dataset
from lab.record.files import CHECKPOINTS

if TYPE_CHECKING:
    import xarray as xr

KEPT = 2
"""Checkpoints of a run: the newest, and one to fall back on."""

HEADER = re.compile(rb"gradlab checkpoint 1 sha256 ([0-9a-f]{64})\n")
HEADER_BYTES = len(b"gradlab checkpoint 1 sha256 ") + 64 + 1


class DamagedError(ValueError):
    """A file that is no whole checkpoint; the message names it and says what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        fingerprint: of the configuration it belongs to.
        step: updates made; the run goes on with this step.
        state: what `Trainer.restore` takes.
        records: the readings until then.
        first_replica: the number of the first replica in them.
    """

    fingerprint: str
    step: int
    state: Mapping[str, Any]
    records: Sequence[Record]
    first_replica: int = 0


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint of the run in `folder`, remove all but the newest two, and return its path.

    Raises:
        OSError: it cannot be written, for example because the disk is full; the earlier ones are left then.
    """
    content = io.BytesIO()
    torch.save(
        {
            "fingerprint": checkpoint.fingerprint,
            "step": checkpoint.step,
            "first_replica": checkpoint.first_replica,
            "state": checkpoint.state,
            "records": [_plain(record) for record in checkpoint.records],
        },
        content,
    )
    payload = content.getbuffer()
    path = folder / CHECKPOINTS / _name(checkpoint.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft, draft.open("wb") as file:
        file.write(f"gradlab checkpoint 1 sha256 {hashlib.sha256(payload).hexdigest()}\n".encode())
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())  # before it takes the place of an older one: a power cut must not leave an empty file
    for old in paths(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedError: it is cut short, changed, of another format, or holds what no checkpoint holds.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    header, payload = content[:HEADER_BYTES], memoryview(content)[HEADER_BYTES:]
    found = HEADER.fullmatch(header)
    if found is None or hashlib.sha256(payload).hexdigest().encode() != found[1]:
        raise DamagedError(f"{path}: damaged, its checksum is not that of its content")
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        records = [_record(values) for values in content["records"]]
        fingerprint, step, first = content["fingerprint"], content["step"], content["first_replica"]
        return Checkpoint(str(fingerprint), int(step), content["state"], records, int(first))
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError, AttributeError) as error:
        raise DamagedError(f"{path}: holds no checkpoint of this lab") from error


def latest(folder: Path, on_damage: Callable[[str], None] = lambda sentence: None) -> Checkpoint | None:
    """The newest checkpoint in `folder` that is whole; `on_damage` is told of those that are not."""
    for path in paths(folder):
        try:
            return load(path)
        except DamagedError as error:
            on_damage(str(error))
    return None


def readings(folder: Path) -> xr.Dataset | None:
    """Return the table of an unfinished run up to its newest checkpoint, None without one."""
    checkpoint = latest(folder)
    if checkpoint is None or not checkpoint.records:
        return None
    return to_dataset(checkpoint.records, checkpoint.first_replica)


def paths(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first."""
    return sorted((folder / CHECKPOINTS).glob("step-*.ckpt"), reverse=True)


def forget(folder: Path, after: int = -1) -> None:
    """Remove the checkpoints in `folder` of steps after this one; all of them unless told."""
    if after < 0:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return
    for path in paths(folder):
        if path.name > _name(after):
            path.unlink(missing_ok=True)


def _name(step: int) -> str:
    return f"step-{step:012d}.ckpt"


def _plain(record: Record) -> dict[str, Any]:
    """A record in tensors and numbers."""
    values = {
        part: {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in getattr(record, part).items()}
        for part in ("layers", "scalars", "spectra")
    }
    fates = {name: torch.from_numpy(np.ascontiguousarray(getattr(record, name))) for name in FATES}
    return {"step": record.step, "seconds": record.seconds, **values, **fates}


def _record(values: Mapping[str, Any]) -> Record:
    arrays: dict[str, Any] = {
        part: {str(name): x.numpy() for name, x in values[part].items()} for part in ("layers", "scalars", "spectra")
    }
    fates = {name: values[name].numpy() for name in FATES}
    return Record(step=int(values["step"]), seconds=float(values["seconds"]), **arrays, **fates)


FATES = ("diverged_at", "diverged_layer")
