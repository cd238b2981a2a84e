"""The prediction for a configuration: per layer, or one sentence on why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lab import schema
from lab.theory.deep import batch_norm
from lab.theory.deep.maps import NetworkMaps, branch_scale, check_covered, data_features, maps
from lab.theory.deep.propagation import LayerTerms, propagate
from lab.theory.errors import NoTheory
from lab.typing import Array

LEAST_BATCH, LARGEST_BIAS_SHARE = 64, 0.02
"""Limits of the theory of batch norm for large batches, which neglects terms of order 1/batch per layer, and behind an
activation the part of the variance over the batch in which biases make units differ."""


@dataclass(frozen=True)
class Prediction:
    """Mean-field prediction of a network at initialization; arrays (depth,), layer 0 nearest the input.

    Attributes:
        q, act_second_moment: E z^2 of the pre-activations, E a^2 of the activations.
        log_delta: ln of delta_rms over the last layer's; NaN everywhere where no gradient enters the branches.
        log_weight_grad_norm: ln of weight_grad_norm (of the map before the activation) over the last layer's, for
            gradients of different examples that are independent.
        layer_gain: rms of dL/d(layer input) over rms of dL/d(layer output).
        branch_share: the part of dL/d(layer input)^2 that passed through the branch; 1 without a skip.
        assumptions: of this prediction beyond those of `lab.theory.deep.propagation`, in words.
    """

    q: Array
    act_second_moment: Array
    log_delta: Array
    log_weight_grad_norm: Array
    layer_gain: Array
    branch_share: Array
    assumptions: tuple[str, ...]

    @property
    def pre_rms(self) -> Array:
        return np.sqrt(self.q)

    @property
    def act_rms(self) -> Array:
        return np.sqrt(self.act_second_moment)

    @property
    def delta_rms(self) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(self.log_delta)


def predict(config: schema.Config, input_q: ArrayLike = 1.0, features: int | None = None) -> Prediction:
    """Predict a network at initialization, in training mode, with an independent gradient entering at its end.

    Args:
        config: the run; init=critical has to be resolved before (`lab.theory.resolve_critical`).
        input_q: mean square of the inputs over their features; of an array, one per example, the average is predicted.
        features: size of an input, where the configuration does not define it (data=npz).

    Raises:
        NoTheory: a choice that no theory covers, named.
    """
    features = data_features(config) if features is None else features
    if features is None:
        raise NoTheory(f"data={config.data.name}: the number of features is defined by the file; pass `features`.")
    check_covered(config)
    sizes = maps(config, features)
    moments, assumptions = _batch_theory(config, sizes, features)
    squares = np.atleast_1d(np.asarray(input_q, dtype=np.float64)).ravel()  # (E,)
    if config.norm.name == "batch":
        squares = np.mean(squares, keepdims=True)
    return _combine(config, sizes, propagate(config, sizes, squares, moments), assumptions)


def _combine(
    config: schema.Config, sizes: NetworkMaps, layers: list[LayerTerms], assumptions: tuple[str, ...]
) -> Prediction:
    """Average (E,) entries over examples, and accumulate gradients from the last layer down, (depth,)."""
    terms = LayerTerms(*(np.stack(term) for term in zip(*layers, strict=True)))  # (L, E)
    total = terms.skip + terms.branch
    with np.errstate(divide="ignore"):
        passed = np.log(total)
        above = np.concatenate([np.cumsum(passed[:0:-1], axis=0)[::-1], np.zeros_like(passed[:1])])  # G of the output
        below = passed + above  # G of the input
        log_delta = log_mean(above + np.log(terms.delta))
        fan_in = np.array([sizes.first_up.fan_in, *(len(layers) - 1) * [sizes.up.fan_in]])
        log_weight_grad = log_mean(above + np.log(terms.map_delta) + np.log(terms.map_input)) + np.log(fan_in)
    if config.residual.name != "none" and branch_scale(config) == 0:
        assumptions += ("residual.alpha=0 closes the branches: delta and the weights' gradients are exactly 0.",)
        log_delta = log_weight_grad = np.full(len(layers), np.nan)
    gain = np.exp((log_mean(below) - log_mean(above)) / 2)
    shares = np.divide(terms.branch, total, out=np.ones_like(total), where=total > 0)
    q, act_second_moment, share = (np.mean(values, axis=1) for values in (terms.q, terms.act_second_moment, shares))
    log_delta, log_weight_grad = ((log - log[-1]) / 2 for log in (log_delta, log_weight_grad))
    return Prediction(q, act_second_moment, log_delta, log_weight_grad, gain, share, assumptions)


def log_mean(logs: Array) -> Array:
    """ln of the mean of exp over the last axis: (L, E) -> (L,)."""
    largest = np.max(logs, axis=-1, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.mean(np.exp(logs - shift), axis=-1)) + shift[:, 0])


def _batch_theory(
    config: schema.Config, sizes: NetworkMaps, features: int
) -> tuple[batch_norm.BatchMoments | None, tuple[str, ...]]:
    """The exact moments where there are any, and the assumptions; NoTheory for batch norm without either."""
    norm, size = config.norm, config.batch_size
    if not isinstance(norm, schema.BatchNorm):
        return None, ()
    if config.activation.name in schema.GATES:
        raise NoTheory(
            f"norm=batch: with activation={config.activation.name}, whose products have heavy tails, no batch is large"
            " enough for the theory of large batches; choose norm=layer or norm=rms."
        )
    alike = "Batch norm: every example has the same variance and every pair of examples the same correlation."
    has_skip = config.residual.name != "none"
    if not has_skip and config.activation.name == "identity":
        rank = min(size - 1, features, config.model.width)  # a linear network never leaves the span of its data
        if rank + 1 < batch_norm.LEAST:
            raise NoTheory(
                f"norm=batch: with batch_size={size} and {features} features the normalized data span fewer than"
                f" {batch_norm.LEAST - 1} dimensions, and the mean gradient is infinite; choose larger ones."
            )
        return batch_norm.batch_moments(config.activation, rank + 1), (alike,)
    if not has_skip and norm.place == "inner" and size >= batch_norm.LEAST:
        return batch_norm.batch_moments(config.activation, size), (alike,)
    if size < LEAST_BATCH:
        raise NoTheory(
            f"batch_size={size}: norm=batch norm.place={norm.place} residual={config.residual.name} has a theory for"
            f" large batches only; choose batch_size={LEAST_BATCH} or more."
        )
    share = sizes.up.bias_var / (sizes.up.weight_var + sizes.up.bias_var)
    if norm.place != "inner" and config.model.block == "linear" and share > LARGEST_BIAS_SHARE:
        raise NoTheory(
            f"init.bias_var={sizes.up.bias_var:g}: norm=batch after the activation has no theory where biases make"
            " units differ in their variance; choose init.bias_var=0, norm.place=inner or model.block=ffn."
        )
    return None, (alike, f"Batch norm: a large batch; batch_size={size} changes rates by a fraction of about 1/{size}.")
