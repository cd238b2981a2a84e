"""Short trainings of small networks with everything that may go wrong in one, for the tests of the training loop."""

from typing import Any

import numpy as np
import pytest
import torch

from lab import data
from lab.train import loop
from lab.train.trainer import Trainer
from tests.plain_torch import CPU, configure

DATA = {"name": "gaussian", "examples": 60, "features": 4, "classes": 3}

NETWORKS: dict[str, dict[str, Any]] = {
    "relu, sgd": {},
    "random slopes, adam": {"activation": "rrelu", "optimizer": {"name": "adam", "lr": 0.01}},
    "batch norm, clip=norm": {"norm": "batch", "clip": {"name": "norm", "max_norm": 0.05}},
    "gated, momentum, clip=adaptive": {
        "activation": "swiglu",
        "norm": {"name": "rms", "place": "post"},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "clip": {"name": "adaptive", "factor": 0.05},
    },
    "residual ffn, rmsprop, clip=value": {
        "activation": "gelu",
        "residual": "rezero",
        "norm": {"name": "layer", "place": "pre"},
        "optimizer": {"name": "rmsprop", "lr": 0.003},
        "clip": {"name": "value", "max_value": 0.01},
        "model": {"depth": 3, "width": 6, "block": "ffn"},
    },
    "learnt slope, adamw": {"activation": "prelu", "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
}
every_network = pytest.mark.parametrize("choices", NETWORKS.values(), ids=list(NETWORKS))


def make(**choices):
    standard: dict[str, Any] = {
        "replicas": 3,
        "steps": 12,
        "batch_size": 8,
        "data": DATA,
        "probe": {"every": 5, "eval_every": 10, "examples": 5},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "model": {"depth": 4, "width": 6},
    }
    return configure(**{**standard, **choices})


def load(config):
    return data.load(config.data, getattr(torch, config.dtype), CPU)


def train(config, before_step=lambda trainer: None):
    """The records of a run, and the trainer as it was at the end; `before_step` may interfere."""
    made = []

    class Watched(Trainer):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def step(self, *args, **options):
            before_step(self)
            return super().step(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Trainer", Watched)
        records = list(loop.train(config, load(config), CPU))
    (trainer,) = made
    return records, trainer


def state(trainer, replicas=slice(None)):
    """Parameters and running statistics of some replicas, as integers: bit for bit."""
    parameters = [run.values[:, replicas] for run in trainer.parameters.stacks]
    tensors = [*parameters, *(buffer[replicas] for buffer in trainer.network.buffers())]
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}
    return [tensor.contiguous().view(integers[tensor.dtype]).clone() for tensor in tensors]


def are_same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def assert_same_readings(first, second, pick=slice(None)):
    """Every number of every record, to the last bit, of the picked replicas."""
    assert [record.step for record in first] == [record.step for record in second]
    for mine, theirs in zip(first, second, strict=True):
        assert set(mine.layers) == set(theirs.layers)
        assert set(mine.scalars) == set(theirs.scalars)
        for name, values in (mine.layers | mine.scalars).items():
            np.testing.assert_array_equal(values[..., pick], (theirs.layers | theirs.scalars)[name][..., pick], name)
        np.testing.assert_array_equal(mine.diverged_at[pick], theirs.diverged_at[pick])
