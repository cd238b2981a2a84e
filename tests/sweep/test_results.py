"""Reading what runs left: one run's table, or a whole sweep as one dataset and one list."""

import functools
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from filelock import FileLock

import lab
from lab import schema
from lab.compose import compose
from lab.readings import Record, to_dataset
from lab.record import checkpoint
from lab.record.checkpoint import Checkpoint
from lab.record.stored import netcdf
from lab.record.stored.netcdf import UnreadableError
from lab.run import execution
from lab.schema import as_dict, flatten
from lab.sweep import results
from lab.sweep.results import differing_keys
from tests.conftest import Command
from tests.record.test_tensorboard import reading

SMALL = ("model.width=8", "replicas=2", "batch_size=16", "data=spirals", "probe.every=1")


@functools.cache
def composed(*overrides: str) -> schema.Config:
    return compose(overrides)


@functools.cache
def stored(depth: int, **changes: Any) -> tuple[xr.Dataset, bytes]:
    """A table of two readings, and the file that it makes."""
    table = to_dataset([reading(step, depth, **changes) for step in (0, 20)], attrs={"fingerprint": "of this run"})
    return table, bytes(table.to_netcdf(engine="h5netcdf"))


def leave(folder: Path, *overrides: str, status: str = "finished", depth: int = 3, **changes: Any) -> xr.Dataset:
    """Leave behind what a run does, as far as reading it goes; its readings have the values in `changes`."""
    folder.mkdir(parents=True)
    config = composed(f"model.depth={depth}", "replicas=2", *overrides)
    table, content = stored(depth, **changes)
    (folder / "readings.nc").write_bytes(content)
    summary = {"status": status, "config": as_dict(config), "last": {"loss": 0.5}, "steps_done": 20, "seconds": 1.5}
    summary["best"] = {"loss": {"value": 0.25, "step": 10}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return table


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, xr.Dataset]]:
    """Four runs that finished, in two keys, and four that came to nothing in four ways."""
    folder = tmp_path_factory.mktemp("sweep")
    tables = {
        f"{activation},{depth}": leave(
            folder / f"{activation},{depth}",
            f"activation={activation}",
            depth=depth,
            loss=depth,
            delta_rms=0.1**depth,
        )
        for activation in ("relu", "tanh")
        for depth in (2, 3)
    }
    for name, status in (("raised", "failed"), ("stopped", "interrupted")):
        leave(folder / name, "activation=sigmoid", status=status, depth=3)
    (folder / "raised" / "readings.nc").unlink()
    (folder / "killed" / ".hydra").mkdir(parents=True)
    (folder / "killed" / ".hydra" / "config.yaml").write_text("steps: 3\n")  # and no summary: of an older lab
    (folder / "cut").mkdir()
    (folder / "cut" / "summary.json").write_text('{"status": "fini')
    return folder, tables


@pytest.fixture
def sweep(original: tuple[Path, Mapping[str, xr.Dataset]], tmp_path: Path) -> tuple[Path, Mapping[str, xr.Dataset]]:
    """A copy of it that a test may write into."""
    return shutil.copytree(original[0], tmp_path / "sweep"), original[1]


