"""What several test files use."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.main import main

# Tests that are started in the background, or with nohup, ignore these, and so would the processes that they start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def gradlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command inside this process, from an empty folder; importing torch once is enough."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*words: str) -> Outcome:
        capsys.readouterr()
        try:
            status = main(words)
        except SystemExit as end:  # how argparse and Hydra's help end
            status = int(end.code or 0)
        return Outcome(status, *capsys.readouterr())

    return call


def assert_refused(outcome: Outcome, folder: Path, before: set[Path] | None = None) -> None:
    """Exit code 2, one sentence, nothing written."""
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    assert outcome.err.endswith(".\n")
    assert outcome.err.count("\n") == 1
    assert set(folder.rglob("*")) == (before or set())


@pytest.fixture
def canary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `canary` whose import, and whose function `sing`, leave a file; it must never be there."""
    folder = tmp_path_factory.mktemp("canary")
    trace = folder / "it sang"
    (folder / "canary.py").write_text(
        f"def sing(*words, **more):\n    open({str(trace)!r}, 'w').close()\n    return sing\nsing()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("CANARY", "relu")
    yield trace
    assert not trace.exists()
    assert "canary" not in sys.modules
