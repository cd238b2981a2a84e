"""The TensorBoard sink, read back with TensorBoard's own reader."""

import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from lab import schema
from lab.plot.heat_map import HeatMap
from lab.readings import Record
from lab.record.sinks.tensorboard import TensorBoard, hyperparameters

SCALES = (
    *("pre_rms", "act_rms", "delta_rms", "weight_grad_norm", "bias_grad_norm", "weight_norm", "layer_gain"),
    "update_ratio",
)
THEORY = "^profile/log10_predicted_delta_rms$"  # of a run whose configuration has one
PLAIN = ("pre_mean", "act_mean", "zero_fraction", "dead_fraction", "saturated_fraction", "nonfinite")
SCALARS = (
    *("loss", "eval_loss", "eval_accuracy", "grad_norm", "clipped_grad_norm", "delta_slope"),
    *("readout_weight_grad_norm", "readout_weight_norm"),
)


def reading(step: int, depth: int = 3, replicas: int = 2, diverged: Iterable[int] = (), **changes: Any) -> Record:
    """A healthy reading with value 0.5 everywhere, but for the quantities in `changes` and the `diverged` replicas."""
    layers = {name: np.full((depth, replicas), 0.5) for name in SCALES + PLAIN}
    layers["nonfinite"][:] = 0
    scalars = {name: np.full(replicas, 0.5) for name in SCALARS}
    for name, values in changes.items():
        table = layers if name in layers else scalars
        table[name] = np.broadcast_to(np.asarray(values, np.float64), table[name].shape)
    at = np.array([step if replica in set(diverged) else -1 for replica in range(replicas)])
    return Record(step, layers, scalars, at, at, seconds=float(step))


def configuration(depth: int = 3, replicas: int = 2, steps: int = 20, **choices) -> schema.Config:
    return schema.Config(model=schema.Model(depth=depth), replicas=replicas, steps=steps, **choices)


def write(folder: Path, records: Iterable[Record], config: schema.Config | None = None) -> EventAccumulator:
    sink = TensorBoard(folder, config or configuration())
    for record in records:
        sink.write(record)
    sink.close()
    return read(folder)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    return events.Reload()


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def hparams(events: EventAccumulator, kind: str):
    content = events.SummaryMetadata(f"_hparams_/{kind}").plugin_data.content
    return getattr(plugin_data_pb2.HParamsPluginData.FromString(content), kind)


def test_a_run_is_one_event_file_and_one_tensorboard_run(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / name, [reading(0), reading(20)])
        assert [path.name.split(".")[2] for path in (tmp_path / name).rglob("*")] == ["tfevents"]
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert set(runs.Runs()) == {"a", "b"}


def test_a_scale_is_shown_as_the_mean_of_log10_over_replicas_and_a_fraction_as_the_mean(tmp_path: Path):
    record = reading(
        20, grad_norm=[1e-2, 1e-4], loss=[1.0, 3.0], delta_rms=[[1e-2, 1e-6], [1, 1], [10, 1e3]], dead_fraction=[0, 0.5]
    )
    events = write(tmp_path, [record])
    assert curve(events, "train/log10_grad_norm") == {20: pytest.approx(-3)}
    assert curve(events, "train/loss") == {20: 2.0}
    assert [curve(events, f"layers/log10_delta_rms/00{layer}")[20] for layer in range(3)] == pytest.approx([-4, 0, 2])
    assert curve(events, "layers/dead_fraction/001") == {20: 0.25}
    assert curve(events, "health/dead_fraction") == {20: 0.25}
    assert curve(events, "health/log10_delta_rms_first_over_last") == {20: pytest.approx(-6)}


def test_a_reading_is_a_single_event_at_any_depth(tmp_path: Path):
    write(tmp_path, [reading(step, depth=40) for step in (0, 10, 20)], configuration(depth=40))
    (file,) = tmp_path.iterdir()
    with_layers = [e for e in EventFileLoader(str(file)).Load() if any("layers/" in v.tag for v in e.summary.value)]
    assert [event.step for event in with_layers] == [0, 10, 20]
    assert all(len(event.summary.value) > 14 * 40 for event in with_layers)


def test_an_exact_zero_is_shown_as_the_floor_and_infinity_as_infinity(tmp_path: Path):
    events = write(tmp_path, [reading(20, delta_rms=[[0, 0], [0, 1e-20], [1, np.inf]])])
    assert [curve(events, f"layers/log10_delta_rms/00{layer}")[20] for layer in range(3)] == [-50, -35, math.inf]
    assert math.log10(np.finfo(np.float32).smallest_subnormal) > -50
    assert "shown as -50" in events.SummaryMetadata("layers/log10_delta_rms/000").summary_description


