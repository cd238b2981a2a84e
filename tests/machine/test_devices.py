"""Which device a run takes, and how many runs share one: with made-up GPUs, and on a real one where there is one."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lab.machine import devices
from lab.machine.devices import choose_device, reserve
from lab.schema import ConfigError

HAS_GPU = torch.cuda.is_available()
GIB = 2**30


@pytest.fixture(autouse=True)
def own_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "PAUSE", 0.01)


def make_gpus(monkeypatch: pytest.MonkeyPatch, **free: float) -> None:
    """GPUs that exist on paper: their own numbers and the GiB that are free on them, in the order of their numbers."""
    names = list(free)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (int(free[names[number]] * GIB), 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=names[number]))


def test_auto_takes_the_gpu_with_the_most_free_memory(monkeypatch: pytest.MonkeyPatch):
    make_gpus(monkeypatch, a=10, b=70, c=69)
    for name in ("auto", "cuda"):
        assert choose_device(name) == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    make_gpus(monkeypatch, a=40, b=40)
    assert choose_device("auto") == torch.device("cuda", 0)


def test_the_only_gpu_is_not_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch):
    make_gpus(monkeypatch, a=10)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: pytest.fail("this allocates a context"))
    assert choose_device("auto") == torch.device("cuda", 0)
    with reserve("auto", 1) as device:
        assert device == torch.device("cuda", 0)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch):
    make_gpus(monkeypatch)
    assert choose_device("auto") == torch.device("cpu")
    with reserve("auto", 1) as device, reserve("auto", 1) as other:  # any number of runs share the CPU
        assert (device, other) == (torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"^device=cuda: .*; choose device=cpu or device=auto\.$"):
        choose_device("cuda")


def test_every_gpu_gets_a_run_before_any_gets_two(monkeypatch: pytest.MonkeyPatch):
    make_gpus(monkeypatch, a=10, b=70)
    with ExitStack() as stack:
        taken = [stack.enter_context(reserve(name, 2)) for name in ("auto", "auto", "cuda", "auto")]
        assert [device.index for device in taken] == [1, 0, 1, 0]


def test_without_a_limit_runs_take_no_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    make_gpus(monkeypatch, a=10, b=70)
    with reserve("auto", 0) as first, reserve("auto", 0) as second:
        assert [first.index, second.index] == [1, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_run_waits_for_a_place_and_says_so_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    make_gpus(monkeypatch, a=10)
    is_in = threading.Event()

    def second() -> None:
        with reserve("auto", 1):
            is_in.set()

    waiting = threading.Thread(target=second)
    with reserve("auto", 1):
        waiting.start()
        assert not is_in.wait(0.3)  # thirty looks
    waiting.join(10)
    assert is_in.is_set()
    assert capsys.readouterr().err == "runs_per_gpu=1: all places on the GPUs here are taken; waiting.\n"


def test_a_place_belongs_to_the_gpu_and_not_to_its_number(monkeypatch: pytest.MonkeyPatch):
    make_gpus(monkeypatch, a=70, b=10)
    with reserve("auto", 1) as first:
        make_gpus(monkeypatch, b=10, a=70)  # another CUDA_VISIBLE_DEVICES: the first is number 1 now
        with reserve("auto", 1) as second:
            assert (first.index, second.index) == (0, 0)


def test_a_place_is_free_again_after_the_run_whatever_became_of_it(monkeypatch: pytest.MonkeyPatch):
    make_gpus(monkeypatch, a=10)
    with pytest.raises(KeyboardInterrupt), reserve("auto", 1):
        raise KeyboardInterrupt
    with reserve("auto", 1):
        pass


KILLED = """
import sys, tempfile, time, types, torch
from lab.machine.devices import reserve
tempfile.tempdir = sys.argv[1]
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
torch.cuda.get_device_properties = lambda number: types.SimpleNamespace(uuid="a")
with reserve("auto", 1):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_gives_its_place_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    make_gpus(monkeypatch, a=10)
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "in\n"
            folder = next(tmp_path.glob("gradlab-gpus-*"))
            assert devices._take_place(folder, 1) is None
        finally:
            other.send_signal(signal.SIGKILL)
        other.wait()
    with reserve("auto", 1) as device:
        assert device.index == 0


def test_the_folder_of_places_is_private_and_nobody_elses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    make_gpus(monkeypatch, a=10)
    folder = tmp_path / f"gradlab-gpus-{os.getuid()}"
    with reserve("auto", 1):
        assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    refused = pytest.raises(ConfigError, match=r"^runs_per_gpu: .* is not a folder of yours alone; remove it, or set ")
    with refused, reserve("auto", 1):
        pass
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder of yours alone"), reserve("auto", 1):
        pass


@pytest.mark.skipif(not HAS_GPU, reason="torch finds no CUDA device here")
def test_a_real_gpu_is_found_and_held():
    for runs_per_gpu in (0, 1):
        with reserve("auto", runs_per_gpu) as device:
            assert device.type == "cuda"
            assert torch.ones(3, device=device).sum().item() == 3


@pytest.mark.skipif(not HAS_GPU, reason="torch finds no CUDA device here")
def test_real_gpus_have_numbers_of_their_own():
    numbers = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    assert len(set(numbers)) == len(numbers)
    assert all(len(number) >= 32 for number in numbers)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds no two CUDA devices here")
def test_auto_leaves_a_full_gpu_alone():
    first = choose_device("auto")
    taken = torch.empty(int(torch.cuda.mem_get_info(first)[0] * 0.9), dtype=torch.uint8, device=first)
    assert choose_device("auto") != first
    del taken
