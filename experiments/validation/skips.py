"""Statements 21, 22 and 23: residual networks whose branch is W2 relu(W1 x) with its variance preserved."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row
from lab.compose import compose
from lab.theory import predict
from lab.typing import Array

GAIN = 2**-0.25
"""He's weights times this have s = sqrt(2) in either map, and s^2 V(q) = q."""

START = ("data.variance=0.7071067811865476",)
"""Through the embedding, of s = sqrt(2) too, the stream starts with a mean square of 1."""

BRANCH = 7.0
"""n times the variance that a branch adds to ln of the square of what goes through it, in either direction: relu's 5
and the second map's 2."""

SHALLOW, DEEP = 8, 32


def rows(size: Size) -> list[Row]:
    return [*skip_rows(size), *prenorm_rows(size), *last_block_rows(size)]


def residual(size: Size, *overrides: str, depth: int | None = None, width: int | None = None) -> NetworkCase:
    branch = ("model.block=ffn", "model.expansion=1", "activation=relu", "init=he_normal", f"init.gain={GAIN!r}")
    return networks.network(size, *branch, *START, *overrides, depth=depth, width=width)


def scatter(shares: Array, through: float, width: int, replicas: int) -> float:
    """Bias and 3 sigma of ln of a product over layers: `shares` of each one's square that came through the branch.

    The branch scatters by `through` / n, and meets what passes it by at a random angle: 4 p (1 - p) / n.
    """
    variance = float(np.sum(shares**2 * through + 4 * shares * (1 - shares)) / width)
    return variance / 2 + reference.SIGMAS * math.sqrt(variance / replicas)


# --- x + alpha f(x) -------------------------------------------------------------------------------------------------


def skip_rows(size: Size) -> list[Row]:
    depth = size.rate_depth
    found = []
    cases = {
        "alpha 1": ("residual=identity",),
        "alpha 1/sqrt(L)": ("residual=scaled", f"residual.alpha={depth**-0.5!r}"),
    }
    for name, overrides in cases.items():
        square = 1.0 if name == "alpha 1" else 1 / depth
        total = depth * math.log1p(square)
        run = residual(size, *overrides)
        allowed = scatter(np.full(depth, square / (1 + square)), BRANCH, size.width, size.replicas)
        words = "bias and 3 sigma: branch 7/n, angle 4p(1-p)/n a layer"
        found += [
            Row(
                21,
                f"theory, {name}",
                f"ln of forward q and squared gradient over {depth} layers: L ln(1 + alpha^2)",
                [total * (depth - 1) / depth, total],
                1e-9 * total,
                "rounding, float64",
                partial(theory_growth, run.overrides),
            ),
            Row(
                21,
                f"gradient, {name}",
                f"ln of the squared gradient over {depth} layers",
                total,
                allowed,
                words,
                partial(networks.total_gain, run),
                run,
            ),
            Row(
                21,
                f"forward, {name}",
                f"ln of q, last layer over first, {depth - 1} layers between",
                -total * (depth - 1) / depth,
                allowed,
                words,
                partial(networks.ratio, run, "pre_rms", 0),
                run,
            ),
        ]
    found.append(
        Row(
            21,
            "the limit of alpha 1/sqrt(L)",
            "theory's growth tends to e, at L = 1000",
            math.e,
            math.e / (2 * 1000) + 1e-6,
            "(1 + 1/L)^L = e (1 - 1/(2L) + ...)",
            partial(growth_at, 1000),
        )
    )
    return found


def theory_growth(overrides: tuple[str, ...]) -> list[float]:
    """ln of q at the last layer over the first, and of the squared gradient at the first's input over the end."""
    prediction = predict(compose(overrides), 2**-0.5)
    return [math.log(prediction.q[-1] / prediction.q[0]), float(2 * np.log(prediction.layer_gain).sum())]


def growth_at(depth: int) -> float:
    overrides = residual(Size(), "residual=scaled", f"residual.alpha={depth**-0.5!r}", depth=depth).overrides
    return math.exp(theory_growth(overrides)[1])


# --- a norm at the start of the branch ------------------------------------------------------------------------------


