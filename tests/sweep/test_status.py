"""The state of every run, from its folder alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lab.machine.locks import is_locked
from lab.record import states
from lab.sweep import RunState, count_states, find_runs, time_left

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: no memory \x1b[31mleft\n\n'
HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def leave(folder: Path, state: str, **more: Any) -> Path:
    """What a run of 100 steps leaves in its folder; one that runs needs its lock held as well."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()
    summary = {"status": state, "config": {"steps": 100}, "steps_done": 100, "seconds": 40.0, "fingerprint": "mine"}
    if state in ("running", "killed"):
        summary |= {"status": "running", "steps_done": 0, "seconds": 0.0}
        progress = {"step": 25, "steps": 100, "seconds": 10.0, "time": time.time()}
        (folder / "progress.json").write_text(json.dumps(progress | more.pop("progress", {})))
    if state == "failed":
        summary |= {"error": TRACEBACK, "steps_done": 30, "seconds": 12.0}
    (folder / "summary.json").write_text(json.dumps(summary | more))
    return folder


@contextmanager
def held(*folders: Path) -> Iterator[None]:
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(FileLock(folder / ".lock"))
        yield


def plan(sweep: Path, *names: str, **more: Any) -> None:
    sweep.mkdir(exist_ok=True)
    runs = [{"folder": name, "overrides": [], "fingerprint": "mine", "steps": 100, **more} for name in names]
    (sweep / "sweep.json").write_text(json.dumps({"runs": runs}))


@contextmanager
def sweep_in_every_state(folder: Path) -> Iterator[Path]:
    """A run in every state, and two that wait, while one runs."""
    plan(folder, *(f"{state}=1" for state in states.STATES), "waiting=2")
    for state in ("finished", "diverged", "running", "failed", "interrupted", "killed"):
        leave(folder / f"{state}=1", state)
    leave(folder / "unreadable=1", "finished")
    (folder / "unreadable=1" / "summary.json").write_text('{"status": "fini')
    with held(folder / "running=1"):
        yield folder


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    with sweep_in_every_state(tmp_path / "sweep") as folder:
        yield folder


def seen(folder: Path) -> dict[str, str]:
    return {run.name: run.state for run in find_runs(folder)}


# --- what state a run is in -----------------------------------------------------------------------------------------


def test_every_state_is_told_from_the_folder_alone(sweep: Path):
    expected = {f"{state}=1": state for state in states.STATES} | {"waiting=2": "waiting"}
    assert seen(sweep) == expected
    assert seen(sweep.parent) == {f"sweep/{name}": state for name, state in expected.items()}
    assert count_states(find_runs(sweep)) == dict.fromkeys(states.STATES, 1) | {"waiting": 2}


def test_a_run_is_running_as_long_as_another_process_holds_its_lock(tmp_path: Path):
    leave(tmp_path / "run", "running")
    assert seen(tmp_path) == {"run": "killed"}
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert seen(tmp_path) == {"run": "running"}
        holder.kill()
        holder.wait()
        assert seen(tmp_path) == {"run": "killed"}


def test_a_run_that_goes_on_after_an_interruption_is_running(tmp_path: Path):
    with held(leave(tmp_path / "run", "interrupted")):
        assert seen(tmp_path) == {"run": "running"}
    assert seen(tmp_path) == {"run": "interrupted"}


def test_a_folder_of_a_sweep_that_has_no_lock_yet_still_waits_for_a_minute(tmp_path: Path):
    plan(tmp_path, "young")
    (tmp_path / "young" / ".hydra").mkdir(parents=True)
    now = (tmp_path / "young").stat().st_mtime
    assert [run.state for run in find_runs(tmp_path, now + 50)] == ["waiting"]
    assert [run.state for run in find_runs(tmp_path, now + 70)] == ["killed"]


def test_a_run_of_another_fingerprint_is_one_that_will_be_written_over(tmp_path: Path):
    leave(tmp_path / "run", "finished")
    plan(tmp_path, "run", fingerprint="another")
    assert seen(tmp_path) == {"run": "waiting"}
    plan(tmp_path, "run", fingerprint="mine")
    assert seen(tmp_path) == {"run": "finished"}


