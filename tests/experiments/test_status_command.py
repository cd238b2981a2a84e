"""`gradlab status`: the table, watching, and that it disturbs no run."""

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
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiments import status
from lab.record import states
from lab.sweep import count_states, find_runs
from tests.conftest import Command
from tests.sweep.test_status import held, leave, plan, sweep_in_every_state

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    with sweep_in_every_state(tmp_path / "sweep") as folder:
        yield folder


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
    assert count_states(found.runs)["waiting"] == 50


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
        [found] = find_runs(tmp_path / "sweep")
        assert getattr(found, key, None) in (None, 100)  # the summary's config has the steps as well
        assert found.left is None if key in ("step", "seconds") else found.left == pytest.approx(30, abs=2)
        assert gradlab("status", "sweep").status == 0
