"""The sentences of a report: behaviour of variance and gradient, reasons for missing values, advice, assumptions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lab import schema
from lab.theory.deep.maps import branch_scale, is_plain
from lab.theory.deep.prediction import Prediction
from lab.theory.plain.signal import DepthScales
from lab.theory.width.bands import SIGMAS
from lab.typing import Array

NEAR = 0.1  # decades of change over a whole network that count as none: 26%


def fate(scales: DepthScales | None, log_delta: Array | None) -> str:
    """The behaviour of variance and gradient. `log_delta` (depth,): ln of delta_rms over the last layer's, if known."""
    if scales is None:
        return ""
    sentences = [_variance(scales), _gradient(scales)]
    if log_delta is not None and len(log_delta) > 1 and not math.isnan(log_delta[0]):
        sentences.append(_network(scales, len(log_delta), float(log_delta[0]) / math.log(10)))
    return " ".join(sentences)


def _variance(scales: DepthScales) -> str:
    q, xi = f"{scales.q_star:.4g}", scales.xi_q
    pace = f", by a factor of e every {xi:.3g} layers" if math.isfinite(xi) else ""
    pace = ", more slowly than exponentially" if math.isinf(xi) else pace
    doubly = ", doubly exponentially: each layer roughly squares it"
    endings = {
        "settles": f"settles at q_star = {q}{pace}.",
        "stays": f"keeps the value of the first layer, {q}: every q is a fixed point.",
        "balances": f"starts on an unstable fixed point, q = {q}, which it leaves at finite width, either way.",
        "vanishes": f"decays to 0{doubly if scales.chi == 0 else pace}.",
        "grows": f"grows without bound{doubly if math.isinf(scales.chi) else ''}.",
    }
    return f"The variance of the pre-activations {endings[scales.variance]}"


def _gradient(scales: DepthScales) -> str:
    if scales.chi == 0 or math.isinf(scales.chi):
        return f"The rate of the gradient goes to {number(scales.chi)} with it."
    if scales.phase == "critical":
        return f"Deep in the stack squared gradients keep their size from layer to layer, chi = {scales.chi:.4g}."
    return f"Deep in the stack each layer multiplies squared gradients by chi = {scales.chi:.4g} towards the input."


def _network(scales: DepthScales, depth: int, log10_delta: float) -> str:
    """The change of the gradient over this network, whose first layer has this log10 delta."""
    subject = f"the {depth} layers of this network delta_rms"
    if abs(log10_delta) < NEAR:
        return f"Over {subject} keeps its size."
    over, still = ("That is the limit: over", " still") if scales.phase == "critical" else ("Over", "")
    change = f"{'grows' if log10_delta > 0 else 'shrinks'} by a factor of {power_of_ten(abs(log10_delta))}"
    return f"{over} {subject}{still} {change} towards the input."


def reasons(config: schema.Config, scales: DepthScales | None, slope: float) -> dict[str, str]:
    """Map each quantity without a value to the reason, unless a `NoTheory` error explains it already."""
    missing: dict[str, str] = {}
    if math.isnan(slope) and config.model.depth < 2:
        missing["delta_slope"] = "a slope needs two layers; choose model.depth=2 or more."
    elif math.isnan(slope):
        missing["delta_slope"] = "no gradient enters the layers; choose another residual.alpha or smaller variances."
    if not is_plain(config):
        why = "theory of plain networks only (Schoenholz et al. 2017); with norms or skips see chi."
        missing |= dict.fromkeys(("xi_q", "xi_c", "trainable_depth"), why)
    elif scales is not None:
        if math.isnan(scales.xi_q):
            missing["xi_q"] = "the variance has no limit to approach."
        if math.isnan(scales.xi_c):
            missing["xi_c"] = "the correlation of two examples has no known limit where the variance diverges."
        if math.isnan(scales.trainable_depth):
            missing["trainable_depth"] = f"the rate chi itself goes to {number(scales.chi)}, so that it sets no depth."
    return missing


def advice(
    config: schema.Config, scales: DepthScales | None, log_delta: Array | None, remedy: Sequence[str], critical: str
) -> str:
    """The change that makes the limit critical: the overrides `remedy`, and `critical`, the change of weight_var."""
    if scales is None:
        return ""
    if scales.phase != "critical":
        if not remedy:
            return "No init, norm or skip is known that would make this critical; choose another activation."
        return f"Critical would be {' '.join(remedy)}, all else equal{critical and f': {critical}'}."
    asides = {
        "grows": "nothing has to change for the gradient, but the variance grows with the depth.",
        "balances": "nothing has to change for the gradient, but the variance is unstable.",
    }
    advised = f"Critical: {asides.get(scales.variance, 'nothing has to change.')}"
    if config.residual.name != "none" and log_delta is not None and log_delta[0] > NEAR * math.log(10):
        alpha = 1 / math.sqrt(len(log_delta))
        if abs(branch_scale(config)) > 1.01 * alpha:
            advised += f" Smaller branches grow less: residual=scaled residual.alpha={alpha:.2g} is 1 / sqrt(depth)."
    return advised


def assumptions(
    config: schema.Config, input_q: float, features: int | None, prediction: Prediction | None
) -> tuple[str, ...]:
    """The assumptions of a report; `features` is None where the size of an input is unknown."""
    width = config.model.width
    unknown = f"The number of features is unknown, and taken to be {width} in the first map."
    networks = f"replicas={config.replicas} networks of model.width={width}"
    band = f"The band is for the geometric mean over {networks}, {SIGMAS:g} standard deviations to either side."
    return (
        "The network is at initialization, in training mode, with layers so wide that pre-activations are Gaussian.",
        "The gradient that enters at the last layer, and the weights that it meets, are independent of the"
        " activations. (The loss couples them: ignore a few layers at both ends in a comparison.)",
        f"Inputs have a mean square of {input_q:.6g}.",
        *(() if features else (unknown,)),
        *((band, *prediction.assumptions) if prediction else ()),
    )


def number(value: float) -> str:
    """Four digits, or infinity, or none for NaN."""
    if math.isnan(value):
        return "none"
    return "infinity" if math.isinf(value) else f"{value:.4g}"


def power_of_ten(log10: float, digits: int = 3) -> str:
    """Format 10**log10 of any size: 0.0143, 2.5e-630."""
    if not math.isfinite(log10):
        return "none" if math.isnan(log10) else "infinity" if log10 > 0 else "0"
    if -3 <= log10 < 4:
        return f"{10**log10:.{digits}g}"
    mantissa, _, exponent = f"{10 ** (log10 % 1):.{digits - 1}e}".partition("e")  # 9.999 rounds to 1.00e+01
    return f"{mantissa}e{math.floor(log10) + int(exponent):+03d}"
