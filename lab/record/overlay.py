"""Theory beside the measurement: what a run's first reading is expected to show, from its configuration and its data.

Nothing measured goes into it. Only where curves are laid over one another does delta_rms, which theory knows relative
to the last layer, take that layer's measured size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from lab import schema, theory
from lab.data import Batches, Dataset
from lab.network.seeding import streams
from lab.readings import Record
from lab.theory import JacobianMoments, NoTheory, Slope
from lab.typing import Array

MOST_INPUTS = 32
"""Inputs of different mean square are sorted into this many groups, each with its own prediction."""

COUPLED = (
    "The loss's gradient is taken to be independent of the activations, which it is not quite;"
    " probe.cotangent=random measures with one that is."
)


class Expected(NamedTuple):
    """A prediction for the geometric mean over replicas with its band, (depth,) each."""

    middle: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Overlay:
    """Expected of the first reading.

    Attributes:
        delta_rms: over that of the last layer.
        pre_rms: of the pre-activations.
        slope: delta_slope.
        jacobian: moments of the squared singular values; None where none are measured or no theory is known.
        assumptions: what all this rests on, in words.
    """

    delta_rms: Expected
    pre_rms: Expected
    slope: Slope
    jacobian: JacobianMoments | None
    assumptions: tuple[str, ...]

    def scaled_delta_rms(self, first: Record) -> Expected:
        """delta_rms with the geometric mean over replicas that the first reading has at the last layer."""
        last = first.layers["delta_rms"][-1]
        usable = last[np.isfinite(last) & (last > 0)]
        size = float(np.exp(np.mean(np.log(usable)))) if len(usable) else math.nan
        return Expected(*(size * curve for curve in self.delta_rms))

    def variables(self, first: Record) -> Iterator[tuple[str, Array, str, str]]:
        """(name, values (depth,) or (), long_name, units) of what goes into the table of readings."""
        scaled = "scaled to the geometric mean over replicas at the last layer"
        named = {
            "delta_rms": (self.scaled_delta_rms(first), scaled, "loss per pre-activation"),
            "pre_rms": (self.pre_rms, "geometric mean over replicas", "1"),
        }
        ends = {
            "": "predicted by mean-field theory",
            "_lower": "lower end of its band",
            "_upper": "upper end of its band",
        }
        for name, (expected, how, units) in named.items():
            for (ending, what), values in zip(ends.items(), expected, strict=True):
                yield f"predicted_{name}{ending}", values, f"{name} at initialization, {what}; {how}", units
        if self.jacobian is not None:
            for name, value in self.jacobian._asdict().items():
                what = f"{name.replace('_', ' ')} of the squared singular values of the Jacobian at initialization"
                yield f"predicted_jacobian_{name}", np.asarray(value), f"{what}, predicted by mean-field theory", "1"

    def judge(self, first: Record) -> dict[str, Any]:
        """How the first reading's slope compares, as plain values fit for JSON; null where one is not known."""
        slopes = first.scalars["delta_slope"]
        is_whole = np.all(np.isfinite(first.layers["delta_rms"]) & (first.layers["delta_rms"] > 0), axis=0)
        measured = float(np.mean(slopes[is_whole])) if is_whole.any() else math.nan
        found = {
            "measured": measured,
            "predicted": self.slope.mean_field,
            "finite_width_shift": self.slope.shift,
            "standard_error": self.slope.standard_error,
            "z": self.slope.z(measured),
        }
        known = {name: value if math.isfinite(value) else None for name, value in found.items()}
        return {"delta_slope": known, "assumptions": list(self.assumptions)}


def expect(config: schema.Config, dataset: Dataset) -> Overlay | NoTheory:
    """What theory expects of a run's first reading; a `NoTheory` that says which choice it has none for."""
    config = theory.resolve_critical(config)
    inputs = _first_inputs(config, dataset)
    try:
        prediction = theory.predict(config, inputs, dataset.features)
        band = theory.bands(config, prediction)
    except NoTheory as none:
        return none
    coupled = (COUPLED,) if config.probe.cotangent == "loss" else ()
    return Overlay(
        delta_rms=Expected(prediction.delta_rms, *band.delta_rms),
        pre_rms=Expected(prediction.pre_rms, *band.pre_rms),
        slope=theory.expected_slope(config, prediction),
        jacobian=_jacobian(config, dataset),
        assumptions=(*prediction.assumptions, *coupled),
    )


def judge(expected: Overlay | NoTheory, first: Record | None) -> Mapping[str, Any]:
    """What summary.json says of theory: the comparison, or why there is none."""
    if isinstance(expected, NoTheory):
        return {"none": str(expected)}
    return expected.judge(first) if first is not None else {"none": "there is no reading to compare with."}


def _first_inputs(config: schema.Config, dataset: Dataset) -> Array:
    """Mean squares over features of the inputs of the first batches, in at most `MOST_INPUTS` groups of like size."""
    squares: list[torch.Tensor] = []
    for replica in range(config.first_replica, config.first_replica + config.replicas):
        x, _ = Batches(dataset, config.batch_size, [streams(config.seed, replica).batches], block_steps=1).next()
        squares.append(x.double().square().mean(-1).flatten())
    ordered = np.sort(torch.cat(squares).cpu().numpy())
    return np.array([np.mean(group) for group in np.array_split(ordered, min(MOST_INPUTS, len(ordered)))])


def _jacobian(config: schema.Config, dataset: Dataset) -> JacobianMoments | None:
    if not config.probe.jacobian:
        return None
    if isinstance(config.activation, schema.RReLU):  # looked at with the mean of the slopes
        mean_slope = (config.activation.lower + config.activation.upper) / 2
        config = replace(config, activation=schema.LeakyReLU("leaky_relu", mean_slope))
    example = float(dataset.train_x[0].double().square().mean())
    try:
        return theory.jacobian_moments(config, example, dataset.features)
    except NoTheory:
        return None
