"""Batch norm between map and activation, exact in the batch size (Yang et al. 2019, "A Mean Field Theory of Batch
Normalization", section 4, the BSB1 fixed point).

A wide layer's pre-activations of one unit over the batch are Gaussian with covariance s K, K the Gram matrix of the
inputs. Where examples are alike, K = lambda (I - 1 1^T / B) once its mean is taken off, so the normalized z is sqrt(B)
times a uniform direction in the B - 1 dimensions that are left, and every expectation is an integral over a sphere. The
gradient that comes out of the norm has mean 0 over the batch, so its covariance is a multiple of the same projection,
and one number says how it changes from layer to layer:

    rate = B T / (lambda (B - 3) (B - 1)),    T = E tr(P_z Phi P Phi),

with Phi = diag(phi'(z)), P = I - 1 1^T / B, P_z = P - z z^T / B, lambda = E phi(z_i)^2 - E phi(z_i) phi(z_j); B - 3 is
the mean of 1 / chi-squared with B - 1 degrees of freedom. The identity gives (B - 2) / (B - 3), a large batch D(1) /
Var phi.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from lab import schema
from lab.theory.kernels import quadrature
from lab.theory.kernels.kernels import kernel
from lab.typing import Array

LEAST = 5
"""Fewer examples leave no finite mean or no pair to integrate over."""


class BatchMoments(NamedTuple):
    """One layer on `batch` alike examples, z normalized.

    V, D: E phi(z)^2 and E phi'(z)^2. variance: of phi(z) over the batch. backward: the factor that stands in place of D
    in E (dL/dx)^2 = s backward E (dL/da)^2 / (s S), S the variance of x over the batch.
    """

    V: float
    D: float
    variance: float
    backward: float


@lru_cache(maxsize=64)
def batch_moments(activation: schema.Activation, batch: int) -> BatchMoments:
    """The moments for a batch of at least 5 examples; not for gated activations."""
    phi, dimension = kernel(activation), batch - 1
    sphere = quadrature.sphere(dimension)
    V, D = float(phi.moment(2, 0, 0, 1.0, sphere)), float(phi.moment(0, 2, 0, 1.0, sphere))
    W = float(phi.moment(0, 2, 2, 1.0, sphere))  # E z^2 phi'(z)^2
    function, slope = phi.elementwise

    def pair(f: quadrature.Function) -> float:
        """E f(z_i) f(z_j) of two examples of the batch, whose correlation is -1 / (B - 1)."""
        radius = quadrature.sphere_radius(dimension)
        return quadrature.pair_expectation(f, f, 1.0, 1.0, -1 / dimension, radius)

    def scaled_slope(z: Array) -> Array:
        return z * slope(z)

    spread = V - pair(function)  # lambda
    trace = D * (batch - 2 + 1 / batch) - W * (1 - 1 / batch) + dimension / batch * (pair(slope) + pair(scaled_slope))
    return BatchMoments(V, D, spread * dimension / batch, trace / (batch - 3))
