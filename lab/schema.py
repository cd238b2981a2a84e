"""The shape of a configuration: frozen dataclasses, the range of every value, and the choices that exclude each other.

Nothing here knows Hydra, torch or NumPy. `lab.config` composes these classes from files and overrides; `check` refuses
a configuration that makes no sense, with one sentence that names the key and says what to choose.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any

LARGEST = 1e30
"""No number of a configuration may be larger: float32 ends at 3e38, and products must have room."""


LONGEST_WORD = 400
"""Characters without a space that a message quotes whole: a path may be long."""
LONGEST_NAME, LONGEST_PATH = 255, 3000
"""Bytes of a file's name, and of a path that files are put below; file systems end at 255 and 4096."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence that names the key and the remedy.

    It may quote what was given, whatever that is: what would break the line or cannot be printed is shown as an escape,
    and a word that fills a screen by its beginning and its end.
    """

    def __init__(self, message: str) -> None:
        shown = "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in message)
        super().__init__(re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", shown))


def number(
    default: float | int | None,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> Any:
    """A numeric field with its allowed range; `check` enforces it, and always refuses NaN and infinity."""
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    return field(default=default, metadata={"bounds": {word: x for word, x in bounds.items() if math.isfinite(x)}})


def choice(default: str, *allowed: str) -> Any:
    """A text field that takes one of the `allowed` words."""
    return field(default=default, metadata={"allowed": (default, *allowed)})


def path(default: str) -> Any:
    """A text field that names a file or folder."""
    return field(default=default, metadata={"path": True})


# --- activation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """An activation without parameters, chosen by name."""

    name: str = "relu"


@dataclass(frozen=True)
class LeakyReLU(Activation):
    negative_slope: float = number(0.01, at_least=0)


@dataclass(frozen=True)
class PReLU(Activation):
    """`negative_slope` is where the learnt slope (one per layer) starts."""

    negative_slope: float = number(0.25)


@dataclass(frozen=True)
class RReLU(Activation):
    """The negative slope is uniform in [lower, upper] in training and their mean in evaluation."""

    lower: float = number(1 / 8, at_least=0)
    upper: float = number(1 / 3, at_least=0)


@dataclass(frozen=True)
class ELU(Activation):
    alpha: float = number(1.0, above=0)


@dataclass(frozen=True)
class Swish(Activation):
    """x * sigmoid(beta * x); with `learnable`, beta (one per layer) starts at the given value."""

    beta: float = number(1.0)
    learnable: bool = False


GATED = ("glu", "bilinear", "reglu", "geglu", "swiglu")

ACTIVATIONS: Mapping[str, type[Activation]] = MappingProxyType(
    {
        "sigmoid": Activation,
        "tanh": Activation,
        "relu": Activation,
        "leaky_relu": LeakyReLU,
        "prelu": PReLU,
        "rrelu": RReLU,
        "elu": ELU,
        "selu": Activation,
        "gelu": Activation,
        "gelu_tanh": Activation,
        "swish": Swish,
        "silu": Activation,
        "softplus": Activation,
        "erf": Activation,
        "identity": Activation,
        **dict.fromkeys(GATED, Activation),
    }
)


# --- initialization -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Init:
    """`gain` multiplies the standard deviation of the weights."""

    name: str = "he_normal"
    gain: float = number(1.0, above=0)


@dataclass(frozen=True)
class Gaussian(Init):
    """Weights N(0, weight_var / fan_in), biases N(0, bias_var)."""

    weight_var: float = number(1.0, above=0)
    bias_var: float = number(0.0, at_least=0)


@dataclass(frozen=True)
class Critical(Init):
    """weight_var solved from theory for the chosen activation, norm and block, at this bias_var."""

    bias_var: float = number(0.0, at_least=0)


INITS: Mapping[str, type[Init]] = MappingProxyType(
    {
        "xavier_uniform": Init,
        "xavier_normal": Init,
        "he_uniform": Init,
        "he_normal": Init,
        "lecun_normal": Init,
        "orthogonal": Init,
        "torch_default": Init,
        "gaussian": Gaussian,
        "critical": Critical,
    }
)


# --- normalization, residual, clipping ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Norm:
    name: str = "none"


@dataclass(frozen=True)
class LayerNorm(Norm):
    """Layer and RMS norm. `place`: before the linear map, between it and the activation, or after the skip is added."""

    place: str = choice("inner", "pre", "post")
    eps: float = number(1e-5, at_least=0)
    affine: bool = True


@dataclass(frozen=True)
class BatchNorm(LayerNorm):
    momentum: float = number(0.1, at_least=0, at_most=1)


NORMS: Mapping[str, type[Norm]] = MappingProxyType(
    {"none": Norm, "batch": BatchNorm, "layer": LayerNorm, "rms": LayerNorm}
)


@dataclass(frozen=True)
class Residual:
    name: str = "none"


@dataclass(frozen=True)
class ScaledResidual(Residual):
    """x + alpha * f(x) with a fixed alpha."""

    alpha: float = number(0.1)


@dataclass(frozen=True)
class ReZero(Residual):
    """x + alpha * f(x) with a learnt alpha (one per layer) that starts at the given value."""

    alpha: float = number(0.0)


RESIDUALS: Mapping[str, type[Residual]] = MappingProxyType(
    {"none": Residual, "identity": Residual, "scaled": ScaledResidual, "rezero": ReZero}
)


@dataclass(frozen=True)
class Clip:
    name: str = "none"


@dataclass(frozen=True)
class ClipNorm(Clip):
    """Each replica's whole gradient is scaled down to `max_norm` when its L2 norm is larger."""

    max_norm: float = number(1.0, above=0)


