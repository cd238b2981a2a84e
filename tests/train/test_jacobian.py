"""probe.jacobian=true: the input-output Jacobian's singular values, against torch's Jacobian and NumPy's SVD."""

import numpy as np
import pytest
import torch

import lab
from lab import schema
from lab.compose import compose
from lab.schema import ConfigError
from lab.train.trainer import Due, Trainer
from tests.plain_torch import CPU
from tests.short_runs import are_same, assert_same_readings, every_network, load, make, state, train

PROBE = {"every": 5, "eval_every": 10, "examples": 5}


def autograd_jacobian(network, inputs):
    """(R, N, features) at the first of the inputs (R, P, features), by torch.autograd.functional."""

    def top(x):
        return network.trunk(torch.cat([x, inputs[:, 1:]], 1))[:, 0].sum(0)  # replicas share nothing

    with network.evaluating(batch_statistics=True):
        full = torch.autograd.functional.jacobian(top, inputs[:, :1])  # (N, R, 1, features)
    assert isinstance(full, torch.Tensor)
    return full[:, :, 0].transpose(0, 1)


@every_network
def test_singular_values_and_moments_are_those_of_the_whole_matrix(choices):
    config = make(dtype="float64", probe={**PROBE, "jacobian": True}, **choices)
    trainer = Trainer(config, load(config), CPU)
    matrices = autograd_jacobian(trainer.network, trainer.instrument.probe_set).numpy()
    record = trainer.step(Due(reading=True, jacobian=True))
    assert record is not None
    values = np.linalg.svd(matrices, compute_uv=False).T  # (K, R)
    squares = values**2
    np.testing.assert_allclose(record.spectra["jacobian_sv"], values, 1e-9, atol=1e-12)
    np.testing.assert_allclose(record.scalars["jacobian_mean"], squares.mean(0), 1e-9)
    expected = squares.var(0) / squares.mean(0) ** 2
    np.testing.assert_allclose(record.scalars["jacobian_relative_variance"], expected, 1e-9, atol=1e-12)


@every_network
def test_looking_at_the_jacobian_changes_nothing_else(choices):
    (plain, before), (looking, after) = (
        train(make(probe={**PROBE, **extra}, **choices)) for extra in ({}, {"jacobian": True, "jacobian_every": 5})
    )
    assert are_same(state(before), state(after))
    for record in looking:
        for name in ("jacobian_mean", "jacobian_relative_variance"):
            del record.scalars[name]
    assert_same_readings(plain, looking)


@pytest.mark.parametrize(("every", "steps"), [(0, [0]), (10, [0, 10]), (5, [0, 5, 10])])
def test_it_is_measured_at_the_first_reading_and_where_asked(every, steps):
    records, _ = train(make(probe={**PROBE, "jacobian": True, "jacobian_every": every}))
    assert [record.step for record in records if "jacobian_sv" in record.spectra] == steps
    measured = [record.step for record in records if np.isfinite(record.scalars["jacobian_mean"]).all()]
    assert measured == steps
    assert all("jacobian_mean" in record.scalars for record in records)


def test_the_table_has_a_dimension_of_its_own_for_them_and_the_prediction_beside():
    table = lab.simulate(
        *("probe.jacobian=true", "init=orthogonal", "activation=identity", "model.depth=3", "model.width=16"),
        *("data=gaussian", "data.features=8", "steps=50", "replicas=2", "dtype=float64"),
    )
    assert table["jacobian_sv"].dims == ("step", "singular_value", "replica")
    assert table.sizes["singular_value"] == 8
    assert table["jacobian_sv"].attrs["units"] == "1"
    first = table.isel(step=0)
    np.testing.assert_allclose(first["jacobian_sv"], 1, rtol=1e-12)  # orthogonal maps of more units than features
    assert first["jacobian_mean"].to_numpy() == pytest.approx([1, 1])
    assert table["predicted_jacobian_mean"].item() == pytest.approx(1)
    assert table["predicted_jacobian_relative_variance"].item() == pytest.approx(0, abs=1e-12)
    assert np.isnan(table.isel(step=-1)["jacobian_sv"]).all()


def test_a_linear_gaussian_network_has_the_predicted_moments():
    """Relative variance of the squares: L for L square maps, here with features = width."""
    depth, width, replicas = 4, 64, 64
    table = lab.simulate(
        *("probe.jacobian=true", "init=lecun_normal", "activation=identity", f"model.depth={depth}", "steps=0"),
        *(f"model.width={width}", "data=gaussian", f"data.features={width}", f"replicas={replicas}", "dtype=float64"),
    ).isel(step=0)
    assert table["predicted_jacobian_relative_variance"].item() == pytest.approx(depth)
    # Of one network the mean scatters by sqrt(2 L) / width, the variance by something like L times a few over width,
    # and finite width lowers it by about L / width: five standard errors of the mean over 64 networks are below 6%.
    assert table["jacobian_mean"].mean().item() == pytest.approx(1, abs=0.04)
    assert table["jacobian_relative_variance"].mean().item() == pytest.approx(depth, rel=0.1)


def test_random_slopes_are_compared_with_their_mean():
    table = lab.simulate(
        *("probe.jacobian=true", "activation=rrelu", "model.depth=4", "model.width=128", "steps=0", "replicas=16"),
    ).isel(step=0)
    slope = (1 / 8 + 1 / 3) / 2
    per_layer = (1 + slope**2) / 2 * 2  # he: s = 2; D = (1 + slope^2) / 2
    assert table["predicted_jacobian_mean"].item() == pytest.approx(per_layer**4 * 128 / 64)


def test_a_cadence_without_a_jacobian_is_refused():
    with pytest.raises(ConfigError, match=r"probe\.jacobian_every=5.*probe\.jacobian=true"):
        compose(["probe.jacobian_every=5"])
    assert compose(["probe.jacobian_every=50", "probe.jacobian=true"]).probe == schema.Probe(
        jacobian=True, jacobian_every=50
    )
