"""From overrides to one frozen configuration."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import schema
from lab.compose import compose, compose_job
from lab.schema import as_dict, from_dict

GROUPS = {
    "activation": {
        *("sigmoid", "tanh", "relu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "gelu", "gelu_tanh", "swish"),
        *("silu", "softplus", "erf", "identity", "glu", "bilinear", "reglu", "geglu", "swiglu"),
    },
    "init": {
        *("xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_normal", "orthogonal"),
        *("torch_default", "gaussian", "critical"),
    },
    "norm": {"none", "batch", "layer", "rms"},
    "residual": {"none", "identity", "scaled", "rezero"},
    "clip": {"none", "norm", "value", "adaptive"},
    "optimizer": {"sgd", "adam", "adamw", "rmsprop"},
    "data": {"digits", "mnist", "fashion_mnist", "spirals", "circles", "gaussian", "npz"},
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in sorted(options)]

NEEDED = {
    "swish": ["activation.beta=2"],
    "npz": ["data.path=mine.npz"],
    "critical": ["activation=tanh"],
    "swiglu": ["model.block=ffn"],
}
"""Option -> further overrides that go with it."""


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_makes_a_configuration(group: str, option: str):
    config = compose([f"{group}={option}", *NEEDED.get(option, [])])
    chosen = getattr(config, group)
    assert chosen.name == option
    assert type(chosen) is schema.CHOICES[group][option]
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config


def test_main_overrides_arrive():
    wanted: dict[str, Any] = {
        "model": {"depth": 50, "width": 64, "block": "ffn", "bias": False, "expansion": 2.0},
        "init": {"gain": 1.5},
        "norm": {"place": "pre"},
        "residual": {"alpha": 0.5},
        "clip": {"max_norm": 2.0},
        "optimizer": {"lr": 0.5},
        "probe": {"every": 3, "set": "norms", "examples": 7, "eval_every": 9},
    }
    wanted |= {"steps": 7, "batch_size": 16, "replicas": 2, "first_replica": 5, "seed": 3, "dtype": "float64"}
    wanted |= {"device": "cpu", "threads": 1, "output_dir": "somewhere", "overwrite": True}
    choices = ["norm=rms", "residual=scaled", "clip=norm"]
    values = dict(flat(wanted))
    found = as_dict(compose(choices + [f"{key}={value}" for key, value in values.items()]))
    assert {key: value for key, value in flat(found) if key in values} == values


def test_a_value_may_point_to_another():
    assert compose(["steps=${model.depth}", "model.depth=7"]).steps == 7


def test_a_configuration_cannot_be_changed_afterwards():
    config = compose()
    for node, name in ((config, "steps"), (config.model, "depth"), (config.activation, "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(node, name, 3)


def test_the_default_cadence_of_evaluations_goes_with_any_cadence_of_readings():
    assert compose(["probe.every=60"]).probe.eval_every == 100
    assert compose(["probe.every=0"]).probe.eval_every == 100
    assert compose(["probe.every=60", "probe.eval_every=120"]).probe.eval_every == 120


def test_a_value_may_point_to_another_key_or_hold_the_date():
    assert compose(["steps=${model.depth}", "model.depth=${batch_size}", "batch_size=7"]).steps == 7
    assert compose(["output_dir=runs/${now:%Y}"]).output_dir == f"runs/{time.strftime('%Y')}"


def test_the_folder_of_a_run_of_a_sweep_is_named_after_its_overrides():
    config, folder = compose_job(["activation=tanh", "output_dir=/x"], number=0)
    assert (config.activation.name, folder) == ("tanh", Path("/x/activation=tanh,output_dir=/x"))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
