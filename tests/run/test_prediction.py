"""lab.predict: theory as a table, beside the one that lab.simulate measures."""

import json

import numpy as np
import pytest

import lab
from lab.compose import compose
from lab.schema import ConfigError, fingerprint

TANH = ("activation=tanh", "init=gaussian", "init.weight_var=2", "init.bias_var=0.1", "model.depth=60")


def test_the_prediction_has_layers_with_bands_and_the_limits_of_depth():
    table = lab.predict(*TANH)
    assert dict(table.sizes) == {"layer": 60}
    assert table["layer"].values.tolist() == list(range(60))
    for name in ("delta_rms", "pre_rms"):
        lower, middle, upper = (table[f"predicted_{name}{end}"] for end in ("_lower", "", "_upper"))
        assert ((lower <= middle) & (middle <= upper)).all()
        assert middle.attrs["long_name"]
    assert float(table["predicted_delta_rms"][-1]) == 1
    # Deep in the network delta^2 changes by chi per layer, ln chi = 1 / xi_grad in absolute value.
    rate = 2 * np.log(table["predicted_delta_rms"][50] / table["predicted_delta_rms"][51])
    assert float(np.exp(rate)) == pytest.approx(float(table["chi"]), rel=1e-3)
    assert float(table["xi_grad"]) == pytest.approx(1 / abs(np.log(float(table["chi"]))))
    assert float(table["predicted_pre_rms"][-1]) ** 2 == pytest.approx(float(table["q_star"]), rel=1e-3)
    assert table.attrs["fingerprint"] == fingerprint(compose(TANH))
    assert json.loads(table.attrs["assumptions"])
    assert table.attrs["fate"]


def test_it_is_near_what_is_measured():
    choices = ("activation=tanh", "init=gaussian", "init.weight_var=0.7", "model.depth=12", "model.width=200")
    overrides = (*choices, "replicas=20", "steps=0", "probe.cotangent=random", "data=gaussian")
    predicted, measured = lab.predict(*overrides), lab.simulate(*overrides).isel(step=0)
    for name in ("pre_rms", "act_rms"):
        mean = measured[name].mean("replica")
        np.testing.assert_allclose(mean, predicted[f"predicted_{name}"], rtol=0.1)
    slope = float(measured["delta_slope"].mean())
    assert slope == pytest.approx(float(predicted["predicted_delta_slope"]), rel=0.2)


def test_what_has_no_theory_is_nan_or_absent_with_its_reason():
    table = lab.predict("activation=rrelu", "norm=batch", "norm.place=inner", "residual=rezero")
    reasons = json.loads(table.attrs["reasons"])
    missing = [name for name in ("chi", "xi_c", "trainable_depth") if np.isnan(table[name])]
    assert missing
    assert all(name in reasons for name in missing)


def test_predict_refuses_what_the_command_line_refuses():
    with pytest.raises(ConfigError, match=r"^model\.deph: "):
        lab.predict("model.deph=3")
