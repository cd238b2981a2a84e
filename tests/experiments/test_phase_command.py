"""`gradlab phase`: the map it writes against theory of other origin, its points against networks, and its picture."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import lab
from experiments.phase_map import measured as measured_module
from experiments.phase_map import table as table_module
from experiments.phase_map import trained as trained_module
from lab import compose, schema
from lab.plot import phase as phase_picture
from lab.plot import style
from lab.theory import critical_line, depth_scales
from tests.conftest import Command

REPOSITORY = Path(__file__).parents[2]
COARSE = ("--points=21", "output_dir=mine")
TINY_NETWORKS = ("model.width=8", "batch_size=8", "data=spirals", "data.examples=60", "steps=3", "threads=1")


def load(folder: Path) -> xr.Dataset:
    return xr.load_dataset(folder / "phase.nc", engine="h5netcdf")


# --- the map --------------------------------------------------------------------------------------------------------


def test_the_command_leaves_a_picture_and_its_numbers_and_says_where(gradlab: Command, tmp_path: Path):
    done = gradlab("phase", "activation=tanh", *COARSE)
    assert done.status == 0
    assert done.out.splitlines()[:2] == [str(Path("mine/phase.png")), str(Path("mine/phase.nc"))]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["phase.nc", "phase.png"]
    assert (tmp_path / "mine" / "phase.png").read_bytes().startswith(b"\x89PNG")
    table = load(tmp_path / "mine")
    assert table["chi"].dims == ("bias_var", "weight_var")
    assert all({"long_name", "units"} <= set(table[name].attrs) for name in table.variables if name != "init")
    assert json.loads(table.attrs["config"])["activation"]["name"] == "tanh"


def test_the_map_of_erf_is_the_fixed_point_of_its_closed_forms(gradlab: Command, tmp_path: Path):
    # Williams 1997: V = (2/pi) asin(2q/(1+2q)); Poole et al. 2016: D = (4/pi)/sqrt(1+4q). Iterated 4000 times, which
    # away from the critical line (where every layer still counts) settles to rounding.
    assert gradlab("phase", "activation=erf", "--weight-var=0.1:3", "--bias-var=0.01:0.3", *COARSE).status == 0
    table = load(tmp_path / "mine")
    s, b = table["weight_var"].to_numpy(), table["bias_var"].to_numpy()[:, None]
    q = s + b
    for _ in range(4000):
        q = s * 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)) + b
    slope = s * 4 / math.pi / ((1 + 2 * q) * np.sqrt(1 + 4 * q))
    np.testing.assert_allclose(table["q_star"], q, rtol=1e-9)
    np.testing.assert_allclose(table["chi"], s * 4 / math.pi / np.sqrt(1 + 4 * q), rtol=1e-9)
    np.testing.assert_allclose(table["xi_q"], -1 / np.log(slope), rtol=1e-6)
    np.testing.assert_allclose(table["xi_grad"], 1 / np.abs(np.log(table["chi"])), rtol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu", "selu", "softplus", "glu"])
def test_the_map_agrees_with_the_depth_scales_of_single_points(name: str):
    chosen = compose.compose([f"activation={name}"])
    table = table_module.phase_table(chosen, *table_module.default_ranges(chosen.activation), 12)
    for row, column in ((1, 2), (4, 5), (7, 3), (9, 9), (11, 6)):
        point = table.isel(bias_var=row, weight_var=column)
        scales = depth_scales(chosen.activation, float(point["weight_var"]), float(point["bias_var"]))
        for key in ("q_star", "chi", "xi_grad", "xi_q"):
            assert float(point[key]) == pytest.approx(getattr(scales, key), rel=1e-6, nan_ok=True), (row, column, key)


def test_every_init_stands_where_its_weights_and_biases_put_it():
    chosen = compose.compose(["activation=tanh", "init=critical", "init.bias_var=0.05", "init.gain=1.1"])
    points = table_module.init_points(chosen)
    assert points["torch_default"] == pytest.approx((1 / 3, 1 / (3 * 128)))
    assert points["xavier"] == points["lecun"] == points["orthogonal"] == (1, 0)
    assert points["he"] == (2, 0)
    assert points["init=critical, gain 1.1"] == pytest.approx((1.7610 * 1.21, 0.05), rel=1e-4)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "glu", "selu"])
def test_ranges_show_the_critical_line_in_the_middle(name: str):
    weight_var, bias_var = table_module.default_ranges(schema.Activation(name))
    line = critical_line(schema.Activation(name), np.linspace(*bias_var, 41))
    assert 0.35 < np.nanmedian(line) / weight_var.high < 0.7
    assert np.isfinite(line).mean() > 0.45
    if name == "tanh":
        assert (weight_var, bias_var) == ((0, 4), (0, 0.4))


# --- measured -------------------------------------------------------------------------------------------------------


def test_rates_measured_in_relu_networks_are_half_of_weight_var(gradlab: Command, tmp_path: Path):
    # ln E delta^2 of relu takes independent steps of mean ln(s/2) - 5/(2n) and variance 5/n a layer (Hanin 2018). The
    # slope fitted to K points of such a walk has variance (6/5) (5/n) / K, and 2 replicas halve that. The examples of a
    # batch share weights, which only makes the shift smaller.
    width, depth, replicas = 64, 24, 2
    words = (f"model.width={width}", f"model.depth={depth}", f"--replicas-per-point={replicas}", "--grid=3x2")
    done = gradlab("phase", "activation=relu", "--measured", *words, *COARSE)
    assert done.status == 0
    table = load(tmp_path / "mine")
    found = np.exp(np.log(table["measured_chi"].to_numpy()).mean(1))
    np.testing.assert_allclose(table["measured_weight_var"], [2 / 3, 2, 10 / 3] * 2)
    np.testing.assert_allclose(table["predicted_chi"], table["measured_weight_var"] / 2)
    layers = depth - depth // 3 - 2
    tolerance = 5 / (2 * width) + 3 * math.sqrt(6 / width / layers / replicas)
    np.testing.assert_allclose(np.log(found), np.log(table["predicted_chi"]), rtol=0, atol=tolerance)
    inside = int(((found > table["lowest_chi"]) & (found < table["highest_chi"])).sum())
    assert int(table["is_inside"].sum()) == inside
    assert "chi per layer: torch_default 0.1667, xavier 0.5, lecun 0.5, orthogonal 0.5, he 1\n" in done.out
    assert f"measured: {inside} of 6 points lie within what finite width allows" in done.out


def test_a_measured_point_is_the_same_network_as_a_run_of_its_own():
    words = ("activation=tanh", "model.depth=12", "model.width=16", "batch_size=8", "dtype=float64", "threads=1")
    table = measured_module.measure(compose.compose(words), np.array([1.0, 2.5]), np.array([0.1, 0.3]), 2)
    alone = ("init=gaussian", "init.weight_var=2.5", "init.bias_var=0.3", "probe.cotangent=random", "steps=0")
    delta = lab.simulate(*words, *alone, "replicas=1", "first_replica=3")["delta_rms"][0, :, 0].to_numpy()
    slope = np.polyfit(np.arange(4, 10), np.log(delta[4:10] ** 2), 1)[0]
    assert float(table["measured_chi"][1, 1]) == pytest.approx(math.exp(-slope), rel=1e-9)


def test_the_allowance_is_that_of_a_random_walk_in_the_logarithm():
    # relu: the steps of ln delta^2 are independent with variance 5/n. 20,000 walks know a standard deviation to
    # 1/sqrt(40,000) = 0.5%; allow three times that, and the second order in 1/n: a tenth of the variance, 0.1.
    width, depth, replicas, walks = 1000, 30, 3, 20_000
    overrides = [
        f"model.width={width}",
        f"model.depth={depth}",
        "data=gaussian",
        "data.features=100",
    ]  # whatever the data
    expected, low, high = measured_module.allowance(
        compose.compose(["activation=relu", *overrides]), np.ones(1), replicas
    )
    steps = np.random.default_rng(0).normal(0, math.sqrt(5 / width), (walks, depth))
    walk = np.cumsum(steps, axis=1)[:, measured_module.fitted(depth)]
    slopes = np.polyfit(np.arange(walk.shape[1]), walk.T, 1)[0]
    reach = 3 * slopes.std() / math.sqrt(replicas)
    assert expected == pytest.approx(1)
    assert math.log(high) == pytest.approx(reach, rel=0.015)
    assert -math.log(low) == pytest.approx(reach + 5 / (2 * width), rel=0.015)


def test_no_allowance_is_given_where_first_order_scatter_means_nothing():
    # glu at weight_var 4 explodes doubly exponentially: every deviation of the variance does so, too.
    words = ("model.depth=30", "data=gaussian", "dtype=float64", "init=gaussian", "init.weight_var=4")
    expected, low, high = measured_module.allowance(compose.compose(["activation=glu", *words]), np.ones(1), 2)
    assert expected > 100
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_rate_is_recovered_and_nothing_is_made_of_a_gradient_that_is_lost():
    delta = 1.3 ** (np.arange(20)[::-1] / 2)
    assert measured_module.rate(delta) == pytest.approx(1.3)
    for lost in (0.0, np.nan, np.inf):
        broken = np.where(np.arange(20) == 8, lost, delta)
        assert np.isnan(measured_module.rate(np.stack([broken, delta]))).tolist() == [True, False]


def test_points_beyond_arithmetic_are_crosses_and_count_as_neither_right_nor_wrong(gradlab: Command, tmp_path: Path):
    words = ("--measured", "--grid=2x1", "--weight-var=0:8", "--bias-var=0:0.4", "model.depth=14", "model.width=32")
    done = gradlab("phase", "activation=bilinear", *words, *COARSE)
    assert "0 points lie" in done.out
    assert "2 have no rate" in done.out
    table = load(tmp_path / "mine")
    assert table["measured_chi"].isnull().all()
    shown = phase_picture.draw(table).axes[0].lines
    [crosses] = [line for line in shown if line.get_label() == "beyond what float64 holds"]
    assert np.asarray(crosses.get_xdata()).tolist() == [2, 6]


# --- trained --------------------------------------------------------------------------------------------------------


def test_trained_accuracies_are_those_of_single_runs(gradlab: Command, tmp_path: Path):
    words = ("activation=tanh", *TINY_NETWORKS, "optimizer=adam", "optimizer.lr=0.02")
    flags = ("--trained", "--depths=2", "--columns=2", "--replicas-per-point=2")
    assert gradlab("phase", *words, *flags, *COARSE).status == 0
    table = load(tmp_path / "mine")
    assert table["accuracy"].dims == ("depth", "trained_weight_var", "trained_replica")
    assert table["trained_weight_var"].to_numpy().tolist() == [1, 3]
    assert table.attrs["trained_bias_var"] == pytest.approx(0.05)
    alone = ("init=gaussian", "init.weight_var=3", "init.bias_var=0.05", "model.depth=2", "replicas=2")
    readings = lab.simulate(*words, *alone, "first_replica=2")
    expected = readings["eval_accuracy"][-1].to_numpy()
    np.testing.assert_allclose(table["accuracy"][0, 1], expected)


def test_networks_train_at_the_bias_var_of_the_configuration_or_where_the_line_is():
    part = table_module.Range(0, 0.4)

    def chosen(*words: str) -> float:
        return table_module.trained_bias_var(compose.compose(words), part)

    assert chosen("activation=tanh") == pytest.approx(0.05)
    assert chosen("activation=tanh", "init=gaussian", "init.bias_var=0.3") == 0.3
    assert chosen("activation=relu") == 0
    assert 0.1729 < chosen("activation=gelu") < 0.19  # the half-stable point, and a little more
    assert chosen("activation=swiglu") == pytest.approx(0.05)


# --- what is refused, and Ctrl-C ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ("norm=layer", "norm=layer: the map is of plain networks"),
        ("residual=identity", "residual=identity: the map is of plain networks"),
        ("model.block=ffn", "model.block=ffn: the map is of plain networks"),
        ("model.bias=false", "model.bias=false: the map is of plain networks"),
        ("steps=5", "steps=5: nothing that is drawn depends on it; leave it out, or add --trained."),
        ("data=circles", "data=circles: nothing that is drawn depends on it; leave it out, or add --measured or --tr"),
        ("--measured replicas=3", "replicas=3: nothing that is drawn depends on it; choose --replicas-per-point."),
        (
            "--trained model.depth=9",
            "model.depth=9: nothing that is drawn depends on it; choose --depths with --trained, or",
        ),
        ("--grid=3x2", "--grid=3x2: nothing that is drawn depends on it; leave it out, or add --measured.\n"),
        ("--depths 3", "--depths: nothing that is drawn depends on it; leave it out, or add --trained.\n"),
        (
            "--measured --columns=4",
            "--columns=4: nothing that is drawn depends on it; leave it out, or add --trained.\n",
        ),
        (
            "--replicas-per-point=3",
            "--replicas-per-point=3: nothing that is drawn depends on it; leave it out, or add --m",
        ),
        ("--measured model.depth=9", "model.depth=9: a rate is fitted to layers"),
        ("model.dpth=3", "model.dpth: there is no such key; did you mean model.depth?"),
        ("activation=tanh,relu", "activation: one map is drawn at a time"),
        ("--weight-var=3:1", "Argument --weight-var: invalid limits value: '3:1'; see gradlab phase --help."),
        ("--weight-var=-1:1", "Argument --weight-var: invalid limits"),
        ("--bias-var=nan:1", "Argument --bias-var: invalid limits"),
        ("--bias-var=1", "Argument --bias-var: invalid limits"),
        ("--points=1", "Argument --points: a map has 2 points or more"),
        ("--measured --grid=3", "Argument --grid: invalid grid value: '3'"),
        ("--trained --columns=0", "Argument --columns: invalid count value: '0'"),
        ("--trained --depths=3,x", "Argument --depths: invalid depths value: '3,x'"),
        ("--grd=3x3", "Unrecognized arguments: --grd=3x3; see gradlab phase --help."),
    ],
)
def test_what_would_change_nothing_or_cannot_be_is_refused_in_one_sentence(
    gradlab: Command, tmp_path: Path, words: str, start: str
):
    refused = gradlab("phase", *words.split())
    assert refused.status == 2
    assert refused.err.startswith(start)
    assert refused.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_map_is_not_written_over_unless_asked_for(gradlab: Command, tmp_path: Path):
    assert gradlab("phase", "activation=relu", *COARSE).status == 0
    refused = gradlab("phase", "activation=tanh", *COARSE)
    assert (refused.status, load(tmp_path / "mine").attrs["activation"]) == (2, "relu")
    assert refused.err.startswith("output_dir=mine: this folder holds a map already; ")
    assert gradlab("phase", "activation=tanh", *COARSE, "overwrite=true").status == 0
    assert load(tmp_path / "mine").attrs["activation"] == "tanh"


def test_an_interrupt_while_drawing_leaves_nothing_half_written(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(figure: Figure, path: Path) -> None:
        path.write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(style, "save", interrupted)
    ended = gradlab("phase", "activation=relu", *COARSE)
    assert (ended.status, ended.out, ended.err) == (130, "", "Interrupted; nothing was written to mine.\n")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_while_networks_train_in_other_processes_ends_them_all(tmp_path: Path):
    words = ("activation=tanh", "--trained", "--depths=2,3,40,41", "steps=1000000", "output_dir=mine", *COARSE[:1])
    networks = [word for word in TINY_NETWORKS if not word.startswith("steps")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lab", "phase", *words, *networks]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, **options)  # type: ignore[call-overload]
    try:
        time.sleep(8)  # by now the processes are at work, which would take them hours
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: everybody hears it
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "Interrupted; nothing was written to mine."
    assert "Traceback" not in err
    assert not (tmp_path / "mine").exists()
    deadline = time.monotonic() + 20  # the interpreter's own helper processes take a moment to notice
    while _is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(process.pid)


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_depths_train_in_processes_of_their_own_and_come_back_in_order(gradlab: Command, tmp_path: Path):
    words = ("activation=tanh", *TINY_NETWORKS, "--trained", "--depths=4,2", "--columns=2", "--measured", "--grid=2x1")
    assert gradlab("phase", *words, "model.depth=12", *COARSE).status == 0
    table = load(tmp_path / "mine")
    assert table["depth"].to_numpy().tolist() == [2, 4]
    chosen = compose.compose(["activation=tanh", *TINY_NETWORKS, "optimizer.lr=0.005"])
    for depth in (2, 4):
        expected = trained_module.accuracy(chosen, depth, np.array([1.0, 3.0]), 0.05, 2)
        np.testing.assert_allclose(table["accuracy"].sel(depth=depth), expected)
    assert table.sizes["measured_point"] == 2
