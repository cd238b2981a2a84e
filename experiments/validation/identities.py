"""Statements 13 to 16: identities that hold to rounding, and the probability that a narrow relu network is dead.

Du et al. 2018, "Algorithmic Regularization in Learning Deep Homogeneous Models", for 13; Lu et al. 2019, "Dying ReLU
and Initialization", for 16.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row, Tolerance, rounding
from lab.theory.width.bands import probability_dead
from lab.typing import Array

if TYPE_CHECKING:
    import torch

    from lab.network import Network

DEPTH, WIDTH = 10, 32
ROUNDING = DEPTH * WIDTH * 2.2e-16
"""The relative error of one layer's product is a few eps times sqrt(WIDTH); the errors of the layers add up."""

BY_ROUNDING = Tolerance(ROUNDING, "rounding, float64: depth x width x eps")


def bias_free(size: Size, *overrides: str) -> NetworkCase:
    standard = ("init=gaussian", "init.weight_var=2", "model.bias=false")
    return networks.network(size, *standard, *overrides, depth=DEPTH, width=WIDTH, replicas=4, group=4)


def network_and_loss(case: NetworkCase) -> tuple[Network, torch.Tensor]:
    """Return a network, and the cross-entropy of random labels summed over replicas."""
    import torch

    from lab.train.losses import cross_entropy

    net, rng = networks.build(case), np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((case.replicas, 16, WIDTH)))  # (R, B, N)
    y = torch.from_numpy(rng.integers(10, size=(case.replicas, 16)))
    return net, cross_entropy(net(x), y).sum()


def weight_gradient_products(size: Size) -> list[Row]:
    """Statement 13: <W, dL/dW> is the same in all layers of a bias-free network of homogeneous activations."""
    statement = f"<W, dL/dW> is the same in all {DEPTH} layers, bias-free"
    rows = []
    for name in ("identity", "relu", "leaky_relu", "prelu"):
        case, row_name = bias_free(size, f"activation={name}"), f"weight-gradient products, {name}"
        rows.append(Row(row_name, statement, 0.0, BY_ROUNDING, spread_of_products, case))
    name, statement = "weight-gradient products, tanh", "tanh is not homogeneous, and its products differ"
    return [*rows, rows[0].control(name, statement, network=bias_free(size, "activation=tanh"))]


def norms_of_weights(size: Size) -> list[Row]:
    """Statement 14: before a norm the loss does not depend on the size of the weights: <W, dL/dW> = 0."""
    rows = []
    for norm in ("batch", "layer", "rms"):
        case = bias_free(size, "activation=tanh", f"norm={norm}", "norm.eps=0")
        name, statement = f"no gradient along weights before {norm} norm", "<W, dL/dW> = 0 with eps = 0, bias-free"
        rows.append(Row(name, statement, 0.0, BY_ROUNDING, largest_product, case))
    name, statement = "no gradient along weights before layer norm with eps = .1", "eps breaks the invariance to scale"
    other = bias_free(size, "activation=tanh", "norm=layer", "norm.eps=0.1")
    return [*rows, rows[0].control(name, statement, network=other)]


def products(case: NetworkCase) -> tuple[Array, Array]:
    """Return <W, dL/dW> of each layer and |W| |dL/dW|, by autograd, (L, R) each."""
    import torch

    net, loss = network_and_loss(case)
    weights = [block.up.weight for block in networks.blocks(net)]  # (R, fan_in, fan_out) each
    gradients = torch.autograd.grad(loss, weights)
    pairs = [(w.detach(), g) for w, g in zip(weights, gradients, strict=True)]
    inner = [(w * g).sum((1, 2)).numpy() for w, g in pairs]
    norms = [(w.norm(dim=(1, 2)) * g.norm(dim=(1, 2))).numpy() for w, g in pairs]
    return np.stack(inner), np.stack(norms)


def spread_of_products(case: NetworkCase) -> float:
    """Return the largest difference between two layers of a replica, over the least |W| |dL/dW|."""
    inner, norms = products(case)
    return float(np.max((inner.max(0) - inner.min(0)) / norms.min(0)))


def largest_product(case: NetworkCase) -> float:
    """Return the largest |<W, dL/dW>| over |W| |dL/dW|."""
    inner, norms = products(case)
    return float(np.max(np.abs(inner) / norms))


