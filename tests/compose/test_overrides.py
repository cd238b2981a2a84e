"""The runs of a sweep."""

import itertools

import pytest

from lab.compose import jobs_of_sweep
from lab.schema import ConfigError


def test_a_sweep_is_every_combination_the_last_key_fastest():
    jobs = jobs_of_sweep(["activation=tanh,relu", "steps=5", "model.depth=range(2,5)"])
    expected = itertools.product(("tanh", "relu"), (2, 3, 4))
    assert jobs == [[f"activation={name}", "steps=5", f"model.depth={depth}"] for name, depth in expected]


def test_an_endless_sweep_is_refused():
    with pytest.raises(ConfigError, match=r"^optimizer\.lr=interval\(0,1\): only choices and ranges"):
        jobs_of_sweep(["optimizer.lr=interval(0,1)"])


def test_a_sweep_over_a_glob_is_refused_because_only_hydra_inside_a_run_could_expand_it():
    with pytest.raises(ConfigError, match=r"^activation=glob\(s\*\): .*list the values instead\.$"):
        jobs_of_sweep(["activation=glob(s*)"])
