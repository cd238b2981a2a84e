"""Statements 21, 22 and 23: residual networks whose branch is W2 relu(W1 x) with its variance preserved.

Yang and Schoenholz 2017, "Mean Field Residual Networks"; De and Smith 2020, "Batch Normalization Biases Residual Blocks
Towards the Identity Function in Deep Networks", for 22; Xiong et al. 2020, "On Layer Normalization in the Transformer
Architecture", for 23.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.validation import networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row, Tolerance, rounding
from lab.theory import predict
from lab.typing import Array

if TYPE_CHECKING:
    import torch

    from lab.network import Network

GAIN = 2**-0.25
"""He's weights times this have s = sqrt(2) in either map, and s^2 V(q) = q."""

INPUT_RMS, INPUT_Q = 2**-0.25, 2**-0.5
"""Of the inputs; through the embedding, of s = sqrt(2) too, the stream starts with a mean square of 1."""

BRANCH = 7.0
"""n times the variance a branch adds to ln of the square of its signal, either way: relu's 5, the second map's 2."""


def residual(size: Size, *overrides: str, **sizes: int) -> NetworkCase:
    branch = ("model.block=ffn", "model.expansion=1", "activation=relu", "init=he_normal", f"init.gain={GAIN!r}")
    return networks.network(size, *branch, f"data.variance={INPUT_Q!r}", *overrides, **sizes)


def scatter(shares: Array, branch: float, width: int, replicas: int) -> float:
    """Return bias plus 3 sigma of ln of a product over layers; `shares` of each square come through the branch.

    The branch scatters by `branch` / n, and meets the skip at a random angle: 4 p (1 - p) / n.
    """
    variance = float(np.sum(shares**2 * branch + 4 * shares * (1 - shares)) / width)
    return variance / 2 + reference.SIGMAS * math.sqrt(variance / replicas)


def theory_growth(case: NetworkCase) -> list[float]:
    """Return ln of q, last layer over first, and of the squared gradient, the first layer's input over the end."""
    prediction = predict(case.config(), INPUT_Q)
    return [math.log(prediction.q[-1] / prediction.q[0]), float(2 * np.log(prediction.layer_gain).sum())]


def theory_gain(case: NetworkCase) -> float:
    """Return the ratio of the squared gradient at the input of the first layer to that at the end."""
    return math.exp(theory_growth(case)[1])


def scaled_branch(size: Size) -> list[Row]:
    """Statement 21: x + alpha f(x) multiplies q and the squared gradient by 1 + alpha^2 per layer."""
    depth, rows = size.rate_depth, []
    for name, alpha_squared, overrides in (
        ("alpha 1", 1.0, ("residual=identity",)),
        ("alpha 1/sqrt(L)", 1 / depth, ("residual=scaled", f"residual.alpha={depth**-0.5!r}")),
    ):
        total = depth * math.log1p(alpha_squared)
        forward, case = total * (depth - 1) / depth, residual(size, *overrides)
        shares = np.full(depth, alpha_squared / (1 + alpha_squared))
        allowed = scatter(shares, BRANCH, size.width, size.replicas)
        tolerance = Tolerance(allowed, "bias and 3 sigma: branch 7/n, angle 4p(1-p)/n per layer")
        formula = f"ln of forward q and squared gradient over {depth} layers: L ln(1 + alpha^2)"
        squares = f"ln of the squared gradient over {depth} layers"
        qs = f"ln of q, first layer over last, {depth - 1} layers between"
        pre_ratio = partial(networks.ratio, quantity="pre_rms")
        rows += [
            Row(f"theory, {name}", formula, [forward, total], rounding(1e-9 * total), theory_growth, case),
            Row(f"gradient, {name}", squares, total, tolerance, networks.total_gain, case),
            Row(f"forward, {name}", qs, -forward, tolerance, pre_ratio, case),
        ]
    deep = residual(Size(), "residual=scaled", f"residual.alpha={1000**-0.5!r}", depth=1000)
    tolerance = Tolerance(math.e / (2 * 1000) + 1e-6, "(1 + 1/L)^L = e (1 - 1/(2L) + ...)")
    statement = "theory's growth tends to e, at L = 1000"
    return [*rows, Row("the limit of alpha 1/sqrt(L)", statement, math.e, tolerance, theory_gain, deep)]


