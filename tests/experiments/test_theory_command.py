"""`gradlab theory`: published numbers through the command, what has no value says why, and what it leaves behind."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import compose, schema
from lab.theory import bands, predict
from lab.theory.report.report import limits, mean_square
from tests.conftest import Command

REPOSITORY = Path(__file__).parents[2]
SCALARS = [
    *("q_star", "chi", "xi_q", "xi_c", "xi_grad", "critical_weight_var", "phase", "trainable_depth"),
    *("weight_var", "bias_var", "delta_slope"),
]


def theory(gradlab: Command, *words: str) -> dict[str, Any]:
    """The answer of --json."""
    done = gradlab("theory", *words, "--json")
    assert (done.status, done.err) == (0, "")
    return strict(done.out)


def strict(text: str) -> dict[str, Any]:
    """JSON in which NaN and Infinity may not occur."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def squared_gradient(found: dict[str, Any]) -> float:
    """First over last layer."""
    return found["layers"][0]["delta"] ** 2


# --- published numbers; the tolerance is half a unit of the last digit given ----------------------------------------


def gaussian(weight_var: float, bias_var: float = 0.0) -> str:
    return f"init=gaussian init.weight_var={weight_var} init.bias_var={bias_var}"


PLAIN = [
    # overrides, phase, expected: value and tolerance. weight_var is rounded too, and dq*/ds is about 1.
    (f"activation=tanh {gaussian(1.761, 0.05)}", "critical", {"q_star": (0.57, 1e-4), "chi": (1.0, 5e-4)}),
    (
        f"activation=tanh {gaussian(1.3, 0.05)}",
        "vanishing",
        {"chi": (0.88, 5e-4), "critical_weight_var": (1.761, 5e-5)},
    ),
    (
        f"activation=tanh {gaussian(3.0, 0.05)}",
        "exploding",
        {"chi": (1.209, 5e-4), "critical_weight_var": (1.761, 5e-5)},
    ),
    # torch.nn.init.calculate_gain("tanh") is 5 / 3, and multiplies the standard deviation
    ("activation=tanh init=lecun_normal init.gain=1.6666667", "exploding", {"chi": (1.2098, 5e-5)}),
    ("activation=sigmoid init=xavier_normal", "vanishing", {"q_star": (0.2647, 5e-5), "chi": (0.05572, 5e-6)}),
    ("activation=sigmoid init=xavier_normal", "vanishing", {"critical_weight_var": (103, 0.5)}),
    ("activation=relu init=he_normal", "critical", {"chi": (1.0, 1e-12), "critical_weight_var": (2.0, 1e-12)}),
    ("activation=relu init=torch_default", "vanishing", {"chi": (1 / 6, 1e-12)}),
    ("activation=leaky_relu activation.negative_slope=0.2", "exploding", {"critical_weight_var": (2 / 1.04, 1e-9)}),
    ("activation=rrelu", "exploding", {"critical_weight_var": (1.8937, 5e-5)}),
    ("activation=selu init=lecun_normal", "exploding", {"q_star": (1.0, 5e-5), "chi": (1.0716, 5e-5)}),
    # PyTorch's biases of variance 1 / (3 width) move q* a little: in wide layers they do not count.
    ("activation=tanh init=torch_default model.width=10000", "vanishing", {"chi": (1 / 3, 1e-4)}),
    ("activation=sigmoid init=torch_default model.width=10000", "vanishing", {"chi": (0.02, 5e-5)}),
    ("activation=gelu init=torch_default model.width=10000", "vanishing", {"chi": (1 / 12, 1e-4)}),
    ("activation=silu init=torch_default model.width=10000", "vanishing", {"chi": (1 / 12, 1e-4)}),
    # Half-stable points: a parabola touches there, so that q* is known to 1% only.
    (f"activation=gelu {gaussian(1.98306, 0.17292)}", "critical", {"chi": (1.0, 5e-4), "q_star": (3.562, 0.036)}),
    (f"activation=silu {gaussian(1.988, 0.55514)}", "critical", {"chi": (1.0, 5e-4), "q_star": (14.32, 0.15)}),
    # Two maps a layer: chi = s^2 D(q), so that relu is critical at sqrt(2) each
    (
        f"activation=relu model.block=ffn {gaussian(math.sqrt(2))}",
        "critical",
        {"critical_weight_var": (math.sqrt(2), 1e-9)},
    ),
    ("activation=relu model.block=ffn init=he_normal", "exploding", {"chi": (2.0, 1e-9)}),
]


