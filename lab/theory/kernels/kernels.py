"""Expectations of an activation on Gaussian pre-activations: V, D and the two-input kernels.

For z ~ N(0, q) and jointly normal z1, z2 with variances q1, q2 and correlation c:

    V(q) = E phi(z)^2            D(q) = E phi'(z)^2            mean(q) = E phi(z)
    product(q1, q2, c) = E phi(z1) phi(z2)        slope_product(q1, q2, c) = E phi'(z1) phi'(z2)

A gated activation a = v g(u) has two independent pre-activations of the same law; there V is E a^2, D is the squared
gradient that reaches value and gate together, E g(u)^2 + E (v g'(u))^2, and the products are defined likewise. The
slopes of rrelu are independent for every unit and example: V and D hold their second moment, pairs the mean.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from lab import schema
from lab.theory.errors import NoTheory
from lab.theory.kernels import quadrature
from lab.theory.kernels.activations import ELEMENTWISE, Elementwise, Function, elu, leaky, swish
from lab.theory.kernels.quadrature import Rule
from lab.typing import Array

Numbers = Array | float


def kernel(activation: schema.Activation) -> Kernel:
    """The kernels of a configured activation at initialization; NoTheory if `ELEMENTWISE` does not know it."""
    name = activation.name
    if isinstance(activation, schema.LeakyReLU | schema.PReLU):
        return Rectifier(*(activation.negative_slope**power for power in range(1, 5)))
    if isinstance(activation, schema.RReLU):
        low, high = activation.lower, activation.upper  # of a uniform slope, whose moments are
        return Rectifier(*(sum(low**i * high ** (k - i) for i in range(k + 1)) / (k + 1) for k in range(1, 5)))
    if isinstance(activation, schema.ELU):
        return Kernel(elu(activation.alpha))
    if isinstance(activation, schema.Swish):
        return Kernel(swish(activation.beta))
    if name in ("relu", "identity"):
        return Rectifier(*4 * [float(name == "identity")])
    if name in schema.GATES:
        return Gated(kernel(schema.Activation(schema.GATES[name])))
    if name not in ELEMENTWISE:
        raise NoTheory(f"activation={name}: theory has no function of this name, so that nothing is predicted for it.")
    return {"erf": ErrorFunction, "gelu": GELU}.get(name, Kernel)(ELEMENTWISE[name])


class Kernel:
    """Kernels by quadrature, for arrays of any shape; subclasses override them with closed forms."""

    is_gated = False

    def __init__(self, elementwise: Elementwise) -> None:
        self.elementwise = elementwise

    def second_moment(self, q: Numbers) -> Array:
        return self.moment(2, 0, 0, q)

    def slope_moment(self, q: Numbers) -> Array:
        return self.moment(0, 2, 0, q)

    def mean(self, q: Numbers) -> Array:
        return self.moment(1, 0, 0, q)

    def second_moment_derivative(self, q: Numbers) -> Array:
        """dV/dq = E phi(z) phi'(z) z / q, from differentiating V under the integral; at q = 0 its limit D(0)."""
        q = np.asarray(q, dtype=np.float64)
        positive = np.maximum(q, 1e-14)  # below this phi(0) <> 0 drowns the difference of both signs in rounding
        return np.where(q > 0, self.moment(1, 1, 1, positive) / positive, self.slope_moment(q))

    def fourth_moments(self, q: Numbers) -> tuple[Array, Array, Array]:
        """E phi^4, E phi'^4 and E phi^2 phi'^2, which set the scatter of V and D of one layer at finite width."""
        return self.moment(4, 0, 0, q), self.moment(0, 4, 0, q), self.moment(2, 2, 0, q)

    def moment(self, phi: int, slope: int, z: int, q: Numbers, rule: Rule | None = None) -> Array:
        """E phi(z)^phi phi'(z)^slope z^z, in the shape of q; `rule`: another law than the normal one."""

        def integrand(x: Array) -> Array:
            product = np.ones_like(x)
            if phi:
                product = product * self.elementwise.function(x) ** phi
            if slope:
                product = product * self.elementwise.derivative(x) ** slope
            return product * x**z if z else product

        return quadrature.expectation(integrand, np.asarray(q, dtype=np.float64), rule)

    def product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        return _pairs(self.elementwise.function, q1, q2, c)

    def slope_product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        return _pairs(self.elementwise.derivative, q1, q2, c)


def _pairs(f: Function, *arguments: Numbers) -> Array:
    return np.asarray(np.vectorize(partial(quadrature.pair_expectation, f), otypes=[np.float64])(*arguments))


class Rectifier(Kernel):
    """A slope of 1 above 0 and a fixed or random slope below; the identity has slope 1.

    Cho and Saul 2009, "Kernel Methods for Deep Learning" (arc-cosine kernels of order 1 and 0), here for the odd and
    the even part of the function: phi(x) = x (1 + a) / 2 + |x| (1 - a) / 2. Its arguments are four moments of a.
    """

    def __init__(self, *slope_moments: float) -> None:
        super().__init__(leaky(slope_moments[0]))
        self.slope_moments = (1.0, *slope_moments)
        self.odd, self.even = (1 + slope_moments[0]) / 2, (1 - slope_moments[0]) / 2

    def moment(self, phi: int, slope: int, z: int, q: Numbers, rule: Rule | None = None) -> Array:
        power, q = phi + z, np.asarray(q, dtype=np.float64)
        if rule is None:
            half = 2 ** (power / 2 - 1) * math.gamma((power + 1) / 2) / math.sqrt(math.pi)  # E u^power over u > 0
        else:
            half = float(rule.nodes**power @ rule.weights)
        return np.asarray(half * (1 + (-1) ** power * self.slope_moments[phi + slope]) * q ** (power / 2))

    def product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        scale, c = np.sqrt(np.multiply(q1, q2)), np.clip(c, -1.0, 1.0)
        even = 2 / math.pi * (np.sqrt((1 - c) * (1 + c)) + c * np.arcsin(c))  # E |u1 u2|
        return np.asarray(scale * (self.odd**2 * c + self.even**2 * even))

    def slope_product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        c = np.broadcast_arrays(q1, q2, np.clip(c, -1.0, 1.0))[2]
        return np.asarray(self.odd**2 + self.even**2 * 2 / math.pi * np.arcsin(c))  # E sign(u1 u2)