@contextmanager
def working(folder: Path, *overrides: str, until: int | None = None, **changes: Any) -> Iterator[None]:
    """A run at work, which keeps a checkpoint of its readings until a step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"status": "running", "config": as_dict(compose(overrides))}))
    if until is not None:
        records = [reading(step, **changes) for step in range(0, until + 1, 10)]
        checkpoint.save(folder, Checkpoint("of this run", until, {}, records))
    with FileLock(folder / ".lock"):
        yield


def test_a_sweep_is_one_dataset_with_the_swept_keys_to_select_by(sweep: tuple[Path, Mapping[str, xr.Dataset]]):
    folder, tables = sweep
    dataset = lab.load(folder)
    assert dict(dataset.sizes) == {"run": 5, "step": 2, "layer": 3, "replica": 2}
    for name, table in tables.items():
        activation, depth = name.split(",")
        found = dataset.sel({"activation": activation, "model.depth": int(depth)})
        assert found["folder"] == name
        assert found["status"] == "finished"
        np.testing.assert_array_equal(found["loss"], table["loss"])
        np.testing.assert_array_equal(found["delta_rms"].isel(layer=slice(0, int(depth))), table["delta_rms"])
        assert found["delta_rms"].isel(layer=slice(int(depth), None)).isnull().all()
    of_tanh = dataset.sel(activation="tanh")
    assert of_tanh["loss"].sel({"model.depth": [3, 2]}).isel(step=0, replica=0).values.tolist() == [3, 2]
    unstacked = dataset.unstack("run")
    assert {"activation": 3, "model.depth": 2}.items() <= dict(unstacked.sizes).items()
    assert unstacked["loss"].sel({"activation": "tanh", "model.depth": 2}).values.tolist() == [[2, 2], [2, 2]]


def test_what_was_measured_keeps_its_name_and_units(sweep: tuple[Path, Mapping[str, xr.Dataset]]):
    folder, tables = sweep
    dataset = lab.load(folder)
    for name in ("delta_rms", "loss"):
        assert dataset[name].attrs == tables["relu,2"][name].attrs
        assert dataset[name].attrs["units"]
        assert dataset[name].dtype == np.float64


def test_runs_that_failed_are_listed_and_not_dropped(sweep: tuple[Path, Mapping[str, xr.Dataset]]):
    collected = results.collect(sweep[0])
    assert collected.failed == {
        "cut": "unreadable",
        "killed": "killed",
        "raised": "failed",
        "stopped": "interrupted",
    }
    listed = collected.summaries.set_index("run")["status"].to_dict()
    assert listed == {**dict.fromkeys(sweep[1], "finished"), **collected.failed}
    assert set(collected.dataset["folder"].values) == {*sweep[1], "stopped"}


def test_the_table_of_summaries_has_a_row_a_run_and_a_column_a_swept_key(sweep: tuple[Path, Mapping[str, xr.Dataset]]):
    folder, _ = sweep
    table, rows = results.write(results.collect(folder), folder)
    assert (table, rows) == (folder / "collected.nc", folder / "summaries.csv")
    read = pd.read_csv(rows)
    assert list(read.columns[:4]) == ["run", "status", "activation", "model.depth"]
    assert len(read) == 8
    finished = read[read["status"] == "finished"]
    assert dict(zip(finished["run"], finished["model.depth"], strict=True)) == {
        "relu,2": 2,
        "relu,3": 3,
        "tanh,2": 2,
        "tanh,3": 3,
    }
    assert set(finished["last_loss"]) == {0.5}
    assert set(finished["best_loss"]) == {0.25}
    assert read[read["run"] == "killed"]["last_loss"].isna().all()


def test_a_collected_sweep_reads_as_the_same_dataset(sweep: tuple[Path, Mapping[str, xr.Dataset]]):
    folder, _ = sweep
    before = lab.load(folder)
    results.write(results.collect(folder), folder)
    for path in (folder, folder / "collected.nc", str(folder)):
        xr.testing.assert_identical(lab.load(path), before)


def test_collecting_again_finds_new_runs(sweep: tuple[Path, Mapping[str, xr.Dataset]]):
    folder, _ = sweep
    results.write(results.collect(folder), folder)
    leave(folder / "later", "activation=gelu")
    assert results.collect(folder).dataset.sizes["run"] == 6


def test_a_sweep_of_one_key_selects_by_it_too(tmp_path: Path):
    for seed in (0, 1, 2):
        leave(tmp_path / f"seed={seed}", f"seed={seed}", loss=seed)
    dataset = lab.load(tmp_path)
    assert dataset["loss"].sel(seed=2).mean() == 2
    assert dataset.unstack("run")["loss"].sel(seed=1).mean() == 1
    results.write(results.collect(tmp_path), tmp_path)
    xr.testing.assert_identical(lab.load(tmp_path), dataset)


def test_runs_that_differ_in_nothing_are_told_apart_by_their_folder(tmp_path: Path):
    for name, loss in (("first", 1.0), ("second/below", 2.0)):
        leave(tmp_path / name, loss=loss)
    dataset = lab.load(tmp_path)
    assert dataset["folder"].values.tolist() == ["first", "second/below"]
    assert dataset["loss"].mean(("step", "replica")).values.tolist() == [1, 2]


def test_runs_with_other_quantities_replicas_and_steps_fit_into_one_dataset(tmp_path: Path):
    execution.run(compose([*SMALL, "model.depth=2", "steps=2"]), tmp_path / "full", is_quiet=True)
    norms = [*SMALL, "model.depth=4", "steps=3", "probe.set=norms", "first_replica=1"]
    execution.run(compose(norms), tmp_path / "norms", is_quiet=True)
    dataset = lab.load(tmp_path)
    assert dict(dataset.sizes) == {"run": 2, "step": 4, "layer": 4, "replica": 3}
    for name in ("full", "norms"):
        alone = lab.load(tmp_path / name)
        found = dataset.isel(run=int(np.flatnonzero(dataset["folder"] == name)[0]))
        for quantity in alone:
            aligned = found[quantity].sel({dim: alone[dim] for dim in alone[quantity].dims})
            np.testing.assert_array_equal(aligned, alone[quantity])
    is_full = dataset["probe.set"].values == "full"
    assert dataset["act_rms"].isel(run=~is_full).isnull().all()


def test_swept_keys_are_those_with_more_than_one_value():
    def configs(*overrides: tuple[str, ...]) -> list[dict[str, Any]]:
        return [flatten(as_dict(compose(words))) for words in overrides]

    assert differing_keys(configs(("steps=3",), ("steps=3", "output_dir=elsewhere"))) == []
    assert differing_keys(configs(("seed=1", "steps=3"), ("seed=2", "steps=4"))) == ["steps", "seed"]
    # An option that only one of the groups' choices has is not a second value of anything.
    assert differing_keys(configs(("activation=relu",), ("activation=leaky_relu",))) == ["activation"]
    slopes = [("activation=relu",), *((f"activation={a}",) for a in ("leaky_relu", "prelu"))]
    assert differing_keys(configs(*slopes)) == ["activation", "activation.negative_slope"]
    assert differing_keys(configs((), ("model.bias=false",), ("model.block=ffn", "model.expansion=2"))) == [
        *("model.block", "model.bias", "model.expansion")
    ]


def test_true_and_false_are_selected_as_on_the_command_line(tmp_path: Path):
    for bias in ("true", "false"):
        leave(tmp_path / bias, f"model.bias={bias}")
    assert lab.load(tmp_path).sel({"model.bias": "false"})["folder"] == "false"


def test_a_place_without_runs_is_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no run lies below this folder; .*\.$"):
        lab.load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such run; .*\.$"):
        lab.load(tmp_path / "nowhere")
    leave(tmp_path / "raised", status="failed")
    (tmp_path / "raised" / "readings.nc").unlink()
    with pytest.raises(FileNotFoundError, match=r"has readings yet \(failed\); .*\.$"):
        lab.load(tmp_path)


def test_a_damaged_readings_file_is_listed_and_the_others_are_collected(tmp_path: Path):
    leave(tmp_path / "good")
    leave(tmp_path / "cut")
    whole = (tmp_path / "cut" / "readings.nc").read_bytes()
    (tmp_path / "cut" / "readings.nc").write_bytes(whole[: len(whole) // 2])
    collected = results.collect(tmp_path)
    assert collected.dataset.sizes["run"] == 1
    assert collected.failed == {"cut": "readings.nc cannot be read"}
    assert sorted(collected.summaries["run"]) == ["cut", "good"]


# --- joining tables -------------------------------------------------------------------------------------------------


def random_table(
    steps: Sequence[int], depth: int, replicas: int, first_replica: int, without: Sequence[str] = ()
) -> xr.Dataset:
    rng = np.random.default_rng(len(steps) * 100 + depth)
    records = []
    for step in steps:
        record = reading(step, depth, replicas, delta_rms=rng.normal(size=(depth, replicas)), loss=rng.normal())
        layers = {name: values for name, values in record.layers.items() if name not in without}
        spectra = {"jacobian_sv": rng.normal(size=(depth + 1, replicas))} if depth == 3 else {}
        scalars, fates = record.scalars, (record.diverged_at, record.diverged_layer)
        records.append(Record(step, layers, scalars, *fates, seconds=1.0, spectra=spectra))
    predictions = [("predicted_delta_rms", rng.normal(size=depth), "what theory says", "1")]
    return to_dataset(records, first_replica, {"fingerprint": "mine"}, predictions)


@pytest.mark.parametrize(
    "shapes",
    [
        [((0, 10, 20), 3, 2, 0), ((0, 10, 20), 3, 2, 0)],
        [((0, 10, 20), 3, 2, 0), ((0, 5, 20, 25), 3, 4, 1), ((0,), 1, 1, 7)],
        [((0, 20), 4, 2, 2), ((0, 20), 2, 2, 0, ("act_rms", "layer_gain")), ((10, 30), 5, 2, 0)],
    ],
)
def test_joined_tables_hold_every_value_at_its_coordinates_and_nan_elsewhere(shapes: Sequence[Any]):
    tables = [random_table(*shape) for shape in shapes]
    joined = results.concatenate(tables)
    assert joined.attrs == {}
    for name, variable in joined.data_vars.items():
        count = 0
        for run, table in enumerate(tables):
            if name in table:
                own = variable.isel(run=run).sel({dim: table[dim] for dim in table[name].dims})
                np.testing.assert_array_equal(own, table[name])
                count += int(table[name].notnull().sum())
        assert int(variable.notnull().sum()) == count
        assert variable.attrs == next(table[name].attrs for table in tables if name in table)
    assert joined["last_step"].values.tolist() == [int(table["step"][-1]) for table in tables]


def test_a_file_is_read_as_xarray_reads_it(tmp_path: Path):
    table = random_table((0, 10, 20), 3, 4, 2)
    table.to_netcdf(tmp_path / "readings.nc", engine="h5netcdf")
    theirs = xr.load_dataset(tmp_path / "readings.nc", engine="h5netcdf")
    ours = netcdf.read(tmp_path / "readings.nc")
    assert set(ours.variables) == set(theirs.variables)
    assert set(ours.coords) == set(theirs.coords)
    for name, values in ours.variables.items():
        assert values.dims == theirs[name].dims
        kept = {key: value for key, value in theirs[name].attrs.items() if key in ("long_name", "units")}
        assert values.attrs == kept
        np.testing.assert_array_equal(values, theirs[name], strict=True)
    with h5py.File(tmp_path / "readings.nc", "a") as file:  # as a netCDF library that is not h5netcdf leaves it
        del file["delta_rms"].attrs["_Netcdf4Coordinates"]
    assert netcdf.read(tmp_path / "readings.nc")["delta_rms"].dims == ("step", "layer", "replica")
    assert netcdf.attribute(tmp_path / "readings.nc", "fingerprint") == "mine"


def test_readings_that_would_not_fit_into_memory_together_are_refused_before_they_are_joined():
    def long(dim: str) -> xr.Dataset:
        lines = {other: np.arange(300_000 if other == dim else 1) for other in ("step", "layer", "replica")}
        return xr.Dataset({"delta_rms": (tuple(lines), np.zeros([len(line) for line in lines.values()]))}, lines)

    with pytest.raises(UnreadableError, match=r"^3 runs would take [\d,]+ GiB in one dataset .*; collect .*\.$"):
        results.concatenate([long(dim) for dim in ("step", "layer", "replica")])


# --- sweeps that are not over ---------------------------------------------------------------------------------------


def test_a_running_sweep_is_collected_with_what_its_checkpoints_hold(tmp_path: Path):
    leave(tmp_path / "done", "seed=1", loss=1)
    plan = [{"folder": name, "steps": 20} for name in ("done", "working", "young", "later", "even later")]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": plan}))
    with working(tmp_path / "working", "seed=2", until=10, loss=2), working(tmp_path / "young", "seed=3"):
        collected = results.collect(tmp_path)
    assert collected.waiting == 2
    assert collected.failed == {"working": "running", "young": "running"}
    assert collected.summaries.set_index("run")["status"].to_dict() == {"done": "finished", **collected.failed}
    assert collected.summaries.set_index("run")["seed"].to_dict() == {"done": 1, "working": 2, "young": 3}
    dataset = collected.dataset
    assert dataset["folder"].values.tolist() == ["done", "working"]
    assert dataset["status"].values.tolist() == ["finished", "running"]
    assert dataset["last_step"].values.tolist() == [20, 10]
    np.testing.assert_array_equal(dataset["loss"].isel(replica=0), [[1, np.nan, 1], [2, 2, np.nan]])
    assert results.collect(tmp_path).failed == {"working": "killed", "young": "killed"}  # now that nothing holds them


def test_a_sweep_that_has_only_begun_has_the_keys_that_it_will_differ_in(tmp_path: Path):
    leave(tmp_path / "a", "activation=tanh", "seed=1")
    words = [
        ["activation=tanh", "seed=1", "steps=20"],
        ["activation=relu", "seed=1", "steps=20"],
        "not a list",
        [3, "x"],
    ]
    plan = [{"folder": name, "overrides": given} for name, given in zip("abcd", words, strict=True)]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": plan}))
    assert lab.load(tmp_path).sel(activation="tanh")["folder"].item() == "a"


@pytest.mark.parametrize("further", ["checkpoint", "file"])
def test_a_run_that_was_interrupted_shows_whichever_reaches_further(tmp_path: Path, further: str):
    leave(tmp_path / "run", status="interrupted", loss=1)  # until step 20
    records = [reading(step, loss=2) for step in range(0, 31 if further == "checkpoint" else 11, 10)]
    checkpoint.save(tmp_path / "run", Checkpoint("mine", 30, {}, records))
    dataset = results.collect(tmp_path).dataset
    assert dataset["last_step"].item() == (30 if further == "checkpoint" else 20)
    assert set(dataset["loss"].values.ravel().tolist()) == ({2} if further == "checkpoint" else {1})


def test_a_run_that_has_not_ended_loads_as_a_run(tmp_path: Path):
    with working(tmp_path / "run", until=20, loss=2):
        table = lab.load(tmp_path / "run")
    assert dict(table.sizes) == {"step": 3, "layer": 3, "replica": 2}
    assert (table["loss"] == 2).all()


def test_collect_says_what_runs_and_what_waits(gradlab: Command, tmp_path: Path):
    leave(tmp_path / "sweep" / "done")
    names = ["done", *(f"run {number:02}" for number in range(30))]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"runs": [{"folder": name} for name in [*names, "x"]]}))
    for name in names[1:]:
        leave(tmp_path / "sweep" / name, status="failed")
    lines = gradlab("collect", "sweep").out.splitlines()
    assert lines[0] == "31 runs, 31 with readings:"
    assert lines[3] == "  failed: run 00"
    assert len(lines) == 3 + 20 + 2
    assert lines[-2] == "  and 10 more have not completed; see gradlab status sweep"
    assert lines[-1] == "  waiting: 1 more runs"


# --- collected.nc and the runs behind it ----------------------------------------------------------------------------


@pytest.fixture
def collected(sweep: tuple[Path, Mapping[str, xr.Dataset]]) -> Path:
    results.write(results.collect(sweep[0]), sweep[0])
    return sweep[0]


def changes() -> dict[str, Callable[[Path], Any]]:
    def rewrite(folder: Path) -> None:
        shutil.rmtree(folder / "relu,2")
        leave(folder / "relu,2", "activation=relu", depth=2, loss=77)

    def go_on(folder: Path) -> None:
        checkpoint.save(folder / "stopped", Checkpoint("mine", 77, {}, [reading(step, loss=77) for step in (0, 77)]))

    return {
        "a run more": lambda folder: leave(folder / "later", "activation=gelu", loss=77),
        "a run anew": rewrite,
        "a run that goes on": go_on,
        "damage": lambda folder: (folder / "collected.nc").write_bytes(b"gone"),
    }


@pytest.mark.parametrize("change", changes().values(), ids=list(changes()))
def test_load_notices_that_runs_have_changed_since_they_were_collected(collected: Path, change: Callable[[Path], Any]):
    before = lab.load(collected)
    change(collected)
    after = lab.load(collected)
    is_same = (collected / "collected.nc").read_bytes() == b"gone"
    assert (after["loss"] == 77).any() != is_same
    assert before.equals(after) == is_same
    assert (collected / "summaries.csv").exists()  # nothing is written, nothing removed


def test_load_uses_what_was_collected_as_long_as_nothing_has_changed(collected: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "collect", None)
    assert lab.load(collected).sizes["run"] == 5
    for folder in [path for path in collected.iterdir() if path.is_dir()]:
        shutil.rmtree(folder)
    assert lab.load(collected).sizes["run"] == 5  # all that is left of the sweep


# --- files that nobody should have made -----------------------------------------------------------------------------

SHAPES: list[Any] = [
    *(None, 3, "finished", [], [{}], {}, {"status": 3}, {"status": ["finished"]}, {"status": "wonderful"}),
    {"status": "finished", "config": [], "last": 7, "best": "all", "replicas": {"a": 1}, "seconds": "long"},
    {
        "status": "finished",
        "config": {"seed": {"a": [1, {}]}, "steps": None},
        "best": {"loss": 3},
        "replicas": [3, None],
    },
    {"status": "finished", "config": {"seed": 10**40, "model": {"depth": "\ud800\0", "": 3}}, "seconds": 10**400},
    {"status": "diverged", "config": {"folder": 1, "status": 2, "run": 3, "step": 4, "loss": 5, "a/b": 6, "ü": 7}},
    {"status": "failed", "last": {"\ud800": True, "loss": [1]}, "steps_done": -3, "fingerprint": 7, "error": {"a": 1}},
    {"status": "interrupted", "last": {"loss": float("nan")}, "steps_done": 1e300, "seconds": float("inf")},
]


@pytest.mark.parametrize("content", [*map(json.dumps, SHAPES), "[" * 100_000, "1" * 5000, "\0", "{", ""])
def test_a_foreign_summary_never_stops_the_others_from_being_collected(gradlab: Command, tmp_path: Path, content: str):
    for seed in (1, 2):
        leave(tmp_path / "sweep" / f"seed={seed}", f"seed={seed}")
    leave(tmp_path / "sweep" / "foreign")
    (tmp_path / "sweep" / "foreign" / "summary.json").write_text(content)
    done = gradlab("collect", "sweep")
    assert (done.status, done.err) == (0, "")
    dataset = lab.load(tmp_path / "sweep")
    assert dataset.sizes["run"] == 3
    assert "seed" in dataset.indexes["run"].names
    assert gradlab("status", "sweep").err == ""


def test_foreign_keys_that_have_another_meaning_in_a_dataset_are_left_out(gradlab: Command, tmp_path: Path):
    for number in (1, 2):
        keys = ("folder", "status", "last_step", "run", "step", "layer", "loss", "a/b", "\ud800", "a b", "", "mine")
        leave(tmp_path / str(number))
        content = {"status": "finished", "config": dict.fromkeys(keys, number)}
        (tmp_path / str(number) / "summary.json").write_text(json.dumps(content))
    assert gradlab("collect", ".").status == 0
    assert lab.load(tmp_path).indexes["run"].names == ["mine"]
    assert lab.load(tmp_path)["loss"].dims == ("run", "step", "replica")


def test_a_folder_in_the_place_of_a_file_is_survived(tmp_path: Path):
    leave(tmp_path / "good")
    for name in ("summary.json", "readings.nc", "progress.json", "sweep.json"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "summary.json").write_text("{}")
    assert results.collect(tmp_path).dataset["folder"].values.tolist() == ["good"]
    if hasattr(os, "mkfifo"):  # reading one would wait for ever
        (tmp_path / "pipe").mkdir()
        for name in ("summary.json", "readings.nc"):
            os.mkfifo(tmp_path / "pipe" / name)
        assert results.collect(tmp_path).dataset["folder"].values.tolist() == ["good"]


def hostile() -> dict[str, Callable[[Path], Any]]:
    def change(edit: Callable[[Any], Any]) -> Callable[[Path], Any]:
        def make(path: Path) -> None:
            path.write_bytes(stored(3)[1])
            with h5py.File(path, "a") as file:
                edit(file)

        return make

    def cut(path: Path) -> None:
        change(lambda file: None)(path)
        path.write_bytes(path.read_bytes()[:-100])

    def elsewhere(file: Any) -> None:
        secret = Path(file.filename).with_name("secret")
        secret.write_bytes(b"password" * 10)
        file.create_dataset("stolen", (10,), "f8", external=[(str(secret), 0, 80)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((2,), "f8")
        layout[:] = h5py.VirtualSource("other.h5", "values", (2,))
        file.create_virtual_dataset("virtual", layout)

    def objects(file: Any) -> None:
        file.create_dataset("pickled", data=np.array([np.void(b"\x80\x04cos\nsystem\n.")]))

    def ragged(file: Any) -> None:
        file.create_dataset("ragged", (3,), h5py.vlen_dtype(np.float64))

    def bomb(file: Any) -> None:
        file.create_dataset("zeros", (40_000_000,), "f8", chunks=(4_000_000,), compression="gzip")
        file["zeros"][:4_000_000] = 0

    def swap(file: Any) -> None:
        values = file["step"][()]
        file["step"][...] = values[::-1]

    return {
        "cut short": cut,
        "no HDF5": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch executed'\ntR."),
        "empty": lambda path: path.write_bytes(b""),
        "pickled objects": change(objects),
        "ragged": change(ragged),
        "texts": change(lambda file: file.create_dataset("texts", data=["a", "b"])),
        "numbers of two parts": change(lambda file: file.create_dataset("z", data=np.array([(1, 2.0)], "i4,f8"))),
        "gigantic": change(lambda file: file.create_dataset("huge", (10**6, 10**6), "f8", chunks=(1000, 1000))),
        "a bomb": change(bomb),
        "a link to another file": change(lambda file: file.__setitem__("link", h5py.ExternalLink("other.h5", "/x"))),
        "a link to itself": change(lambda file: file.__setitem__("link", h5py.SoftLink("/loss"))),
        "values in another file": change(elsewhere),
        "values of another file": change(virtual),
        "a group": change(lambda file: file.create_group("more")),
        "an unusual filter": change(lambda file: file.create_dataset("lzf", data=np.zeros(9), compression="lzf")),
        "no dimensions": change(lambda file: file.create_dataset("bare", data=np.zeros((2, 3)))),
        "no steps": change(lambda file: file.__delitem__("step")),
        "steps that fall": change(swap),
        "a name of the dataset's own": change(lambda file: file.create_dataset("folder", data=3.0)),
    }


@pytest.mark.parametrize("make", hostile().values(), ids=list(hostile()))
def test_a_hostile_readings_file_is_refused_unread_and_the_others_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any]
):
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "sweep" / "good")
    leave(tmp_path / "sweep" / "bad")
    (tmp_path / "sweep" / "bad" / "readings.nc").unlink()
    make(tmp_path / "sweep" / "bad" / "readings.nc")
    tracemalloc.start()
    try:
        collected = results.collect(tmp_path / "sweep")
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert collected.failed == {"bad": "readings.nc cannot be read"}
    assert collected.dataset["folder"].values.tolist() == ["good"]
    assert not (tmp_path / "executed").exists()


HARMLESS = ("texts", "a name of the dataset's own")
"""Not what a run leaves, but nothing that a collected file could not hold."""


@pytest.mark.parametrize("name", [name for name in hostile() if name not in HARMLESS])
def test_a_hostile_file_is_refused_when_it_is_loaded_itself(tmp_path: Path, name: str):
    hostile()[name](tmp_path / "readings.nc")
    if name in ("no dimensions", "no steps", "steps that fall"):
        netcdf.check(tmp_path / "readings.nc")  # xarray may say what it is
        return
    with pytest.raises(UnreadableError, match=r"readings\.nc: .*\.$"):
        lab.load(tmp_path)


def test_one_long_text_that_stands_for_thousands_is_refused(tmp_path: Path):
    with h5py.File(tmp_path / "collected.nc", "w") as file:
        file.create_dataset("folder", data=["x" * 10**6], dtype=h5py.string_dtype())
    netcdf.check(tmp_path / "collected.nc")
    with h5py.File(tmp_path / "collected.nc", "w") as file:
        file.create_dataset("folder", (1000,), dtype=h5py.string_dtype())
        file["folder"][0] = "x" * 10**6
        reference = file["folder"].id.get_offset()
    content = bytearray((tmp_path / "collected.nc").read_bytes())
    for number in range(1, 1000):  # all entries refer to the one text
        content[reference + 16 * number : reference + 16 * (number + 1)] = content[reference : reference + 16]
    (tmp_path / "collected.nc").write_bytes(content)
    with pytest.raises(UnreadableError, match="holds more text than"):
        lab.load(tmp_path)
