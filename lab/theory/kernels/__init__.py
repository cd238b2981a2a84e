"""Gaussian expectations of activations: quadrature, functions with derivatives, and the kernels V and D."""
