"""The theory of a configuration: the limits of depth, each layer, what has no theory and what would be critical.

A plain network (no norm, no skip) has the fixed points of `lab.theory.plain.signal`; blocks of two maps (ffn) are a
plain network of weight_var = up * down, and gated activations have kernels of their own. With norms or skips the limit
is extrapolated from the prediction for a very deep stack of the same kind: chi, the ratio of E delta^2 from one layer
to the one below, and q. The scales of the plain theory (xi_q, xi_c, trainable_depth) are then replaced by a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lab import schema
from lab.theory.deep.criticality import critical_weight_var_of, resolve_critical
from lab.theory.deep.maps import LinearMap, data_features, is_plain, maps
from lab.theory.deep.prediction import Prediction, predict
from lab.theory.errors import NoTheory
from lab.theory.kernels.kernels import kernel
from lab.theory.plain.critical import TOLERANCE, CriticalLine
from lab.theory.plain.signal import LEAST_VARIANCE, DepthScales, depth_scales, phase
from lab.theory.report import words
from lab.theory.width.bands import Band, Bands, bands
from lab.typing import Array

DIGITS_MEAN_SQUARE = 60 / 64
"""Features are standardized individually; four of the 64 pixels never change and become 0."""

DEEP, LARGEST_VARIANCE = (1024, 256, 64, 32, 16), 1e20
"""Depths at which the limit of a stack is evaluated: the largest where the variance does not exceed this."""

SETTLED, SMALL = 1e-9, 0.01
"""A rate or a variance that changes by less than the first over the second half of a deep stack has reached its limit.
A limit below the second as a share of the last variance is 0: a decay as 1 / layer is extrapolated to nearly that."""

UNKNOWN_FEATURES = "the number of features is defined by the file; give it with --features."

CLEAR = 1.03
"""Ratio of the recommended bias_var to the smallest with a critical point, where that point is half-stable."""


class Layers(NamedTuple):
    """Arrays (depth,), layer 0 nearest the input; log_delta and its band are ln of delta_rms over the last layer's."""

    q: Array
    pre_rms: Band
    act_rms: Array
    log_delta: Array
    log_delta_band: Band
    log_weight_grad_norm: Array


@dataclass(frozen=True)
class TheoryReport:
    """The theory of one configuration; a missing value is NaN or None, and has a reason in `reasons`.

    Attributes:
        up, down: the maps from layer to layer; down is None without ffn blocks.
        critical_weight_var: weight_var of each map, all else equal, at which chi is 1.
        delta_slope: decades of delta_rms gained per layer towards the loss (the measured quantity of this name).
        fate: the behaviour of variance and gradient, in words.
        remedy: overrides that make it critical according to this theory; none where it is, or where none are known.
        advice: the same in words.
    """

    up: LinearMap
    down: LinearMap | None
    input_q: float
    scales: DepthScales | None
    critical_weight_var: float
    delta_slope: float
    layers: Layers | None
    fate: str
    remedy: tuple[str, ...]
    advice: str
    assumptions: tuple[str, ...]
    reasons: Mapping[str, str]


