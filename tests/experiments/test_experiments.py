"""The experiments that come with the lab: each runs with the command it opens with, and shows what it promises."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lab
from lab.compose import compose, conf_dir
from lab.schema import as_dict
from tests.compose.test_composition import flat
from tests.conftest import Command
from tests.contract import assert_keeps_contract

EXPERIMENTS = sorted((conf_dir() / "experiment").glob("*.yaml"))
SHORT = ("steps=2", "model.width=8", "batch_size=16", "replicas=2")


def overrides(experiment: Path) -> list[str]:
    """The words of the command that the file opens with, after `gradlab run`."""
    package, command = experiment.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    words = shlex.split(command.removeprefix("# "))
    assert words[:2] == ["gradlab", "run"]
    return words[2:]


def test_there_are_experiments():
    assert len(EXPERIMENTS) >= 6


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs_with_the_command_it_opens_with(experiment: Path, gradlab: Command, tmp_path: Path):
    words = overrides(experiment)
    assert words[0] == f"+experiment={experiment.stem}"
    assert gradlab("run", *words, *SHORT, "output_dir=mine").status == 0
    table, summary = assert_keeps_contract(tmp_path / "mine")
    assert np.isfinite(table["loss"]).all()
    assert summary["steps_done"] == 2


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_holds_only_what_it_changes_and_says_why(experiment: Path):
    changed = dict(flat(as_dict(compose(overrides(experiment)))))
    default = dict(flat(as_dict(compose())))
    lines = experiment.read_text().splitlines()
    settings = [line for line in lines if re.match(r"( *- override /| *)\w+: +[^ ]", line)]
    assert settings
    for line in settings:
        key = line.partition(":")[0].strip().removeprefix("- override /")
        names = [name for name in changed if name in (f"{key}.name", key) or name.endswith(f".{key}")]
        assert any(changed[name] != default.get(name) for name in names), f"{line}: this is the default"
    assert lines[3].startswith("# ")  # what there is to see
    assert any("  # " in line for line in settings)


def first_reading(name: str, *changes: str) -> xr.Dataset:
    return lab.simulate(f"+experiment={name}", "steps=0", "replicas=2", *changes).isel(step=0)


def slope(name: str, *changes: str) -> float:
    """Decades of gradient gained per layer towards the loss, at initialization: mean over two replicas."""
    return float(first_reading(name, *changes)["delta_slope"].mean())


@pytest.mark.slow
def test_the_experiments_show_what_they_promise():
    # Theory for wide layers: log10 of 1/.236 for the sigmoid's mean squared slope at its fixed point; 0 at criticality;
    # log10(3/2)/2 for a weight_var of 3 where 2 is critical; log10(pi/(pi-1))/2 for batch norm with ReLU.
    assert slope("sigmoid_vanishes") == pytest.approx(0.627, abs=0.01)
    assert slope("relu_he") == pytest.approx(0, abs=0.01)
    assert slope("tanh_critical") == pytest.approx(0, abs=0.02)
    assert slope("tanh_critical", "init=gaussian", "init.weight_var=0.8") > 0.04
    assert slope("exploding_clipped") == pytest.approx(-np.log10(1.5) / 2, abs=0.01)
    assert slope("batch_norm_explodes") == pytest.approx(-np.log10(np.pi / (np.pi - 1)) / 2, abs=0.01)
    assert abs(slope("batch_norm_explodes", "residual=identity")) < 0.02
    assert abs(slope("residual_prenorm")) < 0.02


@pytest.mark.slow
def test_clipping_saves_the_exploding_network_that_diverges_without():
    short = ("steps=30", "replicas=2", "probe.eval_every=0")
    clipped = lab.simulate("+experiment=exploding_clipped", *short)
    assert np.isfinite(clipped["loss"]).all()
    assert (clipped["grad_norm"].isel(step=0) > 100).all()
    assert (clipped["clipped_grad_norm"] < 1.001).all()
    unclipped = lab.simulate("+experiment=exploding_clipped", "clip=none", *short)
    assert not np.isfinite(unclipped["loss"].isel(step=-1)).any()