def pre_norm(size: Size) -> list[Row]:
    """Statement 22: with a norm at the start of the branch the stream grows as 1 + l, the gradient as a power of L."""
    prenorm = ("residual=identity", "norm.place=pre", "norm.eps=0")
    rms = residual(size, "norm=rms", *prenorm)
    wide = {"depth": size.norm_depth, "width": size.norm_width, "batch": size.norm_batch}
    batch = residual(size, "norm=batch", *prenorm, **wide, replicas=size.norm_replicas)
    varying = 1 - 1 / math.pi  # share of a relu's mean square that varies over the batch
    rows = []
    for name, case, share, formula in (
        ("RMS norm", rms, 1.0, "1 + L"),
        ("batch norm", batch, varying, "prod[1 + 1/(1 + (1-1/pi) l)]"),
    ):
        depth, width = case.config().model.depth, case.config().model.width
        layers = np.arange(depth)
        growth = 1 + 1 / (1 + share * layers)
        total, parts = float(np.log(growth).sum()), (growth - 1) / growth
        # Behind a norm, forward scatter reaches the gradient as well.
        allowed, derivation = scatter(parts, 2 * BRANCH, width, case.replicas), "branch 14/n, angle 4p(1-p)/n per layer"
        if case is batch:
            allowed += float(np.sum(parts)) * (2 / size.norm_batch + 5 / width)
            derivation += "; p (2/B + 5/n) per layer"
        backward = Tolerance(allowed, f"bias and 3 sigma: {derivation}")
        forwards = [scatter(1 / (2 + layers[: last + 1]), BRANCH, width, case.replicas) + 2 / width for last in layers]
        forward = Tolerance(np.array(forwards), "bias and 3 sigma: branch 7/n, angle 4p(1-p)/n per layer")
        exact, growing = rounding(1e-9 * math.exp(total)), "ln of the stream's mean square after each block: 1 + l"
        at, squares = f"{name} at the start of the branch", f"squared gradient over {depth} layers: {formula}"
        rows += [
            Row(f"theory, {at}", squares, math.exp(total), exact, theory_gain, case),
            Row(f"gradient, {at}", f"ln of the {squares}", total, backward, networks.total_gain, case),
            Row(f"forward, {at}", growing, np.log(2 + layers), forward, stream, case),
        ]
    return rows


def stream(case: NetworkCase) -> Array:
    """Return ln of the mean square after each block, mean over replicas."""
    import torch

    groups = []
    for first, count, net in networks.build_groups(case):
        with torch.no_grad():
            outputs = _block_outputs(case, net, count, np.random.default_rng(first))
        groups.append([x.square().mean((1, 2)).log().numpy() for x in outputs])
    return np.concatenate(groups, axis=1).mean(1)


SHALLOW, DEEP = 8, 32


def last_block(size: Size) -> list[Row]:
    """Statement 23: the last block's gradient falls as 1/sqrt(1 + L) with pre-norm, not with post-norm."""
    rows, width = [], 256
    for place, exponent, claim in (("pre", -0.5, "falls as 1/sqrt(1 + L)"), ("post", 0.0, "does not depend on L")):
        layer_norm = ("residual=identity", "norm=layer", f"norm.place={place}")
        shallow, deep = (residual(size, *layer_norm, depth=depth, width=width) for depth in (SHALLOW, DEEP))
        # Of either network: the last block's two maps scatter by 7/n in both directions, the stream by 4/(l n) a layer.
        variance = 2 * (2 * BRANCH + 4 * math.log(DEEP)) / width
        allowed = math.sqrt(variance / size.replicas) * reference.SIGMAS / 2 + variance / 4
        tolerance = Tolerance(allowed, "bias and 3 sigma: 14/n of the block, 4 ln(L)/n of the stream")
        name, statement = (
            f"last block's gradient, {place}-norm",
            f"ln of its norm at L = {DEEP} over {SHALLOW}: {claim}",
        )
        center = exponent * math.log((1 + DEEP) / (1 + SHALLOW))
        rows.append(Row(name, statement, center, tolerance, partial(last_block_ratio, shallow, deep)))
    return [*rows, rows[0].control("last block's gradient, pre-norm, does not know L", "it does", predicted=0.0)]


def last_block_ratio(shallow: NetworkCase, deep: NetworkCase) -> float:
    """Return ln of the last block's weight-gradient norm in the deep network over that in the shallow one."""
    return last_block_norm(deep) - last_block_norm(shallow)


def last_block_norm(case: NetworkCase) -> float:
    """Return ln of the norm of both maps' gradients in the last block, mean over replicas."""
    import torch

    groups = []
    for first, count, net in networks.build_groups(case):
        rng = np.random.default_rng(first)
        *_, x = _block_outputs(case, net, count, rng)
        if net.final_norm is not None:
            x = net.final_norm(x)
        cotangent = torch.from_numpy(rng.standard_normal(tuple(x.shape)))
        last = networks.blocks(net)[-1]
        assert last.down is not None
        grads = torch.autograd.grad((x * cotangent).sum(), [last.up.weight, last.down.weight])
        squares = torch.stack([g.square().sum((1, 2)) for g in grads]).sum(0)
        groups.append(squares.log().numpy() / 2)
    return float(np.concatenate(groups).mean())


def _block_outputs(case: NetworkCase, net: Network, replicas: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Return the stream after each block, (R, B, N) each, for Gaussian inputs."""
    import torch

    assert net.embedding is not None
    shape = (replicas, case.config().batch_size, case.config().model.width)
    x, outputs = net.embedding(torch.from_numpy(INPUT_RMS * rng.standard_normal(shape))), []
    for block in networks.blocks(net):
        x = block(x)
        outputs.append(x)
    return outputs