@np.errstate(all="ignore")  # infinity and NaN are reported
def report(config: schema.Config, input_q: float | None = None, features: int | None = None) -> TheoryReport:
    """Report the theory of a configuration at initialization.

    Args:
        config: the run; init=critical has to be resolved before (`lab.theory.resolve_critical`).
        input_q: mean square of the inputs over features and examples, by default that of `data`.
        features: size of an input, where the configuration does not define it (data=npz).

    Raises:
        NoTheory: an init without known variances.
    """
    input_q = mean_square(config.data) if input_q is None else input_q
    features = data_features(config) if features is None else features
    reasons: dict[str, str] = {}
    scales, prediction, critical = None, None, math.nan
    try:
        scales = limits(config, input_q, features)
    except NoTheory as error:
        reasons |= dict.fromkeys(("q_star", "chi", "xi_grad", "phase"), str(error))
    try:
        prediction = predict(config, input_q, features)
    except NoTheory as error:
        refusal = str(error) if features is not None else f"data={config.data.name}: {UNKNOWN_FEATURES}"
        reasons |= {"layers": refusal, "delta_slope": refusal}
    sizes = maps(config, config.model.width)  # from layer to layer, whatever the data
    up = sizes.up
    try:
        critical = critical_weight_var_of(replace(config, init=schema.Gaussian("gaussian", bias_var=up.bias_var)))
    except schema.ConfigError as error:
        reasons["critical_weight_var"] = str(error).removeprefix("init=critical: ")
    log_delta, slope = (prediction.log_delta, _slope(prediction.log_delta)) if prediction else (None, math.nan)
    remedy, change = tuple[str, ...](), ""
    if scales is not None and scales.phase != "critical":
        remedy = _remedy(config, up.bias_var, not math.isnan(critical), input_q, features)
        change = "" if math.isnan(critical) else f"weight_var {critical:.4g} in place of {up.weight_var:.4g}"
    return TheoryReport(
        up=up,
        down=sizes.down,
        input_q=input_q,
        scales=scales,
        critical_weight_var=critical,
        delta_slope=slope,
        layers=_layers(config, prediction) if prediction else None,
        fate=words.fate(scales, log_delta),
        remedy=remedy,
        advice=words.advice(config, scales, log_delta, remedy, change),
        assumptions=words.assumptions(config, input_q, features, prediction),
        reasons=words.reasons(config, scales, slope) | reasons,
    )


def mean_square(data: schema.Data) -> float:
    """Mean square of the training inputs over features and examples: 1 where all features vary and are standardized."""
    if isinstance(data, schema.GaussianData):
        return data.variance
    return DIGITS_MEAN_SQUARE if data.name == "digits" else 1.0


def limits(config: schema.Config, input_q: float, features: int | None) -> DepthScales:
    """The limits of depth of a configuration; NaN for what only plain networks have.

    Without `features` the first map counts as one that is as wide as the others.

    Raises:
        NoTheory: a choice that no theory covers.
    """
    scales = (_plain if is_plain(config) else _stacked)(config, input_q, features or config.model.width)
    if math.isnan(scales.chi):
        raise NoTheory(f"init={config.init.name}: its variances leave the range of float64; choose some nearer to 1.")
    return scales


def _plain(config: schema.Config, input_q: float, features: int) -> DepthScales:
    sizes = maps(config, features)
    embedding, first, up, down = sizes.embedding, sizes.first_up, sizes.up, sizes.down
    if embedding is not None:
        input_q = embedding.weight_var * input_q + embedding.bias_var
    weight_var, bias_var = up.weight_var, up.bias_var
    if down is not None:  # q' = up (down V(q) + its biases) + biases
        weight_var, bias_var = up.weight_var * down.weight_var, up.weight_var * down.bias_var + up.bias_var
    first_q = first.weight_var * input_q + first.bias_var
    scales = depth_scales(config.activation, weight_var, bias_var, first_q)
    if scales.chi < LEAST_VARIANCE:  # a product of maps at q = 0, where V grows as q^2
        scales = replace(scales, chi=0.0, xi_q=0.0, xi_c=0.0, xi_grad=0.0)
    # Where the rate itself goes to 0 or infinity it sets no depth.
    is_hyper = scales.chi == 0 or math.isinf(scales.chi)
    return replace(scales, trainable_depth=math.nan) if is_hyper else scales


