"""Predictions for norms, skips, blocks, gates and batches, against a NumPy network that knows no theory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import special

from lab import schema
from lab.theory import NoTheory, bands, critical_weight_var, critical_weight_var_of, predict, resolve_critical
from lab.theory.deep.batch_norm import batch_moments
from lab.theory.kernels.activations import Function

# --- a network in NumPy ---------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "identity": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "silu": (lambda x: x * special.expit(x), lambda x: special.expit(x) * (1 + x * special.expit(-x))),
    "gelu": (
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    ),
}
GATES = {"glu": "sigmoid", "bilinear": "identity", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}


def normalize(kind, x, eps):
    """The normalized x (B, N) and the backward pass of it."""
    axis, is_centred = (0 if kind == "batch" else 1), kind != "rms"
    centred = x - x.mean(axis, keepdims=True) if is_centred else x
    deviation = np.sqrt((centred**2).mean(axis, keepdims=True) + eps)
    out = centred / deviation

    def back(g):
        g = g - out * (g * out).mean(axis, keepdims=True)
        return (g - g.mean(axis, keepdims=True) if is_centred else g) / deviation

    return out, back


class Affine:
    """x W + b, several maps side by side, with the variances of an initialization."""

    def __init__(self, config, fan_in, fan_out, rng, parts=1):
        init = config.init
        weight_var, bias_var = {
            "xavier_normal": (2 * fan_in / (fan_in + fan_out), 0.0),
            "he_normal": (2.0, 0.0),
            "lecun_normal": (1.0, 0.0),
            "torch_default": (1 / 3, 1 / (3 * fan_in)),
        }.get(init.name, (getattr(init, "weight_var", 1.0), getattr(init, "bias_var", 0.0)))
        self.W = rng.normal(size=(fan_in, parts * fan_out)) * math.sqrt(weight_var * init.gain**2 / fan_in)
        self.b = rng.normal(size=parts * fan_out) * math.sqrt(bias_var)

    def __call__(self, x):
        self.x = x
        return x @ self.W + self.b

    def back(self, g):
        self.W_grad = self.x.T @ g
        return g @ self.W.T


def measure(config, x, seed):
    """One network's mean squares q, a2, delta2 and gain2, (L,) each, and <W, dL/dW> and |dL/dW|^2 of the up maps."""
    rng, width, name = np.random.default_rng(seed), config.model.width, config.activation.name
    is_gated, is_ffn = name in GATES, config.model.block == "ffn"
    phi, slope = FUNCTIONS[GATES.get(name, name)]
    alpha = getattr(config.residual, "alpha", 1.0)
    kind, place = config.norm.name, getattr(config.norm, "place", "none")
    expansion = 4 * (2 / 3 if is_gated else 1)
    hidden = round(expansion * width) if is_ffn else width
    if is_ffn or config.residual.name != "none":
        x = Affine(config, x.shape[1], width, rng)(x)
    layers, q, a2 = [], [], []
    for _ in range(config.model.depth):
        skip, pre, inner, post, down = x, None, None, None, None
        if place == "pre":
            x, pre = normalize(kind, x, config.norm.eps)
        up = Affine(config, x.shape[1], hidden, rng, parts=2 if is_gated else 1)
        z = up(x)
        if place == "inner":
            z, inner = normalize(kind, z, config.norm.eps)
        a = z[:, :hidden] * phi(z[:, hidden:]) if is_gated else phi(z)
        y = a
        if is_ffn:
            down = Affine(config, hidden, width, rng)
            y = down(y)
        x = skip + alpha * y if config.residual.name != "none" else y
        if place == "post":
            x, post = normalize(kind, x, config.norm.eps)
        layers.append((z, up, down, pre, inner, post))
        q.append((z**2).mean())
        a2.append((a**2).mean())
    g = rng.normal(size=x.shape)
    delta2, gain2, products, gradients = [], [], [], []
    for z, up, down, pre, inner, post in reversed(layers):
        g_out = g
        if post:
            g = post(g)
        g_skip, g = g, g * (alpha if config.residual.name != "none" else 1.0)
        if down:
            g = down.back(g)
        if is_gated:
            value, gate = z[:, :hidden], z[:, hidden:]
            delta = np.concatenate([g * phi(gate), g * value * slope(gate)], axis=1)
        else:
            delta = g * slope(z)
        g = up.back(inner(delta) if inner else delta)
        if pre:
            g = pre(g)
        if config.residual.name != "none":
            g = g + g_skip
        delta2.append((delta**2).mean())
        gain2.append((g**2).mean() / (g_out**2).mean())
        products.append((up.W * up.W_grad).sum())
        gradients.append((up.W_grad**2).sum())
    return tuple(np.array(x) for x in (q, a2, delta2[::-1], gain2[::-1], products[::-1], gradients[::-1]))


