"""One run, whole: what its folder and its summary say, and what Python gets without a folder."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import xarray as xr
from hydra import initialize_config_dir
from hydra.core.utils import JobRuntime

import lab
from lab.compose import compose
from lab.machine.files import atomic_write
from lab.plot import style
from lab.readings import Record
from lab.record.folder import Task, task
from lab.record.sinks.tensorboard import TensorBoard
from lab.run import execution, simulation
from lab.schema import ConfigError, fingerprint
from lab.theory import critical_weight_var_of
from lab.train.loop import train

SMALL = ("model.depth=4", "model.width=16", "replicas=6", "batch_size=16", "data=spirals", "steps=12", "probe.every=1")
SOME_DIVERGE, ALL_DIVERGE = "optimizer.lr=4", "optimizer.lr=1e30"


def run(folder: Path, *overrides: str) -> tuple[xr.Dataset, dict[str, Any]]:
    """Train quietly into a folder; its readings and its summary."""
    summary = execution.run(compose([*SMALL, *overrides]), folder, is_quiet=True)
    assert summary == strict_json(folder / "summary.json")
    return xr.load_dataset(folder / "readings.nc", engine="h5netcdf"), summary


def strict_json(path: Path) -> Any:
    """What the file says; NaN and Infinity, which Python writes and reads, are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# --- the summary ----------------------------------------------------------------------------------------------------


def test_the_summary_holds_the_median_over_replicas_of_the_last_and_the_best_reading(tmp_path: Path):
    table, summary = run(tmp_path / "mine", "probe.eval_every=3", "seed=4")
    assert (summary["status"], summary["steps_done"]) == ("finished", 12)
    last = table.isel(step=-1)
    for name in ("loss", "eval_loss", "eval_accuracy", "grad_norm", "clipped_grad_norm", "delta_slope"):
        assert summary["last"][name] == pytest.approx(float(last[name].median()), rel=1e-12), name
    ratio = last["delta_rms"].isel(layer=0) / last["delta_rms"].isel(layer=3)
    assert summary["last"]["delta_rms_first_over_last"] == pytest.approx(float(ratio.median()), rel=1e-12)
    dead = last["dead_fraction"].mean("layer")
    assert summary["last"]["dead_fraction"] == pytest.approx(float(dead.median()), rel=1e-12)

    for name, best in (("loss", np.nanmin), ("eval_loss", np.nanmin), ("eval_accuracy", np.nanmax)):
        medians = table[name].dropna("step", how="all").median("replica")
        assert summary["best"][name]["value"] == pytest.approx(best(medians), rel=1e-12), name
        step = summary["best"][name]["step"]
        assert float(medians.sel(step=step)) == summary["best"][name]["value"], name

    assert summary["replicas"] == [{"replica": r, "status": "finished"} for r in range(6)]
    assert summary["first_nonfinite"] is None
    assert summary["fingerprint"] == fingerprint(compose([*SMALL, "probe.eval_every=3", "seed=4"]))
    assert set(summary["versions"]) >= {"gradlab", "python", "torch", "numpy"}
    assert summary["device"].startswith("cpu, ")
    assert 0 < summary["seconds"] < 60


def test_a_diverged_replica_is_named_with_the_step_and_the_layer_and_the_run_finishes(tmp_path: Path):
    table, summary = run(tmp_path / "mine", SOME_DIVERGE, "first_replica=10")
    expected: list[dict[str, Any]] = []
    for replica in table["replica"].values:
        reading = table.sel(replica=replica)
        is_bad = (reading["nonfinite"].sum("layer") > 0) | ~np.isfinite(reading["loss"])
        if not is_bad.any():
            expected.append({"replica": int(replica), "status": "finished"})
            continue
        step = int(table["step"].values[is_bad.values.argmax()])
        layers = table["layer"].where(reading["nonfinite"].sel(step=step) > 0, drop=True)
        layer = int(layers.max()) if layers.size else None
        expected.append({"replica": int(replica), "status": "diverged", "step": step, "layer": layer})
    diverged = [fate for fate in expected if fate["status"] == "diverged"]
    assert 0 < len(diverged) < 6, "this test wants both fates; choose another learning rate"
    assert summary["status"] == "finished"
    assert summary["replicas"] == expected
    assert summary["first_nonfinite"] == min(diverged, key=lambda fate: fate["step"])
    assert np.isfinite(summary["last"]["loss"])


