"""Hydra's ConfigStore, and the boundary of Hydra."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from experiments.main import main
from lab.compose import compose, conf_dir
from lab.schema import ConfigError
from tests.compose.test_composition import GROUPS
from tests.schema.test_config import imports

REPOSITORY = Path(__file__).parents[2]


def test_conf_holds_no_file_that_repeats_a_dataclass():
    assert {path.name for path in conf_dir().iterdir()} == {"config.yaml", "experiment", "hydra"}


def test_help_lists_every_option_and_no_schema(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match=r"^0$"):  # Hydra leaves the process
        main(["run", "--help"])
    printed = capsys.readouterr().out
    for group, options in GROUPS.items():
        assert f"\n{group}: {', '.join(sorted(options))}\n" in printed
    assert "schema" not in printed


def test_a_file_of_the_users_own_changes_the_defaults_of_an_option_or_adds_one(tmp_path: Path):
    (tmp_path / "activation").mkdir()
    (tmp_path / "activation" / "leaky_relu.yaml").write_text("negative_slope: 0.3\n")
    (tmp_path / "activation" / "steep.yaml").write_text("defaults: [elu]\nalpha: 3\n")
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    assert compose([searched, "activation=leaky_relu"]).activation.negative_slope == 0.3  # type: ignore[attr-defined]
    steep = compose([searched, "activation=steep"]).activation
    assert (steep.name, steep.alpha) == ("elu", 3.0)  # type: ignore[attr-defined]
    (tmp_path / "activation" / "elu.yaml").write_text("alfa: 3\n")
    with pytest.raises(ConfigError, match=r"alfa"):
        compose([searched, "activation=elu"])


def test_a_run_takes_a_file_named_like_an_option_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer" / "sgd.yaml").write_text("momentum: 0.5\n")
    assert main(["run", "--config-dir", "conf", "--cfg", "job"]) == 0
    assert "momentum: 0.5" in capsys.readouterr().out


def test_an_application_keeps_its_own_options(monkeypatch: pytest.MonkeyPatch):
    @dataclass
    class Adam:
        beta3: float = 1.0

    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", dict(store.repo))
    store.repo["optimizer"] = {}
    store.store(group="optimizer", name="adam", node=Adam)
    assert compose(["optimizer=adam"]).optimizer.name == "adam"
    assert list(store.repo["optimizer"]) == ["adam.yaml"]
    assert "activation" not in store.repo or "schema.yaml" in store.repo


def test_hydra_ends_at_the_door():
    users = {path.parent.name for path in REPOSITORY.glob("lab/**/*.py") if imports(path) & {"hydra", "omegaconf"}}
    assert users == {"compose"}


def test_no_config_file_names_a_callable_but_the_launchers_their_plugins():
    named = {
        path.relative_to(conf_dir()).as_posix(): re.findall(r"_target_: (\S+)", path.read_text())
        for path in conf_dir().rglob("*.yaml")
        if "_target_" in path.read_text()
    }
    plugins = "hydra_plugins.hydra_{0}_launcher.{0}_launcher.{1}"
    assert named == {
        "hydra/launcher/joblib.yaml": [plugins.format("joblib", "JoblibLauncher")],
        "hydra/launcher/submitit_slurm.yaml": [plugins.format("submitit", "SlurmLauncher")],
    }