def prenorm_rows(size: Size) -> list[Row]:
    depth, found = size.rate_depth, []
    rms = residual(size, "residual=identity", "norm=rms", "norm.place=pre", "norm.eps=0")
    kept = 1 - 1 / math.pi  # of a relu's mean square, what varies over the batch
    batch = residual(
        size,
        "residual=identity",
        "norm=batch",
        "norm.place=pre",
        "norm.eps=0",
        f"batch_size={size.norm_batch}",
        f"data.examples={2 * size.norm_batch}",
        depth=size.norm_depth,
        width=size.norm_width,
    )
    batch = NetworkCase(batch.overrides, size.norm_replicas, size.group)
    cases: tuple[tuple[str, NetworkCase, int, float], ...] = (
        ("RMS norm", rms, size.width, 1.0),
        ("batch norm", batch, size.norm_width, kept),
    )
    for name, run, width, share in cases:
        layers = np.arange(depth if name == "RMS norm" else size.norm_depth)
        growth = 1 + 1 / (1 + share * layers)
        total, parts = float(np.log(growth).sum()), (growth - 1) / growth
        # Behind a norm forward scatter reaches the gradient as well.
        systematic = 0.0 if name == "RMS norm" else float(np.sum(parts)) * (2 / size.norm_batch + 5 / width)
        replicas = run.replicas
        allowed = systematic + scatter(parts, 2 * BRANCH, width, replicas)
        formula = "1 + L" if name == "RMS norm" else "prod[1 + 1/(1 + (1-1/pi) l)]"
        found += [
            Row(
                22,
                f"theory, {name} at the start of the branch",
                f"squared gradient over {len(layers)} layers: {formula}",
                math.exp(total),
                1e-9 * math.exp(total),
                "rounding, float64",
                partial(theory_gain, run.overrides),
            ),
            Row(
                22,
                f"gradient, {name} at the start of the branch",
                f"ln of the squared gradient over {len(layers)} layers: {formula}",
                total,
                allowed,
                "bias and 3 sigma: branch 14/n, angle 4p(1-p)/n a layer"
                + ("" if systematic == 0 else "; p (2/B + 5/n) a layer"),
                partial(networks.total_gain, run),
                run,
            ),
            Row(
                22,
                f"forward, {name} at the start of the branch",
                "ln of the stream's mean square after each block: 1 + l",
                np.log(1 + layers + 1),
                np.array(
                    [
                        scatter(1 / (2 + layers[: last + 1]), BRANCH, width, replicas) + 2 / width
                        for last in range(len(layers))
                    ]
                ),
                "bias and 3 sigma: branch 7/n, angle 4p(1-p)/n a layer",
                partial(stream, run),
            ),
        ]
    return found


def theory_gain(overrides: tuple[str, ...]) -> float:
    return math.exp(theory_growth(overrides)[1])


def stream(run: NetworkCase) -> Array:
    """ln of the mean square after each block, mean over replicas."""
    import torch

    config, found = run.config(), []
    for first, count in networks.groups(run):
        net = networks.build(run, first, count)
        assert net.embedding is not None
        rng = np.random.default_rng(first)
        x = torch.from_numpy(2**-0.25 * rng.standard_normal((count, config.batch_size, config.model.width)))
        with torch.no_grad():
            x, squares = net.embedding(x), []
            for block in networks.blocks(net):
                x = block(x)
                squares.append(x.square().mean((1, 2)).log().numpy())
        found.append(squares)
    return np.concatenate(found, axis=1).mean(1)


# --- the last block -------------------------------------------------------------------------------------------------


def last_block_rows(size: Size) -> list[Row]:
    """Between L = 8 and 32; an independent gradient enters behind whatever ends the stack."""
    found = []
    for place, exponent in (("pre", -0.5), ("post", 0.0)):
        shallow, deep = (
            residual(size, "residual=identity", "norm=layer", f"norm.place={place}", depth=depth, width=256)
            for depth in (SHALLOW, DEEP)
        )
        # Of either network: the last block's two maps scatter by 7/n in both directions, the stream by 4/(l n) a layer.
        variance = 2 * (2 * BRANCH + 4 * math.log(DEEP)) / 256
        center = exponent * math.log((1 + DEEP) / (1 + SHALLOW))
        found.append(
            Row(
                23,
                f"last block's gradient, {place}-norm",
                f"ln of its norm at L = {DEEP} over {SHALLOW}: "
                + ("falls as 1/sqrt(1 + L)" if place == "pre" else "does not know L"),
                center,
                math.sqrt(variance / size.replicas) * reference.SIGMAS / 2 + variance / 4,
                "bias and 3 sigma: 14/n of the block, 4 ln(L)/n of the stream",
                partial(last_block, shallow, deep),
            )
        )
    name = "control: last block's gradient, pre-norm, does not know L"
    return [*found, replace(found[0], name=name, statement="it does", predicted=0.0, is_control=True)]


def last_block(shallow: NetworkCase, deep: NetworkCase) -> float:
    """ln of the last block's weight-gradient norm in the deep network over that in the shallow one."""
    return last_block_norm(deep) - last_block_norm(shallow)


def last_block_norm(run: NetworkCase) -> float:
    """ln of the norm of both maps' gradients in the last block, mean over replicas."""
    import torch

    config, found = run.config(), []
    for first, count in networks.groups(run):
        net = networks.build(run, first, count)
        rng = np.random.default_rng(first)
        shape = (count, config.batch_size, config.model.width)
        x = torch.from_numpy(2**-0.25 * rng.standard_normal(shape))
        cotangent = torch.from_numpy(rng.standard_normal(shape))
        assert net.embedding is not None
        x = net.embedding(x)
        for block in networks.blocks(net):
            x = block(x)
        if net.final_norm is not None:
            x = net.final_norm(x)
        last = networks.blocks(net)[-1]
        assert last.down is not None
        weights = [last.up.weight, last.down.weight]
        grads = torch.autograd.grad((x * cotangent).sum(), weights)
        squares = torch.stack([g.square().sum((1, 2)) for g in grads]).sum(0)
        found.append(squares.log().numpy() / 2)
    return float(np.concatenate(found).mean())
