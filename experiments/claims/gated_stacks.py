"""The variance through plain gated stacks at initialization, measured from exact initial values, and predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.claims.networks import SEED
from lab import schema
from lab.typing import Array

WIDTH, LAYERS = 256, 7
STACKS = {"relu": 2.0, "bilinear": 1.0, "swiglu": 1.0, "geglu": 1.0}
"""Plain stack -> its weight variance times fan_in; relu, which keeps any variance, is the control."""
STARTS = (2.0, 0.5)
"""First pre-activations' variance over the unstable fixed point's (for relu, over 1)."""
STACK = (f"model.width={WIDTH}", f"model.depth={LAYERS}", "model.bias=false", "dtype=float64", "data=gaussian")


def fixed_point(name: str) -> float:
    """Return the unstable fixed point of the variance; 1 for relu, which keeps any variance."""
    from lab.theory import fixed_points

    points = fixed_points(schema.Activation(name), STACKS[name], 0.0)
    return next((point.q for point in points if point.stability == "unstable"), 1.0)


def variances(overrides: Sequence[str], starts: Sequence[float], replicas: int) -> Array:
    """Return the variance that each layer passes to the next pre-activations: (starts, layers, replicas).

    One input per start and replica, in a random direction, whose first pre-activations have exactly that variance.
    """
    import torch

    from lab import compose
    from lab.machine import threads as torch_threads
    from lab.network import Network
    from lab.network.seeding import streams

    configuration = compose.compose([*overrides, f"replicas={replicas}"])
    assert isinstance(configuration.init, schema.Gaussian)
    weight_var, width = configuration.init.weight_var, configuration.model.width
    with torch_threads.thread_budget(1), torch.no_grad():
        network = Network(configuration, width, 2, [streams(SEED, r) for r in range(replicas)], torch.device("cpu"))
        direction = np.random.default_rng(SEED).standard_normal((replicas, 1, width))
        direction /= np.sqrt(np.mean(direction**2, -1, keepdims=True))
        x = torch.from_numpy(direction * np.sqrt(np.array(starts) / weight_var)[:, None])  # (R, starts, width)
        layers = [weight_var * a.square().mean(-1).T.numpy() for a in network.activations(x)]  # (starts, R) each
    return np.stack(layers, 1)


def predicted(name: str, start: float) -> tuple[Array, Array, Array]:
    """Return predicted ln variances, their standard deviation over replicas, and their bias, (LAYERS,) each.

    A layer adds to ln q the noise of a mean of `WIDTH` squares, of relative variance kappa / WIDTH with
    kappa = E a^4 / (E a^2)^2 - 1; the layers above multiply it by J = d ln q' / d ln q. The bias is the mean of the
    logarithm of such a mean, to second order.
    """
    from lab.theory import kernel
    from lab.theory.plain.signal import variance_map

    activation, weight_var = schema.Activation(name), STACKS[name]
    phi = kernel(activation)
    q = variance_map(activation, weight_var, 0.0, LAYERS + 1, start * fixed_point(name))
    noise, bias = np.zeros(LAYERS + 1), np.zeros(LAYERS + 1)
    for layer in range(LAYERS):
        slopes = [_log_slope(phi, q[layer] * math.exp(shift)) for shift in (-0.05, 0.0, 0.05)]
        curvature = (slopes[2] - slopes[0]) / 0.1
        kappa = float(phi.fourth_moments(q[layer])[0] / phi.second_moment(q[layer]) ** 2) - 1
        noise[layer + 1] = slopes[1] ** 2 * noise[layer] + kappa / WIDTH
        bias[layer + 1] = slopes[1] * bias[layer] + curvature * noise[layer] / 2 - kappa / WIDTH / 2
    return np.log(q[1:]), np.sqrt(noise[1:]), bias[1:]


def _log_slope(phi: Any, q: float) -> float:
    return float(q * phi.second_moment_derivative(q) / phi.second_moment(q))
