"""Gaussian expectations of activations: functions and derivatives in NumPy, quadrature, and the kernels V and D."""