def _stacked(config: schema.Config, input_q: float, features: int) -> DepthScales:
    """Extrapolate the limit from a stack that is as deep as its variance stays in range."""
    for depth in DEEP:
        try:
            prediction = predict(replace(config, model=replace(config.model, depth=depth)), input_q, features)
        except NoTheory:
            if depth == DEEP[-1]:
                raise
            continue
        if prediction.q[-1] <= LARGEST_VARIANCE:
            break
    log_delta, q = prediction.log_delta, prediction.q
    log_rates = 2 * (log_delta[:-1] - log_delta[1:])
    if np.isnan(log_rates).any():  # closed branches have no delta
        log_rates = 2 * np.log(prediction.layer_gain[:-1])
    last = len(log_rates) - 2  # the layers next to the end may differ
    points = [last // 4, last // 2, last]
    log_chi, is_settled = _limit(*(float(log_rates[point]) for point in points))
    if math.isinf(log_chi):
        log_chi = float(log_rates[last])
    elif not is_settled and abs(log_chi) <= TOLERANCE:
        log_chi = 0.0  # to the precision of an extrapolation
    chi = math.exp(log_chi)
    q_star, _ = _limit(*(float(q[point]) for point in points))
    q_star = q_star if q_star > SMALL * q[last] else 0.0
    return DepthScales(
        q_star=q_star,
        c_star=math.nan,
        chi=chi,
        xi_q=math.nan,
        xi_c=math.nan,
        xi_grad=1 / abs(log_chi) if abs(log_chi) > SETTLED else math.inf,
        phase=phase(chi),
        variance={0.0: "vanishes", math.inf: "grows"}.get(q_star, "settles"),
        trainable_depth=math.nan,
    )


def _limit(quarter: float, half: float, end: float) -> tuple[float, bool]:
    """Extrapolate a sequence from its values at a quarter, half and all of the way; return whether it has settled.

    Aitken's delta-squared, exact for limit + k / layer^p; infinite where steps do not become smaller.
    """
    before, after = half - quarter, end - half
    if abs(after) <= SETTLED * max(1.0, abs(end)):
        return end, True
    if abs(after) >= abs(before):
        return math.copysign(math.inf, after), False
    return end + after**2 / (before - after), False


def _layers(config: schema.Config, prediction: Prediction) -> Layers:
    level = replace(prediction, log_delta=np.zeros_like(prediction.log_delta))  # so that the band cannot overflow
    try:
        around = bands(config, level)
    except NoTheory:  # replicas scatter beyond the range of the dtype
        nothing = np.full_like(prediction.q, math.nan)
        around = Bands(Band(nothing, nothing), Band(nothing, nothing))
    return Layers(
        q=prediction.q,
        pre_rms=around.pre_rms,
        act_rms=prediction.act_rms,
        log_delta=prediction.log_delta,
        log_delta_band=Band(*(prediction.log_delta + np.log(factor) for factor in around.delta_rms)),
        log_weight_grad_norm=prediction.log_weight_grad_norm,
    )


def _slope(log_delta: Array) -> float:
    """Least-squares slope of log10 delta_rms against layer index; NaN with fewer than two layers that have one."""
    layer = np.flatnonzero(np.isfinite(log_delta))
    if len(layer) < 2:
        return math.nan
    offset = layer - layer.mean()
    return float(offset @ log_delta[layer] / (offset @ offset) / math.log(10))


def _remedy(
    config: schema.Config, bias_var: float, has_critical: bool, input_q: float, features: int | None
) -> tuple[str, ...]:
    """Overrides that make the limit critical: those of the first candidate that theory confirms, or none."""
    for changed, overrides in _candidates(config, bias_var, has_critical):
        try:
            if limits(schema.check(resolve_critical(changed)), input_q, features).phase == "critical":
                return overrides
        except schema.ConfigError:
            continue
    return ()


def _candidates(
    config: schema.Config, bias_var: float, has_critical: bool
) -> Iterator[tuple[schema.Config, tuple[str, ...]]]:
    """Another weight_var, if there is a critical one; another bias_var too; a norm in a branch, and a skip past it."""
    choices = [bias_var] if has_critical else []
    if is_plain(config):
        line = CriticalLine(kernel(config.activation), 2 if config.model.block == "ffn" else 1)
        choices += [0.0, float(f"{CLEAR * line.next_bias_var(bias_var):.2g}") if config.model.bias else math.nan]
    gain = () if config.init.gain == 1 else ("init.gain=1",)
    for choice in dict.fromkeys(float(f"{choice:.6g}") for choice in choices if math.isfinite(choice)):
        biases = (f"init.bias_var={choice:g}",) if choice else ()
        yield replace(config, init=schema.Critical("critical", bias_var=choice)), ("init=critical", *biases, *gain)
    has_skip = config.residual.name != "none"
    residual = config.residual if has_skip else schema.Residual("identity")
    for norm in (config.norm, schema.LayerNorm("rms")):
        if isinstance(norm, schema.LayerNorm):
            overrides = (f"norm={norm.name}", "norm.place=pre", *(() if has_skip else ("residual=identity",)))
            yield replace(config, norm=replace(norm, place="pre"), residual=residual), overrides