def configure(act="relu", init="he_normal", norm="none", place="inner", residual="none", block="linear", **other):
    """A configuration for the theory and for `measure`; data are Gaussian with `features` features."""
    depth, width, alpha = other.pop("depth", 8), other.pop("width", 256), other.pop("alpha", None)
    chosen = {
        "activation": schema.ACTIVATIONS[act](act),
        "init": schema.INITS[init](
            init, other.pop("gain", 1.0), **{k: other.pop(k) for k in ("weight_var", "bias_var") if k in other}
        ),
        "norm": schema.NORMS[norm](norm, **({} if norm == "none" else {"place": place, "eps": other.pop("eps", 1e-5)})),
        "residual": schema.RESIDUALS[residual](residual, **({} if alpha is None else {"alpha": alpha})),
        "model": schema.Model(depth, width, block),
        "batch_size": other.pop("batch", 64),
        "data": schema.GaussianData("gaussian", features=other.pop("features", 256)),
        "dtype": other.pop("dtype", "float64"),
    }
    return replace(schema.Config(), **chosen, **other)


def inputs(config, seed=0):
    """Inputs (B, features) of mean square exactly 1 each."""
    x = np.random.default_rng([seed, 99]).normal(size=(config.batch_size, config.data.features))
    return x / np.sqrt((x**2).mean(1, keepdims=True))


# --- the network itself, by identities that hold exactly ------------------------------------------------------------


def test_the_numpy_network_has_the_same_weight_gradient_product_in_every_layer():
    # Bias-free and homogeneous: <W, dL/dW> = <a, dL/da> of every layer.
    config = configure("relu", depth=5, width=16, features=16, batch=8)
    products = measure(config, inputs(config), 0)[4]
    assert products == pytest.approx(products[0], rel=1e-9)


@pytest.mark.parametrize("norm", ["batch", "layer", "rms"])
def test_the_numpy_network_has_no_gradient_along_weights_before_a_norm(norm):
    config = configure("tanh", norm=norm, eps=0.0, depth=4, width=16, features=16, batch=8)
    *_, products, gradients = measure(config, inputs(config), 0)
    assert np.all(np.abs(products) < 1e-12 * np.sqrt(gradients) * 16)


# --- structures -----------------------------------------------------------------------------------------------------

