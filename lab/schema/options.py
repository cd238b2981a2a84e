"""The options of every group: one frozen dataclass an option, one table a group."""

from dataclasses import dataclass

from lab.schema.fields import choice, number, path


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


GATES = {"glu": "sigmoid", "bilinear": "identity", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}
"""Gated activation -> function of its gate. Shazeer 2020, "GLU Variants Improve Transformer", section 2."""
GATED = tuple(GATES)

ACTIVATIONS: dict[str, type[Activation]] = {
    **dict.fromkeys(("sigmoid", "tanh", "relu"), Activation),
    "leaky_relu": LeakyReLU,
    "prelu": PReLU,
    "rrelu": RReLU,
    "elu": ELU,
    **dict.fromkeys(("selu", "gelu", "gelu_tanh"), Activation),
    "swish": Swish,
    **dict.fromkeys(("silu", "softplus", "erf", "identity", *GATED), Activation),
}


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


INITS: dict[str, type[Init]] = {
    **dict.fromkeys(("xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_normal"), Init),
    **dict.fromkeys(("orthogonal", "torch_default"), Init),
    "gaussian": Gaussian,
    "critical": Critical,
}


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


NORMS: dict[str, type[Norm]] = {"none": Norm, "batch": BatchNorm, "layer": LayerNorm, "rms": LayerNorm}


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


RESIDUALS = {"none": Residual, "identity": Residual, "scaled": ScaledResidual, "rezero": ReZero}


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


CLIPS: dict[str, type[Clip]] = {"none": Clip, "norm": ClipNorm, "value": ClipValue, "adaptive": ClipAdaptive}


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


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


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


DATA: dict[str, type[Data]] = {
    "digits": Data,
    **dict.fromkeys(("mnist", "fashion_mnist"), OpenML),
    "spirals": Spirals,
    "circles": Circles,
    "gaussian": GaussianData,
    "npz": Npz,
}
