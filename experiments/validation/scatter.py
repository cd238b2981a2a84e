"""Statements 17 and 18: the scatter of gradients at finite width, and the singular values of the Jacobian.

Hanin and Nica 2020, "Products of Many Large Random Matrices and Gradients in Deep Neural Networks", for the log-normal
law; Pennington et al. 2017, "Resurrecting the sigmoid in deep learning through dynamical isometry", for the Jacobian.
"""

from __future__ import annotations

import math
from functools import partial, reduce

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.reference import SIGMAS
from experiments.validation.row import Row, Tolerance, rounding
from lab import schema
from lab.theory import jacobian_moments, predict
from lab.theory.width.noise import noise, step_variance
from lab.typing import Array

STEPS = {
    "relu": (schema.Activation("relu"), 5.0),
    "identity": (schema.Activation("identity"), 2.0),
    "leaky_relu, slope .3": (schema.LeakyReLU("leaky_relu", 0.3), 6 * (1 + 0.3**4) / (1 + 0.3 * 0.3) ** 2 - 1),
}
"""n Var ln rate of a layer."""

WIDTH, LAYERS = 64, 16
"""Of the narrow networks whose distribution is measured."""

SEGMENT = 4
"""Layers over which a second moment is taken, few enough for its tail to be sampled."""

JACOBIAN_WIDTH, JACOBIAN_LAYERS = 128, 4


def finite_width(size: Size) -> list[Row]:
    """Statement 17: n Var ln rate = 3 E phi'^4 / (E phi'^2)^2 - 1 per layer, for relu 5, and n E ln rate = -5/2."""
    rows = []
    for name, (activation, step) in STEPS.items():
        statement = "theory's n Var ln rate = 3 E phi'^4 / (E phi'^2)^2 - 1"
        theory = partial(step_variance, activation)
        rows.append(Row(f"scatter a layer, {name}", statement, step, rounding(1e-12), theory))
    case = networks.network(size, "activation=relu", "init=he_normal", depth=size.depth)
    variance = 5 * (size.depth - 1) / size.width
    second_order = Tolerance([1e-9, variance**2 / 8 + 1e-9], "rounding; second order of the bias, variance^2 / 8")
    name = f"scatter and bias over {size.depth} layers, relu at He"
    statement = "theory's variance 5L/n of ln of a squared gradient and mean -5L/(2n)"
    rows.append(Row(name, statement, [variance, -variance / 2], second_order, theory_noise, case))
    return [*rows, *_log_normal_rows(size)]


def theory_noise(case: NetworkCase) -> list[float]:
    scatter = noise(case.config(), predict(case.config()))
    low, high = scatter.delta_shift
    return [scatter.delta[0], low[0] + high[0]]


