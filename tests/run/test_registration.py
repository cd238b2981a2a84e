"""Options and quantities registered from Python: trained, measured and predicted like the lab's own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

import lab
from lab import schema
from lab.measure import LAYER_PROBES
from lab.network.activations import FUNCTIONS
from lab.network.initialization import INITS
from lab.readings import LAYER_QUANTITIES
from lab.run import registration
from lab.schema.fields import number
from lab.theory import kernel
from lab.theory.kernels.activations import ELEMENTWISE
from lab.train.update.optimizers import OPTIMIZERS, ReplicaOptimizer
from tests import plain_torch
from tests.measure.test_instrument import assert_readings_are_plain_autograds, make, read

SMALL = ("model.depth=3", "model.width=8", "steps=3", "probe.every=1", "replicas=2", "batch_size=16", "dtype=float64")


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Forget after each test what it registered."""
    tables: list[dict[Any, Any]] = [
        *schema.CHOICES.values(),
        FUNCTIONS,
        INITS,
        OPTIMIZERS,
        ELEMENTWISE,
        LAYER_PROBES,
        LAYER_QUANTITIES,
    ]
    tables.append(registration._registered)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


# --- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function", "module", "is_dying", "weight_var"),
    [("mish", F.mish, torch.nn.Mish, False, 60.0), ("relu6", F.relu6, torch.nn.ReLU6, True, 6.0)],
)
def test_every_quantity_of_a_registered_activation_is_that_of_torchs_module(
    name, function, module, is_dying, weight_var, monkeypatch
):
    lab.register_activation(name, function, zero_stops_gradient=is_dying)
    monkeypatch.setitem(plain_torch.PLAIN, name, module)
    assert_readings_are_plain_autograds(make(activation=name))
    config = make(activation=name, init={"name": "gaussian", "weight_var": weight_var})
    assert_readings_are_plain_autograds(config)
    first = read(config)[0].layers
    assert np.isfinite(first["dead_fraction"]).all() == is_dying
    assert (first["saturated_fraction"] > 0.05).all()


def test_a_registered_activation_is_chosen_by_name():
    lab.register_activation("mish", F.mish)
    table = lab.simulate("activation=mish", *SMALL)
    again = lab.simulate("activation=mish", *SMALL)
    other = lab.simulate("activation=silu", *SMALL)
    assert table.equals(again)
    assert not np.allclose(table["loss"], other["loss"])
    assert '"mish"' in table.attrs["config"]


def test_the_largest_slope_is_found():
    lab.register_activation("mish", F.mish)

    def slope(x):
        z = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(F.mish(z), z)[0].item()

    top = minimize_scalar(lambda x: -slope(x), bounds=(0.5, 3), method="bounded", options={"xatol": 1e-10})
    assert FUNCTIONS["mish"].largest_slope == pytest.approx(-top.fun, abs=1e-12)


def geometric_mean(values):
    return np.exp(np.log(values.to_numpy()).mean(-1))  # (layers,)


def test_theory_integrates_a_registered_activation_and_a_run_agrees():
    lab.register_activation("mish", F.mish)

    def second_moment(x, deviation=1.3):
        z = deviation * x
        return (z * np.tanh(np.log1p(np.exp(z)))) ** 2 * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)

    expected = quad(second_moment, -12, 12, epsabs=1e-13)[0]
    assert kernel(schema.Activation("mish")).second_moment(1.3**2) == pytest.approx(expected, rel=1e-10)
    table = lab.simulate(
        *("activation=mish", "model.depth=6", "model.width=256", "steps=0", "replicas=8", "data=gaussian"),
    ).isel(step=0)
    for name in ("pre_rms", "delta_rms"):
        middle = geometric_mean(table[name])
        lower, upper = (table[f"predicted_{name}_{end}"] for end in ("lower", "upper"))
        assert ((lower < middle) & (middle < upper))[:-1].all(), name  # the last layer's delta_rms is the scale
    np.testing.assert_allclose(geometric_mean(table["pre_rms"]), table["predicted_pre_rms"], rtol=0.03)


# --- inits, optimizers, quantities ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sparse(schema.Init):
    density: float = number(0.5, above=0, at_most=1)


def test_a_registered_init_draws_the_weights():
    def draw(options, fan_in, fan_out, rng):
        return rng.normal(size=(fan_in, fan_out)) * (rng.random((fan_in, fan_out)) < options.density)

    lab.register_init("sparse", draw, Sparse)
    table = lab.simulate("init=sparse", "init.density=0.25", "init.gain=3", *SMALL, "model.width=200")
    expected = 3 * np.sqrt(0.25 * 200 * 200)  # layers 1 and 2 have 200 x 200 weights
    np.testing.assert_allclose(table["weight_norm"].isel(step=0, layer=slice(1, None)), expected, rtol=0.02)
    assert not [name for name in table if str(name).startswith("predicted_")]
    with pytest.raises(schema.ConfigError, match=r"init\.density=2"):
        lab.simulate("init=sparse", "init.density=2", *SMALL)


class SignDescent(ReplicaOptimizer):
    def state_names(self):
        return ()

    def update(self, parameter, gradient, state):
        self.descend(parameter, gradient.sign())


def test_a_registered_optimizer_makes_the_updates():
    lab.register_optimizer("sign", SignDescent)
    table = lab.simulate("optimizer=sign", "optimizer.lr=0.001", *SMALL, "activation=tanh")
    norm = np.sqrt(8 * 8 + 8)  # every weight and bias of a layer moves by lr
    norms = table["weight_norm"].isel(step=0, layer=1)  # biases are 0 at the start
    np.testing.assert_allclose(table["update_ratio"].isel(step=0, layer=1), 0.001 * norm / norms, rtol=1e-9)


@pytest.mark.parametrize(("where", "twin"), [("z", "pre_rms"), ("a", "act_rms"), ("delta", "delta_rms")])
def test_a_registered_quantity_is_measured_where_it_says(where, twin):
    lab.register_quantity(
        "my_rms", lambda x: x.square().mean((-2, -1)).sqrt(), where=where, units="my unit", long_name="my own"
    )
    table = lab.simulate(*SMALL, "activation=tanh")
    np.testing.assert_allclose(table["my_rms"], table[twin], rtol=1e-12)
    assert table["my_rms"].attrs == {"long_name": "my own", "units": "my unit"}
    assert "my_rms" not in lab.simulate(*SMALL, "probe.set=norms")


def test_a_run_with_a_registered_quantity_writes_it_into_its_folder(gradlab):
    lab.register_quantity(
        "pre_max", lambda z: z.abs().amax((-2, -1)), where="z", units="1", long_name="largest |z|", is_scale=True
    )
    assert gradlab("run", *SMALL, "output_dir=out").status == 0
    assert (lab.load("out")["pre_max"] > 0).all()


def test_names_that_are_taken_are_refused_and_repeated_registrations_are_not():
    for _ in range(2):
        lab.register_activation("mish", F.mish)
    with pytest.raises(ValueError, match="activation=mish"):
        lab.register_activation("mish", F.silu)
    with pytest.raises(ValueError, match="activation=relu"):
        lab.register_activation("relu", F.mish)
    with pytest.raises(ValueError, match="delta_rms"):
        lab.register_quantity("delta_rms", torch.sum, where="z", units="1", long_name="")
    with pytest.raises(ValueError, match="where=weights"):
        lab.register_quantity("other", torch.sum, where="weights", units="1", long_name="")
