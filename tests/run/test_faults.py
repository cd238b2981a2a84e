"""Faults that really happen: each is caused for real, and afterwards nothing is lost, half-written or told wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lab.record import checkpoint
from lab.record.folder import run_lock
from lab.record.sinks.table import Table
from lab.run import execution
from lab.train.loop import train
from tests.conftest import Command
from tests.experiments.test_commands import PATIENCE, failing_after, python

pytestmark = pytest.mark.slow

SMALL = ("model.depth=3", "model.width=8", "replicas=2", "batch_size=16", "data=spirals", "threads=1", "device=cpu")
SWEEP = ("activation=relu,rrelu", "optimizer=sgd,adam", *SMALL, "norm=batch")
LONG = ("steps=1000000", "probe.every=10", "checkpoint.every=50")
KILLS = 30
PRODUCTS = ("readings.nc", "summary.json", "gradients.png", "events.out.tfevents.*")


# --- what a folder must look like afterwards ------------------------------------------------------------------------


def steps_told(folder: Path) -> dict[str, list[int]]:
    """TensorBoard tag -> the steps it has values for, in their order; every event of the one file can be read."""
    [file] = folder.glob("events.out.tfevents.*")
    told: dict[str, list[int]] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            told.setdefault(value.tag, []).append(event.step)
    return told


def assert_same(folder: Path, undisturbed: Path) -> None:
    """Every file opens, nothing lies about, and all that was measured is the same, bit for bit."""
    names = {path.name.partition(".out.")[0] for path in folder.iterdir()}
    assert names == {".hydra", "events", "gradients.png", "readings.nc", "summary.json"}
    with Image.open(folder / "gradients.png") as picture:
        picture.load()
    mine, theirs = (xr.load_dataset(path / "readings.nc", engine="h5netcdf") for path in (folder, undisturbed))
    xr.testing.assert_identical(mine.drop_attrs(), theirs.drop_attrs())
    assert {k: v for k, v in mine.attrs.items() if k != "config"} == {
        k: v for k, v in theirs.attrs.items() if k != "config"
    }
    assert steps_told(folder) == steps_told(undisturbed)
    assert all(len(set(steps)) == len(steps) for tag, steps in steps_told(folder).items() if tag.startswith("train/"))
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, undisturbed)]
    for summary in summaries:
        for key in ("seconds", "files", "config"):
            summary.pop(key)
    assert summaries[0] == summaries[1]


def status(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["status"])


# --- killed ---------------------------------------------------------------------------------------------------------


def command(folder: Path, words: Sequence[str]) -> None:
    """In a process of its own: the command, with its words on nobody's terminal."""
    os.chdir(folder)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    from experiments.main import main

    sys.exit(main(words))


def test_a_sweep_that_is_killed_thirty_times_ends_as_the_undisturbed_one(tmp_path: Path, gradlab: Command):
    """kill -9 at random moments: while it composes, trains, writes a checkpoint, a table or a picture."""
    words = ("run", "-m", *SWEEP, "steps=400", "probe.every=20", "checkpoint.every=10")
    assert gradlab(*words, "output_dir=undisturbed").status == 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["experiments.run", "lab.run.execution", "lab.plot.gradients", "lab.record.sinks.tensorboard", "h5netcdf"]
    )
    chance, kills = random.Random(0), 0
    deadline = time.monotonic() + 240
    while True:
        process = context.Process(target=command, args=(tmp_path, (*words, "output_dir=killed")))
        process.start()
        process.join(chance.uniform(0.3, 2.2) if kills < KILLS else 120)
        if process.exitcode is not None and kills >= KILLS:
            assert process.exitcode == 0
            break
        assert time.monotonic() < deadline, f"{kills} kills, and no end"
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:  # it was faster than the next kill: take a finished run away, so that there is something left to kill
            assert process.exitcode == 0
            shutil.rmtree(next((tmp_path / "killed").glob("activation=*")))
    folders = sorted((tmp_path / "undisturbed").glob("activation=*"))
    assert len(folders) == 4
    for folder in folders:
        assert_same(tmp_path / "killed" / folder.name, folder)


# --- asked to stop --------------------------------------------------------------------------------------------------