@pytest.mark.parametrize(("words", "phase", "expected"), PLAIN)
def test_plain_networks_have_the_published_limits(
    gradlab: Command, words: str, phase: str, expected: dict[str, tuple[float, float]]
):
    found = theory(gradlab, *words.split())
    assert found["phase"] == phase
    for name, (value, tolerance) in expected.items():
        assert found[name] == pytest.approx(value, abs=tolerance), name


def test_depth_scales_are_those_of_the_rates(gradlab: Command):
    """Schoenholz et al. 2017: xi_grad = 1 / |ln chi|; below the critical line c* = 1, where xi_c is the same."""
    found = theory(gradlab, "activation=tanh", *gaussian(1.3, 0.05).split())
    assert found["xi_grad"] == pytest.approx(1 / abs(math.log(found["chi"])))
    assert found["xi_c"] == pytest.approx(found["xi_grad"])
    assert found["trainable_depth"] == pytest.approx(6 * found["xi_c"])
    approach = [abs(layer["q"] - found["q_star"]) for layer in found["layers"][8:12]]
    assert np.diff(np.log(approach)) == pytest.approx(-1 / found["xi_q"], rel=0.02)


@pytest.mark.parametrize(("depth", "expected"), [(10, 0.0533), (20, 6.0e-5), (50, 5.6e-14)])
def test_he_gelu_loses_its_gradient_step_by_step(gradlab: Command, depth: int, expected: float):
    # A first layer of variance 1, and so many steps down to it.
    found = theory(gradlab, "activation=gelu", f"model.depth={depth + 1}", "--input-q=0.5")
    assert squared_gradient(found) == pytest.approx(expected, rel=6e-3)


@pytest.mark.parametrize(("depth", "expected"), [(50, 0.0143), (100, 0.00713), (200, 0.00355)])
def test_critical_tanh_without_biases_loses_its_gradient_as_a_power(gradlab: Command, depth: int, expected: float):
    found = theory(gradlab, "activation=tanh", *gaussian(1.0).split(), f"model.depth={depth + 1}", "--input-q=1")
    assert squared_gradient(found) == pytest.approx(expected, rel=4e-3)
    assert (found["phase"], found["q_star"], found["variance"]) == ("critical", 0.0, "vanishes")
    assert "that is the limit: over" in found["fate"].lower()


RATES = [
    # D(1) / Var phi (Yang et al. 2019), 1 + alpha^2, D(1) / V(1)
    *(
        (f"activation={name} norm=batch norm.eps=0 batch_size=100000 init=xavier_normal", rate)
        for name, rate in {"tanh": 1.178, "silu": 1.212, "gelu": 1.319, "elu": 1.079, "sigmoid": 1.034}.items()
    ),
    *(
        (f"activation={name} norm={norm} norm.eps=0 init=lecun_normal", rate)
        for norm in ("layer", "rms")
        for name, rate in {"relu": 1.0, "tanh": 1.178, "gelu": 1.072, "elu": 1.036, "sigmoid": 0.153}.items()
    ),
    *((f"activation=relu residual=scaled residual.alpha={alpha}", 1 + alpha**2) for alpha in (0.5, 1.0, 2.0)),
    ("activation=relu residual=identity", 2.0),
    ("activation=relu residual=rezero", 1.0),
]


@pytest.mark.parametrize(("words", "rate"), RATES)
def test_norms_and_skips_have_the_published_rates(gradlab: Command, words: str, rate: float):
    found = theory(gradlab, *words.split())
    assert found["chi"] == pytest.approx(rate, abs=5e-4)
    assert found["phase"] == ("critical" if rate == 1 else "vanishing" if rate < 1 else "exploding")


