"""Gaussian expectations of one and two variables, to about 12 digits at any scale and with a kink at 0.

Integrals are split at 0 and mapped double-exponentially (Takahasi and Mori 1974, "Double exponential formulas for
numerical integration"), which spreads nodes evenly over many decades of scale: one fixed rule serves every variance
from 1e-6 to 1e3 and, less accurately, far beyond.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from lab.theory.kernels.activations import Function
from lab.typing import Array

LARGEST, FIRST_T, LAST_T = 9.0, -3.5716, 2.2977
"""Largest node of the half-line: exp(-81/2) is 3e-18. The map u = exp(t - exp(-t)) takes the t to 1e-17 and to it."""

COARSE_BELOW = 4.0  # up to this variance coarser rules for pairs are accurate to 1e-11 for the built-in activations
BLOCK = 256  # variances per block, so that integrands fit in the processor's cache


class Rule(NamedTuple):
    """Nodes and weights of an integral: sum(weights * f(nodes))."""

    nodes: Array
    weights: Array


@cache
def half_line(step: float = 0.065) -> Rule:
    """The rule for the integral over u > 0 of an f that decays like exp(-u), with even spacing in t."""
    t = np.arange(math.floor(FIRST_T / step), math.ceil(LAST_T / step) + 1) * step
    nodes = np.exp(t - np.exp(-t))
    return Rule(nodes, step * nodes * (1 + np.exp(-t)))


@cache
def unit_interval(step: float = 0.07) -> tuple[Array, Array, Array]:
    """Nodes x in (0, 1), their distances 1 - x to the other end, exact to rounding, and weights; the tanh-sinh rule."""
    count = math.ceil(math.asinh(2 / math.pi * math.log(1e18) / 2) / step)
    t = np.arange(-count, count + 1) * step
    exponent = math.pi * np.sinh(t)
    left, right = 1 / (1 + np.exp(-exponent)), 1 / (1 + np.exp(exponent))
    return left, right, step * math.pi * np.cosh(t) * left * right


@cache
def normal() -> Rule:
    """The rule for E f(u), u ~ N(0, 1), over u > 0 alone: add f at the nodes and at their negatives."""
    nodes, weights = half_line()
    return Rule(nodes, weights * np.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi))


@cache
def normal_radius(step: float = 0.065) -> Rule:
    """The rule for the radius of two independent standard normals: density r exp(-r^2 / 2)."""
    nodes, weights = half_line(step)
    return Rule(nodes, weights * nodes * np.exp(-0.5 * nodes**2))


@cache
def sphere(dimension: int) -> Rule:
    """Like `normal`, for sqrt(dimension) times a coordinate t of a uniform point on the unit sphere; dimension >= 3.

    The density of t is proportional to (1 - t^2)^((dimension - 3) / 2).
    """
    nodes, weights, rest = _chord(dimension)
    density = rest ** ((dimension - 3) / 2) * weights
    return Rule(nodes, density / (2 * np.sum(density)))


@cache
def sphere_radius(dimension: int) -> Rule:
    """Like `normal_radius`, for sqrt(dimension) times the length r of two such coordinates.

    The density of r is (dimension - 2) r (1 - r^2)^((dimension - 4) / 2).
    """
    nodes, weights, rest = _chord(dimension)
    density = nodes * rest ** ((dimension - 4) / 2) * weights
    return Rule(nodes, density / np.sum(density))


def _chord(dimension: int) -> tuple[Array, Array, Array]:
    """Nodes x from 0 to sqrt(dimension), their weights, and 1 - x^2 / dimension."""
    if dimension > 2 * LARGEST**2:  # the density is close to the normal one, and nothing lies beyond its rule
        nodes, weights = half_line()
        return nodes, weights, np.maximum(1 - nodes**2 / dimension, 0.0)
    x, rest, weights = unit_interval()
    return math.sqrt(dimension) * x, weights, rest * (1 + x)


def expectation(f: Function, variance: Array, rule: Rule | None = None) -> Array:
    """E f(sqrt(variance) u), in the shape of `variance`; u is standard normal unless `rule` is for another law."""
    nodes, weights = rule or normal()
    # A variance of 0 means the limit from above, which matters where f jumps at 0 (the slope of a kinked activation).
    deviations = np.sqrt(np.maximum(np.ravel(variance), 1e-300))[:, None]
    values = np.empty(len(deviations))
    for start in range(0, len(deviations), BLOCK):
        points = deviations[start : start + BLOCK] * nodes
        values[start : start + BLOCK] = (f(points) + f(-points)) @ weights
    return values.reshape(np.shape(variance))


def pair_expectation(
    f: Function, variance1: float, variance2: float, correlation: float, radius: Rule | None = None
) -> float:
    """E f(u1) f(u2) for jointly normal u1, u2 of mean 0; f smooth except at 0.

    In the plane of two independent normals u1 and u2 are multiples of the radius by a sine, and 0 on the edges of four
    sectors only (compare Cho and Saul 2009). `radius`: another rotationally symmetric law than the normal.
    """
    angle = math.acos(min(1.0, max(-1.0, correlation)))
    is_wide = max(variance1, variance2) > COARSE_BELOW
    distance, weight = radius or normal_radius(*(() if is_wide else (0.085,)))
    x, rest, share = unit_interval(*(() if is_wide else (0.1,)))
    total = 0.0
    for width, sign in ((math.pi - angle, 1.0), (angle, -1.0)):
        if width == 0:
            continue
        u1 = math.sqrt(variance1) * np.outer(np.sin(width * rest), distance)
        u2 = math.sqrt(variance2) * sign * np.outer(np.sin(width * x), distance)
        total += width * float(share @ (f(u1) * f(u2) + f(-u1) * f(-u2)) @ weight)
    return total / (2 * math.pi)
