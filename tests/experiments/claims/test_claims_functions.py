"""Claims about linear stacks, sigmoid, tanh, swish, GELU and the coding questions: each can fail; their tools."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy import special, stats

from experiments.claims import (
    by_hand,
    exact,
    exercises,
    gelu,
    gelu_comparison,
    gelu_gradient,
    linear,
    sigmoid,
    sigmoid_bound,
    signs,
    swish,
    tanh,
    tanh_faster,
    tanh_vanishes,
)
from experiments.claims.claim import Claim, Samples, Scale, Verdict
from lab import compose, data
from lab.network import Block, activations
from lab.train.trainer import Trainer
from lab.typing import Array

CLAIMS: dict[str, Claim] = {
    claim.id: claim for topic in (linear, sigmoid, tanh, swish, gelu, exercises) for claim in topic.CLAIMS
}
R = 6
RNG = np.random.default_rng(0)
FORMATS = ("float32", "float64")
Z = np.unique(np.concatenate([np.linspace(-120, 120, 961), [-1e4, 1e4, -1e-9, 1e-9]]))
SMALL = np.unique(np.concatenate([np.linspace(-8, 8, 641), [-1e4, 1e4]]))


def near(values: Array | float, spread: float = 0.01) -> Array:
    """Replicas along a last axis: (...) -> (..., R)."""
    return np.asarray(values)[..., None] + spread * RNG.normal(size=(*np.shape(values), R))


def rounded(values: Array, name: str) -> Array:
    return values.astype(name).astype(np.float64)


def normal_slope(x: Array) -> Array:
    return stats.norm.cdf(x) + x * stats.norm.pdf(x)


# --- samples as `measure` returns them, from SciPy and by assumption ------------------------------------------------


def sigmoid_range() -> dict[str, Array]:
    value = special.expit(Z)
    samples = {"z": Z, "exact": value, "above": special.log_expit(Z) / math.log(10)}
    samples["below"] = special.log_expit(-Z) / math.log(10)
    for name in FORMATS:
        samples |= {f"value_{name}": rounded(value, name), f"written_{name}": rounded(value, name)}
        samples[f"edges_{name}"] = np.array([17.0, -88.0])
    return samples


def sigmoid_derivative() -> dict[str, Array]:
    slope = special.expit(Z) * special.expit(-Z)
    samples = {"z": Z, "exact": slope, "product": np.maximum(slope, 1e-300), "log10_gap": np.full(len(Z), -49.9)}
    for name in FORMATS:
        for kind in ("value", "written", "backpropagated"):
            samples[f"{kind}_{name}"] = rounded(slope, name)
        samples[f"edges_{name}"] = np.array([17.0, -88.0])
    return samples


def sigmoid_max() -> dict[str, Array]:
    square = np.tanh(SMALL / 2) ** 2 / 4
    return {"z": SMALL, "slope": 0.25 - square, "square": square, "top": np.array([0.0, 0.25])}


def sigmoid_bounds(critical: float = 0.98, orthogonal: float = 0.236) -> dict[str, Array]:
    samples: dict[str, Array] = {}
    for name, rate in zip(sigmoid_bound.ARMS, (orthogonal, 0.235, 0.14, critical), strict=True):
        curve = np.log10(rate) * np.arange(9, -1, -1)
        samples |= {f"{name} measured": 10 ** (near(curve) * (curve < 0)[:, None]), f"{name} predicted": 10**curve}
    return samples


def like_signs(batch: float = 0.3, back: float = 0.1) -> dict[str, Array]:
    samples = {"batches": np.array(signs.BATCHES, dtype=np.float64)}
    shape = (len(signs.BATCHES), R)
    for time in signs.TIMES:
        falling = np.geomspace(1.0, batch, len(signs.BATCHES))[:, None]
        samples[f"alike sigmoid {time}"] = np.broadcast_to(falling, shape).copy()
        samples[f"reversed sigmoid {time}"] = near(np.linspace(0.45, back, len(signs.BATCHES)), 0.001)
        samples[f"reversed tanh {time}"] = near(np.full(len(signs.BATCHES), 0.02), 0.001)
        samples |= {f"together {name} {time}": np.zeros(shape) for name in signs.ARMS}
        samples[f"alike tanh {time}"] = np.zeros(shape)
    return samples


def tanh_identities(
    quotient: Callable[[Array, str], Array] | None = None, slope: Array | None = None
) -> dict[str, Array]:
    slope = np.cosh(np.clip(Z, -350, 350)) ** -2.0 if slope is None else slope
    samples = {"z": Z, "exact": np.tanh(Z), "exact_slope": slope, "crossing": np.array([1.6628858910586212])}
    samples |= {"gap_forms": np.full(len(Z), -49.8), "gap_slope": np.full(len(Z), -49.8)}
    for name in FORMATS:
        samples[f"value_{name}"] = rounded(np.tanh(Z), name)
        samples[f"slope_{name}"] = np.maximum(slope, 1e-300) if quotient else rounded(1 - np.tanh(Z) ** 2, name)
        broken = np.where(np.abs(Z) > 88, np.nan, np.tanh(Z))
        samples[f"quotient_{name}"] = quotient(Z, name) if quotient else broken
        samples[f"rescaled_{name}"] = rounded(np.tanh(Z), name)
        samples[f"edges_{name}"] = np.array([88.7, 9.0])
    return samples


def learning(twin: float = 50.0, usual: float = 120.0) -> dict[str, Array]:
    at = np.arange(0.0, 305, 5)
    samples: dict[str, Array] = {"steps": at}
    for name in tanh_faster.ARMS:
        kind = name.rpartition(", depth")[0]
        taken = {"tanh, Xavier": 40.0, "sigmoid, Xavier": usual, "sigmoid, critical": 90.0, tanh_faster.TWIN: twin}[
            kind
        ]
        accuracy = np.clip(0.1 + 0.8 * at[:, None] / (taken + np.linspace(-8, 8, R)), 0, 1)
        samples |= {f"eval_accuracy {name}": accuracy, f"eval_loss {name}": 2.4 * (1 - accuracy) + 0.1}
        samples[f"rate {name}"] = np.array([0.01])
    return samples


def tanh_depths(weights: float = 0.36, power: bool = True) -> dict[str, Array]:
    layer = np.arange(tanh_vanishes.DEPTH, dtype=np.float64)
    last = float(layer[-1])
    critical = 0.5 * np.log10((layer + 1) / (last + 1)) if power else -0.01 * (last - layer)
    curves: dict[str, Array] = {
        "torch default": -0.24 * (last - layer),
        "critical": critical,
        "large weights": weights * (last - layer),
        "large biases": -0.64 * (last - layer),
    }
    samples: dict[str, Array] = {}
    for name, curve in curves.items():
        samples |= {f"measured {name}": near(curve, 0.003), f"predicted {name}": curve}
        samples[f"band {name}"] = np.array([curve[0] - 0.5, curve[0] + 0.5])
        samples[f"saturated {name}"] = near(0.75 if "large" in name else 0.0, 0.001)
    return samples


def linear_stack(collapse: float = 5e-15, line: float = 0.5, bent: float = 0.99) -> dict[str, Array]:
    at = np.arange(0.0, 420, 20)
    samples = {"collapse": np.full(R, collapse), "steps": at}
    ends = {"circles, linear, depth 1": line, "circles, linear, depth 8": 0.48, "circles, tanh, depth 2": bent}
    ends |= {"digits, linear, depth 1": 0.96, "digits, linear, depth 20": 0.12}
    for name, end in ends.items():
        samples |= {f"accuracy {name}": near(np.linspace(0.1, end, len(at)), 0.005), f"rate {name}": np.array([0.1])}
    for variance in linear.VARIANCES:
        curve = np.log10(variance) / 2 * np.arange(linear.DEPTH - 1, -1, -1)
        samples |= {f"gradient {variance:g}": near(curve), f"predicted {variance:g}": curve}
    return samples


def swish_family(scale: float = 1.0) -> dict[str, Array]:
    dip = special.lambertw(math.exp(-1)).real
    bottoms = -(1 + dip) / np.array([beta for beta in swish.BETAS if beta > 0])
    z = np.union1d(SMALL, bottoms)
    samples = {"z": z, "betas": np.array(swish.BETAS), "bottom": np.array([-1 - dip, -dip])}
    for beta in swish.BETAS:
        value, slope = z * special.expit(beta * z), special.expit(beta * z) * (1 + beta * z * special.expit(-beta * z))
        samples |= {f"exact {beta:g}": value, f"slope {beta:g}": slope}
        for name in FORMATS:
            samples[f"lab {beta:g} {name}"] = scale * rounded(value, name)
            samples[f"lab slope {beta:g} {name}"] = rounded(slope, name)
    samples["learnt"] = np.stack([np.ones((6, R)), near(np.full(6, 1.0), 0.1)])
    return samples


def gelu_definitions(constant: float = 1.0) -> dict[str, Array]:
    value = constant * SMALL * stats.norm.cdf(SMALL)
    at = gelu.MASKED_AT
    samples = {"z": SMALL, "exact": SMALL * stats.norm.cdf(SMALL), "log10_gap": np.full(len(SMALL), -49.9)}
    samples |= {"at_masked": at * stats.norm.cdf(at), "masked": near(at * stats.norm.cdf(at), 1e-4)}
    for name in FORMATS:
        samples |= {f"value_{name}": rounded(value, name), f"repeated_{name}": np.zeros(len(SMALL))}
    return samples


def gelu_forms(cubic: float = 0.044715) -> dict[str, Array]:
    x = np.clip(SMALL, -30, 30)
    y = math.sqrt(2 / math.pi) * (x + cubic * x**3)
    steep = math.sqrt(2 / math.pi) * (1 + 3 * cubic * x**2)
    samples = {"z": SMALL, "exact": SMALL * stats.norm.cdf(SMALL), "tanh": SMALL * special.expit(2 * y)}
    samples |= {
        "exact_slope": normal_slope(x),
        "tanh_slope": special.expit(2 * y) * (1 + 2 * x * steep * special.expit(-2 * y)),
    }
    return samples | {f"roundings_{name}": np.array([1.0, 1.2]) for name in FORMATS}


def gelu_shapes(dip: float = -0.16997120747990366) -> dict[str, Array]:
    x = np.clip(SMALL, -38, 38)
    return {
        "z": SMALL,
        "value": np.where(SMALL < -100, -0.0, SMALL * stats.norm.cdf(SMALL)),
        "slope": normal_slope(x),
        "second": (2 - x**2) * stats.norm.pdf(x),
        "bottom": np.array([-0.7517915246935645, dip]),
        "bends": np.array([-math.sqrt(2), math.sqrt(2)]),
        "step": np.array([1.5e-6, 1.0]),
    }


def gelu_gradients(silent: float = 0.01) -> dict[str, Array]:
    samples = {
        "zero": np.array([-0.7517915246935645]),
        "lost_float32": np.array([-14.0]),
        "lost_float64": np.array([-38.0]),
    }
    for kind, share, revived in (("relu", 0.3, 0.0), ("gelu", silent, 0.4)):
        samples[f"silent {kind}"] = near(np.full(len(gelu_gradient.RATES), share), 0.003)
        samples |= {
            f"revived {kind} {distance:g}": near(revived if distance < 1 else 0.0, 0.003)
            for distance in gelu_gradient.DISTANCES
        }
    for kind, depth in gelu_gradient.DEEP:
        fall = -0.1 * depth if kind == "gelu" else 0.0
        samples |= {
            f"deep {kind} {depth}": near(fall),
            f"predicted {kind} {depth}": np.array([fall, fall - 1, fall + 1]),
        }
    return samples


def plotted(slope: float = 0.1, height: float = 0.5) -> dict[str, Array]:
    z = np.linspace(-10, 10, 801)
    samples = {"z": z, "axes": np.array([0.0, height]), "leaky slope": np.array([slope])}
    values = {
        "sigmoid": special.expit(z),
        "tanh": np.tanh(z),
        "relu": z * (z > 0),
        "leaky_relu": np.where(z > 0, z, 0.1 * z),
    }
    slopes = {"sigmoid": special.expit(z) * special.expit(-z), "tanh": np.cosh(z) ** -2.0}
    slopes |= {"relu": (z > 0) * 1.0, "leaky_relu": np.where(z > 0, 1.0, 0.1)}
    for name, value in values.items():
        samples |= {f"value {name}": value, f"torch value {name}": value}
        samples |= {f"slope {name}": slopes[name], f"torch slope {name}": slopes[name]}
    return samples


def gelu_by_hand(apart: float = 4.7e-4, off: float = 1e-16) -> dict[str, Array]:
    x, own = np.linspace(-10, 10, 401), np.linspace(-4, 4, 100)
    samples = {"x": x, "script x": own}
    for pair in exercises.PAIRS:
        size = apart if pair == exercises.PAIRS[0] else off
        samples |= {f"{pair}, {name}": size * np.cos(x) for name in FORMATS}
        samples[f"script: {pair}"] = size * np.cos(own)
    return samples


CASES: dict[str, tuple[Samples, Samples]] = {
    "linear-collapse": (linear_stack(), linear_stack(collapse=1e-3)),
    "sigmoid-range": (sigmoid_range(), sigmoid_range() | {"below": np.where(Z > 100, -np.inf, -1.0)}),
    "sigmoid-derivative": (
        sigmoid_derivative(),
        sigmoid_derivative() | {"value_float64": 1.001 * sigmoid_derivative()["exact"]},
    ),
    "sigmoid-max": (sigmoid_max(), sigmoid_max() | {"slope": sigmoid_max()["slope"] + 1e-6}),
    "sigmoid-bound": (sigmoid_bounds(), sigmoid_bounds(critical=0.2)),
    "sigmoid-not-centred": (like_signs(), like_signs(batch=0.97, back=0.3)),
    "tanh-identity": (tanh_identities(), tanh_identities() | {"gap_forms": np.full(len(Z), -3.0)}),
    "tanh-faster": (learning(), learning(twin=110.0)),
    "tanh-vanishes": (tanh_depths(), tanh_depths(weights=-0.36, power=False)),
    "swish-shape": (swish_family(), swish_family(scale=1.0001)),
    "gelu-definition": (gelu_definitions(), gelu_definitions(constant=1.0001)),
    "gelu-approximation": (gelu_forms(), gelu_forms(cubic=0.05)),
    "gelu-shape": (gelu_shapes(), gelu_shapes(dip=-0.2)),
    "gelu-gradient": (gelu_gradients(), gelu_gradients(silent=0.3)),
    "plot-activations": (plotted(), plotted(slope=0.01, height=0.0)),
    "gelu-from-scratch": (gelu_by_hand(), gelu_by_hand(off=1e-4)),
}
"""Claim -> samples for which the recorded verdict comes out, and samples for which another must."""


@pytest.mark.parametrize("id_", CASES)
def test_every_claim_can_fail(id_):
    good, doctored = CASES[id_]
    assert CLAIMS[id_].judge(good).verdict == RECORDED[id_]
    assert CLAIMS[id_].judge(doctored).verdict != RECORDED[id_]


OTHER_BRANCHES = {
    "ends that floats keep off": ("sigmoid-range", lambda: open_range(), Verdict.HOLDS),
    "a product that only floats get wrong": (
        "sigmoid-derivative",
        lambda: sigmoid_derivative() | {"written_float32": 1.001 * sigmoid_derivative()["exact"]},
        Verdict.CONDITION,
    ),
    "a bound broken by weights of norm 1": ("sigmoid-bound", lambda: sigmoid_bounds(orthogonal=0.3), Verdict.FAILS),
    "critical weights neither above nor below": ("sigmoid-bound", lambda: sigmoid_bounds(critical=0.25), Verdict.FAILS),
    "signs mixed within one example": (
        "sigmoid-not-centred",
        lambda: like_signs() | {"alike sigmoid trained": 0.5 * like_signs()["alike sigmoid trained"]},
        Verdict.FAILS,
    ),
    "a twin as fast as tanh": ("tanh-faster", lambda: learning(twin=40.0), Verdict.CONDITION),
    "a twin that lags as much": ("tanh-faster", lambda: learning(twin=110.0), Verdict.HOLDS),
    "a twin with half of the lag": ("tanh-faster", lambda: learning(twin=80.0), Verdict.UNDECIDED),
    "a slope that floats keep above 0": (
        "sigmoid-max",
        lambda: sigmoid_max() | {"slope": np.maximum(sigmoid_max()["slope"], 1e-300)},
        Verdict.HOLDS,
    ),
    "floats that are right, but slopes that cross": (
        "tanh-identity",
        lambda: tanh_identities(quotient=lambda z, name: np.tanh(z)),
        Verdict.CONDITION,
    ),
    "a tanh steeper than the sigmoid everywhere": (
        "tanh-identity",
        lambda: steep_everywhere(),
        Verdict.HOLDS,
    ),
    "slopes that cross elsewhere": (
        "tanh-identity",
        lambda: tanh_identities() | {"crossing": np.array([1.7])},
        Verdict.FAILS,
    ),
    "a sigmoid faster than tanh": ("tanh-faster", lambda: learning(usual=20.0), Verdict.FAILS),
    "a linear network beyond what a line can": ("linear-collapse", lambda: linear_stack(line=0.9), Verdict.FAILS),
    "a nonlinear network that does not learn": ("linear-collapse", lambda: linear_stack(bent=0.55), Verdict.UNDECIDED),
    "two forms that differ relatively": ("gelu-approximation", gelu_forms, Verdict.CONDITION),
}


@pytest.mark.parametrize("name", OTHER_BRANCHES)
def test_a_rule_tells_its_cases_apart(name):
    id_, samples, verdict = OTHER_BRANCHES[name]
    assert CLAIMS[id_].judge(samples()).verdict == verdict


def open_range() -> dict[str, Array]:
    """Floats that come no closer to 0 and 1 than a rounding of 1."""
    samples = sigmoid_range()
    for name in FORMATS:
        eps = float(np.finfo(name).eps)
        for kind in ("value", "written"):
            samples[f"{kind}_{name}"] = np.clip(samples[f"{kind}_{name}"], eps, 1 - eps)
    return samples


def steep_everywhere() -> dict[str, Array]:
    """The slope of a function that is twice as steep as the sigmoid for every z, and floats that are right."""
    slope = np.maximum(2 * special.expit(Z) * special.expit(-Z), 1e-300)
    return tanh_identities(lambda z, name: np.tanh(z), slope) | {f"slope_{name}": slope for name in FORMATS}


def test_the_condition_of_tanhs_slope_is_where_it_crosses_the_sigmoids():
    """u = cosh(z / 2) solves 2 u^2 - 2 u - 1 = 0; checked where tanh' = 1 / cosh^2 z is s (1 - s)."""
    at = tanh.CROSSING
    assert np.cosh(at) ** -2 == pytest.approx(special.expit(at) * special.expit(-at), rel=1e-14)
    assert "|z| < 1.663" in CLAIMS["tanh-identity"].judge(tanh_identities()).condition