STRUCTURES: dict[str, dict[str, Any]] = {
    "relu, he": {"act": "relu"},
    "relu, xavier": {"act": "relu", "init": "xavier_normal"},
    "tanh, torch default": {"act": "tanh", "init": "torch_default"},
    "sigmoid, biases": {"act": "sigmoid", "init": "gaussian", "weight_var": 4.0, "bias_var": 0.5},
    "gelu, few features": {"act": "gelu", "features": 40},
    "ffn": {"act": "silu", "block": "ffn", "init": "xavier_normal"},
    "ffn, biases": {"act": "tanh", "block": "ffn", "init": "gaussian", "weight_var": 1.5, "bias_var": 0.3},
    "swiglu": {"act": "swiglu", "init": "lecun_normal", "gain": 1.2, "depth": 3, "width": 400},
    "ffn, geglu": {"act": "geglu", "block": "ffn", "init": "lecun_normal", "depth": 3, "width": 150},
    "layer inner": {"act": "tanh", "norm": "layer", "init": "lecun_normal"},
    "layer inner, biases": {"act": "silu", "norm": "layer", "init": "gaussian", "weight_var": 0.5, "bias_var": 0.4},
    "layer inner, tiny variance": {"act": "tanh", "norm": "layer", "init": "gaussian", "weight_var": 1e-4, "eps": 1e-4},
    "rms pre": {
        "act": "sigmoid",
        "norm": "rms",
        "place": "pre",
        "init": "gaussian",
        "weight_var": 3.0,
        "bias_var": 0.2,
    },
    "layer pre": {"act": "relu", "norm": "layer", "place": "pre"},
    "layer post": {"act": "gelu", "norm": "layer", "place": "post"},
    "rms post": {"act": "tanh", "norm": "rms", "place": "post", "init": "torch_default"},
    "ffn, layer inner": {"act": "relu", "norm": "layer", "block": "ffn", "init": "lecun_normal"},
    "gated, rms pre": {"act": "reglu", "norm": "rms", "place": "pre", "init": "lecun_normal"},
    "gated, layer post": {
        "act": "swiglu",
        "norm": "layer",
        "place": "post",
        "init": "lecun_normal",
        "block": "ffn",
        "width": 150,
    },
    "skip": {"act": "tanh", "residual": "identity", "init": "lecun_normal"},
    "skip, relu": {"act": "relu", "residual": "identity", "init": "lecun_normal"},
    "scaled skip": {"act": "relu", "residual": "scaled", "alpha": 0.3},
    "open rezero": {"act": "silu", "residual": "rezero", "alpha": 0.5, "block": "ffn"},
    "skip, ffn, biases": {
        "act": "relu",
        "residual": "identity",
        "block": "ffn",
        "init": "gaussian",
        "weight_var": 1.0,
        "bias_var": 0.2,
    },
    "skip, layer pre": {"act": "relu", "residual": "identity", "norm": "layer", "place": "pre"},
    "skip, rms pre": {"act": "relu", "residual": "identity", "norm": "rms", "place": "pre"},
    "skip, layer inner": {"act": "relu", "residual": "identity", "norm": "layer"},
    "skip, layer post": {"act": "relu", "residual": "identity", "norm": "layer", "place": "post"},
    "skip, rms post": {"act": "sigmoid", "residual": "scaled", "alpha": 0.7, "norm": "rms", "place": "post"},
    "skip, ffn, rms pre": {
        "act": "relu",
        "residual": "identity",
        "norm": "rms",
        "place": "pre",
        "block": "ffn",
        "gain": 2**-0.25,
    },
    "skip, ffn, layer post": {"act": "gelu", "residual": "identity", "norm": "layer", "place": "post", "block": "ffn"},
    "skip, swiglu, rms pre": {
        "act": "swiglu",
        "residual": "identity",
        "norm": "rms",
        "place": "pre",
        "init": "lecun_normal",
    },
    "batch inner": {"act": "relu", "norm": "batch"},
    "batch inner, small batch": {"act": "tanh", "norm": "batch", "batch": 8},
    "batch inner, ffn": {"act": "silu", "norm": "batch", "block": "ffn", "init": "lecun_normal"},
    "batch inner, identity": {"act": "identity", "norm": "batch", "batch": 12},
    "batch post, identity": {"act": "identity", "norm": "batch", "place": "post", "batch": 12},
    "batch pre": {"act": "tanh", "norm": "batch", "place": "pre", "init": "lecun_normal", "batch": 128},
    "batch post": {"act": "relu", "norm": "batch", "place": "post", "batch": 128},
    "batch pre, ffn, biases": {
        "act": "relu",
        "norm": "batch",
        "place": "pre",
        "block": "ffn",
        "init": "gaussian",
        "weight_var": 1.0,
        "bias_var": 0.5,
        "batch": 128,
    },
    "skip, batch pre": {"act": "relu", "residual": "identity", "norm": "batch", "place": "pre", "batch": 128},
    "skip, batch inner": {"act": "tanh", "residual": "identity", "norm": "batch", "init": "lecun_normal", "batch": 128},
    "skip, batch post": {"act": "silu", "residual": "identity", "norm": "batch", "place": "post", "batch": 128},
    "skip, ffn, batch pre": {
        "act": "relu",
        "residual": "identity",
        "norm": "batch",
        "place": "pre",
        "block": "ffn",
        "gain": 2**-0.25,
        "batch": 128,
    },
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_structure_is_predicted(structure):
    """Means over three networks within four standard deviations of what their width lets them scatter (tested on its
    own, in test_theory_width), or 2%; with batch norm the rates are those of a finite batch and width, see `bands`.
    """
    config, networks = configure(**STRUCTURES[structure]), 3
    schema.check(config)
    prediction = predict(config)
    runs = [measure(config, inputs(config, seed), seed) for seed in range(networks)]
    squares = (np.abs(x) for x in zip(*runs, strict=True))  # one of them is a product, and not looked at here
    q, a2, delta2, gain2, _, gradients = (np.mean(np.log(x + 1e-300), axis=0) for x in squares)
    allowed = bands(config, prediction, networks, sigmas=4)

    def is_inside(log_squares, band, slack=0.02):
        return np.all((log_squares > 2 * np.log(band.lower) - slack) & (log_squares < 2 * np.log(band.upper) + slack))

    assert is_inside(q, allowed.pre_rms)
    assert is_inside(delta2 - delta2[-1], allowed.delta_rms)
    reach = 2 * np.log(allowed.pre_rms.upper / allowed.pre_rms.lower) + 4 * math.sqrt(
        10 / config.model.width / networks
    )
    assert np.all(np.abs(a2 - np.log(prediction.act_second_moment)) < reach)
    reach = np.log(allowed.delta_rms.upper / allowed.delta_rms.lower) + 0.1
    assert np.sum(gain2 - 2 * np.log(prediction.layer_gain)) == pytest.approx(0, abs=2 * reach[0])
    off = gradients - gradients[-1] - 2 * prediction.log_weight_grad_norm
    assert np.all(np.abs(off) < np.minimum(2 * reach, 0.35))


# --- published rates ------------------------------------------------------------------------------------------------


def rate(config):
    """Ratio of E delta^2 from one layer to the one below, away from the ends."""
    log_delta = predict(replace(config, model=replace(config.model, depth=12))).log_delta
    return math.exp(2 * (log_delta[-3] - log_delta[-2]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("tanh", 1.178), ("silu", 1.212), ("gelu", 1.319), ("elu", 1.079), ("sigmoid", 1.034)],
)
def test_batch_norm_makes_plain_networks_explode(name, expected):
    # D(1) / Var phi(u), Yang et al. 2019.
    config = configure(name, norm="batch", batch=100_000, init="xavier_normal")
    assert rate(config) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("batch", [6, 20, 200])
@pytest.mark.parametrize("place", ["pre", "inner", "post"])
def test_batch_norm_of_a_linear_network_knows_the_batch_size(batch, place):
    config = configure("identity", norm="batch", place=place, batch=batch, eps=0.0, features=1000, width=1000)
    assert rate(config) == pytest.approx((batch - 2) / (batch - 3), rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_batch_moments_are_those_of_normalized_gaussian_batches(name):
    """One layer of the exact recursion by Monte Carlo, with the heavy tail of 1 / chi-squared kept finite by B = 16."""
    rng, batch, samples = np.random.default_rng(3), 16, 40_000
    phi, slope = FUNCTIONS[name]
    h = rng.normal(size=(samples, batch))
    g = rng.normal(size=(samples, batch))
    g -= g.mean(1, keepdims=True)  # what comes out of a batch norm above
    z, back = normalize("layer", h, 0.0)  # over the last axis: here the batch
    a = phi(z)
    variance = a.var(axis=1)
    ratios = (back(g * slope(z)) ** 2).sum(1) / (g**2).sum(1).mean()
    moments = batch_moments(schema.Activation(name), batch)
    assert abs(variance.mean() - moments.variance) < 4 * variance.std() / math.sqrt(samples)
    # The variance of h over the batch is (B - 1) / B on average, which `backward` is to be divided by.
    assert abs(ratios.mean() - moments.backward * batch / (batch - 1)) < 4 * ratios.std() / math.sqrt(samples)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize(
    ("name", "expected"), [("relu", 1.0), ("tanh", 1.178), ("gelu", 1.072), ("elu", 1.036), ("sigmoid", 0.153)]
)
def test_layer_norm_before_the_activation_has_its_rates(norm, name, expected):
    # D(1) / V(1)
    assert rate(configure(name, norm=norm, init="lecun_normal", eps=0.0)) == pytest.approx(expected, abs=6e-4)


PRESERVING = {"act": "relu", "block": "ffn", "gain": 2**-0.25}  # W2 relu(W1 x) with weight_vars sqrt(2): E y^2 = E x^2


def test_skips_multiply_by_1_plus_alpha_squared():
    prediction = predict(configure(**PRESERVING, residual="identity", depth=11))
    assert prediction.q / prediction.q[0] == pytest.approx(2.0 ** np.arange(11))
    assert prediction.delta_rms**2 == pytest.approx(2.0 ** np.arange(10, -1, -1))
    depth = 1000
    prediction = predict(configure(**PRESERVING, residual="scaled", alpha=depth**-0.5, depth=depth))
    assert np.prod(prediction.layer_gain**2) == pytest.approx(math.e, rel=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_norms_at_the_start_of_a_branch_make_growth_polynomial(alpha):
    # The embedding has the variance sqrt(2), and each block adds alpha^2; of that batch norm sees what varies over it.
    depth = 40
    layers = np.arange(depth)
    stack = {**PRESERVING, "residual": "scaled", "alpha": alpha, "place": "pre", "eps": 0.0, "depth": depth}
    for norm, part in (("rms", 1.0), ("layer", 1.0), ("batch", 1 - 1 / math.pi)):
        prediction = predict(configure(**stack, norm=norm, batch=128))
        expected = 1 + alpha**2 / (math.sqrt(2) + alpha**2 * part * layers)
        assert prediction.layer_gain**2 == pytest.approx(expected), norm


def test_the_last_block_of_a_pre_norm_stack_gets_less_gradient_the_deeper_it_is_and_of_a_post_norm_stack_not():
    # Relative to the first block's: Xiong et al. 2020, theorem 1 (there for the last block's own size).
    def last_over_first(place, depth):
        config = configure(**PRESERVING, residual="identity", norm="rms", place=place, eps=0.0, depth=depth)
        return 1 / predict(config).delta_rms[1]

    assert last_over_first("pre", 400) / last_over_first("pre", 100) == pytest.approx(0.5, rel=0.02)
    assert last_over_first("post", 400) == pytest.approx(last_over_first("post", 100))


def test_xavier_with_relu_shrinks_delta_but_not_the_weights_gradient():
    prediction = predict(configure("relu", init="xavier_normal", depth=30))
    assert prediction.delta_rms[:-1] ** 2 / prediction.delta_rms[1:] ** 2 == pytest.approx(0.5)
    assert prediction.log_weight_grad_norm == pytest.approx(0, abs=1e-12)


# --- what has no theory says so -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"act": "tanh", "norm": "batch", "place": "post", "batch": 16}, "batch_size=16"),
        ({"act": "tanh", "norm": "batch", "residual": "identity", "batch": 16}, "batch_size=16"),
        ({"act": "tanh", "norm": "batch", "batch": 4}, "batch_size=4"),
        ({"act": "identity", "norm": "batch", "features": 2}, "norm=batch"),
        (
            {"act": "tanh", "norm": "batch", "place": "pre", "init": "gaussian", "weight_var": 1.0, "bias_var": 0.5},
            r"init.bias_var=0.5",
        ),
        ({"act": "bilinear", "init": "he_normal", "depth": 30}, "init=he_normal"),
        ({"act": "relu", "gain": 10.0, "depth": 200, "dtype": "float32"}, "init=he_normal"),
    ],
)
def test_what_has_no_theory_is_refused_by_name(settings, key):
    dtype = settings.pop("dtype", "float64")
    with pytest.raises(NoTheory, match=f"^{key}") as refusal:
        predict(replace(configure(**settings), dtype=dtype))
    assert str(refusal.value).endswith(".")


def test_what_is_too_large_for_float32_may_be_right_for_float64():
    config = configure("relu", gain=10.0, depth=60)  # q grows by 100 a layer
    assert predict(config).q[-1] == pytest.approx(2.0 * 100.0**60, rel=1e-9)
    with pytest.raises(NoTheory, match="passes what dtype=float32 holds at layer 37"):
        predict(replace(config, dtype="float32"))
    with pytest.raises(NoTheory, match="falls below what dtype=float32 holds"):
        predict(configure("relu", gain=0.1, depth=60, dtype="float32"))


def test_data_of_unknown_size_are_refused_until_their_size_is_given():
    config = replace(configure(), data=schema.Npz("npz", path="x.npz"))
    with pytest.raises(NoTheory, match="data=npz"):
        predict(config)
    assert predict(config, features=256).q == pytest.approx(predict(configure()).q)


def test_a_closed_branch_has_no_relative_gradient():
    prediction = predict(configure(residual="rezero", depth=3))
    assert np.isnan(prediction.log_delta).all()
    assert prediction.layer_gain == pytest.approx(1)
    assert any("residual.alpha=0" in words for words in prediction.assumptions)


# --- details --------------------------------------------------------------------------------------------------------


def test_examples_of_different_size_are_averaged():
    config, sizes = configure("tanh", depth=6), np.array([0.2, 1.0, 3.0])
    together, alone = predict(config, sizes), [predict(config, float(size)) for size in sizes]
    assert together.q == pytest.approx(np.mean([one.q for one in alone], axis=0))
    gradients = np.mean(
        [one.delta_rms**2 * _last_delta(config, size) for one, size in zip(alone, sizes, strict=True)], axis=0
    )
    assert together.delta_rms**2 == pytest.approx(gradients / gradients[-1])


def _last_delta(config, size):
    """E delta^2 of the last layer for a unit gradient of its activation: D(q)."""
    from lab.theory.kernels.kernels import kernel

    return float(kernel(config.activation).slope_moment(predict(config, float(size)).q[-1]))


def test_a_thousand_layers_agree_with_a_hundred():
    config = configure("tanh", init="xavier_normal")
    deep, shallow = (predict(replace(config, model=replace(config.model, depth=depth))) for depth in (1000, 100))
    assert deep.q[:100] == pytest.approx(shallow.q)
    assert deep.log_delta[:100] - deep.log_delta[99] == pytest.approx(shallow.log_delta)


def test_biases_that_the_model_does_not_have_do_not_count():
    config = configure("tanh", init="gaussian", weight_var=1.0, bias_var=0.3)
    without = replace(config, model=replace(config.model, bias=False))
    assert predict(without).q == pytest.approx(predict(configure("tanh", init="lecun_normal")).q)


def test_orthogonal_maps_keep_the_norm_they_can_keep():
    # Rows or columns are orthonormal: entries have variance 1 / max(fan_in, fan_out).
    q = predict(configure("identity", init="orthogonal", features=64)).q
    assert q == pytest.approx(64 / 256)
    q = predict(configure("identity", init="orthogonal", features=1024)).q
    assert q == pytest.approx(1.0)


# --- init=critical --------------------------------------------------------------------------------------------------

CRITICAL: dict[str, dict[str, Any]] = {
    "plain": {"act": "tanh", "bias_var": 0.05},
    "ffn": {"act": "tanh", "block": "ffn", "bias_var": 0.05},
    "ffn, relu": {"act": "relu", "block": "ffn"},
    "gelu": {"act": "gelu", "bias_var": 0.3},
    "sigmoid after rms": {"act": "sigmoid", "norm": "rms", "place": "pre"},
    "biases in a norm": {"act": "tanh", "norm": "layer", "bias_var": 0.1},
    "relu in a norm": {"act": "relu", "norm": "rms"},
    "skip within a norm": {"act": "sigmoid", "norm": "rms", "place": "post", "residual": "identity"},
}


@pytest.mark.parametrize("structure", CRITICAL)
def test_critical_networks_keep_their_gradients(structure):
    config = configure(init="critical", depth=300, **CRITICAL[structure])
    log_delta = predict(config).log_delta
    assert log_delta[-50:] == pytest.approx(0, abs=2e-3)


def test_the_critical_weight_var_of_a_plain_stack_is_that_of_its_activation():
    config = configure("tanh", init="critical", bias_var=0.05)
    assert critical_weight_var_of(config) == critical_weight_var(config.activation, 0.05)
    ffn = replace(config, model=replace(config.model, block="ffn"), activation=schema.Activation("relu"))
    ffn = replace(ffn, init=schema.Critical("critical"))
    assert critical_weight_var_of(ffn) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"act": "tanh", "residual": "identity"}, "residual=identity"),
        ({"act": "relu", "residual": "scaled", "alpha": 0.1, "norm": "layer", "place": "pre"}, "residual=scaled"),
        ({"act": "tanh", "norm": "layer"}, "norm=layer norm.place=inner"),
        ({"act": "relu", "norm": "batch"}, "norm=batch"),
        ({"act": "relu", "bias_var": 0.1}, "init.bias_var=0"),
    ],
)
def test_structures_without_a_critical_point_say_so(settings, words):
    with pytest.raises(schema.ConfigError, match=f"init=critical: .*{words}"):
        predict(configure(init="critical", **settings))


def test_init_critical_resolves_to_a_gaussian_of_the_solved_weight_var():
    critical = replace(plain("tanh", 1.0), init=schema.Critical("critical", gain=1.5, bias_var=0.05))
    resolved = resolve_critical(critical)
    assert resolved == replace(
        critical, init=schema.Gaussian("gaussian", 1.5, critical_weight_var(critical.activation, 0.05), 0.05)
    )
    assert resolve_critical(resolved) is resolved
    with pytest.raises(schema.ConfigError, match="init=critical"):
        resolve_critical(replace(critical, activation=schema.Activation("softplus")))
