"""Statements 13 to 16: what holds exactly, to rounding, and the probability that a narrow relu network is dead."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row
from lab.theory.width.bands import probability_dead
from lab.typing import Array

if TYPE_CHECKING:
    import torch

    from lab.network import Network

DEPTH, WIDTH = 10, 32
ROUNDING = DEPTH * WIDTH * 2.2e-16
"""A layer's product is right to some eps times the root of its terms, width; the layers' errors add up."""

CLIPS = (1e-3, 1e6)
"""Thresholds below and above any norm that occurs here."""

DEAD_WIDTHS, DEAD_DEPTHS = (2, 3, 5), (1, 5, 20)


def rows(size: Size) -> list[Row]:
    return [*product_rows(size), *norm_rows(size), *clipping_rows(size), *dead_rows(size)]


def small(size: Size, *overrides: str) -> NetworkCase:
    run = networks.network(
        size, "init=gaussian", "init.weight_var=2", *overrides, "model.bias=false", depth=DEPTH, width=WIDTH
    )
    return NetworkCase(run.overrides, 4, 4)


def gradients(run: NetworkCase) -> tuple[Network, list[torch.Tensor]]:
    """A network and dL/dW (R, fan_in, fan_out) of its layers, of the cross-entropy of random labels, by autograd."""
    import torch

    from lab.train.losses import cross_entropy

    net = networks.build(run)
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((run.replicas, 16, WIDTH)))
    y = torch.from_numpy(rng.integers(10, size=(run.replicas, 16)))
    loss = cross_entropy(net(x), y).sum()
    return net, list(torch.autograd.grad(loss, [block.up.weight for block in networks.blocks(net)]))


def products(run: NetworkCase) -> tuple[Array, Array]:
    """<W, dL/dW> of each layer, (L, R), and the products of their norms."""
    net, found = gradients(run)
    weights = [block.up.weight.detach() for block in networks.blocks(net)]
    inner = [(w * g).sum((1, 2)).numpy() for w, g in zip(weights, found, strict=True)]
    sizes = [(w.norm(dim=(1, 2)) * g.norm(dim=(1, 2))).numpy() for w, g in zip(weights, found, strict=True)]
    return np.stack(inner), np.stack(sizes)


# --- <W, dL/dW> -----------------------------------------------------------------------------------------------------


def product_rows(size: Size) -> list[Row]:
    kin = ("identity", "relu", "leaky_relu", "prelu")
    found = [
        Row(
            13,
            f"weight-gradient products, {name}",
            f"<W, dL/dW> is the same in all {DEPTH} layers, bias-free",
            0.0,
            ROUNDING,
            "rounding, float64: depth x width x eps",
            partial(spread_of_products, small(size, f"activation={name}")),
        )
        for name in kin
    ]
    control = replace(
        found[0],
        name="control: weight-gradient products, tanh",
        statement="tanh is not homogeneous, and its products differ",
        measure=partial(spread_of_products, small(size, "activation=tanh")),
        is_control=True,
    )
    return [*found, control]


def spread_of_products(run: NetworkCase) -> float:
    """The largest difference between two layers of a replica, over the least |W| |dL/dW|."""
    inner, sizes = products(run)
    return float(np.max((inner.max(0) - inner.min(0)) / sizes.min(0)))


def norm_rows(size: Size) -> list[Row]:
    found = [
        Row(
            14,
            f"no gradient along weights before {norm} norm",
            "<W, dL/dW> = 0 with eps = 0, bias-free",
            0.0,
            ROUNDING,
            "rounding, float64: depth x width x eps",
            partial(largest_product, small(size, "activation=tanh", f"norm={norm}", "norm.eps=0")),
        )
        for norm in ("batch", "layer", "rms")
    ]
    control = replace(
        found[0],
        name="control: no gradient along weights before layer norm with eps = .1",
        statement="eps knows the size of the weights",
        measure=partial(largest_product, small(size, "activation=tanh", "norm=layer", "norm.eps=0.1")),
        is_control=True,
    )
    return [*found, control]


def largest_product(run: NetworkCase) -> float:
    """The largest |<W, dL/dW>| over |W| |dL/dW|."""
    inner, sizes = products(run)
    return float(np.max(np.abs(inner) / sizes))


# --- clipping -------------------------------------------------------------------------------------------------------


def clipping_rows(size: Size) -> list[Row]:
    found = []
    for threshold in CLIPS:
        run = small(size, "activation=relu", "clip=norm", f"clip.max_norm={threshold}")
        found += [
            Row(
                15,
                f"norm after clipping at {threshold:g}",
                "the norm of each of 4 replicas over min(norm, c)",
                np.ones(4),
                ROUNDING,
                "rounding, float64",
                partial(clipped_norm, run, threshold),
            ),
            Row(
                15,
                f"ratios of layers after clip=norm at {threshold:g}",
                "the layers' gradient norms keep their ratios",
                0.0,
                ROUNDING,
                "rounding, float64",
                partial(change_of_ratios, run),
            ),
        ]
    by_value = small(size, "activation=relu", "clip=value", f"clip.max_value={CLIPS[0]}")
    control = replace(
        found[1],
        name="control: ratios of layers after clip=value",
        statement="cutting entries changes them",
        measure=partial(change_of_ratios, by_value),
        is_control=True,
    )
    return [*found, control]


def clipped(run: NetworkCase) -> tuple[Array, Array]:
    """Norms of the layers' whole gradients before and after clipping, (sections, R) each, by torch's own norm."""
    import torch

    from lab.train import clipping
    from lab.train.losses import cross_entropy
    from lab.train.parameters import Parameters

    net = networks.build(run)
    parameters = Parameters(net.sections())
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((run.replicas, 16, WIDTH)))
    y = torch.from_numpy(rng.integers(10, size=(run.replicas, 16)))
    parameters.take(torch.autograd.grad(cross_entropy(net(x), y).sum(), parameters.tensors))

    def norms() -> Array:
        return torch.cat([held.gradients.norm(dim=-1) for held in parameters.stacks]).numpy()

    before = norms()
    clipping.clip(run.config().clip, parameters.stacks)
    return before, norms()


def clipped_norm(run: NetworkCase, threshold: float) -> Array:
    before, after = (np.sqrt((norms**2).sum(0)) for norms in clipped(run))
    return after / np.minimum(before, threshold)


def change_of_ratios(run: NetworkCase) -> float:
    """The largest relative difference between two layers' factors."""
    before, after = clipped(run)
    factors = after / before
    return float(np.max(factors.max(0) / factors.min(0) - 1))


