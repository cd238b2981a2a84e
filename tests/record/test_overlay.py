"""Theory beside the measurement: in the table, the picture, TensorBoard and the summary."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lab
from lab import data, theory
from lab.compose import compose
from lab.plot import gradients
from lab.record import overlay
from lab.record.overlay import Overlay
from lab.run.execution import run
from lab.theory import NoTheory
from tests.plain_torch import CPU

SMALL = ("model.depth=6", "model.width=32", "batch_size=16", "replicas=3", "steps=2")
NAMES = {f"predicted_{name}{end}" for name in ("delta_rms", "pre_rms") for end in ("", "_lower", "_upper")}


def expect(*overrides: str) -> Overlay | NoTheory:
    config = compose(overrides)
    return overlay.expect(theory.resolve_critical(config), data.load(config.data, getattr(torch, config.dtype), CPU))


def geometric_mean(values: xr.DataArray) -> xr.DataArray:
    """Of the first reading, over replicas: (layer,)."""
    logs = values.isel(step=0).copy(data=np.log(values.isel(step=0).to_numpy()))
    mean = logs.mean("replica")
    return mean.copy(data=np.exp(mean.to_numpy()))


def test_a_table_carries_the_prediction_on_the_layers():
    table = lab.simulate(*SMALL, "activation=tanh")
    assert set(table) >= NAMES
    for name in NAMES:
        assert table[name].dims == ("layer",)
        assert table[name].dtype == np.float64
        assert table[name].attrs["long_name"]
        assert table[name].attrs["units"]
    for name in ("delta_rms", "pre_rms"):
        middle, lower, upper = (table[f"predicted_{name}{end}"] for end in ("", "_lower", "_upper"))
        assert (lower <= middle).all()
        assert (middle <= upper).all()


def test_delta_rms_is_predicted_from_the_measured_size_at_the_last_layer_and_theory_below():
    table = lab.simulate(*SMALL, "activation=tanh", "data=gaussian", "data.variance=1")
    predicted = table["predicted_delta_rms"]
    last = table["delta_rms"].isel(step=0, layer=-1).to_numpy()
    assert predicted[-1].item() == pytest.approx(np.exp(np.mean(np.log(last))))
    config = compose([*SMALL, "activation=tanh", "data=gaussian"])
    relative = theory.predict(config).delta_rms
    # The batch's mean squares scatter about the 1 of the data: 64 features, 48 examples, sqrt(2 / 64 / 48) = 2.6%, and
    # tanh forgets most of it in a layer.
    np.testing.assert_allclose(predicted / predicted[-1], relative, rtol=0.05)


def test_the_prediction_starts_from_the_data_of_the_first_batches():
    table = lab.simulate(*SMALL, "activation=tanh", "data=gaussian", "data.variance=4", "init=lecun_normal")
    assert table["predicted_pre_rms"][0].item() == pytest.approx(2, rel=0.05)
    measured = geometric_mean(table["pre_rms"])[0].item()
    # 3 replicas of 32 units, each with weights of its own: 1 / sqrt(2 * 96) = 7% for the rms
    assert measured == pytest.approx(table["predicted_pre_rms"][0].item(), rel=4 * 0.07)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "selu", "rrelu"])
def test_the_measured_geometric_mean_lies_inside_the_band(activation: str):
    table = lab.simulate(
        *(f"activation={activation}", "init=lecun_normal", "model.depth=20", "model.width=128", "replicas=8"),
        *("steps=0", "probe.cotangent=random", "dtype=float64", "data=gaussian"),
    )
    for name in ("delta_rms", "pre_rms"):
        measured = geometric_mean(table[name])
        assert (measured >= table[f"predicted_{name}_lower"] * (1 - 1e-9)).all(), name
        assert (measured <= table[f"predicted_{name}_upper"] * (1 + 1e-9)).all(), name


def test_the_slopes_z_score_is_small_where_theory_holds_and_large_where_the_network_is_another(tmp_path: Path):
    words = (
        "init=lecun_normal",
        "model.depth=20",
        "model.width=128",
        "replicas=8",
        "steps=0",
        "probe.cotangent=random",
    )
    config = compose([*words, "activation=sigmoid"])
    summary = run(config, tmp_path / "sigmoid", is_quiet=True)
    found = json.loads((tmp_path / "sigmoid" / "summary.json").read_text())["theory"]["delta_slope"]
    assert summary["theory"]["delta_slope"] == found
    table = lab.load(tmp_path / "sigmoid")
    assert found["measured"] == pytest.approx(table["delta_slope"].isel(step=0).mean().item())
    assert abs(found["z"]) < 3
    assert found["z"] == pytest.approx(
        (found["measured"] - found["predicted"] - found["finite_width_shift"]) / found["standard_error"]
    )
    other = expect(*words, "activation=tanh")
    assert isinstance(other, Overlay)
    assert abs(other.slope.z(found["measured"])) > 10


def test_the_standard_error_of_the_slope_is_the_scatter_of_networks():
    """ReLU with He: ln delta^2 is a random walk whose steps have variance 5/n, which the slope's scatter follows."""
    depth, width, replicas = 20, 32, 300
    words = ("activation=relu", f"model.depth={depth}", f"model.width={width}", f"replicas={replicas}", "steps=0")
    table = lab.simulate(*words, "probe.cotangent=random", "dtype=float64", "batch_size=1", "data=gaussian")
    slopes = table["delta_slope"].isel(step=0).to_numpy()
    config = compose([*words, "data=gaussian"])
    slope = theory.expected_slope(config, theory.predict(config), replicas=1)
    walk = slope.standard_error
    # Of 300 slopes the standard deviation scatters by 4%; first order in L / n leaves 10%, the range of the shift adds.
    assert slopes.std(ddof=1) == pytest.approx(walk, rel=0.3)
    # By hand: the slope of a random walk of L steps has variance 6 v / (5 L) for long walks.
    by_hand = np.sqrt(6 * (5 / width) / (5 * depth)) / (2 * np.log(10))
    assert slopes.std(ddof=1) == pytest.approx(by_hand, rel=0.2)