@pytest.mark.parametrize(
    ("words", "q_star"),
    [
        ("activation=tanh residual=identity", "infinity"),  # exp of the root of depth: Yang and Schoenholz 2017
        ("activation=gelu residual=identity norm=layer norm.place=pre", 2.0),
        ("activation=relu residual=scaled residual.alpha=0.2 norm=rms norm.place=pre model.block=ffn", 2.0),
        ("activation=silu residual=identity norm=batch norm.place=pre", 2.0),
    ],
)
def test_gradients_that_grow_more_slowly_than_any_exponential_are_critical(gradlab: Command, words: str, q_star: Any):
    found = theory(gradlab, *words.split(), "model.depth=50")
    assert (found["phase"], found["chi"], found["xi_grad"]) == ("critical", 1.0, "infinity")
    assert found["q_star"] == (q_star if isinstance(q_star, str) else pytest.approx(q_star, rel=1e-4))
    assert squared_gradient(found) > 1.5
    assert "still grows by a factor of" in found["fate"]


# --- layers ---------------------------------------------------------------------------------------------------------


def test_layers_are_the_prediction_and_its_band(gradlab: Command):
    words = ["activation=gelu", "init=xavier_normal", "model.depth=30", "model.width=64", "replicas=3"]
    found = theory(gradlab, *words, "data=gaussian", "data.variance=0.7")
    composed = compose.compose([*words, "data=gaussian", "data.variance=0.7"])
    prediction = predict(composed, 0.7)
    around = bands(composed, prediction)
    columns = {
        "q": prediction.q,
        "delta": prediction.delta_rms,
        "delta_lower": around.delta_rms.lower,
        "delta_upper": around.delta_rms.upper,
        "pre_rms": prediction.pre_rms,
        "pre_rms_lower": around.pre_rms.lower,
        "pre_rms_upper": around.pre_rms.upper,
        "act_rms": prediction.act_rms,
        "weight_grad_norm": np.exp(prediction.log_weight_grad_norm),
        "log10_delta": np.log10(prediction.delta_rms),
        "log10_delta_lower": np.log10(around.delta_rms.lower),
        "layer": np.arange(30),
    }
    for name, expected in columns.items():
        assert [layer[name] for layer in found["layers"]] == pytest.approx(expected), name
    slope = np.polyfit(np.arange(30), np.log10(prediction.delta_rms), 1)[0]
    assert found["delta_slope"] == pytest.approx(slope)
    assert found["input_q"] == 0.7


def test_numbers_beyond_float64_are_kept_as_logarithms(gradlab: Command):
    found = theory(gradlab, "activation=sigmoid", "init=xavier_normal", "model.depth=1000")
    assert found["layers"][0]["delta"] == 0
    per_layer = np.diff([layer["log10_delta"] for layer in found["layers"][10:]])
    assert per_layer == pytest.approx(-math.log10(0.05572) / 2, abs=5e-5)
    found = theory(gradlab, "activation=tanh", *gaussian(9.0).split(), "model.depth=3000")
    assert found["layers"][0]["delta"] == "infinity"
    assert 308 < found["layers"][0]["log10_delta"] < 1000


def test_inputs_have_the_mean_square_that_the_lab_gives_them():
    import torch

    from lab import data

    for choice in (schema.Data("digits"), schema.Spirals("spirals"), schema.Circles("circles")):
        x = data.load(choice, torch.float64, torch.device("cpu")).train_x
        assert mean_square(choice) == pytest.approx(float(x.square().mean()), rel=1e-9), choice.name
    assert mean_square(schema.GaussianData("gaussian", variance=3.0)) == 3.0


def test_the_size_of_the_inputs_can_be_given(gradlab: Command):
    assert theory(gradlab, "data=spirals")["layers"][0]["q"] == pytest.approx(2.0)
    assert theory(gradlab, "data=spirals", "--input-q=3")["layers"][0]["q"] == pytest.approx(6.0)
    assert theory(gradlab, "data=digits")["q_star"] == pytest.approx(2 * 60 / 64)  # relu keeps what it gets


# --- what has no value says why -------------------------------------------------------------------------------------

VARIETY = [
    "activation=softplus model.depth=1",
    "activation=relu init=gaussian init.weight_var=2.0 init.bias_var=0.1",
    "activation=swiglu",
    "activation=bilinear init=lecun_normal",
    "activation=glu init=gaussian init.weight_var=2.75 init.bias_var=0.23",
    "activation=swiglu norm=rms norm.place=pre residual=identity model.block=ffn",
    "activation=relu init.gain=10 model.depth=200",
    "activation=tanh norm=batch batch_size=3",
    "activation=relu residual=rezero",
    "activation=relu data=npz data.path=points.npz",
    "activation=gelu init=critical init.bias_var=0.3 init.gain=1.1",
    "activation=silu model.width=1 init=torch_default",
    "activation=tanh model.block=ffn model.bias=false",
    "activation=gelu residual=identity model.depth=200 dtype=float64",
]


