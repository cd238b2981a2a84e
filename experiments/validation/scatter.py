"""Statements 17 and 18: how gradients scatter at finite width, and the singular values of the Jacobian."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row
from lab import schema
from lab.theory import jacobian_moments, predict
from lab.theory.width.noise import noise, step_variance
from lab.typing import Array

WIDTH, LAYERS = 64, 16
"""Of the narrow networks whose distribution is measured."""

SEGMENT = 4
"""Layers over which a second moment is taken: few enough for its tail to be sampled."""

JACOBIAN_WIDTH, JACOBIAN_LAYERS = 128, 4


def rows(size: Size) -> list[Row]:
    return [*theory_rows(size), *log_normal_rows(size), *jacobian_rows(size)]


def theory_rows(size: Size) -> list[Row]:
    a = 0.3
    steps = {
        "relu": (schema.Activation("relu"), 5.0),
        "identity": (schema.Activation("identity"), 2.0),
        "leaky_relu, slope .3": (schema.LeakyReLU("leaky_relu", a), 6 * (1 + a**4) / (1 + a * a) ** 2 - 1),
    }
    found = [
        Row(
            17,
            f"scatter a layer, {name}",
            "theory's n Var ln rate = 3 E phi'^4 / (E phi'^2)^2 - 1",
            value,
            1e-12,
            "rounding, float64",
            partial(step_variance, activation),
        )
        for name, (activation, value) in steps.items()
    ]
    run = networks.network(size, "activation=relu", "init=he_normal", depth=size.depth)
    variance = 5 * (size.depth - 1) / size.width
    found.append(
        Row(
            17,
            f"scatter and bias over {size.depth} layers, relu at He",
            "theory's variance 5L/n of ln of a squared gradient and mean -5L/(2n)",
            [variance, -variance / 2],
            [1e-9, variance**2 / 8 + 1e-9],
            "rounding; second order of the bias, variance^2 / 8",
            partial(theory_noise, run),
        )
    )
    return found


def theory_noise(run: NetworkCase) -> Array:
    config = run.config()
    scatter = noise(config, predict(config))
    return np.array([scatter.delta[0], scatter.delta_shift[0][0] + scatter.delta_shift[1][0]])


# --- the log-normal law ---------------------------------------------------------------------------------------------


def log_normal_rows(size: Size) -> list[Row]:
    """One example, an independent Gaussian gradient: |delta|^2 is multiplied by (2/n) chi^2_k a layer, k ~ Bin(n, 1/2).

    The signs of the gradient that comes from above make the half-space in which an active unit's weights lie
    indistinguishable from the other, so that the layers are independent and the law of their product is exact.
    """
    run = networks.network(
        size, "activation=relu", "init=he_normal", "batch_size=1", "probe.set=norms", depth=LAYERS + 1, width=WIDTH
    )
    run = NetworkCase(run.overrides, size.samples, min(size.samples, 256))
    mean, variance = log_step()
    total, rough = LAYERS * variance, 5 * LAYERS / WIDTH
    bias, error = LAYERS * mean + rough / 2, reference.SIGMAS * math.sqrt(total / size.samples)
    second, eighth = power_mean(2) ** SEGMENT, power_mean(4) ** SEGMENT
    draws = size.samples * (LAYERS // SEGMENT)
    common = f"{LAYERS} layers of width {WIDTH}, {size.samples} replicas"
    # The variance of a sample variance, with the excess kurtosis of one step, 48/n^3 or so, left out beside the 2.
    spread = reference.SIGMAS * total * math.sqrt(2 / (size.samples - 1))
    return [
        Row(
            17,
            "mean of ln of the squared gradient, relu at He",
            f"-5L/(2n): {common}",
            -rough / 2,
            (max(-bias, 0) + error, max(bias, 0) + error),
            "3 sigma; next order from E ln chi^2_k: digamma over Bin(n, 1/2)",
            partial(log_mean, run),
            run,
        ),
        Row(
            17,
            "variance of ln of the squared gradient, relu at He",
            f"5L/n: {common}",
            rough,
            (max(rough - total, 0) + spread, max(total - rough, 0) + spread),
            "3 sigma of a variance; next order from trigamma over Bin(n, 1/2)",
            partial(log_variance, run),
            run,
        ),
        Row(
            17,
            f"second moment of the squared gradient over {SEGMENT} layers, relu at He",
            "(1 + 5/n)^L",
            (1 + 5 / WIDTH) ** SEGMENT,
            reference.SIGMAS * math.sqrt((eighth - second**2) / draws),
            f"3 sigma of {draws} draws, from the moments of chi^2_k",
            partial(second_moment, run),
            run,
        ),
        Row(
            17,
            "control: ln chi alone is the mean of the logarithm",
            "without -5/(2n) a layer the mean is off",
            0.0,
            error,
            "3 sigma",
            partial(log_mean, run),
            run,
            is_control=True,
        ),
    ]


def log_step() -> tuple[float, float]:
    """Mean and variance of ln((2/n) chi^2_k), k ~ Bin(n, 1/2); k = 0 has a probability of 1e-19."""
    from scipy.special import digamma, polygamma
    from scipy.stats import binom

    k = np.arange(1, WIDTH + 1)
    p = binom.pmf(k, WIDTH, 0.5)
    given = digamma(k / 2) + math.log(4 / WIDTH)
    mean = float(p @ given)
    return mean, float(p @ (polygamma(1, k / 2) + (given - mean) ** 2))


def power_mean(power: int) -> float:
    """E ((2/n) chi^2_k)^power, k ~ Bin(n, 1/2); E (chi^2_k)^p = k (k+2) ... (k+2p-2)."""
    from scipy.stats import binom

    k = np.arange(WIDTH + 1)
    rising = np.prod([k + 2 * j for j in range(power)], axis=0)
    return float(binom.pmf(k, WIDTH, 0.5) @ rising) * (2 / WIDTH) ** power


def logs(run: NetworkCase) -> Array:
    """ln of the squared gradient, (layers, replicas)."""
    return 2 * np.log(networks.readings(run)["delta_rms"])


def log_mean(run: NetworkCase) -> float:
    found = logs(run)
    return float((found[0] - found[-1]).mean())


def log_variance(run: NetworkCase) -> float:
    found = logs(run)
    return float((found[0] - found[-1]).var(ddof=1))


def second_moment(run: NetworkCase) -> float:
    found = logs(run)[::SEGMENT]
    return float(np.exp(2 * (found[:-1] - found[1:])).mean())


# --- the Jacobian ---------------------------------------------------------------------------------------------------


def jacobian_rows(size: Size) -> list[Row]:
    def linear(init: str) -> NetworkCase:
        return networks.network(
            size, "activation=identity", f"init={init}", depth=JACOBIAN_LAYERS, width=JACOBIAN_WIDTH
        )

    orthogonal, normal = linear("orthogonal"), linear("lecun_normal")
    rounding = JACOBIAN_LAYERS * JACOBIAN_WIDTH * 2.2e-16
    # Tr J J^T / n of Gaussian matrices: each adds 2 / n^2 to the variance of its logarithm.
    mean_error = reference.SIGMAS * math.sqrt(2 * JACOBIAN_LAYERS / size.replicas) / JACOBIAN_WIDTH
    mean, deviation = gaussian_products()
    error, bias = reference.SIGMAS * deviation * math.sqrt(1 / size.replicas + 1 / 100), mean - JACOBIAN_LAYERS
    return [
        Row(
            18,
            "theory's Jacobian, orthogonal and Gaussian linear networks",
            "mean 1 and relative variance 0 or L of the squared singular values",
            [1.0, 0.0, 1.0, JACOBIAN_LAYERS],
            1e-12,
            "rounding, float64",
            partial(theory_jacobians, orthogonal, normal),
        ),
        Row(
            18,
            "singular values of an orthogonal linear network",
            f"all are 1: the farthest from it, {JACOBIAN_LAYERS} layers of width {JACOBIAN_WIDTH}, by autograd",
            0.0,
            rounding,
            "rounding, float64: depth x width x eps",
            partial(farthest_from_one, orthogonal),
        ),
        Row(
            18,
            "control: singular values of a Gaussian linear network",
            "they are not 1",
            0.0,
            rounding,
            "rounding, float64",
            partial(farthest_from_one, normal),
            is_control=True,
        ),
        Row(
            18,
            "relative variance of the squared singular values, Gaussian linear network",
            "is L, by autograd",
            JACOBIAN_LAYERS,
            (max(-bias, 0) + error, max(bias, 0) + error),
            f"bias and 3 sigma of products of {JACOBIAN_LAYERS} Gaussian matrices drawn in NumPy",
            partial(relative_variance, normal),
        ),
        Row(
            18,
            "the lab's own probe of the Jacobian",
            "mean and relative variance of both networks, as autograd finds them",
            [1.0, 0.0, 1.0, JACOBIAN_LAYERS],
            (
                [rounding, rounding, mean_error, max(-bias, 0) + error],
                [rounding, rounding, mean_error, max(bias, 0) + error],
            ),
            "rounding; sqrt(2 L) / n for the mean's scatter, 3 sigma; products drawn in NumPy",
            partial(probed_jacobians, orthogonal, normal),
        ),
    ]


def theory_jacobians(orthogonal: NetworkCase, normal: NetworkCase) -> Array:
    return np.array([*jacobian_moments(orthogonal.config()), *jacobian_moments(normal.config())])


def probed_jacobians(orthogonal: NetworkCase, normal: NetworkCase) -> Array:
    """Means over replicas of jacobian_mean and jacobian_relative_variance."""
    found = []
    for run in (orthogonal, normal):
        probed = networks.readings(NetworkCase((*run.overrides, "probe.jacobian=true"), run.replicas, run.group))
        found += [probed[f"jacobian_{name}"].mean() for name in ("mean", "relative_variance")]
    return np.array(found)


def gaussian_products() -> tuple[float, float]:
    """Mean and standard deviation of the relative variance over 100 products of Gaussian matrices."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(100):
        product = np.eye(JACOBIAN_WIDTH)
        for _ in range(JACOBIAN_LAYERS):
            product = product @ rng.standard_normal((JACOBIAN_WIDTH, JACOBIAN_WIDTH)) / math.sqrt(JACOBIAN_WIDTH)
        squares = np.linalg.svd(product, compute_uv=False) ** 2
        found.append(squares.var() / squares.mean() ** 2)
    return float(np.mean(found)), float(np.std(found, ddof=1))


def singular_values(run: NetworkCase) -> Array:
    """Of d(last hidden layer's activations)/d(input) at one example, (R, N), row by row through autograd."""
    import torch

    net, width = networks.build(run), run.config().model.width
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 1, width)))
    x = x.expand(run.replicas, width, -1).clone().requires_grad_()  # (R, N, features): a copy for every output
    *_, a = net.activations(x)
    (jacobian,) = torch.autograd.grad(a.diagonal(dim1=1, dim2=2).sum(), x)
    return torch.linalg.svdvals(jacobian).numpy()


def farthest_from_one(run: NetworkCase) -> float:
    return float(np.max(np.abs(singular_values(run) - 1)))


def relative_variance(run: NetworkCase) -> float:
    squares = singular_values(run) ** 2
    return float((squares.var(1) / squares.mean(1) ** 2).mean())
