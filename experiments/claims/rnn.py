"""Recurrent networks, R of them side by side, and equal networks with a different matrix for every step.

    z_t = h_(t-1) W_t + x_t U + c,   h_t = phi(z_t),   y = h_T V + d,   t = 1 .. T,   h_0 = 0

W_t is the same for all t in a recurrent network and fresh for each t in the other, which is a feed-forward network of
T layers that receives its input step by step. Time is the layer axis of the lab's probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from experiments.claims.networks import SEED
from lab import schema
from lab.data import Batches, Dataset
from lab.measure import probes
from lab.network import activations
from lab.network.seeding import Streams, streams
from lab.train.parameters import Parameters
from lab.train.update import clipping, optimizers
from lab.typing import Array

FEATURES = 2
"""Features of the adding problem's sequences: a number and a mark."""


@dataclass(frozen=True)
class Recurrence:
    """A recurrent network: `ensemble` is a key of ENSEMBLES, entries of W have variance weight_var / units."""

    ensemble: str = "gaussian"
    weight_var: float = 1.0
    is_repeated: bool = True
    activation: str = "tanh"
    units: int = 32
    steps: int = 40


class Map(nn.Module):
    """Weights (R, fan_in, fan_out), and a bias (R, 1, fan_out) if there is one."""

    def __init__(self, weights: Array, has_bias: bool) -> None:
        super().__init__()
        replicas, _, fan_out = weights.shape
        self.weight = nn.Parameter(torch.from_numpy(weights))
        self.bias = nn.Parameter(torch.zeros(replicas, 1, fan_out, dtype=torch.float64)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)


