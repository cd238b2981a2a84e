"""Input that nobody should send: what would run code, climb out of the output folder, or fill the memory is refused."""

import io
import os
import pickle
import socket
import stat
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import data, schema
from lab.record import checkpoint
from lab.schema import ConfigError
from tests.conftest import Command, assert_refused

REPOSITORY = Path(__file__).parents[2]
SMALL = ("model.depth=2", "model.width=4", "steps=1", "replicas=2", "batch_size=8", "data=spirals")
CPU = torch.device("cpu")


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swept", ["data.path=../a.npz,../../b.npz", "data.path=..,../..", "data.path=/a.npz,/b.npz"])
def test_swept_values_with_dots_and_slashes_stay_below_the_sweeps_folder(swept: str):
    from lab.sweep import plan

    jobs = plan.plan(["data=npz", swept, "output_dir=sweep"])
    for job in jobs:
        folder = Path(os.path.normpath(job.folder))
        assert folder.parts[0] == "sweep"
        assert len(folder.parts) == 2


def test_the_output_folder_itself_may_be_anywhere(gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folders = {
        f"output_dir={tmp_path}/absolute": "absolute",
        "output_dir=../above": "above",
        "output_dir=~/in/home": "home/in/home",
        "output_dir='~/with space'": "home/with space",
    }
    for word, folder in folders.items():
        found = gradlab("run", *SMALL, word)
        assert found.status == 0, found.err
        assert (tmp_path / folder / "summary.json").is_file()
    assert list((tmp_path / "here").iterdir()) == []


TOO_LONG = "n" * 256


@pytest.mark.parametrize(
    "folder",
    [TOO_LONG, f"a/{TOO_LONG}/b", "a/" * 2000 + "a", "'a\0b'", "'a\nb'", "'a\udcffb'", "'a\x1b[2Jb'"],
    ids=["long", "long within", "long in all", "null", "line end", "surrogate", "escape"],
)
def test_a_folder_with_an_impossible_name_is_refused(gradlab: Command, tmp_path: Path, folder: str):
    for command in (["run"], ["run", "-m", "seed=1,2"], ["phase"], ["theory"]):
        refused = gradlab(*command, "activation=tanh", f"output_dir={folder}")
        assert_refused(refused, tmp_path)
        assert refused.err.startswith("output_dir=")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, where nobody can make a folder")
@pytest.mark.parametrize(
    "command", [["run", *SMALL], ["run", "-m", "seed=1,2", *SMALL], ["phase", "activation=tanh"]], ids=" ".join
)
def test_a_folder_that_not_even_root_can_make_is_refused(gradlab: Command, tmp_path: Path, command: list[str]):
    refused = gradlab(*command, "output_dir=/proc/x")
    assert_refused(refused, tmp_path)
    assert refused.err.startswith("output_dir=/proc/x")


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o077, 0o022, 0o027])
def test_files_and_folders_have_the_users_own_umask(gradlab: Command, tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        words = [word for word in SMALL if not word.startswith("steps")]
        done = gradlab("run", *words, "steps=4", "checkpoint.every=2", "output_dir=a/run")
        swept = gradlab("run", "-m", *SMALL, "seed=1,2", "output_dir=a/sweep")
        collected = gradlab("collect", "a/sweep")
    finally:
        os.umask(before)
    assert (done.status, swept.status, collected.status) == (0, 0, 0), (done.err, swept.err, collected.err)
    found = list((tmp_path / "a").rglob("*"))
    assert len(found) > 20
    for path in found:
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & stat.S_IWOTH == 0
        assert mode == wanted or path.name.endswith(".lock"), (path, oct(mode))
        assert mode & mask == 0


# --- files ----------------------------------------------------------------------------------------------------------


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def npz_with(path: Path, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(path)


def npy(array: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array), **options)
    return content.getvalue()


def header(shape: str, dtype: str = "'<f8'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_arrays_of_pickled_objects_are_refused_without_unpickling_them(tmp_path: Path, canary: Path):
    bombs = np.array([[Bomb(str(canary))] * 2] * 9, dtype=object)
    y = npy(np.arange(9) % 3)
    for content in (npy(bombs, allow_pickle=True), pickle.dumps(Bomb(str(canary)))):
        path = npz_with(tmp_path / "own.npz", x_train=content, y_train=y)
        with pytest.raises(ConfigError, match="x_train cannot be read as an array of numbers"):
            data.load(schema.Npz("npz", path), torch.float32, CPU)
    (tmp_path / "own.npz").write_bytes(pickle.dumps(Bomb(str(canary))))
    with pytest.raises(ConfigError, match="cannot be read as an npz file"):
        data.load(schema.Npz("npz", str(tmp_path / "own.npz")), torch.float32, CPU)


@pytest.mark.parametrize(
    "content",
    [
        header("(4000000000, 3)"),  # 96 GB in its header, nothing behind it
        header("(4000000, 3)") + bytes(1000),  # 96 MB
        header("(2, 3)") + bytes(100),  # more than the header says
        header("(-5, 3)") + bytes(120),
        header("(9, " + "-" * 5000 + "1)"),
        header("(" * 5000),
        header("(9, 2)", "[('a', '<f8'), ('b', '|O')]"),
        header("(9, 2)", "'|V0'"),
        header("(9223372036854775807, 9223372036854775807)", "'|S0'"),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
    ids=[
        *("nothing behind it", "too little behind it", "too much behind it", "a negative length", "an endless sum"),
        *(
            "endless brackets",
            "objects in a structure",
            "no bytes a number",
            "more than 64 bits",
            "no version",
            "empty",
        ),
    ],
)
def test_an_array_that_is_not_what_its_header_says_is_refused_before_memory_is_taken(tmp_path: Path, content: bytes):
    path = npz_with(tmp_path / "own.npz", x_train=content, y_train=npy(np.arange(9) % 3))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"^data\.path=.*; .*\.$"):
            data.load(schema.Npz("npz", path), torch.float32, CPU)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_small_file_that_unpacks_to_more_than_there_is_memory_is_refused(tmp_path: Path, monkeypatch):
    megabytes = 64
    x = header(f"({megabytes * 2**17 // 2}, 2)") + bytes(megabytes * 2**20)
    path = npz_with(tmp_path / "own.npz", x_train=x, y_train=npy(np.arange(megabytes * 2**16) % 3))
    assert Path(path).stat().st_size < 2**20 * megabytes / 50
    monkeypatch.setattr("lab.machine.memory.available", lambda: megabytes * 2**20)
    with pytest.raises(ConfigError, match=r"^data\.path=.*it unpacks to \d+ numbers, and there is memory for \d+;"):
        data.load(schema.Npz("npz", path), torch.float32, CPU)


def test_every_truncation_of_a_file_of_arrays_is_one_sentence(tmp_path: Path):
    np.savez(tmp_path / "whole.npz", x_train=np.ones((9, 2)), y_train=np.arange(9) % 3)
    content = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "own.npz").write_bytes(content[:length])
        with pytest.raises(ConfigError, match=r"^data\.path=.*; .*\.$"):
            data.load(schema.Npz("npz", str(tmp_path / "own.npz")), torch.float32, CPU)


def test_a_bomb_in_a_checkpoint_with_a_right_checksum_is_refused_without_going_off(tmp_path: Path, canary: Path):
    import hashlib

    state = {"fingerprint": "mine", "step": 1, "first_replica": 0, "state": Bomb(str(canary)), "records": []}
    saved = io.BytesIO()
    torch.save(state, saved)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "step-000000000001.ckpt"
    for payload in (saved.getvalue(), pickle.dumps(Bomb(str(canary)), protocol=2)):
        line = f"gradlab checkpoint 1 sha256 {hashlib.sha256(payload).hexdigest()}\n"
        path.write_bytes(line.encode() + payload)
        with pytest.raises(checkpoint.DamagedError, match="holds no checkpoint of this lab"):
            checkpoint.load(path)
        said: list[str] = []
        assert checkpoint.latest(tmp_path, on_damage=said.append) is None
        assert len(said) == 1


def test_the_bombs_of_these_tests_do_go_off(tmp_path: Path):
    pickle.loads(pickle.dumps(Bomb(str(tmp_path / "crater")))).close()
    assert (tmp_path / "crater").exists()


# --- TensorBoard ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="there is no /proc to see who listens where")
def test_tensorboard_listens_to_this_machine_alone(tmp_path: Path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "events.out.tfevents.1.host").touch()
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "lab", "board", "--port", str(port)]
    board = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (found := listening(port)) and time.monotonic() < deadline and board.poll() is None:
            time.sleep(0.2)
    finally:
        board.terminate()
        said, _ = board.communicate(timeout=60)
    assert found, said
    # 127.0.0.1 and ::1, as the kernel writes them: each group of four bytes in the machine's own order.
    assert found <= {"0100007F", "00000000000000000000000001000000"}


def listening(port: int) -> set[str]:
    """The addresses at which somebody on this machine listens on a port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    places = [line[1].split(":") for line in lines if len(line) > 3 and line[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}