@dataclass(frozen=True)
class ClipValue(Clip):
    """Every entry of the gradient is cut to [-max_value, max_value]."""

    max_value: float = number(0.5, above=0)


@dataclass(frozen=True)
class ClipAdaptive(Clip):
    """Each unit's gradient is held to `factor` times the norm of its weights, which counts as at least `eps`."""

    factor: float = number(0.01, above=0)
    eps: float = number(1e-3, above=0)


CLIPS: Mapping[str, type[Clip]] = MappingProxyType(
    {"none": Clip, "norm": ClipNorm, "value": ClipValue, "adaptive": ClipAdaptive}
)


# --- optimizer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Optimizer:
    name: str = "sgd"
    lr: float = number(0.01, at_least=0)
    weight_decay: float = number(0.0, at_least=0)


@dataclass(frozen=True)
class SGD(Optimizer):
    momentum: float = number(0.0, at_least=0, below=1)
    nesterov: bool = False


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (weight decay added to the gradient) and AdamW (weight decay apart from it)."""

    lr: float = number(1e-3, at_least=0)
    beta1: float = number(0.9, at_least=0, below=1)
    beta2: float = number(0.999, at_least=0, below=1)
    eps: float = number(1e-8, above=0)


@dataclass(frozen=True)
class AdamW(Adam):
    weight_decay: float = number(0.01, at_least=0)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    lr: float = number(1e-3, at_least=0)
    alpha: float = number(0.99, at_least=0, below=1)
    eps: float = number(1e-8, above=0)
    momentum: float = number(0.0, at_least=0, below=1)


OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}
)


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """scikit-learn's 8x8 digits: 1,797 images, standardized, a fixed split into 1,438 and 359."""

    name: str = "digits"


@dataclass(frozen=True)
class OpenML(Data):
    """MNIST and Fashion-MNIST from OpenML, kept in `cache` after the first download."""

    cache: str = path("~/.cache/gradlab")


@dataclass(frozen=True)
class Spirals(Data):
    """Interleaved spiral arms in the plane, one class an arm; no linear map separates them."""

    examples: int = number(2000, at_least=20, at_most=10**7)
    classes: int = number(3, at_least=2, at_most=10**5)
    turns: float = number(1.5, above=0)
    noise: float = number(0.05, at_least=0)
    seed: int = number(0, at_least=0, at_most=2**53)


@dataclass(frozen=True)
class Circles(Data):
    """Two circles, one inside the other (scikit-learn's make_circles)."""

    examples: int = number(2000, at_least=20, at_most=10**7)
    noise: float = number(0.05, at_least=0)
    factor: float = number(0.5, at_least=0, below=1)
    seed: int = number(0, at_least=0, at_most=2**53)


@dataclass(frozen=True)
class GaussianData(Data):
    """Independent inputs N(0, variance) with random labels: nothing to learn but the examples themselves."""

    examples: int = number(2048, at_least=20, at_most=10**7)
    features: int = number(64, at_least=1, at_most=10**6)
    classes: int = number(10, at_least=2, at_most=10**5)
    variance: float = number(1.0, above=0)
    seed: int = number(0, at_least=0, at_most=2**53)


@dataclass(frozen=True)
class Npz(Data):
    """The user's own arrays: x_train, y_train and, if there, x_test, y_test (else every fifth example is held out)."""

    path: str = path("")
    standardize: bool = True