class RecurrentNetwork(nn.Module):
    """One network per replica, drawn from its own streams; U and V have variance 1 / fan_in, biases are 0."""

    def __init__(self, config: Recurrence, replicas: Sequence[Streams], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        units, count = config.units, 1 if config.is_repeated else config.steps - 1
        rngs = [stream.weights for stream in replicas]
        ends = [(_gaussian(rng, FEATURES, units), _gaussian(rng, units, 1)) for rng in rngs]
        inner = [math.sqrt(config.weight_var) * ENSEMBLES[config.ensemble](rng, count, units) for rng in rngs]
        self.config = config
        self.into = Map(np.stack([into for into, _ in ends]), has_bias=True)
        self.steps = nn.ModuleList(Map(np.stack([w[t] for w in inner]), has_bias=False) for t in range(count))
        self.readout = Map(np.stack([out for _, out in ends]), has_bias=True)
        self.activation = activations.build(schema.Activation(config.activation), len(rngs), ())
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers (R, B) to sequences (R, B, T, features)."""
        return self.readout(self.states(x)[1])[..., 0]

    def states(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return all z_t and h_T, (R, B, N) each."""
        replicas, batch, steps, features = x.shape
        driven = self.into(x.reshape(replicas, batch * steps, features)).view(replicas, batch, steps, -1)
        pre_activations: list[Tensor] = []
        for t in range(steps):
            z = driven[:, :, t]  # (R, B, N)
            if pre_activations:
                z = z + self.steps[t - 1 if len(self.steps) > 1 else 0](self.activation(pre_activations[-1]))
            pre_activations.append(z)
        return pre_activations, self.activation(pre_activations[-1])

    def sections(self) -> list[nn.Module]:
        return [self.into, *self.steps, self.readout]


def gradient_in_time(config: Recurrence, replicas: int, batch: int = 8) -> Array:
    """Return delta_rms of each step, (T, replicas), in float64, for a random gradient that enters at the last state."""
    own = [streams(SEED, r) for r in range(replicas)]
    network = RecurrentNetwork(config, own, torch.float64)
    x = _of_replicas([adding(stream.batches, batch, config.steps)[0] for stream in own])  # (R, B, T, features)
    pre_activations, last = network.states(x)
    entering = _of_replicas([stream.cotangents.standard_normal((batch, config.units)) for stream in own])
    deltas = torch.autograd.grad((last * entering).sum(), pre_activations)
    return np.asarray(probes.rms(torch.stack(deltas)).numpy())


def log_radii(config: Recurrence, replicas: int) -> Array:
    """Return the mean of ln of the spectral radius over the matrices of `gradient_in_time`: (replicas,)."""
    network = RecurrentNetwork(config, [streams(SEED, r) for r in range(replicas)], torch.float64)
    with torch.no_grad():
        radii = [torch.linalg.eigvals(step.weight).abs().amax(1).log() for step in network.steps]  # (R,) each
    return np.asarray(torch.stack(radii).mean(0).numpy())


# --- training -------------------------------------------------------------------------------------------------------


def train(
    config: Recurrence,
    rates: Array,
    max_norms: Array,
    replicas: Sequence[int],
    steps: int,
    every: int,
    batch: int = 32,
) -> dict[str, Array]:
    """Train with SGD on the adding problem; entry r of every argument belongs to replica r.

    Returns:
        `loss` on held-out sequences at every `every` steps and at the end, (readings, R), NaN once diverged; `steps`
        (readings,); and `growth` (R,), the largest total gradient norm over the first step's, infinity where a
        loss or gradient was not finite.
    """
    own = [streams(SEED, int(number)) for number in replicas]
    network = RecurrentNetwork(config, own)
    parameters = Parameters(network.sections())
    values = [stack.values for stack in parameters.stacks]
    optimizer = optimizers.build(schema.SGD("sgd"), values, torch.from_numpy(rates))
    limit, clip = torch.from_numpy(max_norms), schema.ClipNorm("norm")
    dataset = _dataset(config.steps)
    batches = Batches(dataset, batch, [stream.batches for stream in own])
    alive = torch.ones(len(own), dtype=torch.bool)
    norms, curve, taken = [], [], []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            curve.append(torch.where(alive, _held_out(network, dataset), torch.nan))
            taken.append(float(step))
        if step == steps:
            break
        x, y = batches.next()
        loss = (network(_sequences(x)) - y).square().mean(1)  # (R,)
        parameters.take(torch.autograd.grad(loss.sum(), parameters.tensors))
        norm = clipping.total_norm(parameters.stacks)
        alive = alive & loss.isfinite() & norm.isfinite()
        norms.append(torch.where(alive, norm, torch.inf))
        clipping.clip(clip, parameters.stacks, limit)
        optimizer.step([stack.gradients for stack in parameters.stacks], alive)
    growth = torch.stack(norms).amax(0) / norms[0]
    return {"loss": torch.stack(curve).numpy(), "steps": np.array(taken), "growth": growth.numpy()}


def adding(rng: np.random.Generator, examples: int, steps: int) -> tuple[Array, Array]:
    """Return sequences (examples, T, 2) of numbers in [0, 1] and marks, and sums (examples,) of marked numbers.

    One mark lies in each half (Hochreiter and Schmidhuber 1997, section 5.4, as simplified by Le et al. 2015, section
    4.1). The constant answer 1 has a mean squared error of 1/6.
    """
    numbers, marks = rng.uniform(size=(examples, steps)), np.zeros((examples, steps))
    half, rows = steps // 2, np.arange(examples)
    for low, high in ((0, half), (half, steps)):
        marks[rows, rng.integers(low, high, size=examples)] = 1.0
    return np.stack([numbers, marks], axis=2), (numbers * marks).sum(1)


GUESSING = 1 / 6
"""Mean squared error of the best constant answer: twice the variance of a uniform number."""

TRAINING, HELD_OUT = 8192, 512
DATA_SEED = 0


def _dataset(steps: int) -> Dataset:
    x, y = adding(np.random.default_rng(DATA_SEED), TRAINING + HELD_OUT, steps)
    flat, target = torch.from_numpy(x).float().flatten(1), torch.from_numpy(y).float()
    return Dataset(flat[:TRAINING], target[:TRAINING], flat[TRAINING:], target[TRAINING:], classes=1)


def _sequences(flat: Tensor) -> Tensor:
    """Unflatten (R, B, T features) to (R, B, T, features)."""
    return flat.unflatten(-1, (-1, FEATURES))


@torch.no_grad()
def _held_out(network: RecurrentNetwork, dataset: Dataset) -> Tensor:
    """Return the mean squared error of every replica on the held-out sequences, (R,) float64."""
    replicas = len(network.readout.weight)
    x = _sequences(dataset.test_x.expand(replicas, -1, -1))
    return (network(x) - dataset.test_y).double().square().mean(1)


# --- matrices -------------------------------------------------------------------------------------------------------


def _gaussian(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    return rng.normal(0, 1 / math.sqrt(fan_in), (fan_in, fan_out))


def _fresh_gaussian(rng: np.random.Generator, count: int, units: int) -> Array:
    """Draw matrices whose spectral radius tends to 1 (Ginibre 1965), as does their mean gain."""
    return rng.normal(0, 1 / math.sqrt(units), (count, units, units))


def _symmetric(rng: np.random.Generator, count: int, units: int) -> Array:
    """Draw matrices with entries as large as a Gaussian's, but a spectral radius that tends to 2 (Wigner 1958)."""
    drawn = _fresh_gaussian(rng, count, units)
    return np.asarray((drawn + drawn.swapaxes(1, 2)) / math.sqrt(2))


def _orthogonal(rng: np.random.Generator, count: int, units: int) -> Array:
    return np.asarray(stats.ortho_group.rvs(units, size=count, random_state=rng)).reshape(count, units, units)


def _identity(rng: np.random.Generator, count: int, units: int) -> Array:
    """Return identity matrices (Le et al. 2015, section 3)."""
    return np.broadcast_to(np.eye(units), (count, units, units)).copy()


ENSEMBLES: Mapping[str, Callable[[np.random.Generator, int, int], Array]] = {
    "gaussian": _fresh_gaussian,
    "symmetric": _symmetric,
    "orthogonal": _orthogonal,
    "identity": _identity,
}
"""(rng, count, units) -> matrices (count, units, units) whose entries have a mean square of 1 / units."""


def _of_replicas(arrays: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