def started(cwd: Path, *words: str) -> subprocess.Popen[str]:
    """A run, once it is on its way and has a checkpoint."""
    process = python("-m", "lab", "run", *words, cwd=cwd)
    deadline = time.monotonic() + PATIENCE
    while not list(cwd.rglob("*.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_keeps_a_checkpoint_and_goes_on_later(
    tmp_path: Path, gradlab: Command, number: signal.Signals, code: int
):
    process = started(tmp_path, *SMALL, *LONG, "output_dir=mine")
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    table = xr.load_dataset(tmp_path / "mine" / "readings.nc", engine="h5netcdf")
    assert table["step"].values[-1] == summary["steps_done"] > 0
    newest = max((tmp_path / "mine" / "checkpoints").iterdir())
    assert int(re.findall(r"\d+", newest.name)[0]) >= summary["steps_done"]
    assert not (tmp_path / "mine" / ".lock").exists()
    assert not (tmp_path / "mine" / "progress.json").exists()

    process = python("-m", "lab", "run", *SMALL, *LONG, "output_dir=mine", cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == f"mine  resumes after its reading at step {summary['steps_done']}\n"
    deadline = time.monotonic() + PATIENCE
    try:
        while not (told := _progress(tmp_path / "mine")) or told["step"] <= summary["steps_done"]:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    later = xr.load_dataset(tmp_path / "mine" / "readings.nc", engine="h5netcdf")
    xr.testing.assert_identical(later.isel(step=slice(table.sizes["step"])).drop_attrs(), table.drop_attrs())


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path):
    words = ("run", *SMALL, "steps=300", "checkpoint.every=10", "output_dir=mine")
    deaf = (
        "import signal, sys, experiments.main; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        " sys.exit(experiments.main.main())"
    )
    process = python("-c", deaf, *words, cwd=tmp_path)
    while process.poll() is None:
        if (tmp_path / "mine").exists():  # it is deaf by then
            process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("launcher", ["basic", "replicas"])
def test_a_sweep_goes_on_when_nobody_reads_what_it_prints_any_more(tmp_path: Path, launcher: str):
    words = ("seed=1,2", *SMALL, "steps=200", "probe.every=1", "output_dir=sweep", f"hydra/launcher={launcher}")
    process = python("-m", "lab", "run", "-m", *words, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(PATIENCE) == 0
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["finished"] * 2


def _progress(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError):
        return {}


def kill_me(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("where", ["at the end of a run", "between two runs"])
def test_a_sweep_that_is_asked_to_stop_begins_no_other_run(
    tmp_path: Path, gradlab: Command, monkeypatch: pytest.MonkeyPatch, where: str
):
    """Outside of training too: while pictures are drawn, or when one run is whole and the next not begun."""
    words = ("run", "-m", "seed=1,2", *SMALL, "steps=2", "output_dir=sweep")
    real_close, real_print = Table.close, print

    def close(table: Table) -> None:
        real_close(table)
        kill_me(signal.SIGTERM)

    def tell(*told: object, **options: Any) -> None:
        real_print(*told, **options)
        if str(told[0]).endswith("seed=1  finished"):
            kill_me(signal.SIGTERM)

    if where == "between two runs":
        monkeypatch.setattr("builtins.print", tell)
    else:
        monkeypatch.setattr(Table, "close", close)
    stopped = gradlab(*words)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert stopped.status == 75
    assert status(tmp_path / "sweep" / "seed=1") == "finished"
    assert not (tmp_path / "sweep" / "seed=2" / "summary.json").exists()
    assert gradlab(*words).out.count("finished before") == 1


# --- disks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_ends_a_run_in_a_sentence_and_room_lets_it_go_on(
    tmp_path: Path, gradlab: Command, small_disk: Path
):
    words = ("run", *SMALL, "steps=60", "probe.every=1", "checkpoint.every=20", f"output_dir={small_disk}/mine")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (2**20 - 2**19))
    full = gradlab(*words)
    assert full.status == 1
    assert "No space left" in full.err
    assert "Traceback" not in full.err
    assert not list((small_disk / "mine").rglob(".*-*"))
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert gradlab(*words).status == 0
    assert gradlab(*words[:-1], "output_dir=undisturbed").status == 0
    assert_same(small_disk / "mine", tmp_path / "undisturbed")


def test_a_folder_that_can_only_be_read_is_refused_and_left_as_it_is(
    tmp_path: Path, gradlab: Command, small_disk: Path
):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for words in ([], ["-m", "seed=1,2"]):
        refused = gradlab("run", *SMALL, "steps=1", f"output_dir={small_disk}/mine", *words)
        assert refused.status == 2
        assert re.fullmatch(r"output_dir=.*: .* is no folder that can be written in; choose another\.\n", refused.err)
    assert list(small_disk.iterdir()) == []


# --- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", PRODUCTS[:1] + PRODUCTS[2:])
def test_a_finished_run_with_a_damaged_file_is_done_again(tmp_path: Path, gradlab: Command, product: str):
    words = ("run", *SMALL, "steps=4", "probe.every=1")
    assert gradlab(*words, "output_dir=mine").status == 0
    assert gradlab(*words, "output_dir=undisturbed").status == 0
    again = gradlab(*words, "output_dir=mine")
    assert (again.status, again.out) == (0, f"{tmp_path}/mine  finished before\n")
    [file] = (tmp_path / "mine").glob(product)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    repeated = gradlab(*words, "output_dir=mine")
    assert repeated.status == 0
    assert f"{file.name} is damaged" in repeated.out
    assert_same(tmp_path / "mine", tmp_path / "undisturbed")


def test_an_interrupted_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, gradlab: Command, monkeypatch: pytest.MonkeyPatch
):
    words = ("run", *SMALL, "steps=9", "probe.every=1", "checkpoint.every=2")
    monkeypatch.setattr(execution, "train", failing_after(7, KeyboardInterrupt()))
    assert gradlab(*words, "output_dir=mine").status == 130
    monkeypatch.setattr(execution, "train", train)
    newest = max((tmp_path / "mine" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "mine" / "readings.nc").write_bytes(b"half")
    next((tmp_path / "mine").glob("events*")).write_bytes(b"half")
    done = gradlab(*words, "output_dir=mine")
    assert done.status == 0
    assert re.search(rf"{newest.name}: damaged, .*; the one before it is used\.", done.err)
    assert gradlab(*words, "output_dir=undisturbed").status == 0
    assert_same(tmp_path / "mine", tmp_path / "undisturbed")


@pytest.mark.parametrize("is_batch", [False, True])
def test_checkpoints_that_cannot_be_used_are_reported_and_thrown_away(
    tmp_path: Path, gradlab: Command, monkeypatch: pytest.MonkeyPatch, is_batch: bool
):
    """Both cut short; and then one that is whole, but of a lab that kept something else: neither stops a run twice."""
    swept, batch = ("seed=1,2", "hydra/launcher=replicas") if is_batch else ("seed=1", "hydra/launcher=basic")
    often = ("steps=9", "probe.every=1", "checkpoint.every=2")
    words = ("run", "-m", swept, batch, *SMALL, *often, "output_dir=mine")
    monkeypatch.setattr(execution, "train", failing_after(7, KeyboardInterrupt()))
    assert gradlab(*words).status == 130
    monkeypatch.setattr(execution, "train", train)
    found = sorted((tmp_path / "mine").rglob("*.ckpt"))
    assert len(found) == 2
    whole = checkpoint.load(found[1])
    for path in found:
        path.write_bytes(path.read_bytes()[:1000])
    monkeypatch.setattr(execution, "train", failing_after(3, KeyboardInterrupt()))
    again = gradlab(*words)
    assert again.status == 130
    assert again.err.count("damaged") == 2
    assert "the run starts again" in again.err
    monkeypatch.setattr(execution, "train", train)
    assert [int(path.stem[5:]) for path in (tmp_path / "mine").rglob("*.ckpt")] == [2]  # the new one is kept

    state = {name: value for name, value in whole.state.items() if name != "watch"}
    checkpoint.save(found[0].parents[1], replace(whole, state=state))
    assert gradlab(*words).status == 1
    assert gradlab(*words).status == 0
    assert {status(path.parent) for path in (tmp_path / "mine").glob("*/summary.json")} == {"finished"}


def test_a_list_of_runs_that_points_out_of_the_sweep_is_not_followed(tmp_path: Path, gradlab: Command):
    words = ("run", "-m", "seed=1,2", *SMALL, "steps=1", "output_dir=around/sweep")
    assert gradlab(*words).status == 0
    plan = tmp_path / "around" / "sweep" / "sweep.json"
    for text in (plan.read_text().replace('"seed=2"', '".."'), "[" * 100_000, "{}", "null"):
        plan.write_text(text)
        assert gradlab("run", "-m", "init.gain=1", *words[2:]).status == 0
    assert {path.name for path in (tmp_path / "around").iterdir()} == {"sweep"}


# --- one of many ----------------------------------------------------------------------------------------------------


def test_an_exception_in_one_run_of_a_sweep_is_kept_and_named_and_the_others_go_on(
    tmp_path: Path, gradlab: Command, monkeypatch: pytest.MonkeyPatch
):
    words = ("run", "-m", "seed=1,2,3", *SMALL, "steps=2", "output_dir=sweep")
    monkeypatch.setattr(execution, "train", failing_after(1, RuntimeError("the disk caught fire"), seeds=(2,)))
    failed = gradlab(*words)
    assert failed.status == 1
    assert failed.err.endswith("1 of 3 runs failed: seed=2. Each summary.json has its traceback.\n")
    assert [status(tmp_path / "sweep" / f"seed={seed}") for seed in (1, 2, 3)] == ["finished", "failed", "finished"]
    error = json.loads((tmp_path / "sweep" / "seed=2" / "summary.json").read_text())["error"]
    assert error.startswith("Traceback")
    assert "RuntimeError: the disk caught fire" in error
    monkeypatch.setattr(execution, "train", train)
    again = gradlab(*words)
    assert again.status == 0
    assert again.out.count("finished before") == 2
    assert status(tmp_path / "sweep" / "seed=2") == "finished"


@pytest.mark.parametrize("is_sweep", [False, True])
def test_of_two_processes_on_one_folder_one_says_that_the_other_is_at_work(
    tmp_path: Path, gradlab: Command, is_sweep: bool
):
    words = ("run", *SMALL, "steps=2", *(("-m", "seed=1,2") if is_sweep else ()), "output_dir=mine")
    folder = tmp_path / "mine" / "seed=1" if is_sweep else tmp_path / "mine"
    with run_lock(folder):
        second = gradlab(*words)
    assert f"{folder.name}: another process is working on this run; let it end, or choose another folder." in second.err
    assert second.status == (0 if is_sweep else 2)
    assert not (folder / "readings.nc").exists()
    if is_sweep:
        assert status(tmp_path / "mine" / "seed=2") == "finished"
    assert gradlab(*words).status == 0
    assert status(folder) == "finished"


def test_two_processes_started_at_once_leave_one_whole_run(tmp_path: Path, gradlab: Command):
    words = (*SMALL, "steps=200", "probe.every=10", "checkpoint.every=5")
    two = [python("-m", "lab", "run", *words, "output_dir=mine", cwd=tmp_path) for _ in range(2)]
    ends = [process.communicate(timeout=PATIENCE) for process in two]
    codes = sorted(process.returncode for process in two)
    assert codes in ([0, 2], [0, 0]), ends  # the second may come after the end of the first
    said = "".join(out + err for out, err in ends)
    assert "another process is working on this run" in said or "finished before" in said
    assert gradlab("run", *words, "output_dir=undisturbed").status == 0
    assert_same(tmp_path / "mine", tmp_path / "undisturbed")


def test_a_configuration_that_does_not_fit_the_memory_is_refused_before_anything_is_written(
    tmp_path: Path, gradlab: Command
):
    for words in (("model.width=100000", "model.depth=100"), ("-m", "seed=1,2", "model.width=100000", "model.depth=9")):
        refused = gradlab("run", *words, "output_dir=mine")
        assert refused.status == 2
        assert re.search(r"\d+(\.\d+)? [GT]i?B", refused.err)
        assert refused.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
