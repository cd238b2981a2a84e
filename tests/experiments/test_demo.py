"""`make demo`: the table and the picture, on networks small enough for a test."""

import json

import pytest

from experiments import demo
from lab import compose
from lab.record.files import PRODUCTS
from lab.sweep import results

pytestmark = pytest.mark.slow

SMALL = ("steps=2", "model.depth=3", "model.width=8", "replicas=2", "batch_size=16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("demo")
    assert demo.main(["--folder", str(folder), *SMALL]) == 0
    return folder


def test_every_arm_leaves_a_whole_run(folder):
    runs = [path for path in folder.iterdir() if path.is_dir()]
    assert len(runs) == len(demo.ARMS) == 10
    for run in runs:
        assert json.loads((run / "summary.json").read_text())["status"] == "finished"
        assert all(any(run.glob(pattern)) for pattern in PRODUCTS)


def test_the_picture_is_a_png_of_more_than_an_empty_frame(folder):
    picture = (folder / demo.PICTURE).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_the_demo_can_be_repeated_in_the_same_folder(folder, capsys):
    assert demo.main(["--folder", str(folder), *SMALL]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in demo.ARMS)
    assert "board" in printed


def test_the_demo_is_the_comparison_the_readme_promises():
    arms = [compose.compose([*demo.COMMON, *overrides]) for overrides in demo.ARMS.values()]
    assert {arm.model.depth for arm in arms} == {30}
    assert {arm.model.width for arm in arms} == {128}
    assert {arm.replicas for arm in arms} == {4}
    plain = {(arm.activation.name, arm.init.name) for arm in arms if arm.norm.name == "none"}
    assert plain == {(a, f"{i}_normal") for a in ("sigmoid", "tanh", "relu", "gelu") for i in ("xavier", "he")}
    assert [(arm.norm.name, arm.residual.name) for arm in arms[8:]] == [("batch", "none"), ("layer", "identity")]


def test_a_deep_sigmoid_network_loses_the_decades_that_theory_says_and_relu_with_he_loses_none():
    # Mean field: sigmoid at Xavier has q* = 0.2647 and chi = 0.05572, so 0.627 decades a layer; ReLU at He has chi = 1.
    # Sampling: ln of a squared gradient varies by 5/n a layer (n = 128, 4 replicas), so a slope over 30 layers errs by
    # sqrt(12 * 5 / (n * 30**2 * 4)) / (2 ln 10) = 0.0025 decades, and the finite-width bias is 5 / (2n) / (2 ln 10) =
    # 0.004. ReLU's correlated deltas and the drift towards q* of the first layers are that size: 4 times the sum.
    import lab

    slopes = {
        name: float(lab.simulate(*demo.COMMON, *demo.ARMS[name], "steps=0")["delta_slope"].mean())
        for name in ("sigmoid, xavier", "relu, he")
    }
    assert slopes["sigmoid, xavier"] == pytest.approx(0.627, abs=0.026)
    assert slopes["relu, he"] == pytest.approx(0, abs=0.026)


def test_a_run_of_the_demo_reads_back(folder):
    table = results.load(folder / "relu-he-batch_norm")
    assert table["delta_rms"].dims == ("step", "layer", "replica")
