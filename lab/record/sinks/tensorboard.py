"""TensorBoard: one event file and one TensorBoard run per run.

Every value is a mean over the replicas that have not diverged, or over all of them once all have. Scales are shown as
the mean of log10, where an exact 0 counts as `LOG10_FLOOR` and Inf stays Inf. A quantity that is not applicable (NaN,
such as the dead fraction of tanh) has no tag. The mean does not hide failures: `train/diverged_fraction` is the share
of replicas that it excludes, and `health/nonfinite` and `layers/nonfinite` count over all of them.

TensorBoard groups tags by the part before the first `/`, sorts the groups by name and opens the first two on its Time
Series and Scalars pages; an open group shows up to 12 cards. So the first two groups have to be small:

    eval      loss, accuracy                                                 open
    health    one number over all layers                                     open
    heat_map  layer x step, one image per run
    jacobian  singular values from the input to the last hidden layer, with probe.jacobian=true
    layers    one tag per quantity and layer
    profile   a quantity against depth, measured and predicted: TensorBoard's step is the layer
    quarters  log10 delta_rms at 0, 1/4, 1/2, 3/4 and all of the depth: the same five tags at any depth, so that the
              Custom Scalars page, whose charts TensorBoard collects from all runs, does not grow with a sweep of depths
    train     loss, gradient norms, delta_slope, diverged replicas
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.scalar import metadata as scalar_metadata
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import custom_scalars, histogram, image

from lab.plot.heat_map import HeatMap
from lab.readings import LAYER_QUANTITIES, SCALAR_QUANTITIES, SPECTRA, Quantity, Record
from lab.record.overlay import Overlay
from lab.schema import CHOICES, Config
from lab.typing import Array

LOG10_FLOOR = {"float32": -50.0, "float64": -350.0}
"""Dtype -> the value shown for log10 of 0, below that of the smallest positive number, -44.8 and -323.3."""

NOT_APPLICABLE = "-"
"""Value of a hyperparameter that the chosen option does not have."""

HYPERPARAMETERS = (
    *("activation", "init", "init.gain", "norm", "residual", "clip", "data", "optimizer", "optimizer.lr"),
    *("optimizer.weight_decay", "model.depth", "model.width", "model.block", "steps", "batch_size", "replicas"),
    *("first_replica", "seed", "dtype"),
)
"""Keys of every configuration; with `OPTIONS`, the columns of the HParams table."""

OPTIONS = ("init.weight_var", "norm.place", "residual.alpha", "clip.max_norm", "optimizer.momentum")
"""Keys of some choices only: shown as text, since a column has one type, or as `NOT_APPLICABLE`."""

SHOWN_FIRST = ("activation", "init", "model.depth", "norm", "residual")
"""Hyperparameters declared to differ between runs: the table opens with them; the rest are a click away."""

METRICS = (
    *("train/loss", "eval/accuracy", "train/delta_slope", "health/dead_fraction", "train/diverged_fraction"),
    *("eval/loss", "health/log10_delta_rms_first_over_last"),
)
"""Tags whose last value is shown in the HParams table, which opens with the first five."""

CHARTS = {
    "log10 delta_rms against layer: first and last reading, and theory for the first": [
        "profile/log10_delta_rms/first",
        "profile/log10_delta_rms/last",
        "profile/log10_predicted_delta_rms",
    ],
    "training loss": ["train/loss"],
    "delta_slope: decades of gradient per layer": ["train/delta_slope"],
    "log10 delta_rms at 0, 1/4, 2/4, 3/4 and 4/4 of the depth": [f"quarters/log10_delta_rms/{k}" for k in range(5)],
    "held-out accuracy": ["eval/accuracy"],
    "dead share": ["health/dead_fraction"],
    "diverged share of replicas": ["train/diverged_fraction"],
}
"""Title -> tags of the Custom Scalars page."""

FLUSH_SECONDS = 10
"""Largest delay of a live TensorBoard behind the run."""


class TensorBoard:
    """Writes TensorBoard's event file into `folder`, which is created if necessary."""

    def __init__(self, folder: Path, config: Config, expected: Overlay | None = None) -> None:
        self._config, self._expected = config, expected
        self._digits = max(3, len(str(config.model.depth - 1)))  # so that runs of any depth share the tags of a layer
        self._floor = LOG10_FLOOR[config.dtype]
        self._tags: set[str] = set()
        self._heat_map = HeatMap(zero=self._floor)
        self._last: Record | None = None
        self._profiles: dict[str, Array] = {}
        self._writer = FileWriter(folder, flush_secs=FLUSH_SECONDS)
        self._add(custom_scalars(_layout(CHARTS)))
        # Not add_hparams: it opens a second event file and writes a scalar of its own for each metric.
        self._add(_hparams(metadata.EXPERIMENT_TAG, experiment=_experiment(hyperparameters(config))))
        self._add(_hparams(metadata.SESSION_START_INFO_TAG, session_start_info=_start(hyperparameters(config))))

    def write(self, record: Record) -> None:
        """Write one reading, as one event at any depth."""
        layers = layers_over_replicas(record, self._floor)
        # The last reading has no update and a diverged run no gradient: keep the last values that exist.
        self._profiles |= {label: values for label, values in layers.items() if not np.all(np.isnan(values))}
        if self._last is None:
            self._write_profiles("first")
            self._write_predictions(record)
        self._last = record
        self._heat_map.add(record.step, layers["log10_delta_rms"])
        summary = Summary()
        for tag, value, description in self._scalars(record, layers):
            # NaN means not applicable; only once all replicas have diverged does it end a curve.
            if value == value or tag == "train/loss" or (_all_diverged(record) and tag in self._tags):
                self._append(summary, tag, value, description)
        for name, values in record.spectra.items():
            finite = values[np.isfinite(values)]
            if finite.size:  # a histogram of nothing is an error
                shown = _shown(finite, SPECTRA[name], self._floor)
                summary.value.append(
                    histogram(f"jacobian/log10_{name.removeprefix('jacobian_')}", shown, "auto").value[0]
                )
        self._add(summary, record.step)

    def close(self) -> None:
        """Write the last profiles, the heat map and the final status."""
        status = api_pb2.STATUS_UNKNOWN
        if self._last is not None:
            self._write_profiles("last")
            self._add(image("heat_map/log10_delta_rms", self._heat_map.draw(), dataformats="HWC"), self._last.step)
            if _all_diverged(self._last):
                status = api_pb2.STATUS_FAILURE
            elif self._last.step == self._config.steps:
                status = api_pb2.STATUS_SUCCESS
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._add(_hparams(metadata.SESSION_END_INFO_TAG, session_end_info=end))
        self._writer.close()

    def _scalars(self, record: Record, layers: Mapping[str, Array]) -> Iterator[tuple[str, float, str]]:
        """Yield (tag, value, description) of a reading; NaN for a missing value."""
        evaluated = any(np.any(~np.isnan(x)) for name, x in record.scalars.items() if name.startswith("eval_"))
        for name, quantity in SCALAR_QUANTITIES.items():
            if name not in record.scalars or (name.startswith("eval_") and not evaluated):
                continue
            group = next((group for group in ("eval", "jacobian") if name.startswith(f"{group}_")), "train")
            label = name.removeprefix(f"{group}_")
            value = float(_over_replicas(_shown(record.scalars[name], quantity, self._floor), record))
            yield f"{group}/{_log10_name(label, quantity)}", value, self._describe(quantity)
        yield "train/diverged_fraction", float(np.mean(record.diverged_at >= 0)), "share of replicas that have diverged"
        yield from _health(layers)
        yield from _quarters(layers["log10_delta_rms"])
        for name, quantity in LAYER_QUANTITIES.items():
            label = _log10_name(name, quantity)
            if label in layers:
                description = self._describe(quantity, over="sum over all replicas" if name == "nonfinite" else None)
                for layer, value in enumerate(layers[label].tolist()):
                    yield f"layers/{label}/{layer:0{self._digits}d}", value, description

    def _write_profiles(self, when: str) -> None:
        """Write the latest values of every scale against depth: one event per layer, whose step is the layer."""
        scales = {
            _log10_name(name, quantity): quantity for name, quantity in LAYER_QUANTITIES.items() if quantity.is_scale
        }
        for layer in range(self._config.model.depth):
            summary = Summary()
            for label, quantity in scales.items():
                if label in self._profiles and not math.isnan(value := float(self._profiles[label][layer])):
                    about = f"{self._describe(quantity)}. Against depth at the {when} reading: the step is the layer."
                    self._append(summary, f"profile/{label}/{when}", value, about)
            self._add(summary, layer)

    def _write_predictions(self, first: Record) -> None:
        """Write the predictions of theory against depth, one event per layer."""
        if self._expected is None:
            return
        expected = {
            "delta_rms": self._expected.scaled_delta_rms(first).middle,
            "pre_rms": self._expected.pre_rms.middle,
        }
        for layer in range(self._config.model.depth):
            summary = Summary()
            for name, values in expected.items():
                value = float(_shown(values[layer], LAYER_QUANTITIES[name], self._floor))
                if not math.isnan(value):
                    about = f"log10 of {name} as predicted by theory for the first reading. The step is the layer."
                    self._append(summary, f"profile/log10_predicted_{name}", value, about)
            self._add(summary, layer)

    def _append(self, summary: Summary, tag: str, value: float, description: str) -> None:
        """Add a scalar; TensorBoard reads the description from the first value of a tag only."""
        if tag in self._tags:
            summary.value.add(tag=tag, simple_value=value)
        else:
            self._tags.add(tag)
            about = scalar_metadata.create_summary_metadata(display_name="", description=description)
            summary.value.add(tag=tag, simple_value=value, metadata=about)

    def _describe(self, quantity: Quantity, over: str | None = None) -> str:
        name, over = quantity.long_name, over or "mean over the replicas that have not diverged"
        if quantity.is_scale:
            name = f"log10 of the {name} ({quantity.units}; an exact 0 is shown as {self._floor:g})"
        return f"{name}; {over}"

    def _add(self, summary: Summary, step: int = 0) -> None:
        self._writer.add_summary(summary, step)


