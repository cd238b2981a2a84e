"""The lab's own networks: their sizes, quantities averaged over replicas, and networks built for a closer look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lab import schema
from lab.compose import compose
from lab.theory import resolve_critical
from lab.typing import Array

if TYPE_CHECKING:
    import torch

    from experiments.validation.reference import Statistic
    from lab.network import Block, Network


@dataclass(frozen=True)
class Size:
    """Sizes of the networks of a validation."""

    depth: int = 50  # of the table of activations and initializations
    width: int = 512
    replicas: int = 16
    rate_depth: int = 30  # of networks whose rate is compared with a published number
    group: int = 4  # replicas simulated at a time; replica r is the same in every group
    batch: int = 32
    samples: int = 1024  # replicas of small networks whose distribution is compared
    norm_width: int = 512  # with batch norm, which theory describes to 2% from this width and batch on
    norm_depth: int = 20
    norm_batch: int = 128
    norm_replicas: int = 8
    seed: int = 0


FULL = Size()
QUICK = Size(depth=30, width=128, replicas=4, samples=256, norm_depth=12, norm_replicas=2)


@dataclass(frozen=True)
class NetworkCase:
    """A configuration by its overrides, measured in `replicas` replicas, `group` at a time."""

    overrides: tuple[str, ...]
    replicas: int
    group: int

    def config(self) -> schema.Config:
        return _composed(self)

    def cost(self) -> int:
        """Return roughly the multiplications of a pass for one example."""
        model = self.config().model
        return model.depth * model.width**2 * self.replicas

    def plus(self, *overrides: str) -> NetworkCase:
        return replace(self, overrides=(*self.overrides, *overrides))


@lru_cache(maxsize=512)
def _composed(case: NetworkCase) -> schema.Config:
    return resolve_critical(compose([*case.overrides, f"replicas={case.replicas}"]))


def network(
    size: Size, *overrides: str, depth: int = 0, width: int = 0, batch: int = 0, replicas: int = 0, group: int = 0
) -> NetworkCase:
    """Return a network at initialization on Gaussian data of as many features as units, with a random output gradient.

    Numbers of 0 are those of `size`. There are no more examples than a batch needs: held-out ones cost time.
    """
    units, examples = width or size.width, batch or size.batch
    standard = (
        f"model.depth={depth or size.rate_depth}",
        f"model.width={units}",
        "data=gaussian",
        f"data.features={units}",
        f"data.examples={max(20, 2 * examples)}",
        f"batch_size={examples}",
        "dtype=float64",
        "steps=0",
        "probe.cotangent=random",
        "probe.examples=2",
        f"seed={size.seed}",
    )
    return NetworkCase((*standard, *overrides), replicas or size.replicas, group or size.group)


def gaussian(weight_var: float, bias_var: float = 0.0) -> tuple[str, ...]:
    """Return the overrides for these variances."""
    return ("init=gaussian", f"init.weight_var={weight_var!r}", f"init.bias_var={bias_var!r}")


@lru_cache(maxsize=1)
def readings(case: NetworkCase) -> Mapping[str, Array]:
    """Return every quantity at initialization: (depth, replicas) each, or (replicas,)."""
    import lab

    groups = []
    for first, count in _groups(case):
        replicas = (f"first_replica={first}", f"replicas={count}", "threads=1")
        groups.append(lab.simulate(*case.overrides, *replicas).isel(step=0))
    names = [name for name, values in groups[0].items() if values.dims in (("layer", "replica"), ("replica",))]
    return {str(name): np.concatenate([group[name].to_numpy() for group in groups], axis=-1) for name in names}


def log_squares(case: NetworkCase, quantity: str = "delta_rms") -> Array:
    """Return ln of the square of a quantity, mean over replicas: (depth,). A 0 gives -inf."""
    with np.errstate(divide="ignore"):
        return np.asarray(2 * np.log(readings(case)[quantity]).mean(axis=1))


def profile(case: NetworkCase, quantity: str = "delta_rms") -> Array:
    """Return log10 of a quantity's geometric mean over replicas: (depth,)."""
    return log_squares(case, quantity) / (2 * np.log(10))


def relative_profile(case: NetworkCase, quantity: str = "delta_rms") -> Array:
    """Return the same relative to the last layer's."""
    decades = profile(case, quantity)
    return decades - decades[-1]


def ratio(case: NetworkCase, quantity: str = "delta_rms", first: int = 0) -> float:
    """Return ln of the square of a quantity at the layer `first` over that at the last."""
    squares = log_squares(case, quantity)
    return float(squares[first] - squares[-1])


def rate(case: NetworkCase, quantity: str = "delta_rms", first: int = 0) -> float:
    """Return the mean change of ln of the square of a quantity per layer, from the last layer to the layer `first`."""
    return ratio(case, quantity, first) / (case.config().model.depth - 1 - first)


def total_gain(case: NetworkCase) -> float:
    """Return ln of (dL/dx)^2 at the input of the first hidden layer over that at the output of the last."""
    return float(log_squares(case, "layer_gain").sum())


def build(case: NetworkCase, first_replica: int = 0, replicas: int = 0) -> Network:
    """Build some replicas of a case's network, in training mode."""
    import torch

    from lab.network import Network
    from lab.network.seeding import streams

    config = case.config()
    assert isinstance(config.data, schema.GaussianData)
    seeds = [streams(config.seed, first_replica + index) for index in range(replicas or case.replicas)]
    return Network(config, config.data.features, config.data.classes, seeds, torch.device("cpu"))


def build_groups(case: NetworkCase) -> Iterator[tuple[int, int, Network]]:
    """Yield the first replica, the number of replicas and the network of each group."""
    for first, count in _groups(case):
        yield first, count, build(case, first, count)


def _groups(case: NetworkCase) -> list[tuple[int, int]]:
    return [(first, min(case.group, case.replicas - first)) for first in range(0, case.replicas, case.group)]


def blocks(net: Network) -> list[Block]:
    """Return the hidden layers, with the type that a torch.nn.ModuleList hides."""
    from lab.network import Block

    return [block for block in net.blocks if isinstance(block, Block)]


def pair_statistic(case: NetworkCase, gram: Array, statistic: Statistic) -> Array:
    """Return the mean over replicas of a statistic at each layer of a plain network, (depth,), for two inputs.

    Their x_i . x_j / features are `gram` (2, 2).
    """
    import torch

    groups = []
    for _, count, net in build_groups(case):
        x, values = examples_of_gram(gram, case.config().model.width).expand(count, -1, -1), []
        with torch.no_grad():
            for block in blocks(net):
                z = block.up(x)  # (R, 2, N)
                values.append(statistic((z @ z.mT).numpy() / z.shape[-1]))
                x = block.activation(z)
        groups.append(values)
    return np.concatenate(groups, axis=1).mean(1)


def examples_of_gram(gram: ArrayLike, features: int) -> torch.Tensor:
    """Return two inputs (1, 2, features) with x_i . x_j / features exactly as in `gram` (2, 2)."""
    import torch

    (first, between), (_, second) = np.asarray(gram, dtype=np.float64)
    along, half = between / np.sqrt(first), features // 2
    x = np.tile([[np.sqrt(first)], [along]], features)
    across = np.sqrt(max(second - along**2, 0.0) * features / (2 * half))
    x[1, : 2 * half] += across * np.resize([1.0, -1.0], 2 * half)
    return torch.from_numpy(x)[None]