def test_a_run_has_diverged_when_all_its_replicas_have_and_says_so_in_json(tmp_path: Path):
    table, summary = run(tmp_path / "mine", ALL_DIVERGE)
    assert summary["status"] == "diverged"
    assert {fate["status"] for fate in summary["replicas"]} == {"diverged"}
    assert table["step"].values[-1] == max(fate["step"] for fate in summary["replicas"]) < 12
    first = summary["first_nonfinite"]
    assert first["step"] == min(fate["step"] for fate in summary["replicas"])
    assert table["nonfinite"].sel(step=first["step"], layer=first["layer"], replica=first["replica"]) > 0


# --- Python ---------------------------------------------------------------------------------------------------------


def test_simulate_returns_what_a_run_writes_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table, _ = run(tmp_path / "mine", "output_dir=x", "first_replica=3", "activation=tanh")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    readings = lab.simulate(*SMALL, "output_dir=x", "first_replica=3", "activation=tanh")
    xr.testing.assert_identical(readings, table)
    assert readings["replica"].values.tolist() == [3, 4, 5, 6, 7, 8]
    assert list((tmp_path / "empty").iterdir()) == []
    xr.testing.assert_identical(lab.load(tmp_path / "mine"), table)
    xr.testing.assert_identical(lab.load(str(tmp_path / "mine" / "readings.nc")), table)


def test_simulate_refuses_what_the_command_line_refuses():
    with pytest.raises(ConfigError, match=r"^model\.deph: "):
        lab.simulate("model.deph=3")
    with pytest.raises(ConfigError, match=r"^steps=1,2: several values are a sweep"):
        lab.simulate("steps=1,2")


def test_simulate_leaves_the_hydra_application_around_it_alone(tmp_path: Path):
    (tmp_path / "host.yaml").write_text("mine: 1\n")
    with initialize_config_dir(str(tmp_path), job_name="host", version_base="1.2"):
        readings = lab.simulate(*SMALL, "steps=0")
        with pytest.raises(ConfigError):
            lab.simulate("activation=nothing")
        assert hydra.compose("host") == {"mine": 1}
        assert str(hydra.version.getbase()) == "1.2"
        assert JobRuntime.instance().get("name") == "host"
    assert dict(readings.sizes) == {"step": 1, "layer": 4, "replica": 6}


