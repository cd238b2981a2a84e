"""hydra/launcher=replicas: runs that differ in numbers alone, trained as replicas of one network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lab.record.folder import run_lock
from lab.run import execution, memory
from lab.schema import Config, ConfigError
from lab.sweep import find_runs
from lab.train.loop import train
from tests.conftest import Command
from tests.contract import assert_keeps_contract
from tests.experiments.test_commands import failing_after, python

pytestmark = pytest.mark.slow

SMALL = ("model.depth=3", "model.width=8", "replicas=2", "batch_size=16", "data=spirals", "threads=1", "device=cpu")
REPLICAS = "hydra/launcher=replicas"
ROUNDING = 2e-3
"""float32 over 12 steps: matrix products of other sizes add in another order, and steps at rates up to 1 amplify that.

One step leaves 1e-6 or so; a wrong rate, variance or seed changes values by tens of percent.
"""


def tables(folder: Path) -> dict[str, xr.Dataset]:
    return {path.parent.name: xr.load_dataset(path, engine="h5netcdf") for path in sorted(folder.glob("*/readings.nc"))}


def first_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step with which each network that is trained from now on begins."""
    steps: list[int] = []

    def watched(*given):
        steps.append(given[4]["steps"] if given[4] else 0)
        return train(*given)

    monkeypatch.setattr(execution, "train", watched)
    return steps


@pytest.mark.parametrize(
    "swept",
    [
        ("seed=1,2", "optimizer.lr=0.1,0.3", "init.gain=0.5"),
        pytest.param(
            ("init=gaussian", "init.weight_var=1,2", "init.bias_var=0,0.1", "first_replica=5"), marks=pytest.mark.slow
        ),
        ("clip=norm", "clip.max_norm=0.1,10", "residual=scaled", "residual.alpha=0.1,1"),
        pytest.param(("activation=relu,tanh", "replicas=1,3"), marks=pytest.mark.slow),  # two networks
        ("optimizer.lr=0.1,1e30", "seed=1,2"),  # two runs diverge, and end before the others
    ],
)
def test_batched_runs_leave_what_separate_runs_leave(gradlab: Command, tmp_path: Path, swept: tuple[str, ...]):
    small = [word for word in SMALL if word.partition("=")[0] not in {w.partition("=")[0] for w in swept}]
    words = ("run", "-m", *swept, *small, "steps=12", "probe.every=4")
    assert gradlab(*words, "output_dir=separate").status == 0
    together = gradlab(*words, REPLICAS, "output_dir=together")
    assert together.status == 0
    separate, batched = tables(tmp_path / "separate"), tables(tmp_path / "together")
    assert list(separate) == list(batched)
    assert len(separate) >= 4
    for name, table in separate.items():
        mine, theirs = (tmp_path / place / name for place in ("together", "separate"))
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in (mine, theirs)]
        assert_keeps_contract(mine, summaries[1]["status"])
        for key in ("status", "fingerprint", "steps_done", "first_nonfinite"):
            assert summaries[0][key] == summaries[1][key], key
        assert dict(batched[name].sizes) == dict(table.sizes)
        for variable in table:
            found, wanted = batched[name][variable].to_numpy(), table[variable].to_numpy()
            scale = np.nanmax(np.abs(np.where(np.isfinite(wanted), wanted, np.nan)), initial=0.0)
            np.testing.assert_allclose(found, wanted, rtol=ROUNDING, atol=ROUNDING * scale, err_msg=str(variable))
        for file in ("config.yaml", "overrides.yaml", "hydra.yaml"):
            texts = [(folder / ".hydra" / file).read_text() for folder in (mine, theirs)]
            lines = [[x for x in text.splitlines() if "launcher" not in x.lower()] for text in texts]
            assert [x.replace("together", "separate") for x in lines[0]] == lines[1]
    assert not list((tmp_path / "together").rglob("*.ckpt"))
    again = gradlab(*words, REPLICAS, "output_dir=together")
    assert again.out.count("finished before") == len(separate)


