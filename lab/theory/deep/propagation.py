"""Mean-field signal and gradient through norms, skips and both blocks, layer by layer.

For one example X = E x^2 over the units of a layer's input; where a norm or a skip needs them also m = E x over the
units and S, the variance of a unit over the batch. With G = E (dL/dx)^2 per unit, one layer is

    forward     x^ = norm(x)?,  h = W x^ + b,  z = norm(h)?,  a = phi(z),  y = a or V a + c,  x' = norm(x + alpha y)?
    backward    G = (skip: G') + alpha^2 G' D(q) (product of the maps' s) / (product of the norms' variances)

He et al. 2015 for a plain layer; Yang and Schoenholz 2017 for skips; Yang et al. 2019 and Xiong et al. 2020 for norms.

Assumptions: wide layers; weights in the backward pass independent of the forward pass; the gradient that enters at the
last layer independent of the activations and alike for all units and examples; norms with gain 1 and shift 0; data of
mean 0 where it matters (layer norm on the data itself); for batch norm alike examples and pairs, which random weights
bring about within a few layers. The projections of a norm are of order 1/width or 1/batch and neglected, except where
`lab.theory.deep.batch_norm` has the exact form.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lab import schema
from lab.theory.deep.batch_norm import BatchMoments
from lab.theory.deep.maps import LinearMap, NetworkMaps, branch_scale, norm_place
from lab.theory.errors import NoTheory
from lab.theory.kernels.kernels import kernel
from lab.typing import Array

RANGE = {"float32": (1e-76, 1e75), "float64": (1e-300, 1e300)}
"""Variances that a dtype holds: beyond, entries of the network become 0 or infinite, in float64 the theory's."""


class LayerTerms(NamedTuple):
    """Second moments of one layer: arrays with one entry per example, or a single entry if all examples are alike.

    G is E (dL/dx)^2 of a layer's input or output x, as in the module's docstring.

    Attributes:
        map_input: E x^2 of the first map's input, as far as it contributes to the gradient of its weights.
        delta: E delta^2 / G(output); doubled for gated activations, where value and gate share one D.
        map_delta: E (dL/dh)^2 / G(output), where h is the output of the first map, before an inner norm.
        skip, branch: the contributions of the skip and of the branch to G(input) / G(output).
    """

    q: Array
    act_second_moment: Array
    map_input: Array
    delta: Array
    map_delta: Array
    skip: Array
    branch: Array


class Signal(NamedTuple):
    """A layer's input: E x^2 and E x over its units, (E,), and the variance of a unit over the batch."""

    square: Array
    mean: Array
    spread: Array

    def mapped(self, by: LinearMap) -> Signal:
        return Signal(
            by.weight_var * self.square + by.bias_var, np.zeros_like(self.square), by.weight_var * self.spread
        )

    def is_close(self, other: Signal) -> bool:
        return all(np.all(np.abs(a - b) <= 1e-15 * np.abs(b)) for a, b in zip(self, other, strict=True))


def propagate(
    config: schema.Config, maps: NetworkMaps, input_q: Array, exact: BatchMoments | None = None
) -> list[LayerTerms]:
    """The layers of a network on inputs of mean square `input_q` (E,).

    `exact`: batch moments instead of large-batch ones, for norm=batch without a skip: inner, or the identity anywhere.

    Raises:
        NoTheory: the variance leaves the range of the network's dtype.
    """
    signal = Signal(input_q, np.zeros_like(input_q), input_q)
    if maps.embedding is not None:
        signal = signal.mapped(maps.embedding)
    step = _Step(config, maps, exact)
    layers: list[LayerTerms] = []
    for index in range(config.model.depth):
        up, is_data = (maps.up, False) if index else (maps.first_up, maps.embedding is None)
        with np.errstate(over="ignore"):
            following, layer = step(signal, up, is_data)
        _check_range(config, index, layer.q, following.square)
        layers.append(layer)
        if index > 0 and following.is_close(signal):  # a fixed point
            layers += [layer] * (config.model.depth - len(layers))
            break
        signal = following
    return layers


def _check_range(config: schema.Config, layer: int, *variances: Array) -> None:
    least, most = RANGE[config.dtype]
    is_large = not all(np.all(variance < most) for variance in variances)
    if not is_large and all(np.all(variance > least) for variance in variances):
        return
    way, gain = ("exceeds", "smaller") if is_large else ("falls below", "larger")
    raise NoTheory(
        f"init={config.init.name}: at layer {layer} the variance {way} the range of dtype={config.dtype}, so that"
        f" nothing is predicted; choose a {gain} init.gain, fewer layers or a norm."
    )