DATA: Mapping[str, type[Data]] = MappingProxyType(
    {
        "digits": Data,
        "mnist": OpenML,
        "fashion_mnist": OpenML,
        "spirals": Spirals,
        "circles": Circles,
        "gaussian": GaussianData,
        "npz": Npz,
    }
)


# --- the rest -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """`depth` hidden layers of `width` units. `expansion` (block ffn only): hidden units of a block over `width`,
    4 unless given; a gated activation takes two thirds of them, so that the parameters stay as many."""

    depth: int = number(20, at_least=1, at_most=100_000)
    width: int = number(128, at_least=1, at_most=100_000)
    block: str = choice("linear", "ffn")
    bias: bool = True
    expansion: float | None = number(None, above=0, at_most=1000)


@dataclass(frozen=True)
class Probe:
    """A reading is taken at the first and the last step and at every multiple of `every` (0: only those two).

    set: `norms` (weight_grad_norm, delta_rms, dead_fraction, nonfinite) or `full`.
    examples: size of the fixed probe set on which dead units are counted.
    eval_every: held-out loss and accuracy are measured at readings that are multiples of this (0: first and last).
    cotangent: which gradient the layers are measured with: the `loss`'s, or a `random` one, Gaussian and independent
        of the network, that enters at the last hidden layer. The training itself always follows the loss.
    jacobian: the singular values of the Jacobian from one input to the last hidden layer, at the first reading and at
        readings that are multiples of `jacobian_every` (0: only at the first).
    """

    every: int = number(50, at_least=0, at_most=10**12)
    set: str = choice("full", "norms")
    examples: int = number(32, at_least=1, at_most=10**7)
    eval_every: int = number(100, at_least=0, at_most=10**12)
    cotangent: str = choice("loss", "random")
    jacobian: bool = False
    jacobian_every: int = number(0, at_least=0, at_most=10**12)


@dataclass(frozen=True)
class Checkpoint:
    """When a run is kept so that it can go on: every so many steps, every so many seconds, or both; 0 is never."""

    every: int = number(0, at_least=0, at_most=10**12)
    seconds: float = number(60.0, at_least=0)


@dataclass(frozen=True)
class Sweep:
    """With `batch`, runs of a sweep that differ in `PER_REPLICA` at most are replicas of one network."""

    batch: bool = False


@dataclass(frozen=True)
class Config:
    """One run, whole. `threads=0` leaves the number of CPU threads to torch; `dtype` is the network's precision.

    `runs_per_gpu` is how many runs of a machine may share a GPU at a time, 0 as many as come.
    """

    activation: Activation = field(default_factory=Activation)
    init: Init = field(default_factory=Init)
    norm: Norm = field(default_factory=Norm)
    residual: Residual = field(default_factory=Residual)
    clip: Clip = field(default_factory=Clip)
    optimizer: Optimizer = field(default_factory=SGD)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    probe: Probe = field(default_factory=Probe)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    sweep: Sweep = field(default_factory=Sweep)
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


CHOICES: Mapping[str, Mapping[str, type]] = MappingProxyType(
    {
        "activation": ACTIVATIONS,
        "init": INITS,
        "norm": NORMS,
        "residual": RESIDUALS,
        "clip": CLIPS,
        "optimizer": OPTIMIZERS,
        "data": DATA,
    }
)

PER_REPLICA = frozenset(
    {
        *("seed", "first_replica", "init.gain", "init.weight_var", "init.bias_var"),
        *("optimizer.lr", "clip.max_norm", "residual.alpha"),
    }
)
"""Keys that replicas of one network can differ in."""

NOT_SCIENTIFIC = frozenset(
    {
        *("device", "threads", "runs_per_gpu", "output_dir", "overwrite", "data.cache"),
        *("checkpoint.every", "checkpoint.seconds", "sweep.batch"),
    }
)
"""Keys that do not change what is computed, only where and how: no part of a run's fingerprint."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The scientific part of a configuration's dictionary with dotted keys; a group's name stands under the group."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in NOT_SCIENTIFIC:
            flat[f"{prefix}{key}".removesuffix(".name")] = value
    return flat


def check(config: Config) -> Config:
    """Return `config` unchanged if it makes sense.

    Raises:
        ConfigError: a value out of range, or choices that exclude each other; one sentence with key and remedy.
    """
    for group, options in CHOICES.items():
        chosen = getattr(config, group)
        if chosen.name not in options:
            raise ConfigError(f"{group}={chosen.name}: choose one of {', '.join(options)}.")
        if type(chosen) is not options[chosen.name]:
            raise ConfigError(f"{group}.name={chosen.name}: choose it with {group}={chosen.name} instead.")
    for key, value, metadata in _values(config):
        _check_value(key, value, metadata)
    _check_combinations(config)
    return config