# --- dead networks --------------------------------------------------------------------------------------------------


def dead_rows(size: Size) -> list[Row]:
    replicas = 16 * size.samples
    found = []
    for width in DEAD_WIDTHS:
        probability = np.array([1 - (1 - 2.0**-width) ** depth for depth in DEAD_DEPTHS])
        name = f"width {width}, {', '.join(map(str, DEAD_DEPTHS))} layers"
        found.append(
            Row(
                16,
                f"P(dead), {name}",
                "theory's 1 - (1 - 2^-N)^H",
                probability,
                1e-14,
                "rounding, float64",
                partial(theory_dead, width),
            )
        )
        run = networks.network(size, "activation=relu", "init=he_normal", depth=max(DEAD_DEPTHS), width=width)
        run = NetworkCase(run.overrides, replicas, replicas)
        found.append(
            Row(
                16,
                f"dead networks, {name}",
                f"one input, no biases: the share of {replicas} networks whose last layer is 0",
                probability,
                reference.SIGMAS * np.sqrt(probability * (1 - probability) / replicas),
                "binomial, 3 sqrt(P(1-P)/S)",
                partial(share_dead, run),
            )
        )
    return found


def theory_dead(width: int) -> Array:
    return np.array([probability_dead(width, depth) for depth in DEAD_DEPTHS])


def share_dead(run: NetworkCase) -> Array:
    """The share of replicas all of whose units are 0 for one input, after so many layers."""
    import torch

    net = networks.build(run)
    width = run.config().model.width
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((run.replicas, 1, width)))
    with torch.no_grad():
        dead = [bool_dead(a) for a in net.activations(x)]
    return np.array([dead[depth - 1].mean() for depth in DEAD_DEPTHS])


def bool_dead(a: torch.Tensor) -> Array:
    """1 for each replica whose activations (R, 1, N) are all 0."""
    return (a == 0).all(-1).all(-1).double().numpy()
