"""Files from elsewhere run no code, read no environment and write nowhere but in the output folder."""

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lab.compose import compose, compose_job
from lab.schema import ConfigError
from tests.conftest import Command, assert_refused

# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "activation=${oc.env:CANARY}",
        "output_dir=${oc.env:CANARY}",
        "steps=${oc.decode:3}",
        "steps='${oc.decode:\"3\"}'",
        "output_dir=${hydra:job.name}",
        "output_dir=a${oc.env:CANARY}b",
        "output_dir='${oc.env:CANARY,x}'",
        "model={depth: '${oc.env:CANARY}'}",
        "+model.more=[a, '${oc.env:CANARY}']",
        "output_dir=${now:%Y}${oc.env:CANARY}",
        "output_dir='${${data.name}:CANARY}'",
        "output_dir='${now:${oc.env:CANARY}}'",
    ],
)
def test_a_value_neither_reads_the_environment_nor_computes(override: str, canary: Path):
    with pytest.raises(ConfigError) as refusal:
        compose([override])
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    "override", ["model._target_=canary.sing", "++_target_=canary.sing", "model={_target_: canary.sing}"]
)
def test_a_configuration_builds_no_class(override: str, canary: Path):
    with pytest.raises(ConfigError, match="_target_: there is no such key"):
        compose([override])


# --- files ----------------------------------------------------------------------------------------------------------

FILES = {
    "a class": "model:\n  _target_: canary.sing\n",
    "a callback": "hydra:\n  callbacks:\n    mine:\n      _target_: canary.sing\n",
    "a launcher": "hydra:\n  launcher:\n    _target_: canary.sing\n",
    "a launcher's command": "defaults:\n  - override /hydra/launcher: submitit_slurm\n"
    "hydra:\n  launcher:\n    setup: [touch sang]\n",
    "a launcher's key that joblib evaluates": "defaults:\n  - override /hydra/launcher: joblib\n"
    "hydra:\n  launcher:\n    pre_dispatch: sing()\n",
    "a line end in a launcher's setting": "defaults:\n  - override /hydra/launcher: submitit_slurm\n"
    'hydra:\n  launcher:\n    partition: "x\\ntouch sang"\n',
    "a sweeper": "hydra:\n  sweeper:\n    _target_: canary.sing\n",
    "a sweeper's params": "hydra:\n  sweeper:\n    params:\n      seed: 1,2\n",
    "a logging handler": "hydra:\n  job_logging:\n    handlers:\n      a:\n        (): canary.sing\n",
    "the environment": "data:\n  name: ${oc.env:CANARY}\n",
    "the environment, in a folder": "output_dir: ${oc.env:CANARY}\n",
    "the environment, in a list": "model:\n  depth: ['${oc.env:CANARY}']\n",
    "a decoded text": "steps: ${oc.decode:'3'}\n",
    "a variable to set": "hydra:\n  job:\n    env_set:\n      LD_PRELOAD: canary\n",
    "a folder of configuration": "hydra:\n  output_subdir: ../../elsewhere\n",
    "the folder of runs": "hydra:\n  run:\n    dir: elsewhere\n",
    "a search path": "hydra:\n  searchpath: ['pkg://canary']\n",
    "the environment, in the list of defaults": "defaults:\n  - override /activation: ${oc.env:CANARY}\n",
    "another launcher, in the list of defaults": "defaults:\n  - override /hydra/launcher: submitit_local\n",
    "a home folder that is not there": "output_dir: ~nobody-at-all/x\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=list(FILES))
def test_a_file_that_would_run_code_or_look_at_the_environment_is_refused(
    gradlab: Command, tmp_path: Path, canary: Path, text: str
):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}")
    before = set(tmp_path.rglob("*"))
    for words in ([], ["-m", "seed=1,2"]):
        refused = gradlab("run", "--config-dir", "conf", "+experiment=own", *words)
        assert_refused(refused, tmp_path, before)


