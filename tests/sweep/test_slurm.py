"""A sweep on a real Slurm cluster of one node, which tests/slurm/start.sh starts on the loopback and stops again."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import xarray as xr

from tests.conftest import Command

REPOSITORY = Path(__file__).parents[2]
START = REPOSITORY / "tests" / "slurm" / "start.sh"
PATIENCE = 120  # seconds until something that should have happened counts as stuck

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SWEEP = ("seed=1,2", "init=he_normal,xavier_normal", "model.depth=2,3")
"""Eight runs; the last key varies fastest, and the number of a run is that of its job in the array."""
RUN = (
    *("model.width=8", "replicas=2", "batch_size=16", "data=spirals", "optimizer.momentum=0.9", "steps=2500"),
    *("probe.every=500", "checkpoint.every=100"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment in which Slurm's programs find the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([START, folder], capture_output=True, text=True, check=False, timeout=PATIENCE)
    if started.returncode != 0:
        pytest.skip(started.stderr.strip())
    daemons = [int(path.read_text()) for path in folder.glob("*.pid")]
    assert len(daemons) == 3
    _, _, configuration = started.stdout.strip().partition("=")
    try:
        yield os.environ | {"SLURM_CONF": configuration, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run([START, folder, "--stop"], check=True, timeout=PATIENCE)
    assert not [number for number in daemons if Path(f"/proc/{number}/exe").exists()]


def wait_for(what: str, happens: Callable[[], object], sweep: subprocess.Popen[str]) -> None:
    """Wait while the sweep is at work."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert sweep.poll() is None, f"the sweep has ended before {what}"
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_sweep_on_slurm_gives_the_serial_sweep_though_runs_are_cancelled_warned_and_terminated(
    cluster: Mapping[str, str], gradlab: Command, tmp_path: Path
):
    assert gradlab("run", "-m", *RUN, *SWEEP, "output_dir=serial").status == 0
    words = [sys.executable, "-m", "lab", "run", "-m", "hydra/launcher=submitit_slurm", *RUN, *SWEEP]
    with (tmp_path / "log").open("w") as log:
        sweep = subprocess.Popen(
            [*words, "output_dir=slurm"], cwd=tmp_path, env=cluster, stdout=log, stderr=log, text=True
        )
    folders = [
        tmp_path / "slurm" / run["folder"] for run in json.loads((tmp_path / "serial/sweep.json").read_text())["runs"]
    ]
    assert len(folders) == 8

    def ask(*words: str) -> str:
        return subprocess.run(words, env=cluster, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def array() -> str:
        return next(iter(ask("squeue", "--noheader", "--format=%F").split()), "")

    def has_checkpoint(number: int) -> bool:
        return any((folders[number] / "checkpoints").glob("*.ckpt"))

    def restarts(number: int) -> int:
        found = re.search(r"Restarts=(\d+)", ask("scontrol", "show", "job", f"{job}_{number}"))
        assert found
        return int(found[1])

    def status(number: int) -> str:
        return str(json.loads((folders[number] / "summary.json").read_text())["status"])

    try:
        wait_for("the job array is in the queue", array, sweep)
        job = array()
        # Cancelled by hand (SIGTERM, then SIGKILL), and put back into the queue by hand.
        wait_for("run 1 is at work", lambda: has_checkpoint(1), sweep)
        ask("scancel", f"{job}_1")
        wait_for("run 1 is interrupted", lambda: status(1) == "interrupted", sweep)
        ask("scontrol", "requeue", f"{job}_1")
        # Warned, as before the time limit: the job puts itself back.
        wait_for("run 4 is at work", lambda: has_checkpoint(4), sweep)
        ask("scancel", "--signal=USR2", f"{job}_4.0")
        # Terminated alone: it ends with 75, which the cluster's RequeueExit names.
        wait_for("run 6 is at work", lambda: has_checkpoint(6), sweep)
        ask("scancel", "--signal=TERM", f"{job}_6.0")
        assert sweep.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    finally:
        sweep.kill()
    assert [restarts(number) for number in range(8)] == [0, 1, 0, 0, 1, 0, 1, 0]

    for name in ("serial", "slurm"):
        assert gradlab("collect", name).status == 0
    serial, slurm = (xr.load_dataset(tmp_path / name / "collected.nc") for name in ("serial", "slurm"))
    assert serial["loss"].sizes == {"run": 8, "step": 6, "replica": 2}
    assert serial["loss"].notnull().all()
    assert slurm.equals(serial)  # every number of every quantity, NaN where the other has NaN