def test_every_claim_of_these_topics_has_a_case_and_a_record():
    assert set(CLAIMS) == set(CASES) == set(RECORDED)


@pytest.mark.parametrize("id_", CASES)
def test_a_figure_names_its_axes(id_):
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    CLAIMS[id_].draw(figure, CASES[id_][0])
    axes = figure.get_axes()
    assert axes
    assert any(ax.get_xlabel() for ax in axes)
    assert any(ax.get_ylabel() or len(ax.get_yticklabels()) for ax in axes)


WITH_NETWORKS = [id_ for id_, claim in CLAIMS.items() if claim.arms]


# In tanh-faster a lost replica is one that never gets there, which a verdict may well turn on.
@pytest.mark.parametrize("id_", [id_ for id_ in WITH_NETWORKS if id_ != "tanh-faster"])
def test_a_lost_replica_does_not_change_a_verdict(id_):
    good = {name: values.copy() for name, values in CASES[id_][0].items()}
    for name, values in good.items():
        if values.shape[-1:] == (R,) and name != "collapse":
            values[..., 0] = np.nan
    assert CLAIMS[id_].judge(good).verdict == RECORDED[id_]


MATHS = [id_ for id_, claim in CLAIMS.items() if not claim.arms]


@pytest.mark.slow
@pytest.mark.parametrize("id_", [*MATHS, *(pytest.param(id_, marks=pytest.mark.slow) for id_ in WITH_NETWORKS)])
def test_the_cases_look_like_what_is_measured(id_):
    measured = CLAIMS[id_].measure(Scale("test", 2, 0.02))
    assert {name: values.ndim for name, values in measured.items()} == {
        name: values.ndim for name, values in CASES[id_][0].items()
    }
    assert all(values.dtype == np.float64 for values in measured.values())
    if id_ in MATHS:  # it needs no training to be decided
        assert CLAIMS[id_].judge(measured).verdict == RECORDED[id_]