def test_a_file_that_stands_in_for_a_launcher_is_refused(gradlab: Command, tmp_path: Path, canary: Path):
    (tmp_path / "conf" / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "conf" / "hydra" / "launcher" / "basic.yaml").write_text("_target_: canary.sing\n")
    before = set(tmp_path.rglob("*"))
    assert_refused(gradlab("run", "--config-dir", "conf", "steps=1"), tmp_path, before)
    assert_refused(gradlab("run", "--config-dir", "conf", "-m", "seed=1,2"), tmp_path, before)


@pytest.mark.parametrize("choice", [[], ["hydra/launcher=submitit_slurm"]], ids=["by the file", "by the command"])
def test_a_file_may_choose_a_launcher_and_give_it_plain_settings(tmp_path: Path, choice: list[str]):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "experiment").mkdir()
    chosen = "" if choice else "defaults:\n  - override /hydra/launcher: submitit_slurm\n"
    settings = "hydra:\n  launcher:\n    partition: gpu\n    timeout_min: 9\n  sweep:\n    subdir: run ${seed}\n"
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\n{chosen}{settings}")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "+experiment=own", "seed=3", *choice, "output_dir=sweep"]
    assert compose_job(words, number=0)[1] == Path("sweep/run 3")


@pytest.mark.parametrize(
    "words",
    [
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.verbose=1"),
        ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.setup=[module load cuda]"),
        ("hydra/launcher=submitit_slurm", "+hydra.launcher.additional_parameters={mail-user: a@b.c}"),
        ("hydra.sweep.subdir=${activation.name}/${seed}",),
    ],
    ids=" ".join,
)
def test_the_command_line_may_set_what_a_file_may_not(words: tuple[str, ...], tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    compose_job(["seed=1", *words], number=0)
    compose_job(["seed=1", *words, f"hydra.searchpath=[file://{tmp_path}]"], number=0)


@pytest.mark.parametrize(
    "flags",
    [("--experimental-rerun", "config.pickle"), ("--config-path", "conf"), ("--config-name", "other")],
    ids=" ".join,
)
def test_no_flag_of_hydras_leads_around_what_is_refused(
    gradlab: Command, tmp_path: Path, canary: Path, flags: tuple[str, ...]
):
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(canary), "w")

    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "conf").mkdir()
    for name in ("config", "other"):
        text = "hydra:\n  callbacks:\n    mine:\n      _target_: canary.sing\n"
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    assert_refused(gradlab("run", *flags), tmp_path, set(tmp_path.rglob("*")))


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../b", "..", ".", "${activation.name}/../..", "''"])
def test_a_run_of_a_sweep_cannot_be_named_out_of_its_folder(gradlab: Command, tmp_path: Path, name: str):
    refused = gradlab("run", "-m", f"hydra.sweep.subdir={name}", "seed=1,2", "output_dir=sweep")
    assert_refused(refused, tmp_path)
    assert refused.err.startswith("hydra.sweep.subdir")


def test_a_file_cannot_name_a_run_of_a_sweep_out_of_its_folder(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\nhydra:\n  sweep:\n    subdir: ../x\n")
    with pytest.raises(ConfigError, match=r"^hydra\.sweep\.subdir=\.\./x: "):
        compose_job([f"hydra.searchpath=[file://{tmp_path}]", "+experiment=own"], number=0)


@pytest.mark.parametrize(
    "text", ["steps: 3\n", "# @package model\ndepth: 3\n", "# @package hydra.launcher\na: 1\n", ""]
)
def test_a_file_in_place_of_the_schema_changes_defaults_or_is_refused(tmp_path: Path, text: str):
    (tmp_path / "schema.yaml").write_text(text)
    config = None
    with suppress(ConfigError):
        config = compose([f"hydra.searchpath=[file://{tmp_path}]"])
    assert config is None or (config.steps, config.model.depth) in ((3, 20), (500, 20))
