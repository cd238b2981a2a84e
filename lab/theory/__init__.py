"""Mean-field theory of deep networks at initialization: predictions from the configuration alone.

NumPy and SciPy in float64, independent of the network, so that a prediction cannot borrow from the measurement.
"""

from lab.theory.deep.criticality import critical_weight_var_of, resolve_critical
from lab.theory.deep.jacobian import JacobianMoments, jacobian_moments
from lab.theory.deep.prediction import Prediction, predict
from lab.theory.errors import NoTheory
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.critical import critical_line, critical_weight_var
from lab.theory.plain.phase import phase_map
from lab.theory.plain.signal import depth_scales, fixed_points
from lab.theory.width.bands import bands
from lab.theory.width.slope import Slope, expected_slope

__all__ = [
    "JacobianMoments",
    "NoTheory",
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