class ErrorFunction(Kernel):
    """Closed forms of erf (Williams 1997, "Computing with Infinite Networks")."""

    def second_moment(self, q: Numbers) -> Array:
        return self.product(q, q, 1.0)

    def slope_moment(self, q: Numbers) -> Array:
        return self.slope_product(q, q, 1.0)

    def mean(self, q: Numbers) -> Array:
        return np.zeros_like(q, dtype=np.float64)

    def second_moment_derivative(self, q: Numbers) -> Array:
        return np.asarray(4 / math.pi / ((1 + 2 * q) * np.sqrt(1 + 4 * q)))

    def product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        scale = np.sqrt(2 * q1 / (1 + 2 * q1)) * np.sqrt(2 * q2 / (1 + 2 * q2))
        return np.asarray(2 / math.pi * np.arcsin(scale * c))

    def slope_product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        determinant = 1 + 2 * (q1 + q2) + 4 * q1 * q2 * (1 - np.square(c))
        return np.asarray(4 / math.pi / np.sqrt(determinant))


class GELU(Kernel):
    """Closed forms, derivatives of E Phi(z1) Phi(z2) = 1/4 + asin(k / sqrt((1 + q1)(1 + q2))) / (2 pi), k = E z1 z2.

    Compare Tsuchida et al. 2021, "Avoiding Kernel Fixed Points: Computing with ELU and GELU Infinite Networks".
    """

    def second_moment(self, q: Numbers) -> Array:
        return self.product(q, q, 1.0)

    def slope_moment(self, q: Numbers) -> Array:
        """`slope_product` of an input with itself, simplified to avoid cancellation where q is large."""
        _, overlap, density, _ = self._parts(q, q, 1.0)
        return np.asarray(overlap + density * (q / (1 + q)) * ((3 + 5 * q) / (1 + 2 * q)))

    def mean(self, q: Numbers) -> Array:
        return np.asarray(q / np.sqrt(2 * math.pi * (1 + q)))

    def product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        k, overlap, density, rest = self._parts(q1, q2, c)
        return np.asarray(k * overlap + density * rest)

    def slope_product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        """The derivative of the product with respect to k (Price's theorem)."""
        k, overlap, density, rest = self._parts(q1, q2, c)
        rest_slope = 2 * k * (1 / (1 + q1) + 1 / (1 + q2) - 1)
        determinant = 1 / (2 * math.pi * density) ** 2
        return np.asarray(overlap + density * (k + k * rest / determinant + rest_slope))

    @staticmethod
    def _parts(q1: Numbers, q2: Numbers, c: Numbers) -> tuple[Array, Array, Array, Array]:
        """k, E Phi Phi, E phi phi of the standard normal's distribution and density, and the factor of the latter."""
        c = np.clip(c, -1.0, 1.0)
        k = np.sqrt(q1) * np.sqrt(q2) * c
        free = q1 * (1 - c) * (1 + c) * q2
        overlap = 0.25 + np.arctan2(k, np.sqrt(1 + q1 + q2 + free)) / (2 * math.pi)  # the arcsine, without cancellation
        density = 1 / (2 * math.pi * np.sqrt(1 + q1 + q2 + free))
        return k, overlap, density, free + k * (k / (1 + q1) + k / (1 + q2))


class Gated(Kernel):
    """a = v g(u) with v and u independent and of the same law, from the kernels of the gate."""

    is_gated = True

    def __init__(self, gate: Kernel) -> None:
        super().__init__(gate.elementwise)
        self.gate = gate

    def second_moment(self, q: Numbers) -> Array:
        return np.asarray(q * self.gate.second_moment(q))

    def slope_moment(self, q: Numbers) -> Array:
        return np.asarray(self.gate.second_moment(q) + q * self.gate.slope_moment(q))

    def mean(self, q: Numbers) -> Array:
        return np.zeros_like(q, dtype=np.float64)

    def second_moment_derivative(self, q: Numbers) -> Array:
        return np.asarray(self.gate.second_moment(q) + q * self.gate.second_moment_derivative(q))

    def fourth_moments(self, q: Numbers) -> tuple[Array, Array, Array]:
        """Moments of a, and of the squared gradient g(u)^2 + (v g'(u))^2 of value and gate."""
        g4, slope4, mixed = self.gate.fourth_moments(q)
        return 3 * q**2 * g4, g4 + 2 * q * mixed + 3 * q**2 * slope4, q * g4 + 3 * q**2 * mixed

    def product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        return np.asarray(c * np.sqrt(np.multiply(q1, q2)) * self.gate.product(q1, q2, c))

    def slope_product(self, q1: Numbers, q2: Numbers, c: Numbers) -> Array:
        values = self.gate.product(q1, q2, c)
        return np.asarray(values + c * np.sqrt(np.multiply(q1, q2)) * self.gate.slope_product(q1, q2, c))
