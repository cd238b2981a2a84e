"""Singular values of the end-to-end Jacobian of a plain network: mean and relative variance of their squares.

J is the derivative of the last hidden layer's activations with respect to one input. With
kappa = E phi'^4 / (E phi'^2)^2 a layer multiplies the mean by s D(q) and adds kappa to the relative variance for
Gaussian weights, kappa - 1 for orthogonal ones (Pennington, Schoenholz and Ganguli 2017, "Resurrecting the sigmoid in
deep learning through dynamical isometry"); features / n times as much if it has n units, from the second moment of
A -> diag(phi') W A. Assumptions: wide layers, phi' independent of the weights, far fewer layers than units.
"""

from __future__ import annotations

from typing import NamedTuple

from lab import schema
from lab.theory.deep.maps import data_features, maps
from lab.theory.deep.prediction import predict
from lab.theory.errors import NoTheory
from lab.theory.kernels.kernels import kernel


class JacobianMoments(NamedTuple):
    """Moments of the squares of the min(features, width) singular values that are not 0 by the shape of J."""

    mean: float
    relative_variance: float


def jacobian_moments(config: schema.Config, input_q: float = 1.0, features: int | None = None) -> JacobianMoments:
    """Predict the Jacobian's singular values at initialization; `input_q` and `features` as in `predict`.

    Raises:
        NoTheory: norms, skips and gated activations; orthogonal maps with more features than units, or in ffn blocks.
    """
    q = predict(config, input_q, features).q
    features = features or data_features(config)
    assert features is not None  # `predict` raises otherwise
    for key, choice in (("norm", config.norm.name), ("residual", config.residual.name)):
        if choice != "none":
            raise NoTheory(f"{key}={choice}: the Jacobian's singular values have a theory for plain stacks only.")
    if config.activation.name in schema.GATES:
        raise NoTheory(f"activation={config.activation.name}: the Jacobian has a theory without gates only.")
    sizes, is_orthogonal = maps(config, features), config.init.name == "orthogonal"
    if is_orthogonal and (sizes.down is not None or features > config.model.width):
        raise NoTheory(
            "init=orthogonal: the Jacobian has a theory only for model.block=linear and no more features than units."
        )

    phi = kernel(config.activation)
    slope = phi.slope_moment(q)  # (L,)
    kappa = phi.fourth_moments(q)[1] / slope**2  # (L,)
    factors = [] if sizes.embedding is None else [(sizes.embedding, 1.0, 1.0)]  # map, D and kappa behind it
    for layer, pair in enumerate(zip(slope.tolist(), kappa.tolist(), strict=True)):
        factors.append((sizes.up if layer else sizes.first_up, *pair))
        factors += [] if sizes.down is None else [(sizes.down, 1.0, 1.0)]
    mean, variance = 1.0, 0.0
    for factor, layer_slope, layer_kappa in factors:
        mean *= factor.weight_var * factor.fan_out / factor.fan_in * layer_slope
        variance += features / factor.fan_out * (layer_kappa - is_orthogonal)
    # Over all eigenvalues of J^T J, of which with fewer units than features the others are 0.
    share = min(1.0, config.model.width / features)
    return JacobianMoments(mean / share, share * (1 + variance) - 1)
