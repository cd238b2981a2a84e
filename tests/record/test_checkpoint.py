"""Going on where a run stopped: the state that is kept is all that matters, and a damaged file is never believed."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lab import data
from lab.compose import compose
from lab.readings import Record
from lab.record import checkpoint
from lab.record.checkpoint import Checkpoint, DamagedError
from lab.train.loop import train
from lab.train.trainer import Trainer

SMALL = ("model.depth=4", "model.width=16", "replicas=3", "batch_size=16", "data=spirals", "steps=20", "probe.every=3")
CPU = torch.device("cpu")


class Enough(Exception):  # noqa: N818  # ends a loop, no error
    pass


def records_of(overrides: Sequence[str], folder: Path | None = None, stop_at: int = 7) -> list[Record]:
    """A run's readings; with a folder it is stopped at a step and another trainer goes on from the checkpoint there."""
    config = compose([*SMALL, *overrides])
    dataset = data.load(config.data, getattr(torch, config.dtype), CPU)
    if folder is None:
        return list(train(config, dataset, CPU))
    found: list[Record] = []

    def between(trainer: Trainer) -> None:
        if trainer.steps == stop_at:
            checkpoint.save(folder, Checkpoint("mine", trainer.steps, trainer.state(), found))
            raise Enough

    with pytest.raises(Enough):  # noqa: PT012
        for record in train(config, dataset, CPU, None, None, between):
            found.append(record)  # noqa: PERF402  # the checkpoint holds those until then
    kept = checkpoint.latest(folder)
    assert kept is not None
    assert (kept.fingerprint, kept.step) == ("mine", stop_at)
    return [*kept.records, *train(config, dataset, CPU, None, kept.state)]


@pytest.mark.parametrize(
    "overrides",
    [
        ("activation=rrelu", "norm=batch", "optimizer=adam", "probe.cotangent=random"),
        ("activation=swish", "activation.learnable=true", "optimizer=rmsprop", "dtype=float64"),
        ("residual=rezero", "clip=adaptive", "optimizer.momentum=0.9"),
        ("norm=layer", "norm.place=pre", "residual=identity", "optimizer=adamw", "model.block=ffn"),
        ("optimizer.lr=4",),  # some replicas diverge
        ("probe.jacobian=true", "probe.jacobian_every=6", "probe.eval_every=9", "batch_size=700"),
    ],
)
@pytest.mark.parametrize("stop_at", [1, 7, 20])
def test_a_run_that_goes_on_from_a_checkpoint_is_the_undisturbed_one_bit_for_bit(
    tmp_path: Path, overrides: tuple[str, ...], stop_at: int
):
    whole, resumed = records_of(overrides), records_of(overrides, tmp_path, stop_at)
    assert [record.step for record in resumed] == [record.step for record in whole]
    for a, b in zip(whole, resumed, strict=True):
        for part in ("layers", "scalars", "spectra"):
            assert set(getattr(a, part)) == set(getattr(b, part))
            for name, values in getattr(a, part).items():
                assert np.array_equal(values, getattr(b, part)[name], equal_nan=True), (a.step, name)
        assert np.array_equal(a.diverged_at, b.diverged_at)
        assert np.array_equal(a.diverged_layer, b.diverged_layer)


def kept(folder: Path, steps: Sequence[int]) -> list[Path]:
    return [checkpoint.save(folder, Checkpoint("mine", step, {"number": step}, [])) for step in steps]


def test_the_newest_two_are_kept(tmp_path: Path):
    kept(tmp_path, [5, 900, 1000])
    assert [path.name for path in checkpoint.paths(tmp_path)] == ["step-000000001000.ckpt", "step-000000000900.ckpt"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) * 3 // 4
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [cut, flip, lambda content: b"", lambda content: b"another file"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(tmp_path: Path, harm):
    _, newest = kept(tmp_path, [100, 200])
    newest.write_bytes(harm(newest.read_bytes()))
    told: list[str] = []
    found = checkpoint.latest(tmp_path, told.append)
    assert found is not None
    assert (found.step, found.state) == (100, {"number": 100})
    assert len(told) == 1
    assert told[0].startswith(f"{newest}: damaged")


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path):
    assert checkpoint.latest(tmp_path) is None
    [only] = kept(tmp_path, [100])
    only.write_bytes(b"")
    assert checkpoint.latest(tmp_path) is None


def test_a_checkpoint_of_something_else_with_a_right_checksum_is_refused(tmp_path: Path):
    [path] = kept(tmp_path, [100])
    for thing in ({"no": "checkpoint"}, [1, 2], 7):
        content = io.BytesIO()
        torch.save(thing, content)
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        path.write_bytes(f"gradlab checkpoint 1 sha256 {digest}\n".encode() + content.getvalue())
        with pytest.raises(DamagedError, match="no checkpoint of this lab"):
            checkpoint.load(path)


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept(tmp_path, [100, 200])

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept(tmp_path, [300])
    assert [path.name for path in checkpoint.paths(tmp_path)] == ["step-000000000200.ckpt", "step-000000000100.ckpt"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