def test_threads_are_the_runs_own_and_given_back(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def watched(*arguments: Any) -> Iterator[Any]:
        seen.append(torch.get_num_threads())
        return train(*arguments)

    monkeypatch.setattr(simulation, "train", watched)
    before = torch.get_num_threads()
    readings = lab.simulate(*SMALL, "steps=0", f"threads={before + 1}")
    assert seen == [before + 1]
    assert readings.attrs["device"] == f"cpu, {before + 1} threads"
    assert torch.get_num_threads() == before


class Recorder:
    """A sink of the user's own."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.is_closed = False

    def write(self, record: Record) -> None:
        assert not self.is_closed
        self.steps.append(record.step)

    def close(self) -> None:
        self.is_closed = True


def test_sinks_of_the_users_own_receive_every_reading_and_are_closed(tmp_path: Path):
    recorders = [Recorder(), Recorder()]
    readings = lab.simulate(*SMALL, sinks=recorders)
    for recorder in recorders:
        assert recorder.steps == readings["step"].values.tolist() == list(range(13))
        assert recorder.is_closed
    mine = Recorder()
    execution.run(compose(SMALL), tmp_path, is_quiet=True, sinks=[mine])
    assert mine.steps == list(range(13))
    assert mine.is_closed


def test_a_sink_of_the_users_own_that_fails_is_closed_and_fails_the_run(tmp_path: Path):
    class Broken(Recorder):
        def write(self, record: Record) -> None:
            raise ValueError("no room in my list")

    broken = Broken()
    with pytest.raises(ValueError, match="no room in my list"):
        execution.run(compose(SMALL), tmp_path, is_quiet=True, sinks=[broken])
    assert broken.is_closed
    assert strict_json(tmp_path / "summary.json")["status"] == "failed"


def test_a_critical_init_is_resolved_for_the_network_and_stays_in_what_is_written(tmp_path: Path):
    overrides = ("activation=tanh", "init=critical", "init.bias_var=0.05")
    table, summary = run(tmp_path / "mine", *overrides)
    weight_var = critical_weight_var_of(compose(overrides))
    gaussian = lab.simulate(*SMALL, "activation=tanh", "init=gaussian", f"init.weight_var={weight_var!r}", overrides[2])
    xr.testing.assert_equal(table, gaussian)
    assert summary["config"]["init"]["name"] == json.loads(table.attrs["config"])["init"]["name"] == "critical"
    assert summary["fingerprint"] == table.attrs["fingerprint"] == fingerprint(compose([*SMALL, *overrides]))


def test_the_package_exports_its_public_functions():
    added = ["register_activation", "register_init", "register_optimizer", "register_quantity"]
    assert sorted(lab.__all__) == ["load", "predict", *added, "simulate"]
    assert all(callable(getattr(lab, name)) for name in lab.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'simulte'"):
        lab.simulte  # noqa: B018


# --- the folder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", ["summary.json", "readings.nc", "gradients.png", "events.out.tfevents.1.host.2.0"])
def test_any_trace_of_a_run_makes_a_folder_taken(tmp_path: Path, product: str):
    (tmp_path / "notes.txt").touch()
    assert task(tmp_path, "mine", may_overwrite=False)[0] is Task.BEGIN
    (tmp_path / product).touch()
    with pytest.raises(ConfigError, match=r"holds a run already.*; choose another, or add overwrite=true\.$"):
        task(tmp_path, "mine", may_overwrite=False)
    assert task(tmp_path, "mine", may_overwrite=True)[0] is Task.BEGIN


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path):
    run(tmp_path, "seed=1")
    (tmp_path / "notes.txt").write_text("keep me")
    old = {path.name for path in tmp_path.glob("events*")}
    with pytest.raises(ConfigError, match="holds a run already"):
        run(tmp_path, "seed=2")
    _, summary = run(tmp_path, "seed=2", "overwrite=true")
    assert summary["config"]["seed"] == 2
    assert (tmp_path / "notes.txt").read_text() == "keep me"
    assert len(list(tmp_path.glob("events*"))) == 1
    assert {path.name for path in tmp_path.glob("events*")} != old


def test_a_run_refused_for_its_data_leaves_the_earlier_run_as_it_was(tmp_path: Path):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"^data\.path=gone\.npz: "):
        execution.run(compose(["data=npz", "data.path=gone.npz", "overwrite=true"]), tmp_path, is_quiet=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match="full"), atomic_write(path) as draft:  # noqa: PT012
        draft.write_text("ha")
        assert not path.exists()
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []

    path.write_text("the old one")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as draft:  # noqa: PT012
        draft.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "the old one"

    with atomic_write(path) as draft:
        assert draft.suffix == ".csv"
        draft.write_text("the new one")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.csv", "the new one")]


def write_half(*arguments: Any, **options: Any) -> None:
    path = next(argument for argument in arguments if isinstance(argument, Path))
    path.write_bytes(b"half of it")
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("target", "name", "missing"),
    [(style, "save", {"gradients.png"}), (xr.Dataset, "to_netcdf", {"gradients.png", "readings.nc"})],
)
def test_a_sink_that_fails_at_the_end_leaves_no_half_file_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, missing: set[str]
):
    monkeypatch.setattr(target, name, write_half)
    with pytest.raises(OSError, match="disk full"):
        execution.run(compose(SMALL), tmp_path, is_quiet=True)
    names = {path.name.partition(".out.")[0] for path in tmp_path.iterdir()} - {".lock"}
    assert names == {"summary.json", "readings.nc", "gradients.png", "events"} - missing
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "disk full" in summary["error"]
    assert summary["steps_done"] == 12


def test_a_sink_that_fails_on_the_way_stops_the_run_and_the_others_keep_what_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = TensorBoard.write

    def write(self: TensorBoard, record: Any) -> None:
        if record.step == 3:
            raise OSError("disk full")
        real(self, record)

    monkeypatch.setattr(TensorBoard, "write", write)
    with pytest.raises(OSError, match="disk full"):
        execution.run(compose(SMALL), tmp_path, is_quiet=True)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
    assert lab.load(tmp_path)["step"].values.tolist() == [0, 1, 2, 3]
    assert not [path for path in tmp_path.iterdir() if str(os.getpid()) in path.name and "tfevents" not in path.name]
