"""Mean-field theory of deep networks at initialization: what the lab expects to measure, from the configuration alone.

NumPy and SciPy in float64; nothing here has seen a network, so a prediction cannot borrow from the measurement.
"""

from lab.theory.deep.criticality import critical_weight_var_of, resolve_critical
from lab.theory.deep.jacobian import JacobianMoments, jacobian_moments
from lab.theory.deep.prediction import Prediction, predict
from lab.theory.deep.propagation import NoTheory
from lab.theory.deep.slope import Slope, expected_slope
from lab.theory.kernels.kernels import Kernel, kernel
from lab.theory.plain.critical import critical_line, critical_weight_var
from lab.theory.plain.phase import PhaseMap, phase_map
from lab.theory.plain.signal import DepthScales, FixedPoint, depth_scales, fixed_points
from lab.theory.width.bands import Band, Bands, bands

__all__ = [
    "Band",
    "Bands",
    "DepthScales",
    "FixedPoint",
    "JacobianMoments",
    "Kernel",
    "NoTheory",
    "PhaseMap",
    "Prediction",
    "Slope",
    "bands",
    "critical_line",
    "critical_weight_var",
    "critical_weight_var_of",
    "depth_scales",
    "expected_slope",
    "fixed_points",
    "jacobian_moments",
    "kernel",
    "phase_map",
    "predict",
    "resolve_critical",
]
