"""Checkpoints: everything a run needs to resume, in files that are written atomically and verified when read.

A file is one line with the SHA-256 of what follows, then a `torch.save` of tensors, numbers, strings, lists and
dictionaries. It is read with `weights_only`, which constructs nothing else, so that no file can execute code. The
newest two are retained: if one is damaged, the run resumes from the one before.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lab.machine.files import atomic_write
from lab.readings import Record, to_dataset
from lab.record.files import CHECKPOINTS

if TYPE_CHECKING:
    import xarray as xr

RETAINED = 2
"""Number of checkpoints of a run: the newest, and one to fall back on."""
GROUPS, FATES = ("layers", "scalars", "spectra"), ("diverged_at", "diverged_layer")
"""Fields of a `Record`: dictionaries of arrays, and arrays."""


class DamagedError(ValueError):
    """A file that is not a complete checkpoint; the message names it and the fault."""


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps."""

    fingerprint: str  # of the configuration it belongs to
    step: int  # updates made; the run resumes with this step
    state: Mapping[str, Any]  # from `Trainer.state`, for `Trainer.restore`
    records: Sequence[Record]  # the readings so far
    first_replica: int = 0  # number of the first replica in them


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint of the run in `folder`, remove all but the newest two, and return its path.

    Raises:
        OSError: it cannot be written, for example because the disk is full; the earlier ones are intact then.
    """
    buffer = io.BytesIO()
    content = {name: getattr(checkpoint, name) for name in ("fingerprint", "step", "first_replica", "state")}
    torch.save(content | {"records": [_to_tensors(record) for record in checkpoint.records]}, buffer)
    payload = buffer.getbuffer()
    path = folder / CHECKPOINTS / _name(checkpoint.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft, draft.open("wb") as file:
        file.writelines([_header(payload), payload])
        file.flush()
        os.fsync(file.fileno())  # before it replaces an older file: a power failure must not leave an empty one
    for old in paths(folder)[RETAINED:]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedError: it is truncated, altered, of another format, or lacks a part of a checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    header, newline, _ = content[:128].partition(b"\n")
    payload = memoryview(content)[len(header) + 1 :]
    if header + newline != _header(payload):
        raise DamagedError(f"{path}: damaged, its checksum is not that of its content")
    try:
        parts = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        records = [_from_tensors(values) for values in parts["records"]]
        return Checkpoint(
            str(parts["fingerprint"]), int(parts["step"]), parts["state"], records, int(parts["first_replica"])
        )
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError, AttributeError) as error:
        raise DamagedError(f"{path}: holds no checkpoint of this lab") from error


def latest(folder: Path, on_damage: Callable[[str], None] = lambda sentence: None) -> Checkpoint | None:
    """Read the newest intact checkpoint in `folder`; `on_damage` receives a sentence about each damaged one."""
    for path in paths(folder):
        try:
            return load(path)
        except DamagedError as error:
            on_damage(str(error))
    return None


def readings(folder: Path) -> xr.Dataset | None:
    """Return the table of an unfinished run up to its newest checkpoint, None without one."""
    checkpoint = latest(folder)
    return to_dataset(checkpoint.records, checkpoint.first_replica) if checkpoint and checkpoint.records else None


def paths(folder: Path) -> list[Path]:
    """List the checkpoints in `folder`, the newest first."""
    return sorted((folder / CHECKPOINTS).glob("step-*.ckpt"), reverse=True)


def remove(folder: Path, after: int = -1) -> None:
    """Remove the checkpoints in `folder` of steps after this one, by default all of them."""
    if after < 0:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for path in paths(folder):
        if path.name > _name(after):
            path.unlink(missing_ok=True)


def _header(payload: memoryview) -> bytes:
    return f"gradlab checkpoint 1 sha256 {hashlib.sha256(payload).hexdigest()}\n".encode()


def _name(step: int) -> str:
    return f"step-{step:012d}.ckpt"


def _to_tensors(record: Record) -> dict[str, Any]:
    groups = {group: {k: torch.from_numpy(x.copy()) for k, x in getattr(record, group).items()} for group in GROUPS}
    fates = {name: torch.from_numpy(getattr(record, name).copy()) for name in FATES}
    return {"step": record.step, "seconds": record.seconds, **groups, **fates}


def _from_tensors(values: Mapping[str, Any]) -> Record:
    groups: dict[str, Any] = {group: {str(name): x.numpy() for name, x in values[group].items()} for group in GROUPS}
    fates = {name: values[name].numpy() for name in FATES}
    return Record(step=int(values["step"]), seconds=float(values["seconds"]), **groups, **fates)
