"""Batch norm between map and activation, exact in the batch size B if all pairs of examples are equally correlated.

Yang et al. 2019, "A Mean Field Theory of Batch Normalization"; docs/theory.md, "Batch norm, exactly", has the
derivation. The normalized z is sqrt(B) times a uniform direction in B - 1 dimensions. The rate of E delta^2 is
B T / (lambda (B - 3) (B - 1)) with lambda = E phi(z_i)^2 - E phi(z_i) phi(z_j), T = E tr(P_z Phi P Phi),
Phi = diag(phi'(z)), P = I - 1 1^T / B and P_z = P - z z^T / B.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from lab import schema
from lab.theory.kernels import quadrature
from lab.theory.kernels.activations import Function
from lab.theory.kernels.kernels import kernel

LEAST = 5  # smallest batch with a finite mean and pairs to integrate over


class BatchMoments(NamedTuple):
    """For z normalized: V, D, the variance of phi(z) over the batch, and the factor that replaces D backwards.

    E (dL/dx)^2 = s backward E (dL/da)^2 / (s S), with S the variance of x over the batch.
    """

    V: float
    D: float
    variance: float
    backward: float


@lru_cache(maxsize=64)
def batch_moments(activation: schema.Activation, batch: int) -> BatchMoments:
    """The moments of an activation without a gate, for a batch of at least `LEAST` examples."""
    phi, dimension = kernel(activation), batch - 1
    sphere, radius = quadrature.sphere(dimension), quadrature.sphere_radius(dimension)
    V, D = float(phi.moment(2, 0, 0, 1.0, sphere)), float(phi.moment(0, 2, 0, 1.0, sphere))
    W = float(phi.moment(0, 2, 2, 1.0, sphere))  # E z^2 phi'(z)^2
    function, slope = phi.elementwise

    def pair(f: Function) -> float:
        """E f(z_i) f(z_j) of two examples of the batch, whose correlation is -1 / (B - 1)."""
        return quadrature.pair_expectation(f, 1.0, 1.0, -1 / dimension, radius)

    spread = V - pair(function)  # lambda
    trace = D * (batch - 2 + 1 / batch) - W * (1 - 1 / batch)
    trace += dimension / batch * (pair(slope) + pair(lambda z: z * slope(z)))
    return BatchMoments(V, D, spread * dimension / batch, trace / (batch - 3))
