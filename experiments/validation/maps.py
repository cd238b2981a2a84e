"""Statements 1, 2, 4 and 12: the maps of variance, gradient and correlation, and their depth scales."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from experiments.validation import expected, networks, reference
from experiments.validation.networks import NetworkCase, Size
from experiments.validation.row import Row
from lab import schema
from lab.theory import depth_scales
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.signal import correlation_map, variance_map
from lab.typing import Array

QS = (0.3, 1.0, 3.0)
"""Variances at which moments are compared."""

BY_QUADRATURE = 1e-10
"""Both sides integrate in float64: theory's rule is right to about 12 digits, the reference's panels to more."""

POINTS = {
    "sigmoid": (4.0, 0.5),
    "tanh": (1.5, 0.1),
    "elu": (1.2, 0.1),
    "gelu": (1.5, 0.3),
    "softplus": (1.0, 0.2),
    "silu": (1.2, 0.4),
}
"""(weight_var, bias_var) at which whole profiles are compared; each has a stable fixed point with q* > 0."""

ORDERED, CHAOTIC = ("tanh", 1.3, 0.05), ("tanh", 3.0, 0.05)
"""tanh below and above its critical weight_var of 1.7610 at this bias_var."""


def rows(size: Size) -> list[Row]:
    found = [moments_row(name) for name in schema.ACTIVATIONS]
    for name, variances in POINTS.items():
        run = networks.network(size, f"activation={name}", *networks.gaussian(*variances))
        at = f"{name}, weight_var {variances[0]:g}, bias_var {variances[1]:g}"
        found.append(expected.profile_row(1, f"q, {at}", "q' = s V(q) + b at every layer", run, "pre_rms"))
        found.append(expected.profile_row(1, f"gradient, {at}", "the rate is s D(q) at every layer", run))
    return [*found, control(size), *depth_scale_rows(size), *erf_rows(size), *relu_correlation_rows(size)]


def moments_row(name: str) -> Row:
    own = [reference.moments(name, q) for q in QS]
    return Row(
        1,
        f"V and D, {name}",
        f"theory's E phi^2 and E phi'^2 at q = {', '.join(f'{q:g}' for q in QS)}, against torch's own {name}",
        [*(at.V for at in own), *(at.D for at in own)],
        BY_QUADRATURE * np.array([*(at.V for at in own), *(at.D for at in own)]),
        "two quadratures, float64",
        partial(theory_moments, name),
    )


def theory_moments(name: str) -> Array:
    at = kernel(schema.ACTIVATIONS[name](name))
    return np.concatenate([at.second_moment(np.array(QS)), at.slope_moment(np.array(QS))])


def control(size: Size) -> Row:
    """The prediction for weight_var 2, and a network with 2.5."""
    row = expected.rate_row(
        1,
        "control: relu with weight_var 2.5 is not critical",
        "a network with 2.5 where 2 was predicted is found out",
        networks.network(size, "activation=relu", *networks.gaussian(2.0)),
        1.0,
        "relu",
    )
    other = networks.network(size, "activation=relu", *networks.gaussian(2.5), "probe.set=norms")
    return replace(row, measure=partial(networks.rate, other, "delta_rms", 10), network=other, is_control=True)


# --- depth scales ---------------------------------------------------------------------------------------------------


def depth_scale_rows(size: Size) -> list[Row]:
    found = []
    for name, s, b in (ORDERED, CHAOTIC):
        q = reference.fixed_point(name, s, b)
        chi, c = s * reference.moments(name, q).D, 1.0
        if chi > 1:
            c = 0.5
            for _ in range(500):
                c = (s * reference.pair(name, q, c) + b) / q
        pull = s * reference.pair(name, q, c, of_slopes=True)
        own = [q, -1 / math.log(reference.slope(name, s, q)), c, -1 / math.log(pull), 1 / abs(math.log(chi))]
        found.append(
            Row(
                2,
                f"depth scales, {name}, weight_var {s:g}, bias_var {b:g}",
                "theory's q*, xi_q, c*, xi_c and xi_grad, against iterated quadrature and central differences",
                own,
                1e-6 * np.abs(own),
                "central differences of step 1e-4: 1e-8; the lengths amplify it",
                partial(theory_scales, name, s, b),
            )
        )
    return [*found, approach_row(size), *correlation_rows(size)]


def theory_scales(name: str, s: float, b: float) -> Array:
    scales = depth_scales(schema.ACTIVATIONS[name](name), s, b)
    return np.array([scales.q_star, scales.xi_q, scales.c_star, scales.xi_c, scales.xi_grad])


def approach_row(size: Size) -> Row:
    """How two variances come together: their difference falls by e in xi_q layers."""
    name, s, b = ORDERED
    q, depth = reference.fixed_point(name, s, b), 8
    starts = (0.8 * q, 1.25 * q)
    lengths = np.sqrt([(start - b) / s for start in starts])  # of inputs along one direction
    gram = s * np.outer(lengths, lengths) + b
    low, high = (variance_map(schema.Activation(name), s, b, depth, start) for start in starts)
    return pair_row(
        2,
        "xi_q: two variances approach each other, tanh, weight_var 1.3",
        "ln of q2/q1 of two inputs alike but for their size, at each of 8 layers",
        networks.network(size, f"activation={name}", *networks.gaussian(s, b), depth=depth),
        gram,
        np.log(high / low),
        log_ratio,
    )


def log_ratio(gram: Array) -> Array:
    """ln of q2 / q1."""
    return np.log(gram[..., 1, 1] / gram[..., 0, 0])


def correlation(gram: Array) -> Array:
    """The correlation of two examples over the units."""
    return gram[..., 0, 1] / np.sqrt(gram[..., 0, 0] * gram[..., 1, 1])


def log_distance(gram: Array) -> Array:
    """ln of 1 - c."""
    return np.log(1 - correlation(gram))


def correlation_rows(size: Size) -> list[Row]:
    """Ordered: c goes to 1, its distance by a factor of e in xi_c layers. Chaotic: to c* below 1."""
    found = []
    for (name, s, b), start, statistic, word in (
        (ORDERED, 0.9, log_distance, "ln(1 - c) in the ordered phase"),
        (CHAOTIC, 0.95, correlation, "c in the chaotic phase"),
    ):
        q, depth = reference.fixed_point(name, s, b), 16
        c = correlation_map(schema.Activation(name), s, b, depth, q, start)
        found.append(
            pair_row(
                2,
                f"xi_c: {word}, {name}, weight_var {s:g}",
                f"{word} at each of {depth} layers, from c = {start:g}",
                networks.network(size, f"activation={name}", *networks.gaussian(s, b), depth=depth),
                q * np.array([[1, start], [start, 1]]),
                np.log(1 - c) if statistic is log_distance else c,
                statistic,
            )
        )
    return found


def pair_row(
    number: int,
    name: str,
    statement: str,
    run: NetworkCase,
    gram: Array,
    center: Array,
    statistic: reference.Statistic,
) -> Row:
    """A statistic of two examples whose first pre-activations have the covariance `gram`, at each layer."""
    config = run.config()
    assert isinstance(config.init, schema.Gaussian)
    init = config.init
    scales = (init.weight_var, init.bias_var)
    mean, deviation = reference.gram_chain(
        config.activation.name, *scales, gram, config.model.depth, config.model.width, statistic
    )
    return Row(
        number,
        name,
        statement,
        center,
        reference.chain_tolerance(mean, deviation, center, run.replicas),
        f"bias and 3 sigma of {run.replicas} finite networks, from the Markov chain of their Gram matrices",
        partial(measured_pair, run, (gram - init.bias_var) / init.weight_var, statistic),
        run,
    )


def measured_pair(run: NetworkCase, gram: Array, statistic: reference.Statistic) -> Array:
    """The mean over replicas of a statistic at each layer, for two inputs with this x_i . x_j / features."""
    found = []
    for first, count in networks.groups(run):
        net = networks.build(run, first, count)
        x = networks.examples_of_gram(gram, run.config().model.width).expand(count, -1, -1)
        layers = networks.pre_activations(net, x)
        found.append([statistic((z @ z.mT).numpy() / z.shape[-1]) for z in layers])
    return np.concatenate(found, axis=1).mean(1)


# --- closed forms ---------------------------------------------------------------------------------------------------


def erf_V(q: Array) -> Array:  # noqa: N802  # the name of the formula
    """(2/pi) asin(2q / (1 + 2q)); Williams 1997, section 3.1."""
    return 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q))


def erf_D(q: Array) -> Array:  # noqa: N802
    """(4/pi) / sqrt(1 + 4q), the same differentiated."""
    return 4 / math.pi / np.sqrt(1 + 4 * q)


def erf_rows(size: Size) -> list[Row]:
    s, b = 2.0, 0.1
    q = np.geomspace(1e-3, 1e3, 13)
    closed = np.concatenate([erf_V(q), erf_D(q)])
    run = networks.network(size, "activation=erf", *networks.gaussian(s, b))
    return [
        Row(
            4,
            "closed forms of erf",
            "theory's V and D at 13 variances from .001 to 1000",
            closed,
            1e-13 * closed,
            "rounding, float64",
            partial(theory_erf, q),
        ),
        expected.profile_row(4, "q of erf, weight_var 2, bias_var .1", "q at every layer", run, "pre_rms"),
        expected.profile_row(4, "gradient of erf, weight_var 2, bias_var .1", "delta at every layer", run),
    ]


def theory_erf(q: Array) -> Array:
    at = kernel(schema.Activation("erf"))
    return np.concatenate([at.second_moment(q), at.slope_moment(q)])


def relu_correlation_rows(size: Size) -> list[Row]:
    c = np.linspace(-1, 1, 21)
    following = np.array([reference.relu_correlation(float(x)) for x in c])
    far, depth = 10_000, 20
    mapped = correlation_map(schema.Activation("relu"), 2.0, 0.0, depth, 1.0, 0.0)
    run = networks.network(size, "activation=relu", "init=he_normal", depth=depth)
    chain = reference.gram_chain("relu", 2.0, 0.0, np.eye(2), depth, size.width, log_distance)
    center = np.log(1 - mapped)
    return [
        Row(
            12,
            "relu's correlation map",
            "c' = [sqrt(1 - c^2) + c (pi - acos c)] / pi at 21 correlations",
            following,
            1e-14 * np.ones_like(c),
            "rounding, float64",
            partial(theory_correlation, c),
        ),
        Row(
            12,
            "relu's correlation far down",
            f"l^2 (1 - c) tends to 9 pi^2 / 2, at layer {far}",
            9 * math.pi**2 / 2,
            9 * math.pi**2 / 2 * (3 * math.log(far) + 3 * math.pi * math.sqrt(2)) / far,
            "next terms of the map: (3 ln l + 3 pi sqrt(2)) / l",
            partial(far_correlation, far),
        ),
        Row(
            12,
            f"correlation of two inputs through {depth} layers of relu",
            "ln(1 - c) at every layer, from c = 0",
            center,
            reference.chain_tolerance(*chain, center, size.replicas),
            f"bias and 3 sigma of {size.replicas} finite networks, from the Markov chain of their Gram matrices",
            partial(measured_pair, run, np.eye(2) / 2, log_distance),
            run,
        ),
    ]


def theory_correlation(c: Array) -> Array:
    return kernel(schema.Activation("relu")).product(2.0, 2.0, c) * 2 / 2.0


def far_correlation(layer: int) -> float:
    c = correlation_map(schema.Activation("relu"), 2.0, 0.0, layer + 1, 1.0, 0.0)
    return float(layer**2 * (1 - c[layer]))
