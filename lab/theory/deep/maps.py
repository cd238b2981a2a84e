"""The variances that an initialization gives to a map, and the sizes of the maps of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from lab import schema

DATA_FEATURES = {"digits": 64, "mnist": 784, "fashion_mnist": 784, "spirals": 2, "circles": 2}
"""Features of the data sets whose size is fixed."""

GATED_SHARE = 2 / 3
"""Hidden units of a gated ffn block over those of a plain one (Shazeer 2020, section 3)."""


class LinearMap(NamedTuple):
    """A linear map: weights of variance weight_var / fan_in, biases of variance bias_var."""

    fan_in: int
    fan_out: int
    weight_var: float
    bias_var: float


@dataclass(frozen=True)
class NetworkMaps:
    """The maps of a network. `embedding` and `down` are None where there is no such map; `first_up` is layer 0's.

    A gated activation has two maps like `up` side by side.
    """

    embedding: LinearMap | None
    first_up: LinearMap
    up: LinearMap
    down: LinearMap | None


def maps(config: schema.Config, features: int) -> NetworkMaps:
    """The maps of a configured network on data of so many features; init=critical has to be solved before."""
    width, is_ffn = config.model.width, config.model.block == "ffn"
    hidden = hidden_units(config) if is_ffn else width
    has_embedding = is_ffn or config.residual.name != "none"

    def drawn(fan_in: int, fan_out: int) -> LinearMap:
        return LinearMap(fan_in, fan_out, *map_variances(config, fan_in, fan_out))

    return NetworkMaps(
        embedding=drawn(features, width) if has_embedding else None,
        first_up=drawn(width if has_embedding else features, hidden),
        up=drawn(width, hidden),
        down=drawn(hidden, width) if is_ffn else None,
    )


def map_variances(config: schema.Config, fan_in: int, fan_out: int) -> tuple[float, float]:
    """weight_var, which is fan_in Var W, and bias_var of one map.

    Sources: Glorot and Bengio 2010, eq. 16 (xavier); He et al. 2015, eq. 10 (he); LeCun et al. 1998, section 4.6;
    Saxe et al. 2014, section 3 (orthogonal: entries of a matrix with orthonormal rows or columns have the variance
    1 / max(fan_in, fan_out)); torch.nn.Linear (uniform to 1 / sqrt(fan_in), weights and biases).
    """
    init = config.init
    weight_var, bias_var = 1.0, 0.0
    if init.name in ("xavier_uniform", "xavier_normal"):
        weight_var = 2 * fan_in / (fan_in + fan_out)
    elif init.name in ("he_uniform", "he_normal"):
        weight_var = 2.0
    elif init.name == "orthogonal":
        weight_var = fan_in / max(fan_in, fan_out)
    elif init.name == "torch_default":
        weight_var, bias_var = 1 / 3, 1 / (3 * fan_in)
    elif isinstance(init, schema.Gaussian):
        weight_var, bias_var = init.weight_var, init.bias_var
    elif init.name != "lecun_normal":
        from lab.theory.deep.propagation import NoTheory

        raise NoTheory(f"init={init.name}: theory does not know the variances that it gives to weights and biases.")
    return weight_var * init.gain**2, bias_var if config.model.bias else 0.0


def hidden_units(config: schema.Config) -> int:
    """Units between the two maps of an ffn block."""
    share = GATED_SHARE if config.activation.name in schema.GATED else 1.0
    expansion = 4.0 if config.model.expansion is None else config.model.expansion
    return max(1, math.floor(expansion * share * config.model.width + 0.5))


def data_features(config: schema.Config) -> int | None:
    """Features of an input, None where only the file knows."""
    if isinstance(config.data, schema.GaussianData):
        return config.data.features
    return DATA_FEATURES.get(config.data.name)