CLIPS = (1e-3, 1e6)
"""Thresholds below and above any norm that occurs here."""


def clipping(size: Size) -> list[Row]:
    """Statement 15: clipping by norm caps each replica's norm and keeps the ratios of layers."""
    rows = []
    for threshold in CLIPS:
        case = bias_free(size, "activation=relu", "clip=norm", f"clip.max_norm={threshold}")
        name, statement = f"norm after clipping at {threshold:g}", "norm of each of 4 replicas over min(norm, c)"
        measure = partial(clipped_norm, threshold=threshold)
        rows.append(Row(name, statement, np.ones(4), rounding(ROUNDING), measure, case))
        name, statement = f"ratios of layers after clip=norm at {threshold:g}", "the layers' norms keep their ratios"
        rows.append(Row(name, statement, 0.0, rounding(ROUNDING), change_of_ratios, case))
    name, statement = "ratios of layers after clip=value", "clipping entries changes them"
    by_value = bias_free(size, "activation=relu", "clip=value", f"clip.max_value={CLIPS[0]}")
    return [*rows, rows[1].control(name, statement, network=by_value)]


def clipped(case: NetworkCase) -> tuple[Array, Array]:
    """Return the norms of the layers' gradients before and after clipping, (sections, R) each, by torch's own norm."""
    import torch

    from lab.train.parameters import Parameters
    from lab.train.update.clipping import clip

    net, loss = network_and_loss(case)
    parameters = Parameters(net.sections())
    parameters.take(torch.autograd.grad(loss, parameters.tensors))

    def norms() -> Array:
        return torch.cat([packed.gradients.norm(dim=-1) for packed in parameters.stacks]).numpy()

    before = norms()
    clip(case.config().clip, parameters.stacks)
    return before, norms()


def clipped_norm(case: NetworkCase, threshold: float) -> Array:
    before, after = (np.sqrt((norms**2).sum(0)) for norms in clipped(case))
    return after / np.minimum(before, threshold)


def change_of_ratios(case: NetworkCase) -> float:
    """Return the largest relative difference between two layers' factors."""
    before, after = clipped(case)
    factors = after / before
    return float(np.max(factors.max(0) / factors.min(0) - 1))


DEAD_WIDTHS, DEAD_DEPTHS = (2, 3, 5), (1, 5, 20)


def dead_networks(size: Size) -> list[Row]:
    """Statement 16: a relu network of H layers of N units without biases is 0 for an input with 1 - (1 - 2^-N)^H."""
    rows, replicas = [], 16 * size.samples
    for width in DEAD_WIDTHS:
        probability = np.array([1 - (1 - 2.0**-width) ** depth for depth in DEAD_DEPTHS])
        error = reference.SIGMAS * np.sqrt(probability * (1 - probability) / replicas)
        binomial = Tolerance(error, "binomial, 3 sqrt(P(1-P)/S)")
        at = f"width {width}, {', '.join(map(str, DEAD_DEPTHS))} layers"
        formula, theory = "theory's 1 - (1 - 2^-N)^H", partial(theory_dead, width)
        statement = f"one input, no biases: the share of {replicas} networks whose last layer is 0"
        relu, depth = ("activation=relu", "init=he_normal"), max(DEAD_DEPTHS)
        case = networks.network(size, *relu, depth=depth, width=width, replicas=replicas, group=replicas)
        rows += [
            Row(f"P(dead), {at}", formula, probability, rounding(1e-14), theory),
            Row(f"dead networks, {at}", statement, probability, binomial, share_dead, case),
        ]
    return rows


def theory_dead(width: int) -> list[float]:
    return [probability_dead(width, depth) for depth in DEAD_DEPTHS]


def share_dead(case: NetworkCase) -> list[float]:
    """Return the share of replicas whose units are all 0 for one input, after each of DEAD_DEPTHS layers."""
    import torch

    x = np.random.default_rng(5).standard_normal((case.replicas, 1, case.config().model.width))
    with torch.no_grad():
        dead = [(a == 0).all(-1).all(-1) for a in networks.build(case).activations(torch.from_numpy(x))]  # (R,) each
    return [float(dead[depth - 1].double().mean()) for depth in DEAD_DEPTHS]
