"""Mean-field signal and gradient through norms, skips and both blocks, layer by layer.

For one example X = E x^2 over the units of a layer's input; where a norm or a skip asks for them also m = E x over the
units and S, the variance of a unit over the batch. With G = E (dL/dx)^2 per unit, one layer is

    forward     x^ = norm(x)?,  h = W x^ + b,  z = norm(h)?,  a = phi(z),  y = a or V a + c,  x' = norm(x + alpha y)?
    backward    G = (skip: G') + alpha^2 G' D(q) (product of the maps' s) / (product of the norms' variances)

(He et al. 2015, section 2.2, for a plain layer; Yang and Schoenholz 2017, "Mean Field Residual Networks", section 3;
Yang et al. 2019, "A Mean Field Theory of Batch Normalization", section 4; Xiong et al. 2020, section 3.)

Assumptions: wide layers; weights in the backward pass independent of the forward pass; the gradient that enters at the
last layer independent of the activations, alike for all units and examples; norms with gain 1 and shift 0; data of mean
0 where it matters (layer norm on the data itself); for batch norm examples alike, each with the same variance and each
pair with the same correlation, which random weights bring about within a few layers. A norm's projections, off the mean
and off z itself, are of order 1/width or 1/batch and left out but where `lab.theory.deep.batch_norm` has the exact
form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab import schema
from lab.theory.deep.batch_norm import BatchMoments
from lab.theory.deep.maps import LinearMap, NetworkMaps
from lab.theory.kernels.kernels import Kernel, kernel
from lab.typing import Array

RANGE = {"float32": (1e-76, 1e75), "float64": (1e-300, 1e300)}
"""Variances that arithmetic holds: beyond, entries of the network become 0 or infinite, in float64 the theory's."""


class NoTheory(schema.ConfigError):
    """A configuration for which there is no prediction; the message says which choice has no theory."""


@dataclass(frozen=True)
class Layer:
    """What one layer does. Entries (E,), one an example, where examples differ.

    Attributes:
        q, act_second_moment: E z^2 and E a^2.
        map_input: E x^2 of what goes into the first map, as far as it counts for the gradient of its weights.
        delta: E delta^2 over G of the layer's output; twice that of gated activations, whose D two units share.
        map_delta: the same for dL/dh, behind a norm between the map and the activation.
        skip, branch: the two parts of G of the layer's input over G of its output.
    """

    q: Array
    act_second_moment: Array
    map_input: Array
    delta: Array
    map_delta: Array
    skip: Array
    branch: Array


@dataclass(frozen=True)
class State:
    """A layer's input: E x^2 and E x over its units, (E,), and the variance of a unit over the batch."""

    square: Array
    mean: Array
    spread: Array

    def is_close(self, other: State) -> bool:
        """Equal to rounding."""
        pairs = ((self.square, other.square), (self.mean, other.mean), (self.spread, other.spread))
        return all(np.all(np.abs(a - b) <= 1e-15 * np.abs(b)) for a, b in pairs)


def propagate(
    config: schema.Config, maps: NetworkMaps, input_q: Array, exact: BatchMoments | None = None
) -> list[Layer]:
    """The layers of a network on inputs of mean square `input_q` (E,).

    Args:
        exact: batch moments in place of large-batch ones, for norm=batch without a skip: inner, or the identity
        anywhere.

    Raises:
        NoTheory: the variance leaves what the network's arithmetic holds.
    """
    square, zero = input_q, np.zeros_like(input_q)
    state = State(square, zero, square)
    if maps.embedding is not None:
        weight_var, bias_var = maps.embedding.weight_var, maps.embedding.bias_var
        state = State(weight_var * square + bias_var, zero, weight_var * square)
    step = _Step(config, maps, exact)
    layers: list[Layer] = []
    for index in range(config.model.depth):
        is_data = index == 0 and maps.embedding is None
        with np.errstate(over="ignore"):
            following, layer = step(state, maps.first_up if index == 0 else maps.up, is_data)
        _check_range(config, index, layer.q, following.square)
        layers.append(layer)
        if index > 0 and following.is_close(state):
            layers += [layer] * (config.model.depth - len(layers))
            break
        state = following
    return layers


def _check_range(config: schema.Config, layer: int, *variances: Array) -> None:
    least, most = RANGE[config.dtype]
    if not all(np.all(variance < most) for variance in variances):
        way, gain = "passes", "smaller"
    elif not all(np.all(variance > least) for variance in variances):
        way, gain = "falls below", "larger"
    else:
        return
    raise NoTheory(
        f"init={config.init.name}: the variance {way} what dtype={config.dtype} holds at layer {layer}, so there is"
        f" nothing to predict; choose a {gain} init.gain, fewer layers or a norm."
    )


