"""TensorBoard: one event file and one TensorBoard run per run.

Every value is one number over the replicas: the mean over those that have not diverged, or over all of them once all
have. Scales are shown as the mean of log10, where an exact 0 counts as `LOG10_FLOOR` and Inf stays Inf. What does not
apply (NaN, as the dead share of tanh) has no tag. `train/diverged_fraction` says how many replicas the means leave out;
`health/nonfinite` and `layers/nonfinite` count over all of them.

TensorBoard groups tags by what stands before the first `/`, sorts the groups by name and opens the first two, each with
up to 12 cards. So the first two groups have to be small ones:

    eval      loss, accuracy                                                 open
    health    one number over all layers                                     open
    heat_map  layer x step, one image a run
    jacobian  singular values from the input to the last hidden layer, with probe.jacobian=true
    layers    one tag for each quantity and layer
    profile   a quantity against depth, measured and predicted: what TensorBoard calls step is the layer
    quarters  log10 delta_rms at 0, 1/4, 1/2, 3/4 and all of the depth: the same tags, and charts, at any depth
    train     loss, gradient norms, delta_slope, diverged replicas
"""

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
"""By dtype, what stands for log10 of an exact 0: below the smallest number there is, 10^-44.8 and 10^-323.3."""
NOT_THERE = "-"
"""The value of a hyperparameter that the chosen option does not have."""
HYPERPARAMETERS = (
    *("activation", "init", "init.gain", "norm", "residual", "clip", "data", "optimizer", "optimizer.lr"),
    *("optimizer.weight_decay", "model.depth", "model.width", "model.block", "steps", "batch_size", "replicas"),
    *("first_replica", "seed", "dtype"),
)
"""Keys that every configuration has; with `OPTIONS`, the one key set of the HParams table."""

OPTIONS = ("init.weight_var", "norm.place", "residual.alpha", "clip.max_norm", "optimizer.momentum")
"""Keys that only some choices have: text, `NOT_THERE` where there is none, for a column has one type."""

SHOWN_FIRST = ("activation", "init", "model.depth", "norm", "residual")
"""The table opens with the five hyperparameters that are said to differ between runs; the rest are a click away."""

METRICS = (
    *("train/loss", "eval/accuracy", "train/delta_slope", "health/dead_fraction", "train/diverged_fraction"),
    *("eval/loss", "health/log10_delta_rms_first_over_last"),
)
"""The tags whose last value stands in the HParams table, which opens with the first five."""

CHARTS = {
    "log10 delta_rms against layer: first and last reading, and theory for the first": [
        f"profile/log10_{name}" for name in ("delta_rms/first", "delta_rms/last", "predicted_delta_rms")
    ],
    "training loss": ["train/loss"],
    "delta_slope: decades of gradient per layer": ["train/delta_slope"],
    "log10 delta_rms at 0, 1/4, 2/4, 3/4 and 4/4 of the depth": [f"quarters/log10_delta_rms/{k}" for k in range(5)],
    "held-out accuracy": ["eval/accuracy"],
    "dead share": ["health/dead_fraction"],
    "diverged share of replicas": ["train/diverged_fraction"],
}
"""Title -> tags of the Custom Scalars page."""

OVER_REPLICAS = "mean over the replicas that have not diverged"
FLUSH_SECONDS = 10
"""A live TensorBoard lags behind the run by at most this."""


