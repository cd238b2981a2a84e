"""Sweeps over all cores: what is refused, how cores are divided, and that the result is the serial sweep's."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
import xarray as xr

from lab.compose import compose
from lab.machine.threads import THREADS
from lab.schema import ConfigError
from lab.sweep.launchers import SweepLauncher, launcher_of
from tests.conftest import Command

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120  # seconds until something that should have happened counts as stuck

# The plugins have configs of these names too (see lab/launchers.py); pytest takes off the filter that is set there.
pytestmark = pytest.mark.filterwarnings("ignore:\\s*'hydra/launcher/.* is validated against ConfigStore schema")

SMALL = ("model.depth=3", "model.width=8", "replicas=2", "batch_size=16", "data=spirals")
SLURM, JOBLIB = "hydra/launcher=submitit_slurm", "hydra/launcher=joblib"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("launcher", "extra"), [(JOBLIB, "parallel"), (SLURM, "slurm")])
def test_without_its_extra_a_launcher_is_refused_in_a_sentence_that_says_what_to_install(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, extra: str
):
    monkeypatch.setitem(sys.modules, "hydra_plugins", None)  # importing it fails now
    refused = gradlab("run", "-m", launcher, "seed=1,2")
    assert refused.status == 2
    assert refused.err == f"{launcher}: it is not installed; pip install 'gradlab[{extra}]'.\n"
    assert list(tmp_path.iterdir()) == []


def test_slurm_is_refused_where_there_is_none(gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = gradlab("run", "-m", SLURM, "seed=1,2")
    assert refused.status == 2
    assert refused.err.startswith(f"{SLURM}: there is no sbatch here; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("launcher", [JOBLIB, SLURM])
def test_a_launcher_is_refused_for_a_single_run(gradlab: Command, tmp_path: Path, launcher: str):
    refused = gradlab("run", launcher, "steps=0")
    assert (refused.status, refused.err) == (2, f"{launcher}: only a sweep uses a launcher; add -m.\n")
    assert list(tmp_path.iterdir()) == []


def test_more_threads_than_a_run_has_cores_are_refused(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    threads = joblib.cpu_count() + 1
    refused = gradlab("run", "-m", JOBLIB, f"threads=1,{threads}")
    assert refused.status == 2
    assert refused.err.startswith(f"threads={threads}: the share of each run is 1 of the cores with {JOBLIB}; ")
    assert list(tmp_path.iterdir()) == []
    on_a_cluster = SweepLauncher("submitit_slurm", {"cpus_per_task": 2})
    with pytest.raises(ConfigError, match=r"^threads=3: .* or give hydra\.launcher\.cpus_per_task\.$"):
        on_a_cluster.check(3)
    on_a_cluster.check(2)


@pytest.mark.parametrize("value", [0, None])
def test_a_sweep_without_workers_is_refused(value: object):
    with pytest.raises(ConfigError, match=rf"^hydra\.launcher\.n_jobs={value}: give the number of workers, or -1"):
        SweepLauncher("joblib", {"n_jobs": value}).cores()


# --- the presets ----------------------------------------------------------------------------------------------------


def test_the_launcher_is_found_where_it_was_chosen():
    assert launcher_of(["seed=1"]).name == "basic"
    assert launcher_of([JOBLIB]).settings["n_jobs"] == -1
    assert launcher_of([JOBLIB, "hydra.launcher.n_jobs=3"]).settings["n_jobs"] == 3
    assert launcher_of([SLURM, "hydra.launcher.partition=night"]).settings["partition"] == "night"
    assert [launcher_of([choice]).is_local for choice in (JOBLIB, SLURM)] == [True, False]


def test_a_launcher_is_no_part_of_what_is_computed():
    assert compose([JOBLIB, "output_dir=here"]) == compose(["output_dir=here"])


@pytest.mark.parametrize("name", ["joblib", "submitit_slurm"])
def test_a_preset_asks_its_plugin_for_nothing_that_it_does_not_know(name: str):
    """joblib's launcher hands everything to joblib.Parallel, submitit's to an executor that knows its own keys."""
    settings = dict(launcher_of([f"hydra/launcher={name}"]).settings)
    _, _, class_name = settings.pop("_target_").rpartition(".")
    if name == "joblib":
        from hydra_plugins.hydra_joblib_launcher._core import process_joblib_cfg
        from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher as Plugin

        process_joblib_cfg(settings)  # the plugin's own: Hydra makes texts of some numbers
        joblib.Parallel(**settings)
    else:
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Plugin

        assert set(settings) <= set(SlurmQueueConf.__dataclass_fields__)
    assert Plugin.__name__ == class_name


# --- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "workers", "share"),
    [(2, -1, 1), (8, -1, 1), (8, 2, 4), (8, 3, 2), (8, 1, 8), (2, 5, 1), (8, -2, 1), (8, -5, 2), (1, -9, 1)],
)
def test_cores_are_divided_among_workers(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, share: int):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert SweepLauncher("joblib", {"n_jobs": workers}).cores() == share
    assert share * (joblib.Parallel(n_jobs=workers).n_jobs if workers > 0 else 1) <= max(cores, workers)


def test_a_serial_sweep_has_all_cores():
    assert SweepLauncher("basic", {}).cores() is None


def set_threads(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("own", "given"), [(None, "3"), ("64", "3"), ("2", "2"), ("", "3"), ("many", "3"), ("0", "1")])
def test_the_environment_may_say_fewer_threads_but_not_more(
    monkeypatch: pytest.MonkeyPatch, own: str | None, given: str
):
    set_threads(monkeypatch, own)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    with SweepLauncher("joblib", {"n_jobs": 2}).workers():
        assert {os.environ[name] for name in THREADS} == {given}
    assert {os.environ.get(name) for name in THREADS} == {own}


@pytest.mark.parametrize(("cores", "own", "share"), [(2, "64", 1), (4, None, 2)])
def test_a_worker_computes_with_its_share_of_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, own: str | None, share: int
):
    real_cores = joblib.cpu_count()  # torch never takes more threads than there are cores
    set_threads(monkeypatch, own)
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    with SweepLauncher("joblib", {"n_jobs": 2}).workers():
        seen = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(torch.get_num_threads)() for _ in range(2))
    assert seen == [min(share, real_cores)] * 2


# --- sweeps ---------------------------------------------------------------------------------------------------------

SWEEP = (*SMALL, "init=he_normal,xavier_normal,lecun_normal", "norm=batch", "optimizer=adam", "steps=1500")
CADENCE = ("probe.every=500", "checkpoint.every=100")
WORKERS = (JOBLIB, "hydra.launcher.n_jobs=2")


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    line = [sys.executable, "-m", "lab", "run", "-m", *words, *SWEEP, *CADENCE]
    return subprocess.Popen(line, cwd=cwd, env=environment, **pipes)


def end(sweep: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status and output; the pipes are closed when no worker is left that holds them."""
    out, err = sweep.communicate(timeout=PATIENCE)
    return sweep.returncode, out, err