class _Step:
    """One layer of a configuration: the state above it, and what it does; `is_data` where x is the input itself."""

    def __init__(self, config: schema.Config, maps: NetworkMaps, exact: BatchMoments | None) -> None:
        self.phi: Kernel = kernel(config.activation)
        self.down: LinearMap | None = maps.down
        self.norm = config.norm.name
        self.place = config.norm.place if isinstance(config.norm, schema.LayerNorm) else "none"
        self.eps = config.norm.eps if isinstance(config.norm, schema.LayerNorm) else 0.0
        self.has_skip = config.residual.name != "none"
        self.alpha = getattr(config.residual, "alpha", 1.0)
        self.exact = exact if self.place == "inner" else None
        # Between two linear maps it does not matter where the norm stands.
        self.outer_factor = 1.0 if exact is None or self.place == "inner" else exact.backward

    def __call__(self, x: State, up: LinearMap, is_data: bool) -> tuple[State, Layer]:
        into, pre_factor = self._norm(x, up.fan_in if is_data else None) if self.place == "pre" else (x, 1.0)
        q, spread, inner_factor = self._pre_activation(into, up)
        second_moment, slope_moment, backward = self._activation(q)
        a = State(second_moment, self._mean(q), self._spread(q, spread, second_moment))

        y, to_activation = a, np.ones_like(q)
        if self.down is not None:
            weight_var, bias_var = self.down.weight_var, self.down.bias_var
            y = State(weight_var * a.square + bias_var, np.zeros_like(q), weight_var * a.spread)
            to_activation = to_activation * weight_var * self.down.fan_out / self.down.fan_in
        if self.has_skip:
            alpha = self.alpha
            y = State(
                x.square + 2 * alpha * x.mean * y.mean + alpha**2 * y.square,
                x.mean + alpha * y.mean,
                x.spread + alpha**2 * y.spread,
            )
            to_activation = to_activation * alpha**2
        out, post_factor = self._norm(y) if self.place == "post" else (y, 1.0)

        to_activation = to_activation * post_factor
        to_map = to_activation * backward * inner_factor
        layer = Layer(
            q=q,
            act_second_moment=second_moment,
            # A norm over the batch takes the mean out of dL/dh, so that what examples share of x does not count.
            map_input=into.spread if self.norm == "batch" and self.place == "inner" else into.square,
            delta=to_activation * slope_moment,
            map_delta=to_map,
            skip=np.broadcast_to(post_factor if self.has_skip else 0.0, q.shape),
            branch=to_map * up.weight_var * up.fan_out / up.fan_in * pre_factor,
        )
        return out, layer

    def _norm(self, x: State, units: int | None = None) -> tuple[State, Array]:
        """The state after a norm over units or batch, and the factor for squared gradients.

        With few `units` (a norm on the data itself) the directions that the norm projects away are taken into account.
        """
        kept = 1.0
        if self.norm == "batch":
            variance, mean = x.spread, np.zeros_like(x.mean)
            kept = self.outer_factor
        elif self.norm == "layer":
            variance, mean = x.square - x.mean**2, np.zeros_like(x.mean)
            kept = 1 - 2 / units if units else 1.0
        else:
            variance, mean = x.square, x.mean / np.sqrt(x.square + self.eps)
            kept = 1 - 1 / units if units else 1.0
        factor = 1 / (variance + self.eps)
        square = variance * factor
        spread = square if self.norm == "batch" else x.spread * factor
        return State(square, mean, spread), factor * kept

    def _pre_activation(self, x: State, up: LinearMap) -> tuple[Array, Array, Array]:
        """q, the part of it that varies over the batch, and the factor of a norm in between."""
        q, spread = up.weight_var * x.square + up.bias_var, up.weight_var * x.spread
        if self.place != "inner":
            return q, spread, np.ones_like(q)
        factor = 1 / ((spread if self.norm == "batch" else q) + self.eps)
        q = (spread if self.norm == "batch" else q) * factor
        return q, (q if self.norm == "batch" else spread * factor), factor

    def _activation(self, q: Array) -> tuple[Array, Array, Array]:
        """V, D and what stands in place of D on the way back to the layer's input."""
        if self.exact is not None:
            return np.full_like(q, self.exact.V), np.full_like(q, self.exact.D), np.full_like(q, self.exact.backward)
        slope_moment = self.phi.slope_moment(q)
        return self.phi.second_moment(q), slope_moment, slope_moment

    def _mean(self, q: Array) -> Array:
        """E a over the units, where somebody asks for it."""
        return self.phi.mean(q) if self.has_skip or self.norm in ("layer", "batch") else np.zeros_like(q)

    def _spread(self, q: Array, spread: Array, second_moment: Array) -> Array:
        """Variance of an activation over the batch: what is left without the part that all examples share."""
        if self.norm != "batch":
            return np.zeros_like(q)  # nobody asks
        if self.exact is not None:
            return np.full_like(q, self.exact.variance)
        shared = q - spread
        if np.all(np.abs(shared) <= 1e-15 * q):
            return second_moment - self.phi.mean(q) ** 2
        return second_moment - self.phi.product(q, q, shared / q)