def test_in_float64_a_gradient_of_1e_minus_63_stays_above_an_exact_zero(tmp_path: Path):
    config = configuration(dtype="float64")
    events = write(tmp_path, [reading(20, delta_rms=[[0, 0], [1e-63, 1e-63], [5e-324, 5e-324]])], config)
    zero, small, smallest = (curve(events, f"layers/log10_delta_rms/00{layer}")[20] for layer in range(3))
    assert (smallest, small) == pytest.approx((-323.3, -63), abs=0.01)
    assert zero < smallest


def test_what_does_not_apply_has_no_tag(tmp_path: Path):
    nan = np.nan
    events = write(
        tmp_path, [reading(20, dead_fraction=nan, update_ratio=nan, layer_gain=[[nan, nan], [1, nan], [1, 1]])]
    )
    tags = events.Tags()["scalars"]
    assert not [tag for tag in tags if "dead_fraction" in tag or "update_ratio" in tag]
    assert "layers/log10_layer_gain/000" not in tags
    assert curve(events, "layers/log10_layer_gain/001") == {20: 0}


def test_evaluation_appears_only_where_it_was_done(tmp_path: Path):
    skipped: dict[str, Any] = {"eval_loss": np.nan, "eval_accuracy": np.nan}
    events = write(tmp_path, [reading(0), reading(10, **skipped), reading(20)])
    assert list(curve(events, "eval/accuracy")) == list(curve(events, "eval/loss")) == [0, 20]
    dead = write(tmp_path / "dead", [reading(0), reading(10, diverged=[0, 1], **skipped)])
    assert list(curve(dead, "eval/loss")) == [0]


def test_a_diverged_replica_leaves_the_means_and_is_counted(tmp_path: Path):
    broken: dict[str, Any] = {"loss": [2.0, np.nan], "delta_rms": [0.1, np.nan], "nonfinite": [[0, 7], [0, 5], [0, 0]]}
    broken |= {"grad_norm": [0.1, np.inf], "weight_norm": [1, 1e4]}
    events = write(tmp_path, [reading(0), reading(20, diverged=[1], **broken)])
    assert curve(events, "train/loss")[20] == 2.0
    assert curve(events, "layers/log10_delta_rms/000")[20] == pytest.approx(-1)
    assert curve(events, "train/log10_grad_norm")[20] == pytest.approx(-1)
    assert curve(events, "layers/log10_weight_norm/000")[20] == 0
    assert curve(events, "train/diverged_fraction") == {0: 0, 20: 0.5}
    assert curve(events, "layers/nonfinite/000") == {0: 0, 20: 7}
    assert curve(events, "health/nonfinite") == {0: 0, 20: 12}
    assert hparams(events, "session_end_info").status == api_pb2.STATUS_SUCCESS


def test_when_all_replicas_have_diverged_their_curves_end_in_nan_but_those_that_never_were_do_not_start(tmp_path: Path):
    never: dict[str, Any] = {"dead_fraction": np.nan}
    broken: dict[str, Any] = {
        "loss": np.nan,
        "delta_rms": [[1, np.nan], [1, 1], [np.inf, np.inf]],
        "nonfinite": 4,
    } | never
    events = write(tmp_path, [reading(0, **never), reading(10, diverged=[0, 1], **broken)])
    assert math.isnan(curve(events, "train/loss")[10])
    assert math.isnan(curve(events, "layers/log10_delta_rms/000")[10])
    assert curve(events, "layers/log10_delta_rms/001")[10] == 0
    assert curve(events, "layers/log10_delta_rms/002")[10] == math.inf
    assert curve(events, "health/nonfinite")[10] == 4 * 3 * 2
    assert curve(events, "train/diverged_fraction")[10] == 1
    assert not [tag for tag in events.Tags()["scalars"] if "dead_fraction" in tag]
    assert hparams(events, "session_end_info").status == api_pb2.STATUS_FAILURE


def test_a_run_that_diverges_at_its_first_reading_still_shows_that_it_did(tmp_path: Path):
    broken: dict[str, Any] = dict.fromkeys((*SCALES, "loss", "eval_loss", "eval_accuracy", "delta_slope"), np.nan)
    events = write(tmp_path, [reading(0, diverged=[0, 1], nonfinite=9, **broken)])
    assert math.isnan(curve(events, "train/loss")[0])
    assert curve(events, "health/nonfinite") == {0: 9 * 3 * 2}
    assert events.Images("heat_map/log10_delta_rms")


def test_a_run_cut_short_is_no_success_and_one_without_any_reading_closes(tmp_path: Path):
    cut = write(tmp_path / "cut", [reading(0), reading(10)])
    assert hparams(cut, "session_end_info").status == api_pb2.STATUS_UNKNOWN
    empty = write(tmp_path / "empty", [])
    assert hparams(empty, "session_end_info").status == api_pb2.STATUS_UNKNOWN


