"""The guide's formulas as it writes them down, for mpmath numbers, NumPy arrays or torch tensors alike.

`m` is the module whose exp, tanh and so on are used: mpmath, numpy or torch.
"""

from __future__ import annotations

import math
from typing import Any

GELU_CUBIC = 0.044715
"""Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2."""


def sigmoid(z: Any, m: Any) -> Any:
    """Section 3.1."""
    return 1 / (1 + m.exp(-z))


def sigmoid_slope(z: Any, m: Any) -> Any:
    """Section 3.1."""
    s = sigmoid(z, m)
    return s * (1 - s)


def tanh_quotient(z: Any, m: Any) -> Any:
    """Section 3.2, the first form."""
    return (m.exp(z) - m.exp(-z)) / (m.exp(z) + m.exp(-z))


def tanh_from_sigmoid(z: Any, m: Any) -> Any:
    """Section 3.2, the second form."""
    return 2 * sigmoid(2 * z, m) - 1


def tanh_slope(z: Any, m: Any) -> Any:
    """Section 3.2."""
    return 1 - m.tanh(z) ** 2


def gelu(x: Any, m: Any) -> Any:
    """Section 5.1 and coding question 2: x times the normal distribution function, by way of erf."""
    return x * (1 + m.erf(x / _root(2, m))) / 2


def gelu_tanh(x: Any, m: Any) -> Any:
    """Section 5.1 and coding question 2, the approximation."""
    inner = _root(2 / _pi(m), m) * (x + _constant(GELU_CUBIC, m) * x**3)
    return x * (1 + m.tanh(inner)) / 2


def swish(x: Any, beta: float, m: Any) -> Any:
    """Section 5.2."""
    return x * sigmoid(beta * x, m)


def _root(value: Any, m: Any) -> Any:
    return m.sqrt(value) if _is_mpmath(m) else math.sqrt(value)


def _pi(m: Any) -> Any:
    return m.pi if _is_mpmath(m) else math.pi


def _constant(value: float, m: Any) -> Any:
    """A decimal constant with all its digits."""
    return m.mpf(repr(value)) if _is_mpmath(m) else value


def _is_mpmath(m: Any) -> bool:
    return m.__name__ == "mpmath"