def wait_until_two_runs_are_at_work(sweep: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while len({path.parent for path in folder.glob("*/checkpoints/*.ckpt")}) < 2:
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def collected(gradlab: Command, folder: Path) -> xr.Dataset:
    assert gradlab("collect", str(folder)).status == 0
    return xr.load_dataset(folder / "collected.nc")


def statuses(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["status"] for path in folder.glob("*/summary.json"))


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep, one run after the other in one process."""
    folder = tmp_path_factory.mktemp("serial")
    status, _, err = end(start(f"output_dir={folder}/runs", cwd=folder))
    assert status == 0, err
    return folder / "runs"


@pytest.mark.slow
def test_a_sweep_over_joblib_is_the_serial_sweep_bit_for_bit(gradlab: Command, tmp_path: Path, serial: Path):
    status, out, err = end(start(*WORKERS, "output_dir=joblib", cwd=tmp_path))
    assert status == 0, err
    assert [line.rpartition("  ")[2] for line in out.splitlines()] == ["finished"] * 3
    assert "Warning" not in err
    expected = collected(gradlab, serial)
    assert expected["loss"].sizes == {"run": 3, "step": 4, "replica": 2}
    assert expected["loss"].notnull().all()
    assert collected(gradlab, tmp_path / "joblib").equals(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_sweep_over_joblib_that_is_asked_to_stop_keeps_checkpoints_and_goes_on_later(
    gradlab: Command, tmp_path: Path, serial: Path, number: signal.Signals, status: int
):
    folder = tmp_path / "joblib"
    sweep = start(*WORKERS, "output_dir=joblib", cwd=tmp_path)
    wait_until_two_runs_are_at_work(sweep, folder)
    sweep.send_signal(number)
    found, _, err = end(sweep)
    assert found == status, err
    assert "Traceback" not in err
    assert statuses(folder) == ["interrupted", "interrupted"]  # and the third has not begun
    found, out, err = end(start(*WORKERS, "output_dir=joblib", cwd=tmp_path))
    assert found == 0, err
    assert out.count("continues from its checkpoint\n") == 2
    assert statuses(folder) == ["finished"] * 3
    assert collected(gradlab, folder).equals(collected(gradlab, serial))


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_sweep_in_a_sentence_and_nothing_is_lost(
    gradlab: Command, tmp_path: Path, serial: Path
):
    folder = tmp_path / "joblib"
    sweep = start(*WORKERS, "output_dir=joblib", cwd=tmp_path)
    wait_until_two_runs_are_at_work(sweep, folder)
    os.kill(workers_of(sweep.pid)[0], signal.SIGKILL)
    found, _, err = end(sweep)
    assert found == 1
    assert "Traceback" not in err
    assert err.endswith("; repeat the same command to resume them.\n")
    found, _, err = end(start(*WORKERS, "output_dir=joblib", cwd=tmp_path))
    assert found == 0, err
    assert collected(gradlab, folder).equals(collected(gradlab, serial))


def workers_of(parent: int) -> list[int]:
    """The processes of loky below a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\nPPid:\t{parent}\n" in (folder / "status").read_text():
                found.append((int(folder.name), (folder / "cmdline").read_bytes()))
    return [number for number, line in found if b"popen_loky" in line]
