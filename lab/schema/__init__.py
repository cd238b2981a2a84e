"""The definition of a run: option dataclasses, ranges, rules and identity. No torch, NumPy or Hydra."""

# Sorted by hand: ruff would give each of these names a line.
# isort: off
from lab.schema.config import CHOICES, CheckpointSchedule, Config, Model, Probe, hidden_units, register_option
from lab.schema.errors import ConfigError, did_you_mean
from lab.schema.identity import NOT_SCIENTIFIC, PER_REPLICA, as_dict, fingerprint, flatten, from_dict
from lab.schema.options import ACTIVATIONS, CLIPS, DATA, GATED, GATES, INITS, NORMS, OPTIMIZERS, RESIDUALS
from lab.schema.options import ELU, SGD, Activation, Adam, AdamW, BatchNorm, Circles, Clip, ClipAdaptive, ClipNorm
from lab.schema.options import ClipValue, Critical, Data, Gaussian, GaussianData, Init, LayerNorm, LeakyReLU, Norm, Npz
from lab.schema.options import OpenML, Optimizer, PReLU, Residual, ReZero, RMSprop, RReLU, ScaledResidual
from lab.schema.options import Spirals, Swish
from lab.schema.rules import LARGEST, check
# isort: on

__all__ = ["ACTIVATIONS", "CHOICES", "CLIPS", "DATA", "ELU", "GATED", "GATES", "INITS", "LARGEST", "NORMS"]
__all__ += ["NOT_SCIENTIFIC", "OPTIMIZERS", "PER_REPLICA", "RESIDUALS", "SGD", "Activation", "Adam", "AdamW"]
__all__ += ["BatchNorm", "CheckpointSchedule", "Circles", "Clip", "ClipAdaptive", "ClipNorm", "ClipValue", "Config"]
__all__ += ["ConfigError", "Critical", "Data", "Gaussian", "GaussianData", "Init", "LayerNorm", "LeakyReLU", "Model"]
__all__ += ["Norm", "Npz", "OpenML", "Optimizer", "PReLU", "Probe", "RMSprop", "RReLU", "ReZero", "Residual"]
__all__ += ["ScaledResidual", "Spirals", "Swish", "as_dict", "check", "did_you_mean", "fingerprint", "flatten"]
__all__ += ["from_dict", "hidden_units", "register_option"]
