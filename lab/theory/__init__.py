"""Mean-field theory of deep networks at initialization: predictions from the configuration alone.

NumPy and SciPy in float64, independent of the network, so that a prediction cannot borrow from the measurement.
"""

from lab.theory.deep.criticality import critical_weight_var_of, resolve_critical
from lab.theory.deep.jacobian import JacobianMoments, jacobian_moments
from lab.theory.deep.maps import LinearMap, NetworkMaps, data_features, maps
from lab.theory.deep.prediction import Prediction, predict
from lab.theory.errors import NoTheory
from lab.theory.kernels.activations import ELEMENTWISE, Elementwise
from lab.theory.kernels.kernels import Kernel, kernel
from lab.theory.plain.critical import CriticalLine, critical_line, critical_weight_var
from lab.theory.plain.phase import PhaseMap, phase_map
from lab.theory.plain.signal import (
    TRAINABLE,
    DepthScales,
    FixedPoint,
    correlation_map,
    depth_scales,
    fixed_points,
    gradient_map,
    variance_map,
)
from lab.theory.width.bands import Band, Bands, bands, probability_dead
from lab.theory.width.noise import Noise, noise, step_variance
from lab.theory.width.slope import Slope, expected_slope

__all__ = [
    "ELEMENTWISE",
    "TRAINABLE",
    "Band",
    "Bands",
    "CriticalLine",
    "DepthScales",
    "Elementwise",
    "FixedPoint",
    "JacobianMoments",
    "Kernel",
    "LinearMap",
    "NetworkMaps",
    "NoTheory",
    "Noise",
    "PhaseMap",
    "Prediction",
    "Slope",
    "bands",
    "correlation_map",
    "critical_line",
    "critical_weight_var",
    "critical_weight_var_of",
    "data_features",
    "depth_scales",
    "expected_slope",
    "fixed_points",
    "gradient_map",
    "jacobian_moments",
    "kernel",
    "maps",
    "noise",
    "phase_map",
    "predict",
    "probability_dead",
    "resolve_critical",
    "step_variance",
    "variance_map",
]