def _values(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for part in fields(node):
        value = getattr(node, part.name)
        if is_dataclass(value):
            yield from _values(value, f"{prefix}{part.name}.")
        else:
            yield f"{prefix}{part.name}", value, part.metadata


_WORDS = {"at least": "of at least", "at most": "of at most"}


def _check_value(key: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if "allowed" in metadata and value not in metadata["allowed"]:
        raise ConfigError(f"{key}={value}: choose one of {', '.join(metadata['allowed'])}.")
    if isinstance(value, str):
        _check_text(key, value, is_path="path" in metadata)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{key}={value}: give a finite number.")
    if abs(value) > LARGEST:
        raise ConfigError(f"{key}={value}: give a number of at most {LARGEST:g} in size, which float32 can hold.")
    bounds = metadata.get("bounds", {})
    inside = {
        "above": lambda bound: value > bound,
        "at least": lambda bound: value >= bound,
        "below": lambda bound: value < bound,
        "at most": lambda bound: value <= bound,
    }
    if not all(inside[word](bound) for word, bound in bounds.items()):
        wanted = " and ".join(f"{_WORDS.get(word, word)} {bound:g}" for word, bound in bounds.items())
        raise ConfigError(f"{key}={value}: give a number {wanted}.")


def _check_text(key: str, value: str, is_path: bool) -> None:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(f"{key}={value}: it holds a character that ends a line or is none; leave it out.")
    longest = max(len(name.encode()) for name in value.split("/"))
    if is_path and (longest > LONGEST_NAME or len(value.encode()) > LONGEST_PATH):
        raise ConfigError(
            f"{key}={value}: no name in it may be longer than {LONGEST_NAME} bytes, nor all of it than {LONGEST_PATH};"
            " choose a shorter one."
        )


def _check_combinations(config: Config) -> None:
    model, norm, residual = config.model, config.norm, config.residual
    if not config.output_dir:
        raise ConfigError("output_dir: it is empty; name the folder, for example output_dir=runs/mine.")
    if config.output_dir.startswith("~"):  # in a file; an override's has been expanded
        raise ConfigError(f"output_dir={config.output_dir}: there is no such home folder; write the whole path.")
    if model.block == "linear" and model.expansion is not None:
        raise ConfigError(
            "model.expansion: only model.block=ffn has hidden units to expand; leave it out or choose ffn."
        )
    if config.activation.name in GATED and norm.name != "none" and getattr(norm, "place", "") == "inner":
        raise ConfigError(
            f"norm.place=inner: activation={config.activation.name} multiplies two maps and has no single"
            " pre-activation to normalize; choose norm.place=pre or norm.place=post."
        )
    for key, examples in (("batch_size", config.batch_size), ("probe.examples", config.probe.examples)):
        if norm.name == "batch" and examples < 2:
            raise ConfigError(f"{key}={examples}: norm=batch needs at least 2 examples; choose {key}=2 or more.")
    if norm.name == "layer" and model.width < 2:
        raise ConfigError("model.width=1: norm=layer turns a single unit into 0; choose model.width=2 or more.")
    expansion = 4 if model.expansion is None else model.expansion
    is_inner = isinstance(norm, LayerNorm) and norm.place == "inner"
    if norm.name == "layer" and is_inner and model.block == "ffn" and expansion * model.width < 1.5:
        raise ConfigError(
            f"model.expansion={expansion:g}: norm=layer turns a single hidden unit into 0; choose a larger"
            " model.expansion or model.width."
        )
    if isinstance(config.activation, RReLU) and config.activation.lower > config.activation.upper:
        raise ConfigError(
            f"activation.lower={config.activation.lower}: the lower slope is above activation.upper="
            f"{config.activation.upper}; exchange them."
        )
    if config.probe.jacobian_every and not config.probe.jacobian:
        raise ConfigError(
            f"probe.jacobian_every={config.probe.jacobian_every}: no Jacobian is measured; add probe.jacobian=true."
        )
    if isinstance(config.optimizer, SGD) and config.optimizer.nesterov and config.optimizer.momentum == 0:
        raise ConfigError("optimizer.nesterov=true: it needs momentum; give optimizer.momentum a value above 0.")
    if isinstance(config.data, Npz) and not config.data.path:
        raise ConfigError("data.path: data=npz needs the file; give data.path=FILE.npz.")
    if isinstance(residual, ScaledResidual) and residual.alpha == 0:
        raise ConfigError(
            "residual.alpha=0: nothing would pass the branch; give another value or choose residual=rezero."
        )