def test_a_configuration_without_a_theory_says_which_choice_has_none(tmp_path: Path):
    config = compose(["norm=batch", "norm.place=pre", *SMALL, "residual=identity"])
    summary = run(config, tmp_path / "mine", is_quiet=True)
    assert "batch_size=16" in summary["theory"]["none"]
    assert not NAMES & set(lab.load(tmp_path / "mine"))
    assert (tmp_path / "mine" / "gradients.png").is_file()


def test_runs_with_and_without_a_theory_are_collected_together(tmp_path: Path):
    for name, words in {"a": ("norm=none",), "b": ("norm=batch", "norm.place=pre", "residual=identity")}.items():
        run(compose([*words, *SMALL]), tmp_path / name, is_quiet=True)
    table = lab.load(tmp_path)
    assert sorted(np.isfinite(table["predicted_delta_rms"].to_numpy()).all(axis=-1)) == [False, True]


def test_the_picture_has_a_dashed_line_for_the_prediction_and_none_without():
    table = lab.simulate(*SMALL, "activation=tanh")
    for shown, count in ((table, 1), (table.drop_vars(NAMES), 0)):
        axes = gradients.draw(shown).axes
        assert [axis.get_ylabel().split()[0] for axis in axes] == ["delta_rms", "weight_grad_norm", "pre_rms"]
        dashed = [[line for line in axis.get_lines() if line.get_linestyle() == "--"] for axis in axes]
        assert [len(lines) for lines in dashed] == [count, 0, count]
    line = next(line for line in gradients.draw(table).axes[0].get_lines() if line.get_linestyle() == "--")
    np.testing.assert_allclose(np.asarray(line.get_ydata(), np.float64), table["predicted_delta_rms"])


def test_tensorboard_has_the_prediction_against_depth(tmp_path: Path):
    run(compose([*SMALL, "activation=tanh", "probe.jacobian=true"]), tmp_path, is_quiet=True)
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    table = xr.load_dataset(tmp_path / "readings.nc", engine="h5netcdf")
    for name in ("delta_rms", "pre_rms"):
        points = events.Scalars(f"profile/log10_predicted_{name}")
        assert [point.step for point in points] == list(range(6))
        np.testing.assert_allclose([p.value for p in points], np.log10(table[f"predicted_{name}"]), atol=1e-5)
    (histogram,) = events.Histograms("jacobian/log10_sv")
    assert histogram.step == 0
    assert histogram.histogram_value.num == table["jacobian_sv"].isel(step=0).size
    (mean,) = events.Scalars("jacobian/log10_mean")
    assert mean.value == pytest.approx(np.log10(table["jacobian_mean"].isel(step=0)).mean().item(), abs=1e-5)


def test_a_closed_branch_and_a_single_layer_have_no_slope_to_compare():
    for words in (("residual=rezero", "residual.alpha=0"), ("model.depth=1",)):
        table = lab.simulate(*SMALL, *words)
        assert "predicted_pre_rms" in table
        expected = expect(*SMALL, *words)
        assert isinstance(expected, Overlay)
        assert not np.isfinite(expected.slope.z(0.0))


def test_critical_variances_are_predicted_like_given_ones():
    expected = expect(*SMALL, "init=critical", "activation=tanh")
    assert isinstance(expected, Overlay)
    weight_var = theory.critical_weight_var_of(compose([*SMALL, "init=critical", "activation=tanh"]))
    given = expect(*SMALL, "init=gaussian", f"init.weight_var={weight_var!r}", "activation=tanh")
    assert isinstance(given, Overlay)
    np.testing.assert_allclose(expected.delta_rms, given.delta_rms)