def layers_over_replicas(record: Record, log10_floor: float) -> dict[str, Array]:
    """Map tag name -> (layers,): mean of log10 for scales, sum over all replicas for nonfinite, mean for the rest."""
    layers = {}
    for name, quantity in LAYER_QUANTITIES.items():
        if name not in record.layers:
            continue
        if name == "nonfinite":
            layers[name] = record.layers[name].sum(-1)
        else:
            layers[_log10_name(name, quantity)] = _over_replicas(
                _shown(record.layers[name], quantity, log10_floor), record
            )
    return layers


def hyperparameters(config: Config) -> dict[str, float | str]:
    """Return one value per key, the same keys for every configuration: a number or a name, or the text of an option."""
    values: dict[str, float | str] = {}
    for key in HYPERPARAMETERS + OPTIONS:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part, NOT_APPLICABLE)
        value = getattr(value, "name", value)
        values[key] = float(value) if isinstance(value, int | float) and key not in OPTIONS else str(value)
    return values


def _layout(charts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str | list[str]]]]:
    """Build the argument of torch's `custom_scalars`, whose tags are regular expressions."""
    return {"Gradient health": {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in charts.items()}}


def _experiment(values: Mapping[str, float | str]) -> api_pb2.Experiment:
    infos = []
    for key, value in values.items():
        kind = api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64
        info = api_pb2.HParamInfo(name=key, type=kind, differs=key in SHOWN_FIRST)
        if key in CHOICES:
            info.domain_discrete.extend(list(CHOICES[key]))
        infos.append(info)
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRICS]
    return api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)