class TensorBoard:
    """The sink that writes TensorBoard's event file into `folder`, which is made if it is not there."""

    def __init__(self, folder: Path, config: Config, expected: Overlay | None = None) -> None:
        self._config, self._expected = config, expected
        self._digits = max(3, len(str(config.model.depth - 1)))  # so that runs of any depth share the tags of a layer
        self._floor = LOG10_FLOOR[config.dtype]
        self._tags: set[str] = set()
        self._heat_map = HeatMap(zero=self._floor)
        self._last: Record | None = None
        self._profiles: dict[str, Array] = {}
        self._writer = FileWriter(folder, flush_secs=FLUSH_SECONDS)
        charts = {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in CHARTS.items()}
        self._writer.add_summary(custom_scalars({"Gradient health": charts}))
        # Not add_hparams: it opens a second event file and writes a scalar of its own for each metric.
        self._add_hparams(metadata.EXPERIMENT_TAG, experiment=_experiment(hyperparameters(config)))
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for key, value in hyperparameters(config).items():
            setattr(start.hparams[key], "string_value" if isinstance(value, str) else "number_value", value)
        self._add_hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start)

    def write(self, record: Record) -> None:
        """Write one reading, as one event whatever the depth."""
        layers = {
            name: record.layers[name].sum(-1)
            if name == "nonfinite"
            else _over_replicas(self._shown(record.layers[name], quantity), record)
            for name, quantity in LAYER_QUANTITIES.items()
            if name in record.layers
        }  # (layers,) each
        # The last reading makes no update and a dead run no gradient: the last profile is the last there is.
        self._profiles |= {name: values for name, values in layers.items() if not np.isnan(values).all()}
        if self._last is None:
            self._add_profiles([*self._measured("first")])
            if self._expected is not None:
                self._add_profiles([*self._predicted(record, self._expected)])
        self._last = record
        self._heat_map.add(record.step, layers["delta_rms"])
        summary = Summary()
        for tag, value, description in self._scalars(record, layers):
            # NaN of a living replica means "does not apply"; once all have diverged, it is the end of a curve.
            if value == value or tag == "train/loss" or (_all_diverged(record) and tag in self._tags):
                self._append(summary, tag, value, description)
        for name, values in record.spectra.items():
            finite = values[np.isfinite(values)]
            if finite.size:  # a histogram of nothing is an error
                tag = f"jacobian/log10_{name.removeprefix('jacobian_')}"
                summary.value.append(histogram(tag, self._shown(finite, SPECTRA[name]), "auto").value[0])
        self._writer.add_summary(summary, record.step)

    def close(self) -> None:
        """Write the last profiles, the heat map, and how the run ended."""
        status = api_pb2.STATUS_UNKNOWN
        if self._last is not None:
            self._add_profiles([*self._measured("last")])
            heat_map = image("heat_map/log10_delta_rms", self._heat_map.draw(), dataformats="HWC")
            self._writer.add_summary(heat_map, self._last.step)
            if _all_diverged(self._last):
                status = api_pb2.STATUS_FAILURE
            elif self._last.step == self._config.steps:
                status = api_pb2.STATUS_SUCCESS
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._add_hparams(metadata.SESSION_END_INFO_TAG, session_end_info=end)
        self._writer.close()

    def _scalars(self, record: Record, layers: Mapping[str, Array]) -> Iterator[tuple[str, float, str]]:
        """Yield (tag, value, description) of a reading; NaN where there is no value."""
        is_evaluated = not np.isnan([record.scalars["eval_loss"], record.scalars["eval_accuracy"]]).all()
        for name, quantity in SCALAR_QUANTITIES.items():
            prefix, _, label = name.partition("_")
            if name not in record.scalars or (prefix == "eval" and not is_evaluated):
                continue
            group, label = (prefix, label) if prefix in ("eval", "jacobian") else ("train", name)
            value = float(_over_replicas(self._shown(record.scalars[name], quantity), record))
            yield f"{group}/{_log10_name(label, quantity)}", value, self._describe(quantity)
        yield "train/diverged_fraction", float(np.mean(record.diverged_at >= 0)), "share of replicas that have diverged"
        about = "NaN or Inf among the gradients: sum over layers and all replicas"
        yield "health/nonfinite", float(layers["nonfinite"].sum()), about
        for name in ("dead_fraction", "saturated_fraction"):
            if name in layers:
                about = f"{LAYER_QUANTITIES[name].long_name}; mean over layers"
                yield f"health/{name}", float(layers[name].mean()), about
        delta = layers["delta_rms"].tolist()
        about = "log10 of delta_rms at layer 0 over delta_rms at the last layer: below 0 where the gradient vanishes"
        yield "health/log10_delta_rms_first_over_last", delta[0] - delta[-1], about
        for k in range(5):
            layer = round(k * (len(delta) - 1) / 4)
            about = f"log10 of delta_rms at layer {layer}, {k}/4 of the way from the input to the loss"
            yield f"quarters/log10_delta_rms/{k}", delta[layer], about
        for name, values in layers.items():
            over = "sum over all replicas" if name == "nonfinite" else OVER_REPLICAS
            about, label = self._describe(LAYER_QUANTITIES[name], over), _log10_name(name, LAYER_QUANTITIES[name])
            for layer, value in enumerate(values.tolist()):
                yield f"layers/{label}/{layer:0{self._digits}d}", value, about

    def _measured(self, when: str) -> Iterator[tuple[str, Array, str]]:
        for name, values in self._profiles.items():
            if (quantity := LAYER_QUANTITIES[name]).is_scale:
                yield f"log10_{name}/{when}", values, f"{self._describe(quantity)}. At the {when} reading"

    def _predicted(self, first: Record, expected: Overlay) -> Iterator[tuple[str, Array, str]]:
        for name, curve in (("delta_rms", expected.scaled_delta_rms(first)), ("pre_rms", expected.pre_rms)):
            about = f"log10 of {name} as theory expects it at the first reading"
            yield f"log10_predicted_{name}", self._shown(curve.middle, LAYER_QUANTITIES[name]), about

    def _add_profiles(self, profiles: Sequence[tuple[str, Array, str]]) -> None:
        """Write (tag, values (layers,), description) against depth, as one event per layer."""
        for layer in range(self._config.model.depth):
            summary = Summary()
            for tag, values, description in profiles:
                if not math.isnan(value := float(values[layer])):
                    self._append(summary, f"profile/{tag}", value, f"{description}. The step is the layer.")
            self._writer.add_summary(summary, layer)

    def _append(self, summary: Summary, tag: str, value: float, description: str) -> None:
        """Add a scalar; its description goes with the first value of a tag, the only one TensorBoard reads it from."""
        about = None
        if tag not in self._tags:
            self._tags.add(tag)
            about = scalar_metadata.create_summary_metadata(display_name="", description=description)
        summary.value.add(tag=tag, simple_value=value, metadata=about)

    def _describe(self, quantity: Quantity, over: str = OVER_REPLICAS) -> str:
        name = quantity.long_name
        if quantity.is_scale:
            name = f"log10 of the {name} ({quantity.units}; an exact 0 is shown as {self._floor:g})"
        return f"{name}; {over}"

    def _shown(self, values: Array, quantity: Quantity) -> Array:
        if not quantity.is_scale:
            return values
        return np.where(values == 0, self._floor, np.log10(np.where(values == 0, 1.0, values)))

    def _add_hparams(self, tag: str, **content: Any) -> None:
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
        self._writer.add_summary(Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)]))