@pytest.mark.parametrize(("depth", "last"), [(1, "000"), (100, "099"), (1001, "1000")])
def test_layers_sort_as_text_and_runs_of_any_usual_depth_share_their_tags(tmp_path: Path, depth: int, last: str):
    events = write(tmp_path, [reading(20, depth=depth)], configuration(depth))
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("layers/log10_delta_rms/")]
    assert tags == sorted(tags)
    assert len(tags) == depth
    assert tags[-1].endswith(f"/{last}")


def test_a_profile_has_the_layer_as_its_step_and_a_tag_for_each_end_of_the_run(tmp_path: Path):
    first, between, last = [[1e-3], [1e-2], [1e-1]], 1.0, [[1e-6], [1e-4], [1e-2]]
    events = write(tmp_path, [reading(0, delta_rms=first), reading(10, delta_rms=between), reading(20, delta_rms=last)])
    for when, expected in (("first", [-3, -2, -1]), ("last", [-6, -4, -2])):
        points = [(event.step, event.value) for event in events.Scalars(f"profile/log10_delta_rms/{when}")]
        assert [step for step, _ in points] == [0, 1, 2]
        assert [value for _, value in points] == pytest.approx(expected)
    profiles = {tag for tag in events.Tags()["scalars"] if tag.startswith("profile/")}
    assert profiles == {f"profile/log10_{name}/{when}" for name in SCALES for when in ("first", "last")}


def test_a_last_profile_that_the_last_reading_lacks_is_the_one_before(tmp_path: Path):
    records = [reading(0, update_ratio=1e-1), reading(10, update_ratio=1e-2), reading(20, update_ratio=np.nan)]
    assert curve(write(tmp_path, records), "profile/log10_update_ratio/last") == pytest.approx({0: -2, 1: -2, 2: -2})


@pytest.mark.parametrize("depth", [1, 100])
def test_the_two_groups_that_tensorboard_opens_hold_at_most_12_cards(tmp_path: Path, depth: int):
    tags = write(tmp_path, [reading(20, depth=depth)], configuration(depth)).Tags()
    groups = sorted({tag.split("/")[0] for tag in tags["scalars"] + tags["images"]})
    assert groups == ["eval", "health", "heat_map", "layers", "profile", "quarters", "train"]
    assert len([tag for tag in tags["scalars"] if tag.split("/")[0] in groups[:2]]) == 6


def test_the_layout_charts_existing_tags_in_at_most_12_cards_for_a_sweep_of_depths_together(tmp_path: Path):
    charts = {}
    for depth in (1, 5, 100):
        events = write(tmp_path / str(depth), [reading(20, depth=depth)], configuration(depth))
        (packed,) = events.Tensors("custom_scalars__config__")
        layout = layout_pb2.Layout.FromString(packed.tensor_proto.string_val[0])
        (category,) = layout.category
        for chart in category.chart:
            charts[chart.SerializeToString()] = (
                chart  # TensorBoard shows equal charts once, however many runs have them
            )
            matches = [[t for t in events.Tags()["scalars"] if re.match(p, t)] for p in chart.multiline.tag]
            measured = [tags for pattern, tags in zip(chart.multiline.tag, matches, strict=True) if pattern != THEORY]
            assert all(len(tags) == 1 for tags in measured), chart
    assert len(charts) == 7
    first = next(iter(charts.values()))
    assert first.multiline.tag == ["^profile/log10_delta_rms/first$", "^profile/log10_delta_rms/last$", THEORY]


@pytest.mark.parametrize(("depth", "layers"), [(101, [0, 25, 50, 75, 100]), (4, [0, 1, 2, 2, 3]), (1, [0, 0, 0, 0, 0])])
def test_the_quarters_are_evenly_spaced_layers_with_both_ends(tmp_path: Path, depth: int, layers: list[int]):
    by_layer = 10.0 ** -np.arange(depth)[:, None]
    events = write(tmp_path, [reading(20, depth, delta_rms=by_layer)], configuration(depth, dtype="float64"))
    shown = [curve(events, f"quarters/log10_delta_rms/{k}")[20] for k in range(5)]
    assert shown == pytest.approx([-layer for layer in layers])


def every_choice() -> Iterable[schema.Config]:
    for group, options in schema.CHOICES.items():
        for name, make in options.items():
            yield schema.Config(**{group: make(name)})