def _start(values: Mapping[str, float | str]) -> plugin_data_pb2.SessionStartInfo:
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in values.items():
        if isinstance(value, str):
            info.hparams[key].string_value = value
        else:
            info.hparams[key].number_value = value
    return info


def _hparams(tag: str, **content: Any) -> Summary:
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


def _health(layers: Mapping[str, Array]) -> Iterator[tuple[str, float, str]]:
    total = float(layers["nonfinite"].sum())
    yield "health/nonfinite", total, "NaN or Inf among the gradients: sum over layers and all replicas"
    for name in ("dead_fraction", "saturated_fraction"):
        if name in layers:
            yield f"health/{name}", float(layers[name].mean()), f"{LAYER_QUANTITIES[name].long_name}; mean over layers"
    first, last = float(layers["log10_delta_rms"][0]), float(layers["log10_delta_rms"][-1])
    about = "log10 of delta_rms at layer 0 over delta_rms at the last layer: below 0 where the gradient vanishes"
    yield "health/log10_delta_rms_first_over_last", first - last, about


def _quarters(log10_delta_rms: Array) -> Iterator[tuple[str, float, str]]:
    top = len(log10_delta_rms) - 1
    for k in range(5):
        layer = round(k * top / 4)
        about = f"log10 of delta_rms at layer {layer}, {k}/4 of the way from the input to the loss"
        yield f"quarters/log10_delta_rms/{k}", float(log10_delta_rms[layer]), about


def _shown(values: Array, quantity: Quantity, log10_floor: float) -> Array:
    if not quantity.is_scale:
        return values
    return np.where(values == 0, log10_floor, np.log10(np.where(values == 0, 1.0, values)))


def _over_replicas(values: Array, record: Record) -> Array:
    """Mean over non-diverged replicas, ignoring NaN; over all once every replica has diverged."""
    if _all_diverged(record):
        with np.errstate(invalid="ignore"):  # Inf and -Inf have no mean
            return np.asarray(values.mean(-1))
    living = values[..., record.diverged_at < 0]
    applies = ~np.isnan(living)
    count = applies.sum(-1)
    total = np.where(applies, living, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _all_diverged(record: Record) -> bool:
    return bool(np.all(record.diverged_at >= 0))


def _log10_name(name: str, quantity: Quantity) -> str:
    return f"log10_{name}" if quantity.is_scale else name
