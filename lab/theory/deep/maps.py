"""The linear maps of a network: their sizes, and the variances that an initialization gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lab import schema
from lab.theory.errors import NoTheory

COVERED = {"norm": ("none", "batch", "layer", "rms"), "residual": ("none", "identity", "scaled", "rezero")}
"""Choices that theory covers; users may have registered others."""

DATA_FEATURES = {"digits": 64, "mnist": 784, "fashion_mnist": 784, "spirals": 2, "circles": 2}
"""Features of the data sets whose size is fixed."""


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
    """The maps of a configured network on data with this number of features.

    Raises:
        NoTheory: an init without known variances.
    """
    width, is_ffn = config.model.width, config.model.block == "ffn"
    hidden = units(config)
    has_embedding = is_ffn or config.residual.name != "none"

    def drawn(fan_in: int, fan_out: int) -> LinearMap:
        return LinearMap(fan_in, fan_out, *_variances(config, fan_in, fan_out))

    return NetworkMaps(
        embedding=drawn(features, width) if has_embedding else None,
        first_up=drawn(width if has_embedding else features, hidden),
        up=drawn(width, hidden),
        down=drawn(hidden, width) if is_ffn else None,
    )


def units(config: schema.Config) -> int:
    """Units of a layer's activation."""
    is_ffn = config.model.block == "ffn"
    return schema.hidden_units(config.model, config.activation) if is_ffn else config.model.width


def data_features(config: schema.Config) -> int | None:
    """Features of an input, None where only the data file defines them."""
    if isinstance(config.data, schema.GaussianData):
        return config.data.features
    return DATA_FEATURES.get(config.data.name)


def check_covered(config: schema.Config) -> None:
    """Raise NoTheory where norm or residual is none that the theory knows."""
    for key, name in (("norm", config.norm.name), ("residual", config.residual.name)):
        if name not in COVERED[key]:
            raise NoTheory(f"{key}={name}: theory covers {key}={', '.join(COVERED[key])} only.")


def norm_place(config: schema.Config) -> str:
    """norm.place; "none" without a norm."""
    return getattr(config.norm, "place", "none")


def branch_scale(config: schema.Config) -> float:
    """The factor of a residual branch at initialization."""
    return getattr(config.residual, "alpha", 1.0)


def is_plain(config: schema.Config) -> bool:
    """Return whether the network has neither norms nor skips."""
    return config.norm.name == "none" and config.residual.name == "none"


def _variances(config: schema.Config, fan_in: int, fan_out: int) -> tuple[float, float]:
    """weight_var, which is fan_in Var W, and bias_var of one map.

    Sources: Glorot and Bengio 2010 (xavier); He et al. 2015 (he); LeCun et al. 1998 (lecun); Saxe et al. 2014
    (orthogonal: entries of a matrix with orthonormal rows or columns have the variance 1 / max(fan_in, fan_out));
    torch.nn.Linear (uniform to 1 / sqrt(fan_in), weights and biases).
    """
    init, bias_var = config.init, 0.0
    match init.name:
        case "xavier_uniform" | "xavier_normal":
            weight_var = 2 * fan_in / (fan_in + fan_out)
        case "he_uniform" | "he_normal":
            weight_var = 2.0
        case "lecun_normal":
            weight_var = 1.0
        case "orthogonal":
            weight_var = fan_in / max(fan_in, fan_out)
        case "torch_default":
            weight_var, bias_var = 1 / 3, 1 / (3 * fan_in)
        case "critical":
            raise TypeError("init=critical has no variances of its own; replace it by theory.resolve_critical first.")
        case _ if isinstance(init, schema.Gaussian):
            weight_var, bias_var = init.weight_var, init.bias_var
        case _:
            raise NoTheory(f"init={init.name}: theory does not know the variances that it gives to weights and biases.")
    return weight_var * init.gain**2, bias_var if config.model.bias else 0.0
