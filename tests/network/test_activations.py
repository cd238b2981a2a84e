"""Activations against torch's own, their slopes against autograd, and what saturates or dies."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from lab import schema
from lab.network import activations
from tests.plain_torch import PLAIN, function

PARAMETRIC = [
    schema.LeakyReLU("leaky_relu"),
    schema.LeakyReLU("leaky_relu", 1.5),
    schema.LeakyReLU("leaky_relu", 0.0),
    schema.PReLU("prelu"),
    schema.PReLU("prelu", -2.0),
    schema.RReLU("rrelu"),
    schema.RReLU("rrelu", 1.0, 3.0),
    schema.ELU("elu", 0.5),
    schema.ELU("elu", 2.0),
    schema.Swish("swish"),
    schema.Swish("swish", 3.0),
    schema.Swish("swish", -1.5, True),
    schema.Swish("swish", 0.0, True),
]
UNGATED = [*(schema.Activation(name) for name in PLAIN), *PARAMETRIC]
GATED = [schema.Activation(name) for name in schema.GATED]


def name(config):
    return "-".join(str(value) for value in vars(config).values())


every_ungated = pytest.mark.parametrize("config", UNGATED, ids=name)
every_gated = pytest.mark.parametrize("config", GATED, ids=name)


def layer(config, replicas=1, dtype=torch.float64):
    generators = [torch.Generator().manual_seed(r) for r in range(replicas)]
    return activations.build(config, replicas, generators).to(dtype)


def grid(low=-30.0, high=30.0, points=60001):
    """One replica's pre-activations (1, points, 1), with 0, where several functions have a kink, among them."""
    return torch.linspace(low, high, points, dtype=torch.float64)[None, :, None]


def autograd_slope(activation, z):
    """The derivative at each z that autograd finds, with the slopes that were drawn, if any were."""
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(activation(z).sum(), z)
    return slope


def test_every_activation_of_the_configuration_is_tested_here():
    assert {config.name for config in [*UNGATED, *GATED]} == set(schema.ACTIVATIONS)


@pytest.mark.parametrize(
    "config", [config for config in UNGATED if not isinstance(config, schema.PReLU | schema.Swish)]
)
def test_in_evaluation_it_is_torchs_own_function(config):
    theirs = function(config)
    if isinstance(theirs, torch.nn.Module):
        theirs.eval()
    torch.testing.assert_close(layer(config).eval()(grid()), theirs(grid()), rtol=0, atol=0)


@every_ungated
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_the_slope_is_autograds(config, mode):
    activation = layer(config).train(mode)
    expected = autograd_slope(activation, grid())
    # 3e-9 for softplus alone, which torch takes for the identity above 20.
    torch.testing.assert_close(
        activation.slope(grid()), expected, rtol=0, atol=3e-9 if config.name == "softplus" else 1e-13
    )