def test_no_topic_imports_torch_before_it_measures():
    topics = ", ".join(
        f"experiments.claims.{name}" for name in ("linear", "sigmoid", "tanh", "swish", "gelu", "exercises")
    )
    code = f"import sys, {topics}; print({{'torch', 'matplotlib', 'xarray', 'mpmath'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- a wrong formula is caught --------------------------------------------------------------------------------------

TINY = Scale("test", 2, 0.02)


def test_a_wrong_derivative_of_the_labs_sigmoid_is_caught(monkeypatch):
    right = activations.FUNCTIONS["sigmoid"]
    wrong = activations.ActivationFunction(
        right.function, lambda z: right.derivative(z) * (1 + 1e-5), right.largest_slope
    )
    monkeypatch.setitem(activations.FUNCTIONS, "sigmoid", wrong)
    for id_ in ("sigmoid-derivative", "sigmoid-max"):
        assert CLAIMS[id_].judge(CLAIMS[id_].measure(TINY)).verdict == Verdict.FAILS


def test_a_sigmoid_that_reaches_beyond_1_is_caught(monkeypatch):
    monkeypatch.setattr(by_hand, "sigmoid", lambda z, m: (1 + 1e-30) / (1 + m.exp(-z)) + m.exp(-z * z) / 100)
    assert CLAIMS["sigmoid-range"].judge(CLAIMS["sigmoid-range"].measure(TINY)).verdict == Verdict.FAILS