def _log_normal_rows(size: Size) -> list[Row]:
    """Compare with the exact law of one example: |delta|^2 is multiplied by (2/n) chi^2_k per layer, k ~ Bin(n, 1/2).

    The signs of the gradient from above make the half-space of an active unit's weights indistinguishable from the
    other, so that the layers are independent and the law of their product is exact.
    """
    samples, overrides = size.samples, ("activation=relu", "init=he_normal", "batch_size=1", "probe.set=norms")
    case = networks.network(size, *overrides, depth=LAYERS + 1, width=WIDTH, replicas=samples, group=min(samples, 256))
    drawn, draws = f"{LAYERS} layers of width {WIDTH}, {samples} replicas", samples * (LAYERS // SEGMENT)
    step_mean, step_var = log_step()
    mean, variance, leading = LAYERS * step_mean, LAYERS * step_var, 5 * LAYERS / WIDTH
    mean_error = SIGMAS * math.sqrt(variance / samples)
    # Of a sample variance; the excess kurtosis of one step, about 48/n^3, is negligible beside the 2.
    variance_error = SIGMAS * variance * math.sqrt(2 / (samples - 1))
    second, fourth = power_mean(2) ** SEGMENT, power_mean(4) ** SEGMENT
    of_mean = Tolerance(
        reference.allow_bias(mean + leading / 2, mean_error),
        "3 sigma; next order from E ln chi^2_k: digamma over Bin(n, 1/2)",
    )
    of_variance = Tolerance(
        reference.allow_bias(variance - leading, variance_error),
        "3 sigma of a variance; next order from trigamma over Bin(n, 1/2)",
    )
    of_second = Tolerance(
        SIGMAS * math.sqrt((fourth - second**2) / draws), f"3 sigma of {draws} draws, from the moments of chi^2_k"
    )
    squared = "squared gradient, relu at He"
    over_segment = f"second moment of the squared gradient over {SEGMENT} layers, relu at He"
    row = Row(f"mean of ln of the {squared}", f"-5L/(2n): {drawn}", -leading / 2, of_mean, log_mean, case)
    return [
        row,
        Row(f"variance of ln of the {squared}", f"5L/n: {drawn}", leading, of_variance, log_variance, case),
        Row(over_segment, "(1 + 5/n)^L", (1 + 5 / WIDTH) ** SEGMENT, of_second, second_moment, case),
        row.control(
            "ln chi alone is the mean of the logarithm",
            "without -5/(2n) per layer the mean is off",
            predicted=0.0,
            tolerance=Tolerance(mean_error, "3 sigma"),
        ),
    ]


def log_step() -> tuple[float, float]:
    """Return the mean and variance of ln((2/n) chi^2_k), k ~ Bin(n, 1/2); k = 0 has a probability of 1e-19."""
    from scipy.special import digamma, polygamma
    from scipy.stats import binom

    k = np.arange(1, WIDTH + 1)
    p = binom.pmf(k, WIDTH, 0.5)
    means = digamma(k / 2) + math.log(4 / WIDTH)
    mean = float(p @ means)
    return mean, float(p @ (polygamma(1, k / 2) + (means - mean) ** 2))


def power_mean(power: int) -> float:
    """Return E ((2/n) chi^2_k)^power, k ~ Bin(n, 1/2); E (chi^2_k)^p = k (k+2) ... (k+2p-2)."""
    from scipy.stats import binom

    k = np.arange(WIDTH + 1)
    rising = np.prod([k + 2 * j for j in range(power)], axis=0)
    return float(binom.pmf(k, WIDTH, 0.5) @ rising) * (2 / WIDTH) ** power


def log_gradients(case: NetworkCase) -> Array:
    """Return ln of the squared gradient, (layers, replicas)."""
    return 2 * np.log(networks.readings(case)["delta_rms"])


def log_mean(case: NetworkCase) -> float:
    first, *_, last = log_gradients(case)
    return float((first - last).mean())


def log_variance(case: NetworkCase) -> float:
    first, *_, last = log_gradients(case)
    return float((first - last).var(ddof=1))


def second_moment(case: NetworkCase) -> float:
    logs = log_gradients(case)[::SEGMENT]
    return float(np.exp(2 * (logs[:-1] - logs[1:])).mean())


def jacobian(size: Size) -> list[Row]:
    """Statement 18: squared singular values of linear networks are 1 if orthogonal; if Gaussian their variance is L."""
    depth, width = JACOBIAN_LAYERS, JACOBIAN_WIDTH
    orthogonal, normal = (
        networks.network(size, "activation=identity", f"init={init}", depth=depth, width=width)
        for init in ("orthogonal", "lecun_normal")
    )
    eps = depth * width * 2.2e-16
    # Each Gaussian matrix adds 2 / n^2 to the variance of ln of Tr J J^T / n.
    mean_error = SIGMAS * math.sqrt(2 * depth / size.replicas) / width
    samples = gaussian_products()
    variance_error = SIGMAS * samples.std(ddof=1) * math.sqrt(1 / size.replicas + 1 / len(samples))
    below, above = reference.allow_bias(samples.mean() - depth, variance_error)
    of_variance = Tolerance((below, above), f"bias and 3 sigma of products of {depth} Gaussian matrices drawn in NumPy")
    of_all = Tolerance(
        (np.array([eps, eps, mean_error, below]), np.array([eps, eps, mean_error, above])),
        "rounding; sqrt(2 L) / n for the mean's scatter, 3 sigma; products drawn in NumPy",
    )
    both, moments = (orthogonal, normal), [1.0, 0.0, 1.0, depth]
    name = "singular values of an orthogonal linear network"
    statement = f"all are 1: largest deviation, {depth} layers of width {width}, by autograd"
    exact = Tolerance(eps, "rounding, float64: depth x width x eps")
    isometry = Row(name, statement, 0.0, exact, farthest_from_one, orthogonal)
    name = "relative variance of the squared singular values, Gaussian linear network"
    theory = "theory's Jacobian, orthogonal and Gaussian linear networks"
    claim = "mean 1 and relative variance 0 or L of the squared singular values"
    probe, probed = "the lab's own probe of the Jacobian", partial(probed_jacobians, *both)
    return [
        Row(theory, claim, moments, rounding(1e-12), partial(theory_jacobians, *both)),
        isometry,
        isometry.control("singular values of a Gaussian linear network", "they are not 1", network=normal),
        Row(name, "is L, by autograd", depth, of_variance, relative_variance, normal),
        Row(probe, claim, moments, of_all, probed),
    ]


def theory_jacobians(*cases: NetworkCase) -> list[float]:
    return [value for case in cases for value in jacobian_moments(case.config())]


def probed_jacobians(*cases: NetworkCase) -> list[float]:
    """Return the means over replicas of jacobian_mean and jacobian_relative_variance."""
    moments = []
    for case in cases:
        probed = networks.readings(case.plus("probe.jacobian=true"))
        moments += [probed[f"jacobian_{name}"].mean() for name in ("mean", "relative_variance")]
    return moments


def gaussian_products() -> Array:
    """Return the relative variance of the squared singular values of 100 products of Gaussian matrices, (100,)."""
    size = (100, JACOBIAN_LAYERS, JACOBIAN_WIDTH, JACOBIAN_WIDTH)
    factors = np.random.default_rng(3).standard_normal(size) / math.sqrt(JACOBIAN_WIDTH)
    products = reduce(np.matmul, factors.swapaxes(0, 1))
    squares = np.linalg.svd(products, compute_uv=False) ** 2  # (100, N)
    return np.asarray(squares.var(1) / squares.mean(1) ** 2)


def singular_values(case: NetworkCase) -> Array:
    """Return those of d(last hidden layer's activations)/d(input) at one example, (R, N), by autograd."""
    import torch

    net, width = networks.build(case), case.config().model.width
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 1, width)))
    x = x.expand(case.replicas, width, -1).clone().requires_grad_()  # (R, N, features): a copy for every output
    *_, a = net.activations(x)
    (jacobian,) = torch.autograd.grad(a.diagonal(dim1=1, dim2=2).sum(), x)
    return torch.linalg.svdvals(jacobian).numpy()


def farthest_from_one(case: NetworkCase) -> float:
    return float(np.max(np.abs(singular_values(case) - 1)))


def relative_variance(case: NetworkCase) -> float:
    squares = singular_values(case) ** 2
    return float((squares.var(1) / squares.mean(1) ** 2).mean())
