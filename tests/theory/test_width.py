"""Finite width and Jacobians: log-normal gradients, bands, dead networks, singular values, by Monte Carlo in NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from lab import schema
from lab.theory import NoTheory, bands, jacobian_moments, predict
from lab.theory.kernels.activations import Function
from lab.theory.width import noise as finite_width
from lab.theory.width import paths
from lab.theory.width.bands import probability_dead
from lab.theory.width.noise import noise, step_variance

FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "identity": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.4 * x), lambda x: np.where(x > 0, 1.0, 0.4)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "silu": (lambda x: x * special.expit(x), lambda x: special.expit(x) * (1 + x * special.expit(-x))),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), lambda x: np.exp(np.minimum(x, 0))),
}


def plain(name, weight_var, bias_var=0.0, depth=12, width=64, features=None, block="linear", init="gaussian"):
    act = schema.LeakyReLU(name, 0.4) if name == "leaky_relu" else schema.ACTIVATIONS[name](name)
    drawn = schema.Gaussian(init, 1.0, weight_var, bias_var) if init == "gaussian" else schema.Init(init)
    data = schema.GaussianData("gaussian", features=width if features is None else features)
    model = schema.Model(depth, width, block)
    return replace(schema.Config(), activation=act, init=drawn, model=model, data=data, dtype="float64")


def scatter(config, replicas, seed=0):
    """ln of delta^2 and ln q, (replicas, depth) each: one example, an independent gradient at the end."""
    rng, width, depth = np.random.default_rng(seed), config.model.width, config.model.depth
    phi, slope = FUNCTIONS[config.activation.name]
    x = rng.normal(size=(replicas, 1, width))
    x /= np.sqrt((x**2).mean(-1, keepdims=True))
    maps, log_delta, log_q = [], np.empty((replicas, depth)), np.empty((replicas, depth))
    for layer in range(depth):
        W = rng.normal(size=(replicas, width, width)) * math.sqrt(config.init.weight_var / width)
        z = x @ W + rng.normal(size=(replicas, 1, width)) * math.sqrt(config.init.bias_var)
        maps.append((W, z))
        log_q[:, layer] = np.log((z**2).mean((1, 2)))
        x = phi(z)
    g = rng.normal(size=(replicas, 1, width))
    for layer in reversed(range(depth)):
        W, z = maps[layer]
        delta = g * slope(z)
        log_delta[:, layer] = np.log((delta**2).mean((1, 2)))
        g = delta @ W.transpose(0, 2, 1)
    return log_delta, log_q


def over_the_last(log_delta):
    return log_delta - log_delta[:, -1:]


def test_step_variances_have_their_closed_forms():
    assert step_variance(schema.Activation("relu")) == pytest.approx(5)
    assert step_variance(schema.Activation("identity")) == pytest.approx(2)
    a = 0.3
    expected = 6 * (1 + a**4) / (1 + a**2) ** 2 - 1
    assert step_variance(schema.LeakyReLU("leaky_relu", a)) == pytest.approx(expected)


def test_relu_gradients_are_log_normal_with_the_published_moments():
    # Over L layers of width n ln of the squared gradient has mean -5 L / (2 n), variance 5 L / n (form: Hanin 2018).
    depth, width, replicas = 16, 64, 800
    config = plain("relu", 2.0, depth=depth + 1, width=width)
    log_ratio = over_the_last(scatter(config, replicas)[0])[:, 0]
    variance = 5 * depth / width
    error = 4 * math.sqrt(variance / replicas)
    assert log_ratio.mean() == pytest.approx(-5 * depth / (2 * width), abs=error)
    assert log_ratio.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / replicas))


def test_the_second_moment_of_relu_gradients_grows_as_a_power_of_the_depth():
    # E delta^4 over the square of E delta^2 is (1 + 5 / n)^L.
    config = plain("relu", 2.0, depth=6, width=64)
    squares = np.exp(np.concatenate([scatter(config, 500, seed)[0][:, 0] for seed in range(8)]))
    # The relative error of a fourth moment of 4000 log-normal samples of variance 0.47 is 4%.
    assert np.mean(squares**2) / np.mean(squares) ** 2 == pytest.approx((1 + 5 / 64) ** 6, rel=0.1)


@pytest.mark.parametrize(
    ("name", "weight_var", "bias_var", "width", "depth"),
    [
        ("leaky_relu", 2 / 1.16, 0.0, 48, 10),
        ("tanh", 1.0, 0.0, 48, 10),
        ("tanh", 1.761, 0.05, 48, 10),
        ("elu", 1.0, 0.0, 48, 10),
        ("sigmoid", 20.0, 0.0, 64, 6),
        ("silu", 2.0, 0.3, 96, 10),
    ],
)
def test_the_scatter_of_replicas_is_predicted(name, weight_var, bias_var, width, depth):
    """Mean and variance of both logarithms, to sampling error and what second order adds, a tenth of the square of the
    variance. Without the correlation of forward and backward pass tanh, elu and silu fail.
    """
    config = plain(name, weight_var, bias_var, depth=depth, width=width)
    runs = [scatter(config, 400, seed) for seed in range(4)]
    replicas = 4 * 400
    log_delta, log_q = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    prediction = predict(config)
    expected = noise(config, prediction)
    deviations = {
        "delta": over_the_last(log_delta) - 2 * prediction.log_delta,
        "q": log_q - np.log(prediction.q),
    }
    for quantity, layers in (("delta", (0, depth // 2)), ("q", (depth // 2, depth - 1))):
        for layer in layers:
            deviation, variance = deviations[quantity][:, layer], getattr(expected, quantity)[layer]
            error = 3.5 * math.sqrt(variance / replicas) + variance**2 / 10
            assert deviation.mean() == pytest.approx(getattr(expected, f"{quantity}_mean")[layer], abs=error)
            assert deviation.var() == pytest.approx(variance, rel=3.5 * math.sqrt(2 / replicas) + variance / 10)


def test_bands_hold_the_mean_over_replicas_and_not_much_more():
    config, groups, replicas = plain("relu", 2.0, depth=20, width=64), 60, 8
    log_delta, log_q = scatter(config, groups * replicas, seed=5)
    prediction = predict(config)
    cases = {"delta_rms": (over_the_last(log_delta), slice(0, 15)), "pre_rms": (log_q, slice(5, 20))}
    for quantity, (log_squares, layers) in cases.items():
        means = log_squares.reshape(groups, replicas, -1).mean(1) / 2  # ln of geometric means
        shares = []
        for sigmas in (3.0, 0.3):
            lower, upper = np.log(getattr(bands(config, prediction, replicas, sigmas), quantity))
            shares.append(np.mean(((means > lower) & (means < upper))[:, layers]))
        assert shares[0] > 0.985
        assert shares[1] < 0.8  # a tenth of the width leaves many out


def test_a_band_narrows_with_width_and_replicas_and_always_holds_the_prediction():
    def widths(config, replicas):
        prediction = predict(config)
        found = bands(config, prediction, replicas)
        for band, center in ((found.delta_rms, prediction.delta_rms), (found.pre_rms, prediction.pre_rms)):
            assert np.all(band.lower <= center * (1 + 1e-12))
            assert np.all(band.upper >= center * (1 - 1e-12))
        return np.log(found.delta_rms.upper / found.delta_rms.lower)[0]

    narrow, wide = plain("tanh", 1.5, 0.1, width=64), plain("tanh", 1.5, 0.1, width=1024)
    assert widths(narrow, 4) > widths(narrow, 16) > widths(wide, 16)
    for other in (schema.LayerNorm("layer"), schema.BatchNorm("batch", "post")):
        widths(replace(wide, norm=other, init=schema.Init("he_normal")), 4)
    widths(replace(wide, residual=schema.ScaledResidual("scaled", 0.5)), 4)
    widths(plain("relu", 1.4, block="ffn"), 4)


@pytest.mark.parametrize(("width", "depth"), [(2, 6), (3, 10), (4, 40)])
def test_dead_networks_are_as_frequent_as_predicted(width, depth):
    # 1 - (1 - 2^-N)^H for one input, zero biases and symmetric weights.
    rng, networks = np.random.default_rng(2), 20_000
    x = np.ones((networks, 1, width))
    for _ in range(depth):
        x = np.maximum(x @ rng.normal(size=(networks, width, width)), 0)
        x /= np.maximum(x.max(-1, keepdims=True), 1e-300)  # a scale changes no sign
    dead = np.mean((x == 0).all((1, 2)))
    expected = probability_dead(width, depth)
    assert expected == pytest.approx(1 - (1 - 2.0**-width) ** depth)
    assert abs(dead - expected) < 4 * math.sqrt(expected * (1 - expected) / networks)


@pytest.mark.parametrize(
    ("name", "init", "weight_var", "features"),
    [
        ("identity", "gaussian", 1.0, 96),
        ("relu", "gaussian", 2.0, 96),
        ("relu", "gaussian", 2.0, 24),
        ("identity", "gaussian", 1.0, 240),
        ("tanh", "gaussian", 1.5, 96),
        ("identity", "orthogonal", 1.0, 96),
        ("tanh", "orthogonal", 1.0, 96),
        ("relu", "orthogonal", 1.0, 48),
    ],
)
def test_jacobians_have_the_predicted_singular_values(name, init, weight_var, features):
    depth, width = 4, 96
    config = plain(name, weight_var, depth=depth, width=width, features=features, init=init)
    phi, slope = FUNCTIONS[name]
    moments = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=features)
        x /= math.sqrt((x**2).mean())
        J = np.eye(features)
        for _ in range(depth):
            fan_in = len(x)
            W = rng.normal(size=(width, fan_in)) * math.sqrt(weight_var / fan_in)
            if init == "orthogonal":
                W = np.linalg.qr(W)[0]
            z = W @ x
            J, x = slope(z)[:, None] * (W @ J), phi(z)
        squares = np.linalg.svd(J, compute_uv=False) ** 2
        moments.append((squares.mean(), squares.var() / squares.mean() ** 2))
    mean, relative_variance = np.mean(moments, axis=0)
    expected = jacobian_moments(config)
    assert mean == pytest.approx(expected.mean, rel=0.12)
    assert relative_variance == pytest.approx(expected.relative_variance, rel=0.12, abs=1e-10)


def test_linear_jacobians_have_the_published_moments():
    # Pennington et al. 2017: all singular values 1 for orthogonal weights, relative variance L for Gaussian ones.
    orthogonal = jacobian_moments(plain("identity", 1.0, depth=7, init="orthogonal"))
    assert orthogonal == pytest.approx((1, 0))
    assert jacobian_moments(plain("identity", 1.0, depth=7)) == pytest.approx((1, 7))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"norm": schema.LayerNorm("layer")}, "norm=layer"),
        ({"residual": schema.Residual("identity")}, "residual=identity"),
        ({"activation": schema.Activation("swiglu")}, "activation=swiglu"),
        ({"init": schema.Init("orthogonal"), "model": schema.Model(4, 32)}, "init=orthogonal"),
    ],
)
def test_jacobians_without_a_theory_are_refused(change, key):
    with pytest.raises(NoTheory, match=f"^{key}"):
        jacobian_moments(replace(plain("relu", 1.0, depth=4), **change))


def test_paths_scatter_like_the_first_order_where_that_holds(monkeypatch):
    """Width 2000 leaves no room for second order; 2000 paths give a variance to 3%, a mean to 1/45 of a deviation."""
    config = plain("tanh", 1.761, 0.05, depth=20, width=2000)
    prediction = predict(config)
    first_order = noise(config, prediction)
    monkeypatch.setattr(finite_width, "LARGEST_BEND", 0.0)
    followed = noise(config, prediction)
    for quantity in ("delta", "q"):
        variance = getattr(first_order, quantity)
        np.testing.assert_allclose(getattr(followed, quantity), variance, rtol=4 * math.sqrt(2 / 2000), atol=1e-12)
        mean = getattr(first_order, f"{quantity}_mean")
        np.testing.assert_array_less(
            np.abs(getattr(followed, f"{quantity}_mean") - mean), 4 * np.sqrt(variance / 2000) + 1e-9
        )


def test_networks_without_a_stable_point_scatter_as_the_paths_do():
    """SiLU without biases at s = 2: some networks keep their signal. To first order the variance of ln q is an eighth
    too large in the middle; the paths are allowed a tenth of the variance for what they leave out.
    """
    config = plain("silu", 2.0, depth=20, width=64)
    prediction = predict(config)
    expected = noise(config, prediction)
    replicas = 2 * 400
    parts = [scatter(config, 400, seed) for seed in range(2)]
    deviation = np.concatenate([log_q for _, log_q in parts]) - np.log(prediction.q)
    for layer in (5, 10, 19):
        variance = float(expected.q[layer])
        error = 3.5 * math.sqrt(variance * (1 / replicas + 1 / paths.PATHS)) + variance**2 / 50
        assert deviation[:, layer].mean() == pytest.approx(float(expected.q_mean[layer]), abs=error)
        error = 3.5 * math.sqrt(2 / replicas + 2 / paths.PATHS) + 0.1
        assert deviation[:, layer].var() == pytest.approx(variance, rel=error)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_skips_without_norms_are_inside_a_band_that_follows_the_inputs_own_direction(activation):
    """relu piles up a mean and is far above mean field at layer 0, tanh does not and is not."""
    import lab

    words = (f"activation={activation}", "init=he_normal", "residual=identity", "model.depth=30", "model.width=128")
    table = lab.simulate(
        *(*words, "batch_size=16", "replicas=8", "steps=0", "dtype=float64", "data=gaussian", "data.examples=400"),
        "probe.cotangent=random",
    )
    measured = np.log(table["delta_rms"].isel(step=0).to_numpy()).mean(1)
    middle, lower, upper = (np.log(table[f"predicted_delta_rms{end}"].to_numpy()) for end in ("", "_lower", "_upper"))
    assert np.all(measured >= lower - 1e-9)
    assert np.all(measured <= upper + 1e-9)
    assert (measured[0] - middle[0] > 2) == (activation == "relu")


def test_batch_norm_around_gates_has_no_theory():
    config = replace(plain("reglu", 2.0), norm=schema.BatchNorm("batch", "pre"), batch_size=512)
    with pytest.raises(NoTheory, match=r"norm=batch.*reglu.*heavy tails"):
        predict(config)
