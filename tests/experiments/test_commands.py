"""The commands as a person uses them: what they print, what they leave behind and with which status they end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from experiments.main import COMMANDS
from lab.run import execution
from lab.schema import Config
from lab.train.loop import train
from tests.conftest import Command
from tests.contract import assert_keeps_contract

REPOSITORY = Path(__file__).parents[2]
SMALL = ("model.depth=3", "model.width=8", "steps=2", "replicas=2", "batch_size=16", "data=spirals")
PATIENCE = 60  # seconds until a command that should have said something counts as stuck


def python(*words: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, **(pipes | options))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_names_every_command_in_one_line_each(gradlab: Command):
    for words in ([], ["--help"], ["-h"], ["help"]):
        printed = gradlab(*words)
        assert printed.status == 0
        for command in COMMANDS:
            assert len(re.findall(rf"^  gradlab {command} +\w.*\w$", printed.out, re.MULTILINE)) == 1
        assert len(printed.out.splitlines()) == len(COMMANDS) + 4


def test_help_imports_nothing_that_takes_time():
    script = (
        "import sys; before = set(sys.modules)\n"
        "from experiments.main import main; status = main(['--help'])\n"
        "print(status, sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    status, imported = found.stdout.splitlines()[-1].split(" ", 1)
    assert status == "0"
    assert set(eval(imported)) <= {"experiments", "lab", *sys.stdlib_module_names}


def test_an_unknown_command_or_flag_is_refused_in_a_sentence(gradlab: Command, tmp_path: Path):
    refused = gradlab("rum")
    assert (refused.status, refused.err) == (
        2,
        f"gradlab rum: there is no such command; choose one of {', '.join(COMMANDS)}.\n",
    )
    refused = gradlab("run", "--steps=3")
    assert refused.status == 2
    assert refused.err.startswith("--steps=3: there is no such flag; ")
    assert list(tmp_path.iterdir()) == []


def test_version(gradlab: Command):
    assert gradlab("--version").out == "gradlab 0.1.0\n"


def test_help_of_run_lists_options_values_and_experiments(gradlab: Command):
    printed = gradlab("run", "--help")
    assert printed.status == 0
    for line in ("activation: bilinear, elu, ", "norm: batch, layer, none, rms", "experiment: ", "replicas: 4"):
        assert re.search(rf"^{line}", printed.out, re.MULTILINE), line
    assert "schema" not in printed.out
    assert gradlab("run", "--help", "optimizer=adam").out.count("beta1: 0.9") == 1


@pytest.mark.parametrize("command", ["board", "collect"])
def test_every_command_has_help(gradlab: Command, command: str):
    printed = gradlab(command, "--help")
    assert printed.status == 0
    assert printed.out.startswith(f"usage: gradlab {command}")


def test_the_composed_configuration_can_be_read_without_running_it(gradlab: Command, tmp_path: Path):
    printed = gradlab("run", "--cfg", "job", "activation=leaky_relu", "model.depth=7")
    assert printed.status == 0
    assert "activation:\n  name: leaky_relu\n  negative_slope: 0.01\n" in printed.out
    assert "  depth: 7\n" in printed.out
    assert "hydra" not in printed.out
    refused = gradlab("run", "--cfg", "job", "model.deph=7")
    assert (refused.status, refused.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


# --- one run --------------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_contract_and_says_where_it_is(gradlab: Command, tmp_path: Path):
    done = gradlab("run", *SMALL, "output_dir=here/mine", "seed=5")
    folder = tmp_path / "here" / "mine"
    assert (done.status, done.out) == (0, f"{folder}  finished\n")
    table, summary = assert_keeps_contract(folder)
    assert dict(table.sizes) == {"step": 2, "layer": 3, "replica": 2}
    assert summary["config"]["seed"] == 5
    overrides = (folder / ".hydra" / "overrides.yaml").read_text()
    assert overrides.splitlines() == [f"- {word}" for word in (*SMALL, "output_dir=here/mine", "seed=5")]
    assert "loss" in done.err
    assert "held-out accuracy" in done.err


def test_a_run_without_a_folder_gets_one_named_after_the_time(gradlab: Command, tmp_path: Path):
    assert gradlab("run", *SMALL).status == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    assert_keeps_contract(folder)


def test_an_experiment_is_chosen_with_a_plus_and_can_be_changed(gradlab: Command, tmp_path: Path):
    changed = [word for word in SMALL if not word.startswith("model.depth")]
    assert gradlab("run", "+experiment=sigmoid_vanishes", "init=he_normal", *changed, "output_dir=mine").status == 0
    config = json.loads((tmp_path / "mine" / "summary.json").read_text())["config"]
    assert (config["activation"]["name"], config["init"]["name"]) == ("sigmoid", "he_normal")
    assert (config["model"]["depth"], config["model"]["width"]) == (30, 8)


def test_experiments_of_ones_own_are_found_in_a_folder_of_ones_own(gradlab: Command, tmp_path: Path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /activation: tanh\nsteps: 1\n"
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(text)
    small = [word for word in SMALL if not word.startswith("steps")]
    done = gradlab("run", "+experiment=own", "--config-dir", "mine", *small, "output_dir=run")
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "run" / "summary.json").read_text())["config"]
    assert (config["activation"]["name"], config["steps"]) == ("tanh", 1)


def test_a_second_run_into_a_folder_is_refused_and_changes_nothing_in_it(gradlab: Command, tmp_path: Path):
    assert gradlab("run", *SMALL, "output_dir=mine").status == 0
    before = snapshot(tmp_path)
    refused = gradlab("run", *SMALL, "seed=1", "output_dir=mine")
    assert refused.status == 2
    assert refused.err == (
        "output_dir=mine: this folder holds a run already, with other settings; choose another, or add"
        " overwrite=true.\n"
    )
    assert snapshot(tmp_path) == before


def test_overwrite_replaces_a_run_whole(gradlab: Command, tmp_path: Path):
    assert gradlab("run", *SMALL, "output_dir=mine").status == 0
    assert gradlab("run", *SMALL, "output_dir=mine", "seed=1", "overwrite=true").status == 0
    _, summary = assert_keeps_contract(tmp_path / "mine")
    assert summary["config"]["seed"] == 1


@pytest.mark.parametrize("folder", ["a_file", "a_file/below"])
def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(gradlab: Command, tmp_path: Path, folder: str):
    (tmp_path / "a_file").touch()
    refused = gradlab("run", *SMALL, f"output_dir={folder}")
    assert refused.status == 2
    assert re.fullmatch(rf"output_dir={folder}: .*a_file is no folder .*; choose another\.\n", refused.err)


@pytest.mark.parametrize("words", [("data=npz", "data.path=gone.npz"), ("device=cuda",)])
def test_a_file_or_device_that_is_not_there_is_refused_before_anything_is_written(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for sweep in ([], ["-m", "seed=1,2"]):  # wherever the flag stands
        refused = gradlab("run", *words, *sweep, "output_dir=mine")
        assert refused.status == 2
        assert refused.err.startswith(words[-1] + ": ")
    assert list(tmp_path.iterdir()) == []


# --- ends that nobody wants -----------------------------------------------------------------------------------------


def test_a_run_that_raises_fails_with_its_traceback_kept_and_its_readings_too(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(execution, "train", failing_after(2, RuntimeError("the disk caught fire")))
    with pytest.raises(RuntimeError, match="the disk caught fire"):
        gradlab("run", *SMALL, "steps=9", "probe.every=1", "output_dir=mine")
    table, summary = assert_keeps_contract(tmp_path / "mine", status="failed")
    assert table["step"].values.tolist() == [0, 1]
    assert summary["steps_done"] == 1
    assert "Traceback" in summary["error"]
    assert "RuntimeError: the disk caught fire" in summary["error"]


def test_an_interrupted_run_keeps_what_was_measured(gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "train", failing_after(2, KeyboardInterrupt()))
    stopped = gradlab("run", *SMALL, "steps=9", "probe.every=1", "output_dir=mine")
    assert stopped.status == 130
    assert "Interrupted" in stopped.err
    table, summary = assert_keeps_contract(tmp_path / "mine", status="interrupted")
    assert table["step"].values.tolist() == [0, 1]
    assert "error" not in summary


def test_a_run_that_fails_before_its_first_reading_leaves_a_summary(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(execution, "train", failing_after(0, RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match="no memory"):
        gradlab("run", *SMALL, "output_dir=mine")
    summary = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert (summary["status"], summary["last"], summary["replicas"]) == ("failed", {}, [])
    assert not (tmp_path / "mine" / "readings.nc").exists()


@pytest.mark.slow
def test_control_c_stops_a_run_with_status_130_and_whole_files(tmp_path: Path):
    words = ("-m", "lab", "run", *SMALL, "steps=1000000", "probe.every=1", "output_dir=mine")
    process = python(*words, cwd=tmp_path)
    assert process.stderr is not None
    try:
        assert "step 0/1000000" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert (
        err.splitlines()[-1] == "Interrupted; everything measured so far is saved. Repeat the same command to resume."
    )
    assert "Traceback" not in err
    table, summary = assert_keeps_contract(tmp_path / "mine", status="interrupted")
    assert table.sizes["step"] >= 2
    assert table["step"].values[-1] == summary["steps_done"]


@pytest.mark.slow
def test_a_run_that_raises_ends_with_status_1(tmp_path: Path):
    script = (
        "import sys; from lab.run import execution; from experiments.main import main\n"
        "def train(*arguments): raise RuntimeError('no memory')\n"
        "execution.train = train\n"
        "sys.exit(main(['run', 'steps=1', 'output_dir=mine']))"
    )
    process = python("-c", script, cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "RuntimeError: no memory" in err


def failing_after(readings: int, error: BaseException, seeds: tuple[int, ...] = ()) -> Any:
    """`train`, raising `error` after some readings, in all runs or in those with the given seeds."""

    def failing(config: Config, *arguments: Any) -> Iterator[Any]:
        for number, record in enumerate(train(config, *arguments)):
            if number == readings and (not seeds or config.seed in seeds):
                raise error
            yield record

    return failing


# --- sweeps ---------------------------------------------------------------------------------------------------------

AXES = {"activation": ["sigmoid", "relu"], "init": ["xavier_normal", "he_normal"], "model.depth": ["2", "5"]}
SWEEP = [f"{key}={','.join(values)}" for key, values in AXES.items()]
JOBS = [
    f"activation={activation},init={init},model.depth={depth}"
    for activation in AXES["activation"]
    for init in AXES["init"]
    for depth in AXES["model.depth"]
]


@pytest.mark.slow
def test_a_sweep_leaves_a_folder_a_run_named_after_its_values_and_collects_into_one_dataset(
    gradlab: Command, tmp_path: Path
):
    done = gradlab("run", "-m", *SWEEP, *SMALL[1:], "output_dir=sweep")
    assert done.status == 0
    sweep = tmp_path / "sweep"
    assert done.out.splitlines() == [f"{sweep / job}  finished" for job in JOBS]
    assert {path.name for path in sweep.iterdir()} == {*JOBS, "multirun.yaml", "sweep.json"}
    for job in JOBS:
        _, summary = assert_keeps_contract(sweep / job)
        config = summary["config"]
        found = (config["activation"]["name"], config["init"]["name"], str(config["model"]["depth"]))
        assert job == "activation={},init={},model.depth={}".format(*found)

    collected = gradlab("collect", "sweep")
    assert collected.status == 0
    assert collected.out.startswith("8 runs, 8 with readings:\n")
    table = xr.load_dataset(sweep / "collected.nc", engine="h5netcdf")
    assert dict(table.sizes) == {"run": 8, "step": 2, "layer": 5, "replica": 2}
    for key, values in AXES.items():
        assert set(table[key].values.astype(str)) == set(values)
    rows = (sweep / "summaries.csv").read_text().splitlines()
    assert rows[0].startswith("run,status,activation,init,model.depth,")
    assert len(rows) == 9


def test_a_sweep_without_swept_values_is_one_run(gradlab: Command, tmp_path: Path):
    assert gradlab("run", "-m", *SMALL, "output_dir=sweep").status == 0
    assert_keeps_contract(tmp_path / "sweep" / "run")


@pytest.mark.slow
def test_a_swept_experiment_is_named_in_the_folder(gradlab: Command, tmp_path: Path):
    words = ("+experiment=relu_he,sigmoid_vanishes", *SMALL[1:], "output_dir=sweep")
    assert gradlab("run", "-m", *words).status == 0
    for name, activation in (("relu_he", "relu"), ("sigmoid_vanishes", "sigmoid")):
        _, summary = assert_keeps_contract(tmp_path / "sweep" / f"+experiment={name}")
        assert summary["config"]["activation"]["name"] == activation


@pytest.mark.slow
def test_values_that_make_no_folder_name_are_named_by_a_hash_of_them_whatever_their_order(
    gradlab: Command, tmp_path: Path
):
    (tmp_path / "points").mkdir()
    for name in ("a", "b"):
        save_points(tmp_path / "points" / f"{name}.npz")
    paths = "data.path=points/a.npz,points/b.npz"
    assert gradlab("run", "-m", *SMALL[:-1], "data=npz", paths, "output_dir=sweep").status == 0
    folders = list((tmp_path / "sweep").glob("run-*"))
    found = {assert_keeps_contract(folder)[1]["config"]["data"]["path"] for folder in folders}
    assert found == {"points/a.npz", "points/b.npz"}
    again = gradlab("run", "-m", *SMALL[:-1], "data=npz", "data.path=points/b.npz,points/a.npz", "output_dir=sweep")
    assert again.out.count("finished before") == 2


@pytest.mark.parametrize(
    ("swept", "begins"),
    [
        ("activation=relu,rellu", "activation=rellu: "),
        ("model.depth=2,0", "model.depth=0: "),
        ("steps=1,many", "steps=many: "),
        ("clip.max_norm=1,2", "clip.max_norm: "),
        ("seed=1,1", "output_dir=sweep/seed=1: two runs"),
        ("optimizer.lr=interval(0,1)", "optimizer.lr=interval(0,1): "),
        ("output_dir=here,there", "output_dir: a sweep has one folder, "),
        ("hydra.sweep.subdir=a/${seed}", "hydra.sweep.subdir: "),
    ],
)
def test_a_sweep_with_one_bad_job_is_refused_before_anything_ran(
    gradlab: Command, tmp_path: Path, swept: str, begins: str
):
    refused = gradlab("run", "-m", swept, "output_dir=sweep")
    assert refused.status == 2
    assert refused.err.startswith(begins)
    assert refused.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_would_run_into_another_run_is_refused_before_anything_ran(gradlab: Command, tmp_path: Path):
    assert gradlab("run", "-m", "seed=choice(2)", *SMALL, "output_dir=sweep").status == 0
    assert_keeps_contract(tmp_path / "sweep" / "seed=2")
    before = snapshot(tmp_path)
    refused = gradlab("run", "-m", "seed=0,2", *SMALL, "init.gain=2", "output_dir=sweep")
    assert refused.status == 2
    assert refused.err.startswith("output_dir=sweep/seed=2: this folder holds a run already, with other settings; ")
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_sweep_repeated_or_enlarged_does_nothing_twice(gradlab: Command, tmp_path: Path):
    assert gradlab("run", "-m", "seed=1,2", *SMALL, "output_dir=sweep").status == 0
    runs_before = {path: found for path, found in snapshot(tmp_path).items() if "seed=" in path}
    done = gradlab("run", "-m", "seed=2,1,3", *SMALL, "device=auto", "threads=1", "output_dir=sweep")
    assert done.status == 0
    sweep = tmp_path / "sweep"
    assert done.out.splitlines() == [
        f"{sweep}/seed=2  finished before",
        f"{sweep}/seed=1  finished before",
        f"{sweep}/seed=3  finished",
    ]
    assert {path: found for path, found in snapshot(tmp_path).items() if path in runs_before} == runs_before
    listed = json.loads((sweep / "sweep.json").read_text())["runs"]
    assert [entry["folder"] for entry in listed] == ["seed=1", "seed=2", "seed=3"]
    # The same runs by other swept keys have other names, and are the same runs.
    same = gradlab("run", "-m", "seed=1,2,3", "activation=relu,tanh", *SMALL, "output_dir=sweep")
    assert same.status == 0
    assert same.out.count("finished before") == 3
    assert {path.name for path in sweep.glob("seed=*")} == {
        *("seed=1", "seed=2", "seed=3"),
        *(f"seed={seed},activation=tanh" for seed in (1, 2, 3)),
    }


def test_runs_that_compute_the_same_keep_a_folder_each(gradlab: Command, tmp_path: Path):
    words = ("run", "-m", "threads=1,2", *SMALL, "output_dir=sweep")
    assert gradlab(*words).status == 0
    assert gradlab(*words).out.count("finished before") == 2
    assert {path.parent.name for path in (tmp_path / "sweep").glob("*/readings.nc")} == {"threads=1", "threads=2"}


def test_a_sweep_goes_on_after_a_run_that_failed_and_collect_lists_it(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(execution, "train", failing_after(0, RuntimeError("no memory"), seeds=(2,)))
    failed = gradlab("run", "-m", "seed=1,2,3", *SMALL, "output_dir=sweep")
    assert failed.status == 1
    assert "1 of 3 runs failed: seed=2." in failed.err
    (tmp_path / "sweep" / "seed=3" / "summary.json").unlink()
    (tmp_path / "sweep" / "seed=3" / "readings.nc").unlink()

    collected = gradlab("collect", "sweep")
    assert collected.status == 0
    lines = collected.out.splitlines()
    assert lines[0] == "3 runs, 1 with readings:"
    assert "  failed: seed=2" in lines[-2:]
    rows = (tmp_path / "sweep" / "summaries.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["seed=1", "seed=2", "seed=3"]


def save_points(path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(path, x_train=rng.normal(size=(40, 3)), y_train=rng.integers(0, 2, 40))


# --- collect and board ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["collect", "board"])
def test_a_folder_without_runs_is_refused_in_a_sentence(gradlab: Command, tmp_path: Path, command: str):
    for folder in ("nowhere", "."):
        refused = gradlab(command, folder)
        assert refused.status == 2
        assert re.fullmatch(rf"{folder}: no run lies .*; .*\.\n", refused.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")  # TensorBoard's own copy
def test_board_starts_tensorboard_with_every_sample_kept(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tensorboard import program

    calls = []
    monkeypatch.setattr(os, "execv", lambda path, words: calls.append((path, words)))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "events.out.tfevents.1.host").touch()
    gradlab_board = [["board"], ["board", "runs/mine", "--port", "7007", "--host", "0.0.0.0"]]
    for words in gradlab_board:
        with pytest.raises(TypeError):  # execv does not return, so main has nothing to return
            gradlab(*words)
    for (path, words), logdir, host, port in zip(
        calls, ("runs", "runs/mine"), ("localhost", "0.0.0.0"), (6006, 7007), strict=True
    ):
        assert path == sys.executable
        assert words[:3] == [sys.executable, "-m", "tensorboard.main"]
        board = program.TensorBoard()
        board.configure(["tensorboard", *words[3:]])
        assert (board.flags.logdir, board.flags.host, board.flags.port) == (logdir, host, port)
        assert board.flags.samples_per_plugin == {"scalars": 100000, "images": 100}


# --- shell completion -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_keys(tmp_path: Path):
    program = tmp_path / "gradlab"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom experiments.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    typed = {
        "gradlab ru": {"run"},
        "gradlab run activation=re": {"activation=relu", "activation=reglu"},
        "gradlab run steps=3 model.d": {"model.depth="},
        "gradlab run s": {"steps=", "seed="},
    }
    script = ['eval "$(gradlab run -sc install=bash)"', "complete -p gradlab"]
    for line in typed:
        last = len(line.split()) - 1
        script += [f'COMP_LINE="{line}" COMP_POINT={len(line)} COMP_CWORD={last}']
        script += ["hydra_bash_completion", 'echo "${COMPREPLY[@]}"']
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    rule, *replies = done.stdout.splitlines()
    assert rule.endswith("hydra_bash_completion gradlab")
    assert [set(reply.split()) for reply in replies] == list(typed.values()), done.stderr
