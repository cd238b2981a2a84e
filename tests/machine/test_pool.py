"""Worker processes: results as they come, interruptible at once, and a dead worker costs one task."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab.machine.pool import TaskError, run_tasks

REPOSITORY = Path(__file__).parents[2]


class UnpicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def compute(task: tuple[str, float]) -> Any:
    name, value = task
    if name == "fail":
        raise ValueError(f"no {value}")
    if name == "unpicklable":
        raise UnpicklableError("two", "words")
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "sleep":
        time.sleep(value)
    return {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"], "square": value**2}


def test_results_come_from_other_processes_with_one_thread_each():
    tasks = [("square", float(value)) for value in range(4)]
    started: list[object] = []
    outcomes: dict[tuple[str, float], Any] = dict(run_tasks(compute, tasks, 2, started.append))
    assert started == tasks
    assert {task: outcome["square"] for task, outcome in outcomes.items()} == {task: task[1] ** 2 for task in tasks}
    assert {outcome["threads"] for outcome in outcomes.values()} == {"1"}
    assert os.getpid() not in {outcome["pid"] for outcome in outcomes.values()}
    assert len({outcome["pid"] for outcome in outcomes.values()}) <= 2


def test_without_workers_everything_happens_in_this_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcomes: dict[tuple[str, float], Any] = dict(run_tasks(compute, [("square", 3.0), ("fail", 1.0)], workers=0))
    assert outcomes["square", 3.0]["pid"] == os.getpid()
    assert isinstance(outcomes["fail", 1.0], ValueError)


def test_an_exception_or_a_dead_worker_costs_its_own_task_only():
    tasks = [("die", 0.0), ("fail", 7.0), ("unpicklable", 0.0), ("square", 2.0)]
    outcomes: dict[tuple[str, float], Any] = dict(run_tasks(compute, tasks, workers=1))
    died, failed, unpicklable, fine = (outcomes[task] for task in tasks)
    assert isinstance(died, TaskError)
    assert str(died) == "The worker process was ended by SIGKILL; was there enough memory?"
    assert isinstance(failed, ValueError)
    assert str(failed) == "no 7.0"
    assert "in compute" in failed.__notes__[0]
    assert isinstance(unpicklable, TaskError)
    assert str(unpicklable) == "UnpicklableError: twowords"
    assert fine["square"] == 4.0


def test_closing_the_generator_terminates_the_workers():
    started = time.monotonic()
    with closing(run_tasks(compute, [("square", 1.0), ("sleep", 60.0)], 2)) as results:
        task, outcome = next(results)
    assert isinstance(outcome, dict)
    assert task == ("square", 1.0)
    assert time.monotonic() - started < 30
    assert not Path(f"/proc/{outcome['pid']}").exists()


PROGRAM = """
from lab.machine.pool import run_tasks
from tests.machine.test_pool import compute
if __name__ == "__main__":
    for task, outcome in run_tasks(compute, [("square", 1.0), ("sleep", 60.0)], 2):
        print("first result", flush=True)
"""


def test_control_c_ends_parent_and_workers_at_once_with_the_parents_traceback_only(tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # tests may run in the background
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "first result\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert err.count("KeyboardInterrupt") == 1
    assert "_serve" not in err
    deadline = time.monotonic() + 10  # multiprocessing's resource tracker ends a moment after its parent
    while _has_members(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_members(process_group: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == process_group and state != "Z":
            return True
    return False
