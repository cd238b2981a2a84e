"""The lab's own networks, measured: how large they are, what is read from them, and means over replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lab import schema
from lab.compose import compose
from lab.typing import Array

if TYPE_CHECKING:
    import torch

    from lab.network import Block, Network


@dataclass(frozen=True)
class Size:
    """How large the networks of a validation are.

    Attributes:
        depth, width, replicas: of the table of activations and initializations.
        rate_depth: of networks whose rate is compared with a published number.
        group: replicas that a process holds at a time; replica r is the same in every group.
        batch: examples of every network but those with batch norm.
        samples: replicas of small networks whose distribution is looked at.
        norm_width, norm_depth, norm_batch, norm_replicas: of networks with batch norm, which theory describes to 2%
            from width 512 and batches of 128 on.
        seed: of all networks.
    """

    depth: int = 50
    width: int = 512
    replicas: int = 16
    rate_depth: int = 30
    group: int = 4
    batch: int = 32
    samples: int = 1024
    norm_width: int = 512
    norm_depth: int = 20
    norm_batch: int = 128
    norm_replicas: int = 8
    seed: int = 0


FULL = Size()
QUICK = Size(depth=30, width=128, replicas=4, samples=256, norm_depth=12, norm_replicas=2)


@dataclass(frozen=True)
class NetworkCase:
    """A configuration of the lab by its overrides, and the replicas in which it is measured, `group` at a time."""

    overrides: tuple[str, ...]
    replicas: int
    group: int

    def config(self) -> schema.Config:
        """What theory is asked about."""
        return _composed(self)


@lru_cache(maxsize=512)
def _composed(run: NetworkCase) -> schema.Config:
    return compose([*run.overrides, f"replicas={run.replicas}"])


def network(size: Size, *overrides: str, depth: int | None = None, width: int | None = None) -> NetworkCase:
    """A network at initialization on Gaussian data of as many features as units, an independent gradient at its end.

    Of the data there are no more examples than a batch needs, and held-out ones cost time.
    """
    units = size.width if width is None else width
    standard = (
        f"model.depth={size.rate_depth if depth is None else depth}",
        f"model.width={units}",
        "data=gaussian",
        f"data.features={units}",
        f"data.examples={max(20, 2 * size.batch)}",
        f"batch_size={size.batch}",
        "dtype=float64",
        "steps=0",
        "probe.cotangent=random",
        "probe.examples=2",
        f"seed={size.seed}",
    )
    return NetworkCase((*standard, *overrides), size.replicas, size.group)


def gaussian(weight_var: float, bias_var: float = 0.0) -> tuple[str, ...]:
    """The overrides for these variances."""
    return ("init=gaussian", f"init.weight_var={weight_var!r}", f"init.bias_var={bias_var!r}")


# --- readings -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def readings(run: NetworkCase) -> Mapping[str, Array]:
    """Every quantity at initialization: (depth, replicas) each, or (replicas,)."""
    import lab

    groups = []
    for first in range(0, run.replicas, run.group):
        count = min(run.group, run.replicas - first)
        some = (f"first_replica={first}", f"replicas={count}", "threads=1")
        groups.append(lab.simulate(*run.overrides, *some).isel(step=0))
    names = [name for name, values in groups[0].items() if values.dims in (("layer", "replica"), ("replica",))]
    return {str(name): np.concatenate([group[name].to_numpy() for group in groups], axis=-1) for name in names}


def log_squares(run: NetworkCase, quantity: str) -> Array:
    """ln of the square of a quantity, mean over replicas: (depth,). A 0 gives -inf."""
    with np.errstate(divide="ignore"):
        return np.asarray(2 * np.log(readings(run)[quantity]).mean(axis=1))


def profile(run: NetworkCase, quantity: str) -> Array:
    """log10 of a quantity's geometric mean over replicas: (depth,)."""
    return log_squares(run, quantity) / (2 * np.log(10))


def relative_profile(run: NetworkCase, quantity: str) -> Array:
    """The same over the last layer's."""
    found = profile(run, quantity)
    return found - found[-1]


def ratio(run: NetworkCase, quantity: str, first: int, last: int = -1) -> float:
    """ln of the square of a quantity at the layer `first` over that at `last`."""
    squares = log_squares(run, quantity)
    return float(squares[first] - squares[last])


def rate(run: NetworkCase, quantity: str, first: int) -> float:
    """How much ln of the square of a quantity falls a layer, on average from the layer `first` to the last."""
    return ratio(run, quantity, first) / (len(log_squares(run, quantity)) - 1 - first)


def total_gain(run: NetworkCase) -> float:
    """ln of (dL/dx)^2 at the input of the first hidden layer over that at the output of the last."""
    return float(log_squares(run, "layer_gain").sum())


# --- networks taken into one's own hands ----------------------------------------------------------------------------


def build(run: NetworkCase, first_replica: int = 0, replicas: int | None = None) -> Network:
    """The lab's network of a run, some of its replicas; in training mode."""
    import torch

    from lab.network import Network
    from lab.network.seeding import streams

    config = run.config()
    assert isinstance(config.data, schema.GaussianData)
    count = run.replicas if replicas is None else replicas
    which = range(first_replica, first_replica + count)
    seeds = [streams(config.seed, replica) for replica in which]
    return Network(config, config.data.features, config.data.classes, seeds, torch.device("cpu"))


def groups(run: NetworkCase) -> list[tuple[int, int]]:
    """(first replica, replicas) of each group of a run."""
    return [(first, min(run.group, run.replicas - first)) for first in range(0, run.replicas, run.group)]


def blocks(net: Network) -> list[Block]:
    """The hidden layers, for what torch has no narrower word than module."""
    from lab.network import Block

    return [block for block in net.blocks if isinstance(block, Block)]


def pre_activations(net: Network, x: torch.Tensor) -> list[torch.Tensor]:
    """z of every layer of a plain network, (R, B, N) each, for inputs (R, B, features)."""
    import torch

    found = []
    with torch.no_grad():
        for block in blocks(net):
            z = block.up(x)
            found.append(z)
            x = block.activation(z)
    return found


def examples_of_gram(gram: ArrayLike, features: int) -> torch.Tensor:
    """Two inputs (1, 2, features) with x_i . x_j / features exactly as in `gram` (2, 2)."""
    import torch

    (first, between), (_, second) = np.asarray(gram, dtype=np.float64)
    x = np.zeros((2, features))
    half = features // 2
    x[0] = np.sqrt(first)
    along = between / np.sqrt(first)
    x[1] = along
    x[1, : 2 * half] += np.sqrt(max(second - along**2, 0.0) * features / (2 * half)) * np.resize([1.0, -1.0], 2 * half)
    return torch.from_numpy(x)[None]