def test_a_false_identity_of_tanh_is_caught(monkeypatch):
    monkeypatch.setattr(by_hand, "tanh_slope", lambda z, m: (1 - m.tanh(z) ** 2) * (1 - 1e-12))
    assert CLAIMS["tanh-identity"].judge(CLAIMS["tanh-identity"].measure(TINY)).verdict == Verdict.FAILS


@pytest.mark.slow
@pytest.mark.parametrize("id_", ["gelu-approximation", "gelu-from-scratch"])
def test_a_wrong_cubic_constant_is_caught(id_, monkeypatch):
    monkeypatch.setattr(by_hand, "GELU_CUBIC", 0.0448)
    assert CLAIMS[id_].judge(CLAIMS[id_].measure(TINY)).verdict == Verdict.FAILS


def test_a_wrong_gelu_is_caught(monkeypatch):
    right = activations.FUNCTIONS["gelu"]
    wrong = activations.ActivationFunction(
        lambda z: right.function(z) + 1e-5 * torch.exp(-z * z), right.derivative, 1.13
    )
    monkeypatch.setitem(activations.FUNCTIONS, "gelu", wrong)
    assert CLAIMS["gelu-definition"].judge(CLAIMS["gelu-definition"].measure(TINY)).verdict == Verdict.FAILS


