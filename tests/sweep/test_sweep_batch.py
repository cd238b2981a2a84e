"""sweep.batch=true: runs that differ in numbers alone are replicas of one network, and nobody can tell afterwards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lab.record.folder import run_lock
from lab.run import execution
from lab.sweep import results
from lab.sweep import status as status_module
from lab.train.loop import train
from tests.conftest import Command
from tests.contract import assert_keeps_contract
from tests.experiments.test_commands import failing_after, python

SMALL = ("model.depth=3", "model.width=8", "replicas=2", "batch_size=16", "data=spirals", "threads=1", "device=cpu")
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
        ("init=gaussian", "init.weight_var=1,2", "init.bias_var=0,0.1", "first_replica=5"),
        ("clip=norm", "clip.max_norm=0.1,10", "residual=scaled", "residual.alpha=0.1,1"),
        ("activation=relu,tanh", "replicas=1,3"),  # two networks, of runs of 1 and of 3 replicas
        ("optimizer.lr=0.1,1e30", "seed=1,2"),  # two runs diverge, and end before the others
    ],
)
def test_batched_runs_leave_what_separate_runs_leave(gradlab: Command, tmp_path: Path, swept: tuple[str, ...]):
    small = [word for word in SMALL if word.partition("=")[0] not in {w.partition("=")[0] for w in swept}]
    words = ("run", "-m", *swept, *small, "steps=12", "probe.every=4")
    assert gradlab(*words, "output_dir=separate").status == 0
    together = gradlab(*words, "sweep.batch=true", "output_dir=together")
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
            texts = [
                (folder / ".hydra" / file).read_text().replace(",sweep.batch=true", "") for folder in (mine, theirs)
            ]
            lines = [[x for x in text.splitlines() if "batch: " not in x and "sweep.batch" not in x] for text in texts]
            assert [x.replace("together", "separate") for x in lines[0]] == lines[1]
    assert not list((tmp_path / "together").rglob("*.ckpt"))
    again = gradlab(*words, "sweep.batch=true", "output_dir=together")
    assert again.out.count("finished before") == len(separate)


def test_a_batch_that_is_interrupted_goes_on_bit_for_bit(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("run", "-m", "seed=1,2,3", *SMALL, "steps=12", "probe.every=2", "checkpoint.every=3", "sweep.batch=true")
    assert gradlab(*words, "output_dir=whole").status == 0
    monkeypatch.setattr(execution, "train", failing_after(4, KeyboardInterrupt()))
    assert gradlab(*words, "output_dir=broken").status == 130
    monkeypatch.setattr(execution, "train", train)
    statuses = [json.loads(path.read_text())["status"] for path in (tmp_path / "broken").glob("*/summary.json")]
    assert statuses == ["interrupted"] * 3
    steps = first_steps(monkeypatch)
    assert gradlab(*words, "output_dir=broken").status == 0
    assert steps == [6]
    for name, table in tables(tmp_path / "whole").items():
        xr.testing.assert_identical(tables(tmp_path / "broken")[name].drop_attrs(), table.drop_attrs())


def test_a_batch_is_collected_and_its_runs_are_told_while_it_works_and_after_it_was_killed(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("seed=1,2", "optimizer.lr=0.1,1e30", *SMALL, "first_replica=3", "steps=9", "probe.every=2", "threads=1")
    sweep, running = tmp_path / "sweep", []
    states: set[str] = set()

    def watched(*given):
        for record in train(*given):
            yield record
            if record.step == 6:  # its checkpoint has the readings until step 4
                running.append(results.collect(sweep).dataset)
                states.update(run.state for run in status_module.find(sweep))
                shutil.copytree(sweep, tmp_path / "killed")

    monkeypatch.setattr(execution, "train", watched)
    assert gradlab("run", "-m", *words, "checkpoint.every=5", "sweep.batch=true", "output_dir=sweep").status == 0

    whole = results.collect(sweep).dataset
    for found in (*running, results.collect(tmp_path / "killed").dataset):
        assert found["last_step"].values.tolist() == [4 if rate < 1 else 2 for rate in found["optimizer.lr"].values]
        assert dict(found.sizes) == {**dict(whole.sizes), "step": 3}
        early = whole[list(found.data_vars)].sel(step=slice(0, 5)).drop_vars(["last_step", "status"])
        xr.testing.assert_identical(found.drop_vars(["last_step", "status"]).drop_attrs(), early.drop_attrs())
    assert states == {"running"}
    assert {(run.state, run.step) for run in status_module.find(tmp_path / "killed")} == {("killed", 5)}
    [one] = (tmp_path / "killed").glob("seed=1,*lr=0.1")
    assert [(run.state, run.step) for run in status_module.find(one)] == [("killed", 5)]
    assert results.load(one)["step"].values.tolist() == [0, 2, 4]


@pytest.mark.parametrize(("alone_until", "goes_on"), [(10, 8), (32, 0)])
def test_of_a_batch_and_a_run_that_came_further_since_alone_the_one_that_saves_more_goes_on(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone_until: int, goes_on: int
):
    words = (*SMALL, "steps=40", "probe.every=2", "checkpoint.every=2", "output_dir=sweep")
    monkeypatch.setattr(execution, "train", failing_after(4, KeyboardInterrupt()))  # at step 8
    assert gradlab("run", "-m", "seed=1,2", *words, "sweep.batch=true").status == 130
    monkeypatch.setattr(execution, "train", failing_after(alone_until // 2, KeyboardInterrupt()))
    assert gradlab("run", "-m", "seed=2", *words).status == 130
    found = {run.folder.name: run.step for run in status_module.find(tmp_path / "sweep")}
    assert found == {"seed=1": 8, "seed=2": alone_until}
    steps = first_steps(monkeypatch)
    assert gradlab("run", "-m", "seed=1,2", *words, "sweep.batch=true").status == 0
    assert sorted(steps) == ([goes_on] if goes_on else [0, alone_until])
    assert not list((tmp_path / "sweep").rglob("*.ckpt"))


def test_a_run_that_was_finished_alone_since_is_left_as_it_is_when_its_batch_goes_on(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small = (*SMALL, "steps=12", "probe.every=2", "checkpoint.every=2")
    assert gradlab("run", "-m", "seed=1,2,3", *small, "output_dir=whole", "sweep.batch=true").status == 0
    words = (*small, "output_dir=sweep")
    monkeypatch.setattr(execution, "train", failing_after(4, KeyboardInterrupt()))
    assert gradlab("run", "-m", "seed=1,2,3", *words, "sweep.batch=true").status == 130
    steps = first_steps(monkeypatch)
    assert gradlab("run", "-m", "seed=2", *words).status == 0

    def finished() -> dict[str, tuple[int, bytes]]:
        files = (path for path in (tmp_path / "sweep" / "seed=2").rglob("*") if path.is_file())
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = finished()
    again = gradlab("run", "-m", "seed=1,2,3", *words, "sweep.batch=true")
    assert again.status == 0
    assert steps == [0, 8]
    assert finished() == before
    assert [line.rpartition("/")[2] for line in again.out.splitlines()] == [
        "seed=1  continues from its checkpoint",
        "seed=2  finished before",
        "seed=3  continues from its checkpoint",
        "seed=1  finished",
        "seed=3  finished",
    ]
    for name in ("seed=1", "seed=3"):
        mine, whole = tables(tmp_path / "sweep")[name], tables(tmp_path / "whole")[name]
        xr.testing.assert_identical(mine.drop_attrs(), whole.drop_attrs())
    assert not (tmp_path / "sweep" / ".batches").exists()


def test_two_batches_that_overlap_and_start_at_once_do_all_runs(tmp_path: Path):
    words = (*SMALL, "steps=2", "sweep.batch=true", "output_dir=sweep")
    both = [python("-m", "lab", "run", "-m", seeds, *words, cwd=tmp_path) for seeds in ("seed=0,1,2", "seed=1,2,3")]
    ends = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert [status for _, status in ends] == [0, 0], ends
    assert {path.parent.name for path in (tmp_path / "sweep").glob("*/readings.nc")} == {f"seed={k}" for k in range(4)}


def test_a_batch_that_cannot_be_kept_is_not_begun(gradlab: Command, tmp_path: Path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / ".batches").touch()
    done = gradlab("run", "-m", "seed=1,2", *SMALL, "steps=2", "sweep.batch=true", "output_dir=sweep")
    assert done.status == 1
    assert "Not a directory" in done.err
    assert "Not finished: seed=1, seed=2; the same command goes on with them." in done.err


@pytest.mark.parametrize(
    "later", [("seed=1,2,3,4", "sweep.batch=true"), ("seed=3,2,1", "sweep.batch=true"), ("seed=1,2,3",)]
)
def test_a_batch_that_is_interrupted_goes_on_whatever_else_is_wanted_then(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: tuple[str, ...]
):
    words = (*SMALL, "steps=12", "probe.every=2", "checkpoint.every=3", "output_dir=sweep")
    monkeypatch.setattr(execution, "train", failing_after(4, KeyboardInterrupt()))
    assert gradlab("run", "-m", "seed=1,2,3", *words, "sweep.batch=true").status == 130
    steps = first_steps(monkeypatch)
    again = gradlab("run", "-m", *later, *words)
    assert again.status == 0
    assert again.out.count("continues from its checkpoint") == 3
    assert "begins again" not in again.out
    assert steps == ([6, 0] if "4" in later[0] else [6])
    assert not list((tmp_path / "sweep" / ".batches").glob("*"))


def test_a_run_that_another_process_works_on_does_not_keep_a_batch_from_the_others(gradlab: Command, tmp_path: Path):
    with run_lock(tmp_path / "sweep" / "seed=2"):
        done = gradlab("run", "-m", "seed=1,2,3", *SMALL, "steps=2", "sweep.batch=true", "output_dir=sweep")
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
    words = ("run", "-m", "activation=tanh,relu", "seed=1,2", *SMALL, "steps=2", "sweep.batch=true", "output_dir=sweep")
    failed = gradlab(*words)
    assert failed.status == 1
    assert "2 of 4 runs failed: activation=tanh,seed=1, activation=tanh,seed=2." in failed.err
    found = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/summary.json")}
    assert [found[f"activation={name},seed=1"]["status"] for name in ("tanh", "relu")] == ["failed", "finished"]
    assert "the disk caught fire" in found["activation=tanh,seed=2"]["error"]


@pytest.mark.slow
def test_a_batch_over_processes_is_the_batch_in_one(gradlab: Command, tmp_path: Path):
    words = ("run", "-m", "seed=range(0,5)", *SMALL, "steps=12", "probe.every=4", "sweep.batch=true")
    assert gradlab(*words, "output_dir=one").status == 0
    many = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert gradlab(*words, *many, "output_dir=two").status == 0
    for name, table in tables(tmp_path / "one").items():
        other = tables(tmp_path / "two")[name]
        for variable in table:
            scale = float(np.nanmax(np.abs(table[variable])))
            np.testing.assert_allclose(other[variable], table[variable], rtol=ROUNDING, atol=ROUNDING * scale)
    assert not list((tmp_path / "two").rglob("*.ckpt"))


def test_a_batch_stays_on_this_machine(gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    refused = gradlab("run", "-m", "seed=1,2", *SMALL, "sweep.batch=true", "hydra/launcher=submitit_slurm")
    assert refused.status == 2
    assert refused.err.startswith("sweep.batch=true: it computes on this machine; leave out ")
    assert list(tmp_path.iterdir()) == []
