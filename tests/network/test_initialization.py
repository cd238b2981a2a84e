"""Initialization against torch.nn.init, against the claimed distributions, and against linear algebra.

Maps are far from square here, so that fan_in and fan_out cannot be exchanged unnoticed. Seeds are fixed; the bounds are
those that 1 in 10,000 other seeds would break.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from lab.network import initialization
from tests.plain_torch import blocks, build, configure

FAN_IN, FAN_OUT, DRAWS = 40, 9, 400
UNLIKELY = 1e-4
SIGMAS = stats.norm.isf(UNLIKELY / 2)  # 3.9

BIAS_VAR = 0.09

TORCH = {
    "xavier_uniform": lambda weight, gain: nn.init.xavier_uniform_(weight, gain),
    "xavier_normal": lambda weight, gain: nn.init.xavier_normal_(weight, gain),
    "he_uniform": lambda weight, gain: nn.init.kaiming_uniform_(weight, nonlinearity="relu").mul_(gain),
    "he_normal": lambda weight, gain: nn.init.kaiming_normal_(weight, nonlinearity="relu").mul_(gain),
    "lecun_normal": lambda weight, gain: nn.init.kaiming_normal_(weight, nonlinearity="linear").mul_(gain),
    "torch_default": lambda weight, gain: weight.copy_(nn.Linear(FAN_IN, FAN_OUT).weight).mul_(gain),
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain),
}
CLAIMED = {
    "xavier_uniform": stats.uniform(-math.sqrt(6 / 49), 2 * math.sqrt(6 / 49)),
    "xavier_normal": stats.norm(0, math.sqrt(2 / 49)),
    "he_uniform": stats.uniform(-math.sqrt(6 / 40), 2 * math.sqrt(6 / 40)),
    "he_normal": stats.norm(0, math.sqrt(2 / 40)),
    "lecun_normal": stats.norm(0, math.sqrt(1 / 40)),
    "torch_default": stats.uniform(-1 / math.sqrt(40), 2 / math.sqrt(40)),
    "gaussian": stats.norm(0, math.sqrt(1.7 / 40)),
}
OPTIONS = {
    "gaussian": {"weight_var": 1.7, "bias_var": BIAS_VAR},
}


def choose(name, gain=1.0, **options):
    return configure(activation="tanh", init={"name": name, "gain": gain, **OPTIONS.get(name, {}), **options})


def draw(config, shape=(FAN_IN, FAN_OUT), draws=DRAWS):
    """Weights (draws, fan_in, fan_out) and biases (draws, fan_out)."""
    rng, (fan_in, fan_out) = np.random.default_rng(0), shape
    weights, biases = zip(*(initialization.draw(config.init, fan_in, fan_out, rng) for _ in range(draws)), strict=True)
    return np.stack(weights), np.stack(biases)


@pytest.mark.parametrize("init", CLAIMED)
def test_weights_have_the_claimed_distribution(init):
    weights = draw(choose(init))[0].ravel()
    assert stats.kstest(weights, CLAIMED[init].cdf).pvalue > UNLIKELY


@pytest.mark.parametrize("init", CLAIMED)
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_mean_and_variance_of_the_weights_are_the_claimed_ones(init, gain):
    weights = draw(choose(init, gain))[0].ravel()
    variance, kurtosis = gain**2 * CLAIMED[init].var(), 3 + CLAIMED[init].stats("k")
    # The mean of n draws has variance v / n, the mean of their squares (k - 1) v^2 / n, k being E x^4 / v^2.
    assert abs(weights.mean()) < SIGMAS * math.sqrt(variance / weights.size)
    assert abs(np.mean(weights**2) / variance - 1) < SIGMAS * math.sqrt((kurtosis - 1) / weights.size)


@pytest.mark.parametrize("init", TORCH)
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_weights_come_from_torchs_distribution(init, gain):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        with torch.no_grad():
            theirs = np.stack([TORCH[init](torch.empty(FAN_OUT, FAN_IN), gain).T.numpy() for _ in range(DRAWS)])
    mine = draw(choose(init, gain))[0]
    assert stats.ks_2samp(mine.ravel(), theirs.ravel()).pvalue > UNLIKELY
    assert mine.shape == theirs.shape


@pytest.mark.parametrize("init", [*CLAIMED, "orthogonal"])
def test_no_draw_repeats_another(init):
    weights = draw(choose(init), draws=3)[0]
    assert len(np.unique(weights)) == weights.size


@pytest.mark.parametrize("init", [*CLAIMED, "orthogonal"])
def test_gain_scales_the_weights_and_leaves_the_biases(init):
    weights, biases = draw(choose(init), draws=2)
    scaled, same = draw(choose(init, 2.5), draws=2)
    np.testing.assert_allclose(scaled, 2.5 * weights, rtol=1e-14, atol=1e-15)
    assert np.array_equal(biases, same)


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (5, 12), (1, 6), (6, 1)])
def test_orthogonal_weights_are_orthonormal_along_the_shorter_side(shape):
    for weights in 2.0 * draw(choose("orthogonal"), shape, draws=5)[0]:
        gram = weights.T @ weights if shape[0] >= shape[1] else weights @ weights.T
        np.testing.assert_allclose(gram, 4 * np.eye(min(shape)), atol=1e-13)


@pytest.mark.parametrize("shape", [(6, 6), (9, 6), (6, 9)])
def test_orthogonal_weights_are_uniform_over_all_such_matrices(shape):
    """A unit vector uniform on the sphere in n dimensions has squared entries of a Beta(1/2, (n - 1)/2) law, and signs
    that are even; the Q of a plain QR decomposition has a first column whose first entry is never positive."""
    weights = draw(choose("orthogonal"), shape, draws=1500)[0]
    beta = stats.beta(0.5, (max(shape) - 1) / 2)
    for row, column in ((0, 0), (1, 1), (5, 5), (0, 5)):
        entries = weights[:, row, column]
        assert stats.kstest(entries**2, beta.cdf).pvalue > UNLIKELY
        assert stats.binomtest(int((entries > 0).sum()), len(entries)).pvalue > UNLIKELY


@pytest.mark.parametrize("init", [*TORCH, "gaussian"])
def test_biases_are_0_unless_the_init_says_otherwise(init):
    biases = draw(choose(init), draws=400)[1]
    match init:
        case "torch_default":
            with torch.random.fork_rng():
                torch.manual_seed(1)
                theirs = np.stack([nn.Linear(FAN_IN, FAN_OUT).bias.detach().numpy() for _ in range(400)])
            assert stats.ks_2samp(biases.ravel(), theirs.ravel()).pvalue > UNLIKELY
            bound = 1 / math.sqrt(FAN_IN)
            assert stats.kstest(biases.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > UNLIKELY
        case "gaussian":
            assert stats.kstest(biases.ravel(), stats.norm(0, math.sqrt(BIAS_VAR)).cdf).pvalue > UNLIKELY
        case _:
            assert not biases.any()


def test_the_halves_of_a_gated_map_are_drawn_one_by_one_with_their_own_fan_out():
    config = configure(
        activation="swiglu", init="xavier_normal", replicas=8, dtype="float64", model={"depth": 1, "width": 100}
    )
    weight = blocks(build(config, 30, 3))[0].up.weight.detach().numpy()  # (8, 30, 200)
    for half in (weight[..., :100], weight[..., 100:]):
        spread = SIGMAS * math.sqrt(2 / half.size)
        assert abs(np.mean(half**2) / (2 / (30 + 100)) - 1) < spread < 2 * 100 / 130
    assert abs(np.mean(weight[..., :100] * weight[..., 100:])) < SIGMAS * 2 / 130 / math.sqrt(8 * 30 * 100)


def test_each_half_of_a_gated_map_is_orthogonal():
    config = configure(
        activation="geglu", init="orthogonal", replicas=2, dtype="float64", model={"depth": 1, "width": 5}
    )
    weight = blocks(build(config, 8, 3))[0].up.weight.detach()  # (2, 8, 10)
    for half in weight.chunk(2, -1):
        torch.testing.assert_close(half.mT @ half, torch.eye(5, dtype=torch.float64).expand(2, 5, 5))


def test_weights_are_drawn_in_double_precision_whatever_the_networks():
    single, double = (
        build(configure(replicas=2, dtype=dtype, model={"depth": 2, "width": 5}), 4, 3)
        for dtype in ("float32", "float64")
    )
    for mine, theirs in zip(single.parameters(), double.parameters(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs.float())


def test_leaving_biases_out_changes_no_weight():
    having, lacking = (
        build(configure(init="torch_default", model={"depth": 2, "width": 5, "bias": bias}), 4, 3)
        for bias in (True, False)
    )
    kept = dict(lacking.named_parameters())
    for name, parameter in having.named_parameters():
        assert name.endswith("bias") or torch.equal(parameter, kept[name])
