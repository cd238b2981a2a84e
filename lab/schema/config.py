"""Config: the frozen dataclass of one run, and the tables of the options that it chooses from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, get_type_hints

from lab.schema import options
from lab.schema.errors import did_you_mean
from lab.schema.fields import choice, number, path

GATED_SHARE = 2 / 3
"""Hidden units of a gated ffn block relative to an ungated one: three maps then have as many parameters as two."""
DEFAULT_EXPANSION = 4.0


@dataclass(frozen=True)
class Model:
    """`depth` hidden layers of `width` units; `expansion` (block ffn only) is a block's hidden units over `width`."""

    depth: int = number(20, at_least=1, at_most=100_000)
    width: int = number(128, at_least=1, at_most=100_000)
    block: str = choice("linear", "ffn")
    bias: bool = True
    expansion: float | None = number(None, above=0, at_most=1000)


@dataclass(frozen=True)
class Probe:
    """Readings are taken at the first and the last step and at every multiple of `every` (0: only those two).

    set: `norms` (weight_grad_norm, delta_rms, dead_fraction, nonfinite) or `full`.
    examples: size of the fixed probe set on which dead units are counted.
    eval_every: held-out loss and accuracy are measured at readings that are multiples of this (0: first and last).
    cotangent: measure the gradient of the `loss`, which training always follows, or a `random` Gaussian one that is
        independent of the network and enters at the last hidden layer.
    jacobian: measure the singular values of the Jacobian from one input to the last hidden layer at the first reading,
        and at readings that are multiples of `jacobian_every` (0: only at the first).
    """

    every: int = number(50, at_least=0, at_most=10**12)
    set: str = choice("full", "norms")
    examples: int = number(32, at_least=1, at_most=10**7)
    eval_every: int = number(100, at_least=0, at_most=10**12)
    cotangent: str = choice("loss", "random")
    jacobian: bool = False
    jacobian_every: int = number(0, at_least=0, at_most=10**12)


@dataclass(frozen=True)
class CheckpointSchedule:
    """Checkpoints are saved every `every` steps, every `seconds` seconds, or both; 0 is never."""

    every: int = number(0, at_least=0, at_most=10**12)
    seconds: float = number(60.0, at_least=0)


@dataclass(frozen=True)
class Config:
    """One run. `dtype` is the network's precision.

    `threads=0` leaves the number of CPU threads to torch; at most `runs_per_gpu` runs share a GPU (0: no limit).
    """

    activation: options.Activation = field(default_factory=options.Activation)
    init: options.Init = field(default_factory=options.Init)
    norm: options.Norm = field(default_factory=options.Norm)
    residual: options.Residual = field(default_factory=options.Residual)
    clip: options.Clip = field(default_factory=options.Clip)
    optimizer: options.Optimizer = field(default_factory=options.SGD)
    data: options.Data = field(default_factory=options.Data)
    model: Model = field(default_factory=Model)
    probe: Probe = field(default_factory=Probe)
    checkpoint: CheckpointSchedule = field(default_factory=CheckpointSchedule)
    steps: int = number(500, at_least=0, at_most=10**12)
    batch_size: int = number(128, at_least=1, at_most=10**7)
    replicas: int = number(4, at_least=1, at_most=10**5)
    first_replica: int = number(0, at_least=0, at_most=10**9)
    seed: int = number(0, at_least=0, at_most=2**53)
    dtype: str = choice("float32", "float64")
    device: str = choice("auto", "cpu", "cuda")
    threads: int = number(0, at_least=0, at_most=4096)
    runs_per_gpu: int = number(0, at_least=0, at_most=1024)
    output_dir: str = path("runs")
    overwrite: bool = False


CHOICES: Mapping[str, dict[str, Any]] = {
    "activation": options.ACTIVATIONS,
    "init": options.INITS,
    "norm": options.NORMS,
    "residual": options.RESIDUALS,
    "clip": options.CLIPS,
    "optimizer": options.OPTIMIZERS,
    "data": options.DATA,
}
"""Group -> option -> its dataclass."""


def register_option(group: str, name: str, options: type) -> None:
    """Add an option to a group of `CHOICES`; registering the same class again does nothing.

    Raises:
        ValueError: an unknown group, a name that is taken or no identifier.
        TypeError: `options` is no frozen dataclass that extends the group's own (`Activation` for "activation").
    """
    if group not in CHOICES:
        raise ValueError(f"{group}: there is no such group of options; {did_you_mean(group, list(CHOICES))}.")
    base = get_type_hints(Config)[group]
    if not (issubclass(options, base) and is_dataclass(options)):
        raise TypeError(
            f"{options.__name__}: options of {group} must be a frozen dataclass that extends {base.__name__}."
        )
    if not name.isidentifier() or CHOICES[group].get(name, options) is not options:
        raise ValueError(f"{group}={name}: the name is taken or no identifier; choose another one.")
    CHOICES[group][name] = options


def hidden_units(model: Model, activation: options.Activation) -> int:
    """Return the number of units between the two maps of an ffn block, at least 1."""
    share = GATED_SHARE if activation.name in options.GATED else 1.0
    expansion = DEFAULT_EXPANSION if model.expansion is None else model.expansion
    return max(1, math.floor(expansion * share * model.width + 0.5))
