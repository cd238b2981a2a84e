"""Reading what runs left: one run's table, or a whole sweep as one dataset and one list."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lab
from lab import results, runs
from lab.config import as_dict, compose
from lab.readings import to_dataset
from lab.results import swept_keys
from tests.test_tensorboard import reading

SMALL = ("model.width=8", "replicas=2", "batch_size=16", "data=spirals", "probe.every=1")


def leave(folder: Path, *overrides: str, status: str = "finished", depth: int = 3, **changes: Any) -> xr.Dataset:
    """Leave behind what a run does, as far as reading it goes; its readings have the values in `changes`."""
    folder.mkdir(parents=True)
    config = compose([f"model.depth={depth}", "replicas=2", *overrides])
    table = to_dataset([reading(step, depth, **changes) for step in (0, 20)], attrs={"fingerprint": "of this run"})
    table.to_netcdf(folder / "readings.nc", engine="h5netcdf")
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
    (folder / "killed" / ".hydra" / "config.yaml").write_text("steps: 3\n")
    (folder / "cut").mkdir()
    (folder / "cut" / "summary.json").write_text('{"status": "fini')
    return folder, tables


@pytest.fixture
def sweep(original: tuple[Path, Mapping[str, xr.Dataset]], tmp_path: Path) -> tuple[Path, Mapping[str, xr.Dataset]]:
    """A copy of it that a test may write into."""
    return shutil.copytree(original[0], tmp_path / "sweep"), original[1]


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
        "killed": "unfinished",
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
    runs.run(compose([*SMALL, "model.depth=2", "steps=2"]), tmp_path / "full", is_quiet=True)
    norms = [*SMALL, "model.depth=4", "steps=3", "probe.set=norms", "first_replica=1"]
    runs.run(compose(norms), tmp_path / "norms", is_quiet=True)
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
        return [as_dict(compose(words)) for words in overrides]

    assert swept_keys(configs(("steps=3",), ("steps=3", "output_dir=elsewhere"))) == []
    assert swept_keys(configs(("seed=1", "steps=3"), ("seed=2", "steps=4"))) == ["steps", "seed"]
    # An option that only one of the groups' choices has is not a second value of anything.
    assert swept_keys(configs(("activation=relu",), ("activation=leaky_relu",))) == ["activation"]
    slopes = [("activation=relu",), *((f"activation={a}",) for a in ("leaky_relu", "prelu"))]
    assert swept_keys(configs(*slopes)) == ["activation", "activation.negative_slope"]
    assert swept_keys(configs((), ("model.bias=false",), ("model.block=ffn", "model.expansion=2"))) == [
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
    with pytest.raises(FileNotFoundError, match=r"left readings \(failed\)\.$"):
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