def test_a_wrong_derivative_in_the_plotting_script_is_caught(monkeypatch):
    function, derivative = exercises.SCRIPT["tanh"]
    monkeypatch.setitem(exercises.SCRIPT, "tanh", (function, lambda x: derivative(x) + 1e-9))
    assert CLAIMS["plot-activations"].judge(CLAIMS["plot-activations"].measure(TINY)).verdict == Verdict.FAILS


# --- the tools ------------------------------------------------------------------------------------------------------


def test_hard_points_are_exact_in_float32_and_symmetric():
    z = exact.hard_points()
    assert np.array_equal(z, z.astype(np.float32).astype(np.float64))
    assert np.array_equal(z, -z[::-1])
    assert {0.0, 16.0, -130.0}.issubset(z)
    assert np.abs(z[z != 0]).min() < 2e-30


def test_an_exact_slope_is_the_derivative_in_closed_form():
    z = np.linspace(-3, 3, 7)
    found = exact.exact_slope(lambda x: x**3 / 7, z)
    np.testing.assert_allclose(found, 3 * z**2 / 7, rtol=1e-15, atol=1e-100)


@pytest.mark.parametrize(
    ("name", "largest"), [("float32", np.finfo(np.float32).max), ("float64", np.finfo(np.float64).max)]
)
def test_an_edge_is_the_last_number_of_the_format(name, largest):
    found = exact.edge(lambda x: torch.exp(x).isfinite(), 0.0, 1000.0, name)
    following = np.nextafter(np.dtype(name).type(found), np.inf, dtype=name)
    assert math.log(largest) - 1e-5 < found <= math.log(largest) + 1e-5
    assert torch.exp(torch.full((64,), float(following), dtype=getattr(torch, name))).isinf().all()