@every_gated
def test_the_slope_of_a_gated_activation_is_that_of_the_gates_function(config):
    value, gate = torch.full_like(grid(), 1.0), grid()
    activation = layer(config)
    slope = autograd_slope(activation, torch.cat([value, gate], -1))[..., 1:]  # at a value of 1
    torch.testing.assert_close(activation.slope(torch.cat([7 * value, gate], -1)), slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("config", [*UNGATED, *GATED], ids=name)
def test_the_largest_slope_is_the_supremum_of_the_slopes(config):
    activation = layer(config).eval()
    z = grid()
    if config.name == "rrelu":
        # In evaluation the slopes are the mean's, in training they may come up to `upper`.
        z = z.abs() if config.upper <= 1 else -z.abs() - 1e-6
        activation.train()
        activation.drawn = torch.full_like(z, config.upper)
    stacked = torch.cat([torch.zeros_like(z), z], -1) if config.name in schema.GATED else z
    found, largest = activation.slope(stacked).abs().max().item(), float(activation.largest_slope())
    assert found <= largest * (1 + 1e-14)
    assert found > largest * (1 - 2e-6)  # steps of 1e-3 miss a smooth maximum by less


@pytest.mark.parametrize(
    ("curve", "where", "stated"),
    [
        (lambda x: x / (1 + mpmath.exp(-x)), 2.4, activations.SILU_LARGEST_SLOPE),
        (lambda x: x * mpmath.ncdf(x), 1.4, activations.GELU_LARGEST_SLOPE),
        (
            lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
            1.4,
            activations.GELU_TANH_LARGEST_SLOPE,
        ),
    ],
    ids=["silu", "gelu", "gelu_tanh"],
)
def test_the_stated_largest_slopes_are_the_curves_own(curve, where, stated):
    with mpmath.workdps(30):
        top = mpmath.findroot(lambda x: mpmath.diff(curve, x, 2), where)
        assert float(mpmath.diff(curve, top)) == pytest.approx(stated, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("config", UNGATED, ids=name)
def test_saturated_is_where_autograds_slope_is_below_1_percent_of_the_largest(config, dtype):
    activation = layer(config, dtype=dtype)
    z = grid(-12, 12, 24001).to(dtype)
    slope = autograd_slope(activation, z).double().abs()
    threshold = 0.01 * float(activation.largest_slope())
    is_clear = (slope / threshold - 1).abs() > 1e-4  # elsewhere rounding decides
    found = activation.saturated(z)
    assert found.dtype == dtype
    assert torch.equal(found[is_clear], (slope < threshold).to(dtype)[is_clear])
    assert is_clear.double().mean() > 0.99 or config.name == "leaky_relu"


def test_sigmoid_and_tanh_saturate_where_calculation_says():
    # s (1 - s) = 0.0025 and 1 - t^2 = 0.01
    sigmoid_edge, tanh_edge = math.log((1 + math.sqrt(0.99)) / (1 - math.sqrt(0.99))), math.atanh(math.sqrt(0.99))
    for config, edge in ((schema.Activation("sigmoid"), sigmoid_edge), (schema.Activation("tanh"), tanh_edge)):
        z = torch.tensor([edge - 1e-6, edge + 1e-6, -edge + 1e-6, -edge - 1e-6], dtype=torch.float64)[None, :, None]
        assert layer(config).saturated(z).flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_leaky_slope_of_exactly_1_percent_is_not_below_1_percent(dtype):
    z = torch.tensor([-3.0, 2.0], dtype=dtype)[None, :, None]
    for config in (schema.LeakyReLU("leaky_relu", 0.01), schema.PReLU("prelu", 0.01)):
        assert layer(config, dtype=dtype).saturated(z).flatten().tolist() == [0, 0]
    assert layer(schema.LeakyReLU("leaky_relu", 0.0099), dtype=dtype).saturated(z).flatten().tolist() == [1, 0]


@every_gated
def test_a_gated_unit_is_saturated_where_its_gate_is(config):
    generator = torch.Generator().manual_seed(0)
    z = 4 * torch.randn(2, 50, 6, dtype=torch.float64, generator=generator)
    activation = layer(config, replicas=2)
    expected = activation.gate.slope(z[..., 3:]).abs() < 0.01 * activation.largest_slope()
    assert torch.equal(activation.saturated(z), expected.double())
    assert 0 < expected.double().mean() < 1 or config.name == "bilinear"


def test_each_replicas_learnt_slope_saturates_by_itself():
    prelu, swish = layer(schema.PReLU("prelu"), 2), layer(schema.Swish("swish", 1.0, True), 2)
    with torch.no_grad():
        prelu.negative_slope.copy_(torch.tensor([0.5, 200.0])[:, None, None])
        swish.beta.copy_(torch.tensor([0.1, 10.0])[:, None, None])
    z = torch.tensor([-1.0, 1.0], dtype=torch.float64).expand(2, 1, 2)
    assert prelu.saturated(z)[:, 0].tolist() == [[0, 0], [0, 1]]  # of a slope of 200, 1 is less than 1%
    assert swish.saturated(z)[:, 0].tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("config", [*UNGATED, *GATED], ids=name)
def test_an_exact_zero_is_said_to_stop_the_gradient_only_if_it_does(config):
    activation = layer(config)
    z = torch.cat([grid(-3, 3, 601), torch.zeros(1, 5, 1, dtype=torch.float64)], 1)
    if config.name in schema.GATED:
        z = torch.cat([torch.full_like(z, 2.0), z], -1)
    z.requires_grad_()
    a = activation(z)
    (gradient,) = torch.autograd.grad(a.sum(), z)
    is_zero = (a == 0)[0, :, 0]
    passes = gradient[0].abs().sum(-1)[is_zero] > 0
    if activation.zero_stops_gradient:
        assert is_zero.sum() > 100
        assert not passes.any()
    else:  # a zero says nothing: none occurs, or one that occurs lets the gradient through
        assert not is_zero.any() or passes.any()


def test_the_activations_whose_zeros_are_dead():
    # Swish and GELU pass a slope of 1/2 at 0; a leaky slope of 0 is ReLU.
    stops = {name(config) for config in [*UNGATED, *GATED] if layer(config).zero_stops_gradient}
    assert stops == {"relu", "reglu", "leaky_relu-0.0"}


def test_random_slopes_are_uniform_and_each_replicas_own():
    activation = layer(schema.RReLU("rrelu", 0.125, 1 / 3), 2, dtype=torch.float64)
    z = torch.full((2, 40, 50), -2.0, dtype=torch.float64)
    slopes = (activation(z) / z).numpy()
    assert torch.equal(activation.drawn, torch.from_numpy(slopes))
    for replica in slopes:
        assert stats.kstest(replica.ravel(), stats.uniform(0.125, 1 / 3 - 0.125).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(slopes[0].ravel(), slopes[1].ravel())[0, 1]) < 4 / math.sqrt(2000)
    assert not torch.equal(activation(z), activation(z))


def test_random_slopes_leave_positive_pre_activations_alone_and_their_mean_is_used_in_evaluation():
    activation = layer(schema.RReLU("rrelu", 0.2, 0.4))
    z = torch.tensor([-1.0, 3.0], dtype=torch.float64)[None, :, None]
    assert activation(z)[0, 1, 0] == 3
    expected = torch.tensor([-(0.2 + 0.4) / 2, 3.0], dtype=torch.float64)
    torch.testing.assert_close(activation.eval()(z).flatten(), expected, rtol=1e-15, atol=0)


def test_learnt_parameters_are_one_a_replica():
    assert layer(schema.PReLU("prelu", 0.3), 3).negative_slope.flatten().tolist() == [0.3] * 3
    assert layer(schema.Swish("swish", 2.0, True), 3).beta.flatten().tolist() == [2.0] * 3
    assert list(layer(schema.Swish("swish", 2.0, False), 3).parameters()) == []


@pytest.mark.parametrize("config", [schema.ELU("elu", 2.0), schema.Activation("selu")], ids=name)
def test_a_far_negative_pre_activation_has_a_slope_of_0_and_not_nan(config):
    # exp of a large positive number, taken on the side where it is not wanted, would be Inf, and 0 times Inf NaN.
    z = torch.tensor([-1e30, -800.0, 800.0, 1e30])[None, None]
    slope = layer(config, dtype=torch.float32).slope(z)
    assert slope[0, 0, :2].tolist() == [0, 0]
    assert slope.isfinite().all()