def test_runs_of_an_older_lab_without_summary_lock_or_plan_are_found(tmp_path: Path):
    (tmp_path / "killed" / ".hydra").mkdir(parents=True)
    (tmp_path / "killed" / ".hydra" / "config.yaml").write_text("steps: 3\n")
    (tmp_path / "ended").mkdir()
    (tmp_path / "ended" / "readings.nc").touch()
    assert seen(tmp_path) == {"killed": "killed", "ended": "killed"}


def test_the_folder_that_runs_together_keep_their_checkpoints_in_is_no_run(tmp_path: Path):
    leave(tmp_path / "run", "finished")
    kept = tmp_path / ".batches" / "1234"
    (kept / "checkpoints").mkdir(parents=True)
    (kept / "checkpoints" / "step-000000000100.ckpt").touch()
    with FileLock(kept / ".lock"):
        assert seen(tmp_path) == {"run": "finished"}


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_run_that_tries_twice_always_gets_its_lock_while_others_look(tmp_path: Path):
    leave(tmp_path / "run", "interrupted")
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            is_locked(tmp_path / "run" / ".lock")

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(200):
            with FileLock(tmp_path / "run" / ".lock", timeout=5, poll_interval=0.001):
                assert is_locked(tmp_path / "run" / ".lock")
    finally:
        is_over.set()
        for watcher in watchers:
            watcher.join()


# --- how long it still takes ----------------------------------------------------------------------------------------


def run(state: str, **known: Any) -> RunState:
    return RunState(Path("x"), "x", state, **known)


DONE = [run("finished", steps=100, seconds=30.0), run("diverged", steps=100, seconds=10.0)]


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        (DONE, 0),
        ([*DONE, run("failed"), run("killed")], 0),
        ([*DONE, run("waiting", steps=100)], None),  # nothing runs: who knows when
        ([run("running")], None),
        ([run("running", left=7.0), run("waiting", steps=100)], None),
        ([run("running", left=7.0)], 7),
        ([run("running", left=7.0), run("running", left=3.0)], 7),
        ([*DONE, run("running", left=7.0), run("waiting", steps=100)], 7 + 20),
        # The mean of 30 and 10 seconds is for 100 steps.
        ([*DONE, run("running", left=7.0), run("waiting", steps=400)], 7 + 80),
        ([*DONE, run("running", left=7.0), run("waiting")], 7 + 20),
        ([*DONE, run("running"), *[run("waiting", steps=100)] * 3], 20 + 3 * 20),
        # Two at a time.
        ([*DONE, run("running", left=8.0), run("running", left=2.0), *[run("waiting", steps=100)] * 5], (10 + 100) / 2),
        # As long as none is done, the running ones tell: 5 seconds for 50 of 100 steps are 10 for all.
        ([run("running", step=50, steps=100, seconds=5.0, left=5.0), run("waiting", steps=200)], 5 + 20),
    ],
)
def test_the_time_left_follows_from_speed_and_from_what_is_done(runs: list[RunState], seconds: float | None):
    assert time_left(runs) == (None if seconds is None else pytest.approx(seconds))


def test_a_running_one_needs_what_its_speed_says_less_the_time_since(tmp_path: Path):
    written = 1000.0
    leave(tmp_path / "run", "running", progress={"step": 25, "steps": 100, "seconds": 10.0, "time": written})
    with held(tmp_path / "run"):
        for now, left in ((written, 30), (written + 12, 18), (written + 99, 0), (written - 50, 30)):
            [found] = find_runs(tmp_path, now)
            assert (found.state, found.step, found.steps) == ("running", 25, 100)
            assert found.left == pytest.approx(left)
        (tmp_path / "run" / "progress.json").write_text('{"step": 0, "steps": 100, "seconds": 0, "time": 1}')
        assert find_runs(tmp_path)[0].left is None


# --- foreign files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside", "/tmp", "a/../../outside", "a\0b", "", 7, None])
def test_a_plan_cannot_point_out_of_its_folder(tmp_path: Path, name: Any):
    leave(tmp_path / "outside", "finished")
    leave(tmp_path / "sweep" / "mine", "finished")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"runs": [{"folder": name}, 3, {"folder": "mine"}]}))
    found = seen(tmp_path / "sweep")
    assert found.pop("mine") == "finished"
    assert set(found) <= {"."}
