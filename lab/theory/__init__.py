"""Mean-field theory of deep networks at initialization: what the lab expects to measure, from the configuration alone.

NumPy and SciPy in float64; nothing here has seen a network, so a prediction cannot borrow from the measurement.
"""

from lab.theory.critical import critical_weight_var

__all__ = ["critical_weight_var"]