@pytest.mark.parametrize("words", VARIETY)
def test_every_missing_value_has_a_reason_and_every_reason_a_missing_value(gradlab: Command, words: str):
    shown = gradlab("theory", *words.split(), "output_dir=mine")
    assert (shown.status, shown.err) == (0, "")
    found = strict(Path("mine", "theory.json").read_text())
    missing = {name for name in [*SCALARS, "layers"] if found[name] is None}
    assert missing == set(found["reasons"])
    assert all(sentence.endswith(".") for sentence in found["reasons"].values())
    for name in missing:
        assert re.search(rf"^No (\w+, )*{name}(, \w+)*: ", shown.out, re.MULTILINE), name


def test_scales_of_plain_networks_are_not_given_to_others(gradlab: Command):
    for words in ("norm=layer", "residual=identity"):
        found = theory(gradlab, words)
        assert [found[name] for name in ("xi_q", "xi_c", "trainable_depth")] == [None] * 3
        assert "plain networks" in found["reasons"]["xi_c"]
        assert found["chi"] is not None


def test_without_a_critical_weight_var_the_theory_says_why(gradlab: Command):
    reason = theory(gradlab, "activation=relu", "residual=identity")["reasons"]["critical_weight_var"]
    assert reason.startswith("residual=identity adds every branch's gradient")


@pytest.mark.parametrize(
    ("words", "fate", "chi"), [("--input-q=1", "decays to 0", 0.0), ("--input-q=10", "grows without bound", "infinity")]
)
def test_a_gated_stack_dies_out_or_explodes_doubly_exponentially(gradlab: Command, words: str, fate: str, chi: Any):
    # SwiGLU with weight_var 1 balances at q = 2.430.
    found = theory(gradlab, "activation=swiglu", *gaussian(1.0).split(), words)
    assert f"{fate}, doubly exponentially" in found["fate"]
    assert (found["chi"], found["trainable_depth"]) == (chi, None)


def test_layers_beyond_the_range_of_dtype_leave_the_limits(gradlab: Command):
    words = ["activation=relu", "init.gain=2", "model.depth=300"]
    found = theory(gradlab, *words, "dtype=float32")
    assert found["chi"] == pytest.approx(4.0)
    assert (found["phase"], found["q_star"], found["layers"]) == ("exploding", "infinity", None)
    assert "dtype=float32" in found["reasons"]["layers"]
    assert len(theory(gradlab, *words, "dtype=float64")["layers"]) == 300


def test_a_file_of_ones_own_needs_its_number_of_features(gradlab: Command):
    words = ["init=xavier_normal", "data=npz", "data.path=points.npz"]
    found = theory(gradlab, *words)
    assert found["chi"] == pytest.approx(0.5)
    assert found["layers"] is None
    assert "--features" in found["reasons"]["layers"]
    first = theory(gradlab, *words, "--features=32")["layers"][0]
    assert first["q"] == pytest.approx(2 * 32 / (32 + 128))  # Glorot and Bengio's variance, times fan_in


def test_a_batch_too_small_for_theory_is_no_error(gradlab: Command):
    found = theory(gradlab, "norm=batch", "batch_size=3")
    assert (found["chi"], found["phase"], found["layers"]) == (None, None, None)
    assert "batch_size=64 or more" in found["reasons"]["chi"]


def test_one_layer_and_thousands_are_answered(gradlab: Command):
    for depth in (1, 2, 3000):
        found = theory(gradlab, "activation=tanh", f"model.depth={depth}", *gaussian(1.3, 0.05).split())
        assert len(found["layers"]) == depth
        assert found["layers"][-1]["delta"] == 1
        assert found["chi"] == pytest.approx(0.88, abs=5e-4)


# --- advice ---------------------------------------------------------------------------------------------------------

