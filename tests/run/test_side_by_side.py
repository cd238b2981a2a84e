"""Configurations that differ in numbers only, run as replicas of one network."""

from dataclasses import replace

import numpy as np
import pytest

from lab.compose import compose
from lab.run.simulation import side_by_side
from lab.schema import PER_REPLICA, Config, ConfigError

COMMON = ("steps=6", "probe.every=2", "model.depth=3", "model.width=8", "batch_size=8", "replicas=1", "dtype=float64")
DIFFERENT = {
    "seed": ((), (1, 5)),
    "first_replica": ((), (0, 7)),
    "init.gain": (("init=gaussian",), (0.5, 2.0)),
    "init.weight_var": (("init=gaussian",), (0.5, 2.0)),
    "init.bias_var": (("init=critical", "activation=tanh"), (0.05, 0.2)),
    "optimizer.lr": (("optimizer=adam",), (0.001, 0.1)),
    "clip.max_norm": (("clip=norm",), (0.01, 0.1)),
    "residual.alpha": (("residual=scaled",), (0.1, -0.7)),
}


def make(*overrides: str) -> Config:
    return compose([*COMMON, *overrides])


def test_every_key_that_replicas_can_differ_in_is_tried_here():
    assert set(DIFFERENT) == set(PER_REPLICA)


@pytest.mark.parametrize("key", DIFFERENT)
def test_each_is_as_it_would_be_alone(key: str):
    choices, values = DIFFERENT[key]
    configs = [make(*choices, f"{key}={value}") for value in values]
    together = side_by_side(configs)
    for number, config in enumerate(configs):
        alone = side_by_side([config])
        for name in ("delta_rms", "weight_norm", "loss", "clipped_grad_norm", "update_ratio"):
            np.testing.assert_allclose(
                together[name].isel(replica=number), alone[name].isel(replica=0), rtol=1e-9, err_msg=f"{key}: {name}"
            )
    last = together["weight_norm"].isel(step=-1)
    assert not np.allclose(last.isel(replica=0), last.isel(replica=1), rtol=1e-6)


def test_a_learnt_alpha_starts_where_each_configuration_says():
    configs = [make("residual=rezero", f"residual.alpha={alpha}") for alpha in (0.0, 0.5)]
    table = side_by_side(configs).isel(step=0)
    assert (table["delta_rms"].isel(replica=0) == 0).all()  # closed branches get no gradient
    assert (table["delta_rms"].isel(replica=1) > 0).all()


def test_what_replicas_cannot_differ_in_is_refused():
    with pytest.raises(ConfigError, match=r"model\.depth.*cannot differ"):
        side_by_side([make(), make("model.depth=4")])
    with pytest.raises(ConfigError, match=r"replicas=2.*replicas=1"):
        side_by_side([make(), replace(make(), replicas=2)])