def test_a_batch_that_is_interrupted_goes_on_bit_for_bit(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("run", "-m", "seed=1,2,3", *SMALL, "steps=12", "probe.every=2", "checkpoint.every=3", REPLICAS)
    assert gradlab(*words, "output_dir=whole").status == 0
    monkeypatch.setattr(execution, "train", failing_after(4, KeyboardInterrupt()))
    assert gradlab(*words, "output_dir=broken").status == 130
    monkeypatch.setattr(execution, "train", train)
    statuses = [json.loads(path.read_text())["status"] for path in (tmp_path / "broken").glob("*/summary.json")]
    assert statuses == ["interrupted"] * 3
    steps = first_steps(monkeypatch)
    again = gradlab(*words, "output_dir=broken")
    assert again.status == 0
    assert steps == [6]
    assert again.out.count("continues from its checkpoint") == 3
    assert not (tmp_path / "broken" / ".batches").exists()
    for name, table in tables(tmp_path / "whole").items():
        xr.testing.assert_identical(tables(tmp_path / "broken")[name].drop_attrs(), table.drop_attrs())


def test_the_runs_of_a_batch_are_running_while_it_trains_and_killed_afterwards_if_it_was(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("seed=1,2", *SMALL, "steps=9", "probe.every=2", "threads=1", "output_dir=sweep")
    states: set[tuple[str, int | None]] = set()

    def watched(*given):
        for record in train(*given):
            yield record
            if record.step == 6:
                states.update((run.state, run.steps) for run in find_runs(tmp_path / "sweep"))
                shutil.copytree(tmp_path / "sweep", tmp_path / "killed")

    monkeypatch.setattr(execution, "train", watched)
    assert gradlab("run", "-m", *words, "checkpoint.every=5", REPLICAS).status == 0
    assert states == {("running", 9)}
    assert [run.state for run in find_runs(tmp_path / "killed")] == ["killed"] * 2
    assert [run.state for run in find_runs(tmp_path / "sweep")] == ["finished"] * 2


def test_a_run_that_was_finished_alone_since_is_left_as_it_is_when_its_batch_is_repeated(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("run", "-m", *SMALL, "steps=12", "probe.every=2", "checkpoint.every=2", "output_dir=sweep")
    monkeypatch.setattr(execution, "train", failing_after(4, KeyboardInterrupt()))
    assert gradlab(*words, "seed=1,2,3", REPLICAS).status == 130
    monkeypatch.setattr(execution, "train", train)
    assert gradlab(*words, "seed=2").status == 0

    def finished() -> dict[str, tuple[int, bytes]]:
        files = (path for path in (tmp_path / "sweep" / "seed=2").rglob("*") if path.is_file())
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = finished()
    again = gradlab(*words, "seed=1,2,3", REPLICAS)
    assert again.status == 0
    assert finished() == before
    assert [line.rpartition("  ")[2] for line in again.out.splitlines()[-2:]] == ["finished"] * 2
    assert not (tmp_path / "sweep" / ".batches").exists()


@pytest.mark.parametrize("later", [("seed=1,2,3,4", REPLICAS), ("seed=1,2,3",)])
def test_the_runs_of_an_interrupted_batch_start_again_in_any_other_constellation(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: tuple[str, ...]
):
    words = (*SMALL, "steps=6", "probe.every=2", "checkpoint.every=3", "output_dir=sweep")
    monkeypatch.setattr(execution, "train", failing_after(3, KeyboardInterrupt()))
    assert gradlab("run", "-m", "seed=1,2,3", *words, REPLICAS).status == 130
    steps = first_steps(monkeypatch)
    again = gradlab("run", "-m", *later, *words)
    assert again.status == 0
    assert set(steps) == {0}
    assert not (tmp_path / "sweep" / ".batches").exists()


def test_a_batch_that_does_not_fit_into_memory_is_split(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(config: Config, device: object) -> None:
        if config.replicas > 4:
            raise ConfigError("too large")

    monkeypatch.setattr(memory, "refuse_too_large", refuse)
    steps = first_steps(monkeypatch)
    assert gradlab("run", "-m", "seed=1,2,3", *SMALL, "steps=1", REPLICAS, "output_dir=sweep").status == 0
    assert steps == [0, 0]  # of one run, and of two
    assert sorted(tables(tmp_path / "sweep")) == ["seed=1", "seed=2", "seed=3"]


def test_two_batches_that_overlap_and_start_at_once_do_all_runs(tmp_path: Path):
    words = (*SMALL, "steps=2", REPLICAS, "output_dir=sweep")
    both = [python("-m", "lab", "run", "-m", seeds, *words, cwd=tmp_path) for seeds in ("seed=0,1,2", "seed=1,2,3")]
    ends = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert [status for _, status in ends] == [0, 0], ends
    assert {path.parent.name for path in (tmp_path / "sweep").glob("*/readings.nc")} == {f"seed={k}" for k in range(4)}


def test_a_run_that_another_process_works_on_does_not_keep_a_batch_from_the_others(gradlab: Command, tmp_path: Path):
    with run_lock(tmp_path / "sweep" / "seed=2"):
        done = gradlab("run", "-m", "seed=1,2,3", *SMALL, "steps=2", REPLICAS, "output_dir=sweep")
    assert done.status == 0
    assert "seed=2: another process is working on this run" in done.err
    assert sorted(tables(tmp_path / "sweep")) == ["seed=1", "seed=3"]


def test_nothing_is_announced_for_a_run_that_another_process_works_on(gradlab: Command, tmp_path: Path):
    words = ("run", "-m", "seed=1,2", *SMALL, "steps=2", "output_dir=sweep")
    assert gradlab(*words).status == 0
    path = tmp_path / "sweep" / "seed=1" / "summary.json"
    path.write_text(path.read_text().replace('"finished"', '"running"', 1))
    with run_lock(path.parent):
        second = gradlab(*words)
    assert "seed=1: another process is working on this run" in second.err
    assert second.out.splitlines()[0] == f"{tmp_path / 'sweep' / 'seed=2'}  finished before"
    assert "begins again" not in second.out


def test_a_batch_that_fails_says_so_of_all_its_runs_and_the_others_go_on(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(config, *given):
        if config.activation.name == "tanh":
            raise RuntimeError("the disk caught fire")
        return train(config, *given)

    monkeypatch.setattr(execution, "train", failing)
    words = ("run", "-m", "activation=tanh,relu", "seed=1,2", *SMALL, "steps=2", REPLICAS, "output_dir=sweep")
    failed = gradlab(*words)
    assert failed.status == 1
    assert "2 of 4 runs failed: activation=tanh,seed=1, activation=tanh,seed=2." in failed.err
    found = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/summary.json")}
    assert [found[f"activation={name},seed=1"]["status"] for name in ("tanh", "relu")] == ["failed", "finished"]
    assert "the disk caught fire" in found["activation=tanh,seed=2"]["error"]