SICK = [
    f"activation=tanh {gaussian(1.3, 0.05)}",
    f"activation=tanh {gaussian(1.3, 0.05)} init.gain=3",
    "activation=sigmoid init=xavier_normal",
    "activation=relu init=torch_default",
    "activation=gelu",
    "activation=glu",
    "activation=swiglu",
    f"activation=softplus {gaussian(1.0)}",
    "activation=tanh model.block=ffn",
    "activation=tanh norm=layer",
    "activation=silu norm=batch",
    "activation=silu norm=batch batch_size=20",
    "activation=relu residual=identity",
]


@pytest.mark.parametrize("words", SICK)
def test_the_advice_makes_a_network_critical(gradlab: Command, words: str):
    before = theory(gradlab, *words.split())
    assert before["phase"] != "critical"
    assert before["remedy"]
    assert " ".join(before["remedy"]) in before["advice"]
    changed = {word.partition("=")[0] for word in before["remedy"]}
    changed |= {"init.weight_var", "init.bias_var"} if "init" in changed else set()  # options of the old choice
    kept = [word for word in words.split() if word.partition("=")[0] not in changed]
    after = theory(gradlab, *kept, *before["remedy"])
    assert after["phase"] == "critical"
    assert after["remedy"] == []
    assert after["advice"].startswith("Critical: ")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("activation=relu init=torch_default", ["init=critical"]),  # whose biases make relu's variance grow
        ("activation=gelu", ["init=critical", "init.bias_var=0.18"]),  # stable from .1729 on
        ("activation=silu norm=batch", ["norm=batch", "norm.place=pre", "residual=identity"]),
        ("activation=relu residual=identity", ["norm=rms", "norm.place=pre"]),
    ],
)
def test_the_advice_changes_as_little_as_it_can(gradlab: Command, words: str, remedy: list[str]):
    assert theory(gradlab, *words.split())["remedy"] == remedy


def test_the_advice_names_the_weight_var_that_is_wrong(gradlab: Command):
    advice = theory(gradlab, "activation=tanh", *gaussian(1.3, 0.05).split())["advice"]
    assert advice == (
        "Critical would be init=critical init.bias_var=0.05, all else equal: weight_var 1.761 in place of 1.3."
    )


def test_limits_do_not_depend_on_the_depth_of_the_network():
    for words in ("activation=tanh norm=layer", "activation=gelu residual=identity", "activation=sigmoid"):
        shallow, deep = (compose.compose([*words.split(), f"model.depth={depth}"]) for depth in (2, 500))
        assert limits(shallow, 1.0, 64) == limits(deep, 1.0, 64)


# --- files ----------------------------------------------------------------------------------------------------------

TANH = ("theory", "activation=tanh", "model.depth=5")


def test_the_file_holds_what_json_prints_and_can_be_written_again(gradlab: Command, tmp_path: Path):
    printed = gradlab(*TANH, "output_dir=new/mine", "--json")
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):  # the same again changes nothing
        done = gradlab(*TANH, "output_dir=new/mine")
        assert done.status == 0
        assert done.out.splitlines()[-1] == "new/mine/theory.json"
        assert [path.name for path in (tmp_path / "new" / "mine").iterdir()] == ["theory.json"]
        assert (tmp_path / "new" / "mine" / "theory.json").read_text() == printed.out
    found = json.loads(printed.out)
    assert set(SCALARS) < set(found)
    assert (found["config"]["activation"], found["config"]["model.depth"]) == ("tanh", 5)


def test_another_prediction_is_not_written_over_unless_asked(gradlab: Command, tmp_path: Path):
    assert gradlab(*TANH, "output_dir=mine").status == 0
    before = (tmp_path / "mine" / "theory.json").read_bytes()
    refused = gradlab(*TANH, "init=xavier_normal", "output_dir=mine")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        "output_dir=mine: this folder holds another theory.json already; choose another, or add overwrite=true.\n"
    )
    assert (tmp_path / "mine" / "theory.json").read_bytes() == before
    assert gradlab(*TANH, "init=xavier_normal", "output_dir=mine", "overwrite=true").status == 0
    assert json.loads((tmp_path / "mine" / "theory.json").read_text())["config"]["init"] == "xavier_normal"