def test_an_edge_that_is_none_is_refused():
    with pytest.raises(ValueError, match="has to hold at 0 and not at 1"):
        exact.edge(lambda x: x > 5, 0.0, 1.0, "float32")


def test_roundings_are_counted_in_units_of_the_last_place():
    eps = np.finfo(np.float32).eps
    one = np.array([1.0, 1000.0])
    assert exact.roundings(one * (1 + 3 * eps), one, "float32") == pytest.approx(3)
    assert exact.roundings(one / 1000 + eps, one / 1000, "float32") == pytest.approx(1)
    assert exact.roundings(np.array([math.nan]), one[:1], "float32") == math.inf


def test_the_stack_is_the_map_that_it_makes_of_unit_vectors():
    network = trainer("activation=identity", "model.depth=3", "model.width=5", "init=torch_default").network
    weight, bias = linear.single_map(network)
    unit = torch.eye(64, dtype=torch.float64).expand(2, -1, -1)
    with torch.no_grad():
        nothing = network(torch.zeros(2, 1, 64, dtype=torch.float64))
        torch.testing.assert_close(bias, nothing, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(weight, network(unit) - nothing, rtol=1e-12, atol=1e-14)


def trainer(*overrides: str) -> Trainer:
    cfg = compose.compose([*overrides, "dtype=float64", "data=digits", "replicas=2", "probe.set=norms", "threads=1"])
    cpu = torch.device("cpu")
    return Trainer(cfg, data.load(cfg.data, torch.float64, cpu), cpu)


@pytest.mark.parametrize("depth", [1, 4])
def test_the_twin_starts_as_the_tanh_network(depth):
    shape = ("init=torch_default", f"model.depth={depth}", "model.width=20")
    original, twin = (trainer(f"activation={name}", *shape) for name in ("tanh", "sigmoid"))
    tanh_faster.make_twin(twin.network)
    x = original.dataset.test_x[:50].expand(2, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(twin.network(x), original.network(x), rtol=1e-11, atol=1e-12)


def test_weight_gradients_are_inputs_times_deltas():
    """dL/dW = sum over examples of a delta^T, with delta from the last layer by hand."""
    watched = trainer("activation=sigmoid", "model.depth=2", "model.width=7", "init=lecun_normal")
    x, y = watched.batches.next()
    (found,) = signs.weight_gradients(watched, x, y)
    first, second = (block.up for block in watched.network.blocks if isinstance(block, Block))
    with torch.no_grad():
        a = torch.sigmoid(first(x))
        b = torch.sigmoid(second(a))
        error = torch.softmax(watched.network.readout(b), -1) - F.one_hot(y, 10)
        delta = error @ watched.network.readout.weight.transpose(1, 2) * b * (1 - b) / x.shape[1]
        torch.testing.assert_close(found, a.transpose(1, 2) @ delta, rtol=1e-11, atol=1e-15)


def test_a_unit_counts_if_all_its_gradients_have_one_sign():
    gradient = torch.tensor([[[1.0, -1, 2, 0], [3, -2, -1, 1]], [[1, 1, 1, 1], [2, 2, 2, 2]]])
    assert signs.same_sign(gradient).tolist() == [0.5, 1.0]


def test_one_example_gives_a_sigmoid_units_gradients_one_sign_and_a_tanh_units_many():
    for name, share in (("sigmoid", 1.0), ("tanh", 0.0)):
        watched = trainer(f"activation={name}", "model.depth=3", "model.width=30", "init=xavier_normal")
        x, y = watched.batches.next()
        for gradient in signs.weight_gradients(watched, x[:, :1], y[:, :1]):
            assert signs.same_sign(gradient).tolist() == [share, share]


def test_steps_to_the_target_count_the_budget_for_those_that_do_not_get_there():
    accuracy = np.array([[0.1, 0.1, np.nan], [0.95, 0.5, np.nan], [0.5, 0.8, np.nan]])
    assert tanh_faster.steps_to_target(np.array([0.0, 5, 10]), accuracy).tolist() == [5, 10, 10]


def test_the_rate_is_chosen_by_replicas_that_are_not_compared():
    rates, at = len(tanh_faster.RATES), np.array([0.0, 5, 10])
    accuracy, loss = np.full((3, rates, 2, 2), 0.2), np.ones((3, rates, 2, 2))
    accuracy[1:, 2, 0] = 0.99  # what is compared would choose this one
    accuracy[2:, 4, 1] = 0.99
    accuracy[2:, 5, 1] = 0.99
    loss[-1, 5, 1] = 0.5  # as soon there, and lower in the end
    found = tanh_faster.choose(at, {"eval_accuracy": accuracy, "eval_loss": loss})
    assert found["rate"].tolist() == [tanh_faster.RATES[5]]
    assert np.array_equal(found["eval_accuracy"], accuracy[:, 5, 0])


def test_an_axis_in_the_centre_lies_halfway_between_the_limits():
    assert exercises._height_of_axis((-0.5, 1.5)) == pytest.approx(0.5, abs=1e-9)
    assert exercises._height_of_axis((-2.0, 2.0)) == pytest.approx(0.0, abs=1e-9)


def test_the_printed_formulas_are_scipys_and_torchs_functions():
    x = np.linspace(-6, 6, 241)
    np.testing.assert_allclose(by_hand.sigmoid(x, np), special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(by_hand.tanh_quotient(x, np), np.tanh(x), atol=1e-15)
    np.testing.assert_allclose(by_hand.swish(x, 2.0, np), x * special.expit(2 * x), rtol=1e-14)
    tensor = torch.from_numpy(x)
    torch.testing.assert_close(by_hand.gelu(tensor, torch), F.gelu(tensor), rtol=1e-13, atol=1e-15)
    approximate = F.gelu(tensor, approximate="tanh")
    torch.testing.assert_close(by_hand.gelu_tanh(tensor, torch), approximate, rtol=1e-13, atol=1e-15)


def test_the_comparison_finds_the_published_difference_of_gelus_forms():
    for comparison in gelu_comparison.compare(gelu_comparison.grid())[:2]:
        largest, where = comparison.largest
        assert largest == pytest.approx(4.7323e-4, rel=2e-3)
        assert abs(where) == pytest.approx(2.699, abs=0.02)


RECORDED = {
    "linear-collapse": Verdict.CONDITION,
    "sigmoid-range": Verdict.CONDITION,
    "sigmoid-derivative": Verdict.HOLDS,
    "sigmoid-max": Verdict.CONDITION,
    "sigmoid-bound": Verdict.CONDITION,
    "sigmoid-not-centred": Verdict.CONDITION,
    "tanh-identity": Verdict.CONDITION,
    "tanh-faster": Verdict.CONDITION,
    "tanh-vanishes": Verdict.CONDITION,
    "swish-shape": Verdict.CONDITION,
    "gelu-definition": Verdict.CONDITION,
    "gelu-approximation": Verdict.CONDITION,
    "gelu-shape": Verdict.HOLDS,
    "gelu-gradient": Verdict.CONDITION,
    "plot-activations": Verdict.CONDITION,
    "gelu-from-scratch": Verdict.HOLDS,
}
"""What the full run decided."""