class _Step:
    """One layer of a configuration: maps its input to its output and its terms; `is_data` if x is the data."""

    def __init__(self, config: schema.Config, maps: NetworkMaps, exact: BatchMoments | None) -> None:
        self.phi = kernel(config.activation)
        self.down = maps.down
        self.norm, self.place = config.norm.name, norm_place(config)
        self.eps = config.norm.eps if isinstance(config.norm, schema.LayerNorm) else 0.0
        self.has_skip, self.alpha = config.residual.name != "none", branch_scale(config)
        self.exact = exact if self.place == "inner" else None
        # Between two linear maps the place of the norm does not matter.
        self.outer_factor = 1.0 if exact is None or self.place == "inner" else exact.backward

    def __call__(self, x: Signal, up: LinearMap, is_data: bool) -> tuple[Signal, LayerTerms]:
        into, pre_factor = self._norm(x, up.fan_in if is_data else None) if self.place == "pre" else (x, 1.0)
        q, spread, inner_factor = self._pre_activation(into, up)
        a, slope_moment, backward = self._activation(q, spread)

        y, to_activation = a, np.ones_like(q)
        if self.down is not None:
            y = a.mapped(self.down)
            to_activation = to_activation * self.down.weight_var * self.down.fan_out / self.down.fan_in
        if self.has_skip:
            alpha = self.alpha
            square = x.square + 2 * alpha * x.mean * y.mean + alpha**2 * y.square
            y = Signal(square, x.mean + alpha * y.mean, x.spread + alpha**2 * y.spread)
            to_activation = to_activation * alpha**2
        out, post_factor = self._norm(y) if self.place == "post" else (y, 1.0)

        to_activation = to_activation * post_factor
        to_map = to_activation * backward * inner_factor
        # A norm over the batch removes the mean of dL/dh, so that what examples share of x does not contribute.
        map_input = into.spread if self.norm == "batch" and self.place == "inner" else into.square
        skip = np.broadcast_to(post_factor if self.has_skip else 0.0, q.shape)
        branch = to_map * up.weight_var * up.fan_out / up.fan_in * pre_factor
        return out, LayerTerms(q, a.square, map_input, to_activation * slope_moment, to_map, skip, branch)

    def _norm(self, x: Signal, units: int | None = None) -> tuple[Signal, Array]:
        """Return the signal after normalization, and the factor by which it multiplies squared gradients.

        If the norm is applied to the data, `units` is the number of features; the factor then accounts for the
        directions that the norm removes (2 / units for layer norm, 1 / units for RMS norm).
        """
        variance, mean, remaining = x.spread, np.zeros_like(x.mean), self.outer_factor
        if self.norm == "layer":
            variance, remaining = x.square - x.mean**2, 1 - 2 / units if units else 1.0
        elif self.norm == "rms":
            variance, remaining = x.square, 1 - 1 / units if units else 1.0
            mean = x.mean / np.sqrt(x.square + self.eps)
        factor = 1 / (variance + self.eps)
        square = variance * factor
        spread = square if self.norm == "batch" else x.spread * factor
        return Signal(square, mean, spread), factor * remaining

    def _pre_activation(self, x: Signal, up: LinearMap) -> tuple[Array, Array, Array]:
        """q, the part of it that varies over the batch, and the factor of a norm in between."""
        q, _, spread = x.mapped(up)
        if self.place != "inner":
            return q, spread, np.ones_like(q)
        q = spread if self.norm == "batch" else q
        factor = 1 / (q + self.eps)
        return q * factor, spread * factor, factor

    def _activation(self, q: Array, spread: Array) -> tuple[Signal, Array, Array]:
        """The activations (mean and spread 0 where not needed), D, and the factor in place of D backwards."""
        zero = np.zeros_like(q)
        mean = self.phi.mean(q) if self.has_skip or self.norm in ("layer", "batch") else zero
        if self.exact is not None:
            V, D, variance, backward = (np.full_like(q, moment) for moment in self.exact)
            return Signal(V, mean, variance), D, backward
        V, D = self.phi.second_moment(q), self.phi.slope_moment(q)
        if self.norm != "batch":
            return Signal(V, mean, zero), D, D
        shared = q - spread  # of the variance, by all examples
        if np.all(np.abs(shared) <= 1e-15 * q):
            return Signal(V, mean, V - mean**2), D, D
        return Signal(V, mean, V - self.phi.product(q, q, shared / q)), D, D