def test_a_prediction_lies_beside_the_run_that_it_is_for(gradlab: Command, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.json").write_text("{}")
    assert gradlab(*TANH, "output_dir=mine").status == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"summary.json", "theory.json"}


def test_without_a_folder_it_gets_one_named_after_the_time(gradlab: Command, tmp_path: Path):
    assert gradlab(*TANH).status == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)


def test_experiments_of_ones_own_are_found(gradlab: Command, tmp_path: Path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /activation: tanh\nmodel:\n  depth: 3\n"
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(text)
    found = theory(gradlab, "--config-dir", "mine", "+experiment=own")
    assert (found["config"]["activation"], len(found["layers"])) == ("tanh", 3)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ("--steps=3", "Unrecognized arguments: --steps=3; "),
        ("-m activation=tanh", "Unrecognized arguments: -m"),
        ("--jso", "Unrecognized arguments: --jso; "),
        ("--input-q", "Argument --input-q: expected one argument; "),
        ("--input-q=0", "--input-q=0: give a number above 0"),
        ("--input-q=nan", "--input-q=nan: give a number above 0"),
        ("--input-q=much", "Argument --input-q: invalid float value: 'much'; "),
        ("--features=1.5 data=npz data.path=x.npz", "Argument --features: invalid int value: '1.5'; "),
        ("--features=3", "--features=3: data=digits has 64 features; "),
        ("--config-dir=gone", "--config-dir=gone: there is no such folder; "),
        ("activation=relu,tanh", "activation: gradlab theory is about one configuration; "),
        ("activation=rely", "activation=rely: there is no such option; "),
        ("model.depth=0", "model.depth=0: give a number "),
        ("activation=swiglu norm=layer", "norm.place=inner: "),
        ("activation=swiglu init=critical", "init=critical: activation=swiglu "),
        ("output_dir=a_file", "output_dir=a_file: "),
        ("output_dir=a_file/below", "output_dir=a_file/below: "),
    ],
)
def test_bad_input_is_refused_in_one_sentence(gradlab: Command, tmp_path: Path, words: str, start: str):
    (tmp_path / "a_file").touch()
    before = sorted(tmp_path.rglob("*"))
    refused = gradlab("theory", *words.split())
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith(start)
    assert refused.err.endswith(".\n")
    assert refused.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


# --- in a terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("depth", [1, 24, 40, 1000])
def test_the_table_fits_a_terminal(gradlab: Command, monkeypatch: pytest.MonkeyPatch, width: int, depth: int):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = gradlab("theory", "activation=tanh", *gaussian(1.3, 0.05).split(), f"model.depth={depth}", "output_dir=x")
    assert shown.status == 0
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in shown.out
    rows = [int(line.split()[0]) for line in lines if re.match(r" *\d+  ", line)]
    assert len(rows) <= 25
    assert (rows[0], rows[-1]) == (0, depth - 1)
    assert rows == list(range(depth)) if depth <= 24 else len(set(np.diff(rows[:-1]))) == 1
    assert ("weight_grad_norm" in shown.out) == (width == 100)


def test_the_table_says_what_a_student_needs(gradlab: Command):
    shown = " ".join(gradlab("theory", "activation=tanh", *gaussian(1.3, 0.05).split(), "output_dir=x").out.split())
    for words in (
        "Layer 0 is nearest the input, layer 19 nearest the loss.",
        "chi 0.8802 squared gradient of a layer over the next one's",
        "critical_weight_var 1.761",
        "phase vanishing",
        "decades per layer to the loss; + vanishing",
        "Critical would be init=critical init.bias_var=0.05",
        "Assumptions:",
        "Inputs have a mean square of 0.9375.",
    ):
        assert words in shown, words


def test_help_says_what_the_command_takes(gradlab: Command):
    printed = gradlab("theory", "--help")
    assert printed.status == 0
    for words in ("usage: gradlab theory", "--json", "--input-q", "--features", "key=value", '"infinity"', "examples:"):
        assert words in printed.out


def test_theory_loads_neither_torch_nor_what_draws_pictures_and_tables():
    script = (
        "import sys; from experiments.main import main\n"
        "status = main(['theory', 'activation=gelu', 'norm=layer', '--json'])\n"
        "print(status, sorted({'torch', 'matplotlib', 'xarray', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert found.stdout.splitlines()[-1] == "0 []"