def hyperparameters(config: Config) -> dict[str, float | str]:
    """One value a key, the same keys for every configuration: a number or a name, or the text of an option."""
    values: dict[str, float | str] = {}
    for key in HYPERPARAMETERS + OPTIONS:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part, NOT_THERE)
        value = getattr(value, "name", value)
        values[key] = float(value) if isinstance(value, int | float) and key not in OPTIONS else str(value)
    return values


def _experiment(values: Mapping[str, float | str]) -> api_pb2.Experiment:
    infos = []
    for key, value in values.items():
        kind = api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64
        infos.append(api_pb2.HParamInfo(name=key, type=kind, differs=key in SHOWN_FIRST))
        if key in CHOICES:
            infos[-1].domain_discrete.extend(list(CHOICES[key]))
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRICS]
    return api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)


def _over_replicas(values: Array, record: Record) -> Array:
    """Mean over non-diverged replicas (the last axis), ignoring NaN; over all once every replica has diverged."""
    with np.errstate(invalid="ignore"):  # neither Inf and -Inf nor no replicas have a mean
        if _all_diverged(record):
            return np.asarray(values.mean(-1))
        living = values[..., record.diverged_at < 0]
        return np.asarray(np.nansum(living, -1) / np.sum(~np.isnan(living), -1))


def _all_diverged(record: Record) -> bool:
    return bool(np.all(record.diverged_at >= 0))


def _log10_name(name: str, quantity: Quantity) -> str:
    return f"log10_{name}" if quantity.is_scale else name
