"""Overlay: the theory of a run's first reading, from its configuration and its data.

Nothing measured enters it. Only where curves are overlaid does delta_rms, which theory predicts relative to the last
layer, take the measured value of that layer.
"""

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

MOST_GROUPS = 32
"""Inputs are sorted by their mean square into at most this many groups, each with its own prediction."""
COUPLED = (
    "The loss's gradient is taken to be independent of the activations, which it is not quite;"
    " probe.cotangent=random measures with one that is."
)
BAND_ENDS = {"": "predicted by mean-field theory", "_lower": "lower end of its band", "_upper": "upper end of its band"}


class Expected(NamedTuple):
    """A prediction for the geometric mean over replicas with its band, (depth,) each."""

    middle: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Overlay:
    """The prediction for the first reading."""

    delta_rms: Expected  # relative to the last layer
    pre_rms: Expected
    slope: Slope  # delta_slope
    jacobian: JacobianMoments | None  # None if no singular values are measured or no theory is known
    assumptions: tuple[str, ...]  # in words

    def scaled_delta_rms(self, first: Record) -> Expected:
        """Scale delta_rms to the geometric mean over replicas that the first reading has at the last layer."""
        last = first.layers["delta_rms"][-1]
        usable = last[np.isfinite(last) & (last > 0)]
        size = float(np.exp(np.mean(np.log(usable)))) if len(usable) else math.nan
        return Expected(*(size * curve for curve in self.delta_rms))

    def variables(self, first: Record) -> Iterator[tuple[str, Array, str, str]]:
        """Yield (name, values (depth,) or (), long_name, units) for the table of readings."""
        mean = "geometric mean over replicas"
        for name, expected, scaling, units in (
            (
                "delta_rms",
                self.scaled_delta_rms(first),
                f"scaled to the {mean} at the last layer",
                "loss per pre-activation",
            ),
            ("pre_rms", self.pre_rms, mean, "1"),
        ):
            for (end, meaning), values in zip(BAND_ENDS.items(), expected, strict=True):
                yield f"predicted_{name}{end}", values, f"{name} at initialization, {meaning}; {scaling}", units
        for name, value in self.jacobian._asdict().items() if self.jacobian is not None else ():
            moment = f"{name.replace('_', ' ')} of the squared singular values of the Jacobian at initialization"
            yield f"predicted_jacobian_{name}", np.asarray(value), f"{moment}, predicted by mean-field theory", "1"

    def judge(self, first: Record) -> dict[str, Any]:
        """Compare with the slope of the first reading, in JSON's types; null where a number is not known."""
        slopes = first.scalars["delta_slope"]
        is_complete = np.all(np.isfinite(first.layers["delta_rms"]) & (first.layers["delta_rms"] > 0), axis=0)
        measured = float(np.mean(slopes[is_complete])) if is_complete.any() else math.nan
        numbers = {
            "measured": measured,
            "predicted": self.slope.mean_field,
            "finite_width_shift": self.slope.shift,
            "standard_error": self.slope.standard_error,
            "z": self.slope.z(measured),
        }
        known = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"delta_slope": known, "assumptions": list(self.assumptions)}


def expect(config: schema.Config, dataset: Dataset) -> Overlay | NoTheory:
    """Predict the first reading of a configuration with init=critical resolved.

    Without a theory, return the `NoTheory` that names the choice it does not cover.
    """
    try:
        prediction = theory.predict(config, _first_inputs(config, dataset), dataset.features)
        band = theory.bands(config, prediction)
    except NoTheory as none:
        return none
    return Overlay(
        delta_rms=Expected(prediction.delta_rms, *band.delta_rms),
        pre_rms=Expected(prediction.pre_rms, *band.pre_rms),
        slope=theory.expected_slope(config, prediction),
        jacobian=_jacobian(config, dataset),
        assumptions=(*prediction.assumptions, *([COUPLED] if config.probe.cotangent == "loss" else [])),
    )


def judge(expected: Overlay | NoTheory, first: Record | None) -> Mapping[str, Any]:
    """Return the `theory` entry of summary.json: the comparison, or why there is none."""
    if isinstance(expected, NoTheory):
        return {"none": str(expected)}
    return expected.judge(first) if first is not None else {"none": "there is no reading to compare with."}


def _first_inputs(config: schema.Config, dataset: Dataset) -> Array:
    """Mean squares over features of the inputs of the first batches, averaged in groups of similar size."""
    squares: list[torch.Tensor] = []
    for replica in range(config.first_replica, config.first_replica + config.replicas):
        x, _ = Batches(dataset, config.batch_size, [streams(config.seed, replica).batches], block_steps=1).next()
        squares.append(x.double().square().mean(-1).flatten())
    ordered = np.sort(torch.cat(squares).cpu().numpy())
    return np.array([np.mean(group) for group in np.array_split(ordered, min(MOST_GROUPS, len(ordered)))])


def _jacobian(config: schema.Config, dataset: Dataset) -> JacobianMoments | None:
    if not config.probe.jacobian:
        return None
    if isinstance(config.activation, schema.RReLU):  # measured with the mean of its slopes
        mean_slope = (config.activation.lower + config.activation.upper) / 2
        config = replace(config, activation=schema.LeakyReLU("leaky_relu", mean_slope))
    example = float(dataset.train_x[0].double().square().mean())
    try:
        return theory.jacobian_moments(config, example, dataset.features)
    except NoTheory:
        return None
