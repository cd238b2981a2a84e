"""`gradlab status`: the state of every run from its folder alone, quickly, and without disturbing a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiments import status
from lab.machine.locks import is_locked
from lab.record import states
from lab.sweep import status as sweep_status
from lab.sweep.status import RunState
from tests.conftest import Command

REPOSITORY = Path(__file__).parents[2]
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


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    """A run in every state, and two that wait, while one runs."""
    folder = tmp_path / "sweep"
    plan(folder, *(f"{state}=1" for state in states.STATES), "waiting=2")
    for state in ("finished", "diverged", "running", "failed", "interrupted", "killed"):
        leave(folder / f"{state}=1", state)
    leave(folder / "unreadable=1", "finished")
    (folder / "unreadable=1" / "summary.json").write_text('{"status": "fini')
    with held(folder / "running=1"):
        yield folder


def seen(folder: Path) -> dict[str, str]:
    return {run.name: run.state for run in sweep_status.find_runs(folder)}


# --- what state a run is in -----------------------------------------------------------------------------------------


def test_every_state_is_told_from_the_folder_alone(sweep: Path):
    expected = {f"{state}=1": state for state in states.STATES} | {"waiting=2": "waiting"}
    assert seen(sweep) == expected
    assert seen(sweep.parent) == {f"sweep/{name}": state for name, state in expected.items()}
    assert sweep_status.count_states(sweep_status.find_runs(sweep)) == dict.fromkeys(states.STATES, 1) | {"waiting": 2}


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
    assert [run.state for run in sweep_status.find_runs(tmp_path, now + 50)] == ["waiting"]
    assert [run.state for run in sweep_status.find_runs(tmp_path, now + 70)] == ["killed"]


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


# --- it disturbs nobody ---------------------------------------------------------------------------------------------


def test_looking_changes_no_file_and_makes_none(gradlab: Command, sweep: Path):
    (sweep / "failed=1" / ".lock").unlink()

    def everything() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sweep.rglob("*")}

    before = everything()
    for words in ((), ("--all",), ("--json",)):
        gradlab("status", str(sweep), *words)
    assert everything() == before
    with pytest.raises(TimeoutError):
        FileLock(sweep / "running=1" / ".lock", timeout=0).acquire()


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


def test_it_needs_neither_torch_nor_xarray(sweep: Path):
    code = (
        "import sys; from experiments.main import main; main(['status', sys.argv[1]]);"
        "print(sorted({'torch', 'xarray', 'numpy', 'hydra', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_five_hundred_runs_take_well_under_two_seconds(tmp_path: Path):
    plan(tmp_path, *(f"seed={number}" for number in range(500)))
    for number in range(450):
        leave(
            tmp_path / f"seed={number}", "failed" if number % 50 == 0 else "finished", replicas=[{"status": "x"}] * 64
        )
    started = time.process_time()
    found = status.observe(tmp_path)
    Console(file=StringIO(), width=100).print(status.render(found, has_all=True))
    assert time.process_time() - started < 2
    assert sweep_status.count_states(found.runs)["waiting"] == 50


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
    assert sweep_status.time_left(runs) == (None if seconds is None else pytest.approx(seconds))


def test_a_running_one_needs_what_its_speed_says_less_the_time_since(tmp_path: Path):
    written = 1000.0
    leave(tmp_path / "run", "running", progress={"step": 25, "steps": 100, "seconds": 10.0, "time": written})
    with held(tmp_path / "run"):
        for now, left in ((written, 30), (written + 12, 18), (written + 99, 0), (written - 50, 30)):
            [found] = sweep_status.find_runs(tmp_path, now)
            assert (found.state, found.step, found.steps) == ("running", 25, 100)
            assert found.left == pytest.approx(left)
        (tmp_path / "run" / "progress.json").write_text('{"step": 0, "steps": 100, "seconds": 0, "time": 1}')
        assert sweep_status.find_runs(tmp_path)[0].left is None


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_shows_what_runs_and_what_went_wrong(gradlab: Command, sweep: Path):
    done = gradlab("status", str(sweep))
    assert (done.status, done.err) == (1, "")
    lines = done.out.splitlines()
    counts = "1 running, 1 failed, 1 interrupted, 1 killed, 1 unreadable, 2 waiting"
    headline = re.escape(f"2 of 9 runs done (1 diverged), {counts}, about ") + r"\d+ min( \d+ s)? left"
    assert re.search(f" {headline} ", " ".join(done.out.split()))
    assert "22%" in done.out

    def row(name: str) -> str:
        [found] = [line for line in lines if line.startswith(name)]
        return found

    assert re.search(r"running +25 of 100 .* (30|29) s$", row("running=1").rstrip())
    assert re.search(r"failed +30 of 100 +RuntimeError: no memory \?\[31mleft$", row("failed=1").rstrip())
    assert re.search(r"killed +25 of 100$", row("killed=1").rstrip())
    assert re.search(r"unreadable +\S* *its summary.json cannot be read$", row("unreadable=1").rstrip())
    assert not any(line.startswith(("finished", "waiting")) for line in lines)
    everything = gradlab("status", str(sweep), "--all").out
    assert re.search(r"finished=1 +finished +100 of 100 +in 40 s", everything)
    assert re.search(r"waiting=2 +waiting", everything)


def test_the_exit_status_says_whether_a_run_needs_attention(gradlab: Command, tmp_path: Path):
    for state in ("finished", "diverged"):
        leave(tmp_path / "sweep" / state, state)
    plan(tmp_path / "sweep", "waiting")
    with held(leave(tmp_path / "sweep" / "running", "running")):
        assert gradlab("status", "sweep").status == 0
    for state in ("running", "failed", "interrupted"):  # the first of them has just been killed
        leave(tmp_path / "sweep" / "running", state)
        assert gradlab("status", "sweep").status == 1
    assert "Nothing is running. Repeat the sweep's command" in gradlab("status", "sweep").out


def test_many_runs_stay_readable_and_all_of_them_can_be_seen(gradlab: Command, tmp_path: Path):
    for number in range(60):
        leave(tmp_path / "sweep" / f"seed={number}", "failed" if number < 40 else "finished")
    short = gradlab("status", "sweep").out
    assert len(short.splitlines()) < 25
    assert short.count("RuntimeError") == status.SHOWN
    assert "and 28 more of them; --all shows every run" in short
    assert gradlab("status", "sweep", "--all").out.count("seed=") == 60


def test_json_has_everything(gradlab: Command, sweep: Path):
    found = json.loads(gradlab("status", str(sweep), "--json").out)
    assert found["counts"] == dict.fromkeys(states.STATES, 1) | {"waiting": 2}
    runs = {run["run"]: run for run in found["runs"]}
    assert runs["failed=1"]["error"] == "RuntimeError: no memory ?[31mleft"
    assert (runs["running=1"]["step"], runs["running=1"]["steps"]) == (25, 100)
    # One running with 30 s left, two waiting of 40 s each, as the two that are done took.
    assert found["left"] == pytest.approx(30 + 2 * 40, abs=5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere: no run lies at or below this folder; give the output_dir of a run or a sweep."),
        (["."], ".: no run lies at or below this folder; give the output_dir of a run or a sweep."),
        ([], "The following arguments are required: folder; see gradlab status --help."),
        ([".", "--wat"], "Unrecognized arguments: --wat; see gradlab status --help."),
        ([".", "--every", "2"], "--every: only --watch observes more than once; add --watch."),
        ([".", "--watch", "--every", "0"], "--every=0: give a number of seconds from 0.1 to 86400."),
        ([".", "--watch", "--every", "nan"], "--every=nan: give a number of seconds from 0.1 to 86400."),
    ],
)
def test_bad_input_is_one_sentence(gradlab: Command, words: list[str], sentence: str):
    refused = gradlab("status", *words)
    assert (refused.status, refused.out, refused.err) == (2, "", sentence + "\n")


# --- watching -------------------------------------------------------------------------------------------------------


def test_watching_ends_by_itself_once_nothing_runs_or_waits(gradlab: Command, tmp_path: Path):
    plan(tmp_path / "sweep", "first", "second")
    lock = FileLock(leave(tmp_path / "sweep" / "first", "running") / ".lock", thread_local=False)
    lock.acquire()

    def work() -> None:
        time.sleep(0.5)
        leave(tmp_path / "sweep" / "first", "finished")
        lock.release()
        time.sleep(0.5)
        leave(tmp_path / "sweep" / "second", "diverged")

    worker = threading.Thread(target=work)
    worker.start()
    done = gradlab("status", "sweep", "--watch", "--every", "0.1")
    worker.join()
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("0 of 2 runs done, 1 running, 1 waiting, ")
    assert "1 of 2 runs done, 1 waiting, time left unknown" in lines
    assert lines[-3:-1] == ["sweep", "2 of 2 runs done (1 diverged)"]
    assert json.loads(gradlab("status", "sweep", "--watch", "--json").out)["counts"]["finished"] == 1


def in_a_terminal(words: list[str], until: bytes) -> tuple[int, bytes]:
    """Run a command in a terminal of its own until it has printed something, press Ctrl-C, and see how it ends."""
    import pty

    leader, follower = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        words, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    )
    os.close(follower)
    printed = b""
    try:
        while until not in printed:
            printed += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                if not (more := os.read(leader, 4096)):
                    break
            except OSError:  # the other end is closed
                break
            printed += more
        return process.wait(30), printed
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_ctrl_c_leaves_the_live_table_without_a_word(sweep: Path):
    words = [sys.executable, "-m", "lab", "status", str(sweep), "--watch", "--every", "0.2"]
    ended, printed = in_a_terminal(words, until=b"no memory")
    assert ended == 130
    assert b"Traceback" not in printed
    assert b"kept" not in printed
    assert printed.rstrip().endswith(b"\x1b[?25h")  # the cursor is back


# --- files that anybody may have made -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside", "/tmp", "a/../../outside", "a\0b", "", 7, None])
def test_a_plan_cannot_point_out_of_its_folder(tmp_path: Path, name: Any):
    leave(tmp_path / "outside", "finished")
    leave(tmp_path / "sweep" / "mine", "finished")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"runs": [{"folder": name}, 3, {"folder": "mine"}]}))
    found = seen(tmp_path / "sweep")
    assert found.pop("mine") == "finished"
    assert set(found) <= {"."}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=8,
)
SUMMARIES = ANY | st.fixed_dictionaries(
    {"status": ANY | st.sampled_from(states.STATES)},
    optional=dict.fromkeys(
        ["config", "last", "best", "replicas", "steps_done", "seconds", "fingerprint", "error", "extra"], ANY
    ),
)
PROGRESS = ANY | st.dictionaries(st.sampled_from(["step", "steps", "seconds", "time"]), ANY)
PLANS = ANY | st.fixed_dictionaries(
    {"runs": ANY | st.lists(st.dictionaries(st.sampled_from(["folder", "fingerprint", "steps"]), ANY), max_size=3)}
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(summary=SUMMARIES, progress=PROGRESS, planned=PLANS, is_running=st.booleans())
def test_no_content_of_any_file_is_too_strange(
    tmp_path: Path, summary: Any, progress: Any, planned: Any, is_running: bool
):
    (tmp_path / "run").mkdir(exist_ok=True)
    for name, content in (("run/summary.json", summary), ("run/progress.json", progress), ("sweep.json", planned)):
        (tmp_path / name).write_text(json.dumps(content))
    with held(*([tmp_path / "run"] if is_running else [])):
        found = status.observe(tmp_path)
    assert "run" in {run.name for run in found.runs}
    assert {run.state for run in found.runs} <= set(states.STATES)
    written = StringIO()
    Console(file=written, width=100).print(status.render(found, has_all=True))
    written.getvalue().encode()
    json.dumps(status.as_json(found))


@pytest.mark.parametrize("key", ["step", "steps", "seconds", "time"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e300, 10**30, True, "3", None, [3]])
def test_a_progress_that_makes_no_sense_is_unknown(gradlab: Command, tmp_path: Path, key: str, value: Any):
    with held(leave(tmp_path / "sweep" / "run", "running", progress={key: value})):
        [found] = sweep_status.find_runs(tmp_path / "sweep")
        assert getattr(found, key, None) in (None, 100)  # the summary's config has the steps as well
        assert found.left is None if key in ("step", "seconds") else found.left == pytest.approx(30, abs=2)
        assert gradlab("status", "sweep").status == 0