def test_every_configuration_has_the_same_hyperparameters_of_the_same_types():
    kinds = [{key: type(value) for key, value in hyperparameters(config).items()} for config in every_choice()]
    assert all(kind == kinds[0] for kind in kinds)
    required = {"activation", "init", "norm", "norm.place", "residual", "clip", "data", "optimizer", "optimizer.lr"}
    required |= {"model.depth", "model.width", "model.block", "init.gain", "batch_size", "replicas", "seed", "dtype"}
    assert required <= kinds[0].keys()


def test_hyperparameters_say_what_was_configured_and_a_dash_where_a_choice_has_no_such_option(tmp_path: Path):
    config = configuration(
        norm=schema.BatchNorm("batch", place="pre"), clip=schema.ClipNorm("norm", max_norm=0.1), seed=7
    )
    values = hparams(write(tmp_path, [reading(20)], config), "session_start_info").hparams
    texts = {"activation": "relu", "norm": "batch", "norm.place": "pre", "clip.max_norm": "0.1", "residual.alpha": "-"}
    assert {key: values[key].string_value for key in texts} == texts
    numbers = {"model.depth": 3.0, "seed": 7.0, "optimizer.lr": 0.01, "init.gain": 1.0}
    assert {key: values[key].number_value for key in numbers} == numbers


def test_the_hparams_table_reads_its_metrics_from_tags_that_are_there(tmp_path: Path):
    events = write(tmp_path, [reading(20)])
    metrics = [info.name.tag for info in hparams(events, "experiment").metric_infos]
    assert {"train/loss", "eval/accuracy", "train/delta_slope", "health/dead_fraction"} <= set(metrics)
    assert set(metrics) <= set(events.Tags()["scalars"])


def test_the_hparams_table_filters_by_the_options_of_a_choice_and_opens_with_what_is_compared_most(tmp_path: Path):
    infos = {info.name: info for info in hparams(write(tmp_path, [reading(20)]), "experiment").hparam_infos}
    assert list(infos["norm"].domain_discrete) == ["none", "batch", "layer", "rms"]
    first = {name for name, info in infos.items() if info.differs}  # TensorBoard shows those first, five in all
    assert first == {"activation", "init", "norm", "residual", "model.depth"}


def picture_of(log10_delta_rms: np.ndarray) -> np.ndarray:
    """The heat map of (steps, layers) as pixels, (height, width, 3)."""
    heat_map = HeatMap(zero=-50)
    for step, column in enumerate(log10_delta_rms):
        heat_map.add(step, column)
    return heat_map.draw()


def test_the_heat_map_in_the_event_file_is_a_picture(tmp_path: Path):
    events = write(tmp_path, [reading(0), reading(20)])
    (shown,) = events.Images("heat_map/log10_delta_rms")
    assert shown.step == 20
    with Image.open(io.BytesIO(shown.encoded_image_string)) as picture:
        assert picture.size == (shown.width, shown.height)


def test_the_heat_map_has_layer_0_at_the_bottom_the_first_step_at_the_left_and_small_gradients_dark():
    by_layer = picture_of(np.tile(np.linspace(-9, 0, 10), (10, 1))).astype(float).sum(-1)  # vanishing towards the input
    height, width = by_layer.shape
    assert by_layer[int(0.7 * height), width // 2] < by_layer[int(0.2 * height), width // 2] - 200
    by_step = picture_of(np.tile(np.linspace(-9, 0, 10)[:, None], (1, 10))).astype(float).sum(-1)  # healing over steps
    assert by_step[height // 2, int(0.2 * width)] < by_step[height // 2, int(0.7 * width)] - 200


def test_the_heat_map_shows_exact_zeros_black_and_does_not_let_them_stretch_the_scale():
    values = np.tile(np.linspace(-1, 0, 10), (10, 1))
    healthy, with_zero = picture_of(values), picture_of(np.concatenate([np.full((1, 10), -50.0), values]))
    assert tuple(with_zero[200, 80]) == (0, 0, 0) != tuple(healthy[200, 80])
    dark, bright = with_zero[350, 400].sum(), with_zero[60, 400].sum()  # of the layers at -1 and 0
    assert bright > dark + 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -50.0, 0.0])
def test_the_heat_map_of_a_single_reading_of_one_layer_is_drawn_whatever_it_holds(value: float):
    assert picture_of(np.full((1, 1), value)).shape[-1] == 3


def test_the_heat_map_of_a_long_run_keeps_a_bounded_number_of_columns_and_the_last_reading():
    heat_map = HeatMap(zero=-50)
    for step in range(5000):
        heat_map.add(step, np.zeros(2))
    steps = [step for step, _ in heat_map.columns()]
    assert len(steps) <= 513
    assert steps[0] == 0
    assert steps[-1] == 4999
    assert len(set(np.diff(steps)[:-1])) == 1
