"""`gradlab compare`: medians and bands over replicas and runs, as a table and as small multiples drawn from it."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lab import schema
from lab.compose import compose
from lab.plot import comparison as comparison_figure
from lab.plot.style import COLOURS, MARKERS
from lab.readings import Record, to_dataset
from lab.readings.swept import in_order
from lab.schema import as_dict
from lab.sweep import comparison, results
from tests.conftest import Command
from tests.record.test_tensorboard import reading

pytestmark = pytest.mark.slow

DEPTHS = {"relu": 5, "tanh": 3}
REPLICAS = {1: 4, 2: 2}  # seed -> replicas
LAST = {"he_normal": 30, "orthogonal": 20}
MISSING = ("tanh", "orthogonal")


@functools.cache
def composed(*overrides: str) -> schema.Config:
    return compose(overrides)


def leave(folder: Path, records: list[Record], *overrides: str, status: str = "finished") -> None:
    folder.mkdir(parents=True)
    folder.joinpath("readings.nc").write_bytes(bytes(to_dataset(records).to_netcdf(engine="h5netcdf")))
    folder.joinpath("summary.json").write_text(json.dumps({"status": status, "config": as_dict(composed(*overrides))}))


Truth = Mapping[tuple[str, str, int], Mapping[int, Record]]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """Two activations of different depth by two inits that end at different steps, two seeds each; one pair missing."""
    folder, rng = tmp_path_factory.mktemp("sweep"), np.random.default_rng(0)
    truth: dict[tuple[str, str, int], dict[int, Record]] = {}
    for activation, depth in DEPTHS.items():
        for init, last in LAST.items():
            for seed, replicas in REPLICAS.items() if (activation, init) != MISSING else ():
                records = [
                    reading(
                        step,
                        depth,
                        replicas,
                        delta_rms=10 ** rng.normal(-3, 1, (depth, replicas)),
                        loss=rng.normal(2, 1, replicas),
                        eval_loss=rng.normal(2, 1, replicas) if step in (0, 20) else np.nan,
                        pre_mean=rng.normal(0, 1, (depth, replicas)),
                    )
                    for step in range(0, last + 1, 10)
                ]
                words = (f"activation={activation}", f"init={init}", f"seed={seed}", f"model.depth={depth}")
                leave(folder / ",".join(words), records, *words)
                truth[activation, init, seed] = {record.step: record for record in records}
    return folder, truth


@pytest.fixture(scope="module")
def dataset(sweep: tuple[Path, Truth]) -> xr.Dataset:
    return results.read(sweep[0])


def rows(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


# --- the table ------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_median_over_replicas_and_runs_at_each_runs_first_and_last_reading(
    dataset: xr.Dataset, sweep: tuple[Path, Truth]
):
    table = comparison.table(dataset, ["activation", "init"], "delta_rms")
    for (activation, init), last in {
        ("relu", "he_normal"): 30,
        ("relu", "orthogonal"): 20,
        ("tanh", "he_normal"): 30,
    }.items():
        for name, step in (("first", 0), ("last", last)):
            found = rows(table, activation=activation, init=init, reading=name)
            both = np.concatenate(
                [sweep[1][activation, init, seed][step].layers["delta_rms"] for seed in (1, 2)], axis=1
            )
            assert found["layer"].tolist() == list(range(DEPTHS[activation]))
            np.testing.assert_allclose(found["median"], np.median(both, axis=1))
            np.testing.assert_allclose(found["p16"], np.quantile(both, 0.16, axis=1))
            np.testing.assert_allclose(found["p84"], np.quantile(both, 0.84, axis=1))
            np.testing.assert_allclose(found["smallest"], both.min(1))
            np.testing.assert_allclose(found["largest"], both.max(1))
            assert found[["step", "depth", "finite", "values", "runs"]].drop_duplicates().values.tolist() == [
                [step, DEPTHS[activation], 6, 6, 2]
            ]
    assert not len(rows(table, activation="tanh", init="orthogonal"))


def test_a_number_at_a_time_is_taken_at_every_step_at_which_there_is_one(
    dataset: xr.Dataset, sweep: tuple[Path, Truth]
):
    for quantity, steps in (("loss", [0, 10, 20, 30]), ("eval_loss", [0, 20])):
        table = comparison.table(dataset, ["init", "seed"], quantity)
        found = rows(table, init="he_normal", seed=2)
        assert found["step"].tolist() == steps
        for step, middle in zip(steps, found["median"], strict=True):
            both = [sweep[1][activation, "he_normal", 2][step].scalars[quantity] for activation in DEPTHS]
            assert middle == pytest.approx(np.median(np.concatenate(both)))
        assert set(found["values"]) == {4}
        assert rows(table, init="orthogonal", seed=1)["step"].tolist() == [step for step in steps if step <= 20]


def test_a_reading_at_a_step_is_that_of_the_runs_that_have_it(dataset: xr.Dataset):
    table = comparison.table(dataset, ["init"], "delta_rms", [30])
    assert set(table["init"]) == {"he_normal"}  # the others ended before
    assert set(table["reading"]) == {"30"}


def test_networks_of_different_depth_are_never_taken_together(dataset: xr.Dataset):
    table = comparison.table(dataset, ["init"], "delta_rms", ["first"])
    found = rows(table, init="he_normal")
    assert found[["depth", "layer"]].values.tolist() == [[d, layer] for d in (3, 5) for layer in range(d)]
    assert set(found["values"]) == {6}
    swept = results.swept_keys_of(dataset)
    assert comparison.pooled(dataset, ["init"], swept, "delta_rms") == ["activation", "seed"]
    assert comparison.pooled(dataset, ["init"], swept, "loss") == ["activation", "model.depth", "seed"]
    assert comparison.pooled(dataset, ["init", "activation"], swept, "loss") == ["seed"]


def test_what_is_not_finite_is_counted_and_left_out_of_the_median(tmp_path: Path):
    values = np.array([[1.0, 2.0, np.inf, np.nan], [np.nan] * 4, [0.0, 0.0, 0.0, 3.0]])
    for seed in (1, 2):
        leave(tmp_path / str(seed), [reading(0, 3, 4, delta_rms=values)], f"seed={seed}")
    table = comparison.table(results.read(tmp_path), ["seed"], "delta_rms", ["first"])
    found = rows(table, seed=1)
    assert found["median"].tolist()[::2] == [1.5, 0.0]
    assert np.isnan(found["median"].tolist()[1])
    assert found[["finite", "values"]].values.tolist() == [[2, 4], [0, 4], [4, 4]]


def test_values_stand_in_their_order_and_as_they_are_written(tmp_path: Path):
    for lr, slope in ((0.1, None), (0.01, 0.5), (2.0, 0.25)):
        words = (
            ["activation=relu"] if slope is None else ["activation=leaky_relu", f"activation.negative_slope={slope}"]
        )
        leave(tmp_path / str(lr), [reading(0)], f"optimizer.lr={lr}", *words)
    dataset = results.read(tmp_path)
    assert in_order(dataset["optimizer.lr"].values.tolist()) == [0.01, 0.1, 2]
    assert in_order(dataset["activation.negative_slope"].values.tolist()) == [0.25, 0.5, "-"]
    table = comparison.table(dataset, ["optimizer.lr", "activation.negative_slope"], "loss")
    assert table[["optimizer.lr", "activation.negative_slope"]].values.tolist() == [[0.01, 0.5], [0.1, "-"], [2, 0.25]]


# --- the picture ----------------------------------------------------------------------------------------------------


def panels(figure: Figure) -> dict[str, Axes]:
    return {ax.get_title().partition("\n")[0]: ax for ax in figure.axes}


def test_the_picture_shows_the_table_a_panel_a_value_and_a_line_a_value(dataset: xr.Dataset):
    by = ["init", "activation"]
    table = comparison.table(dataset, by, "delta_rms")
    figure = comparison_figure.draw(table, by, "delta_rms", "replicas")
    shown = panels(figure)
    assert list(shown) == ["init=he_normal", "init=orthogonal"]
    assert shown["init=orthogonal"].get_title() == "init=orthogonal\n(no run with activation=tanh)"
    for init, ax in shown.items():
        assert ax.get_yscale() == "log"
        assert ax.get_xlabel().startswith("layer")
        curves = {f"{line.get_color()} {line.get_linestyle()}": line for line in ax.lines}
        for number, activation in enumerate(["relu", "tanh"]):
            for reading_, style in (("first", "--"), ("last", "-")):
                wanted = rows(table, init=init.removeprefix("init="), activation=activation, reading=reading_)
                if not len(wanted):
                    assert f"{COLOURS[number]} {style}" not in curves
                    continue
                line = curves[f"{COLOURS[number]} {style}"]
                np.testing.assert_array_equal(line.get_xdata(), wanted["layer"])
                np.testing.assert_array_equal(line.get_ydata(), wanted["median"])
                assert line.get_marker() == MARKERS[number]
    assert figure.get_supylabel() == "delta_rms (loss per pre-activation)"
    assert "per-example gradient" in figure.get_suptitle()
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("activation=relu", "activation=tanh", "first reading (step 0)", "last reading (step 20 to 30)")
    ]
    assert (
        legend.get_title()
        .get_text()
        .startswith("median and 16 to 84% over replicas; a line for each model.depth: 3, 5")
    )


@pytest.mark.parametrize(("band", "ends"), [("percentiles", ("p16", "p84")), ("range", ("smallest", "largest"))])
def test_bands_are_those_of_the_table(dataset: xr.Dataset, band: str, ends: tuple[str, str]):
    table = comparison.table(dataset, ["init"], "loss")
    [ax] = comparison_figure.draw(table, ["init"], "loss", "replicas", band).axes
    assert ax.get_yscale() == "linear"
    assert ax.get_xlabel().startswith("step")
    for init, drawn in zip(["he_normal", "orthogonal"], ax.collections, strict=True):
        corners = np.asarray(drawn.get_paths()[0].vertices)
        wanted = rows(table, init=init)
        for step, lower, upper in wanted[["step", *ends]].values.tolist():
            at = corners[corners[:, 0] == step, 1]
            np.testing.assert_allclose((at.min(), at.max()), (lower, upper))


def test_a_third_key_is_a_row_of_panels(dataset: xr.Dataset):
    by = ["init", "activation", "seed"]
    figure = comparison_figure.draw(comparison.table(dataset, by, "loss"), by, "loss", "replicas")
    assert list(panels(figure)) == [f"init={init}, seed={seed}" for seed in (1, 2) for init in LAST]


def many(panels: int, lines: int) -> tuple[pd.DataFrame, list[str]]:
    rng = np.random.default_rng(panels)
    found = [
        {"activation": f"number {p}", "init": f"way {k}", "reading": r, "step": 0, "layer": x, "depth": 4}
        | dict(zip(("smallest", "p16", "median", "p84", "largest"), np.sort(10 ** rng.normal(-9, 4, 5)), strict=True))
        for p in range(panels)
        for k in range(lines)
        for r in ("first", "last")
        for x in range(4)
        if p % 3 or k
    ]
    return pd.DataFrame(found), ["activation", "init"]


@pytest.mark.parametrize(("count", "lines"), [(1, 2), (2, 1), (4, 4), (5, 3), (12, 9), (20, 4)])
def test_any_number_of_panels_is_drawn_without_anything_covered(tmp_path: Path, count: int, lines: int):
    table, by = many(count, lines)
    figure = comparison_figure.draw(table, by, "delta_rms", "replicas and runs that differ in seed, optimizer.lr")
    assert len(figure.axes) == table["activation"].nunique()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "picture.png", dpi=40)
    with Image.open(tmp_path / "picture.png") as picture:
        picture.load()
    [legend] = figure.legends
    box = legend.get_window_extent()
    for ax in figure.axes:
        around = ax.get_tightbbox()
        assert around is not None
        assert not box.overlaps(around)
        assert ax.title.get_window_extent().width < ax.get_window_extent().width * 1.15
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_lines_can_be_told_apart_without_colour(dataset: xr.Dataset):
    pairs = [comparison_figure.colours_and_markers(number) for number in range(comparison_figure.MOST_LINES)]
    assert len(set(pairs)) == len(pairs)
    assert len({marker for _, marker in pairs[:8]}) == 8


def test_what_has_no_place_on_a_logarithmic_axis_is_said(tmp_path: Path):
    for seed, last in ((1, np.nan), (2, 0.0), (3, 1e-3)):
        leave(tmp_path / str(seed), [reading(0), reading(10, delta_rms=last)], f"seed={seed}", "init=he_normal")
        leave(tmp_path / f"{seed} more", [reading(0)], f"seed={seed}", "init=orthogonal")
    by = ["init", "seed"]
    table = comparison.table(results.read(tmp_path), by, "delta_rms")
    shown = panels(comparison_figure.draw(table, by, "delta_rms", "replicas"))
    said = shown["init=he_normal"].get_title().replace("\n", " ")
    assert said == "init=he_normal (last reading, nothing finite above 0 in seed=1, 2)"
    assert shown["init=orthogonal"].get_title() == "init=orthogonal"


def test_one_loss_that_explodes_does_not_flatten_the_others(tmp_path: Path):
    for seed in range(8):
        records = [reading(step, loss=2 + 0.01 * seed if seed or not step else 1e30) for step in range(5)]
        leave(tmp_path / str(seed), records, f"seed={seed}")
    table = comparison.table(results.read(tmp_path), ["seed"], "loss")
    [ax] = comparison_figure.draw(table, ["seed"], "loss", "replicas").axes
    assert ax.get_title() == "(beyond the axis: seed=0)"
    bottom, top = ax.get_ylim()
    assert 1.9 < bottom < 2 < 2.07 < top < 2.2


# --- the command ----------------------------------------------------------------------------------------------------


def test_it_writes_the_picture_and_the_table_behind_it(
    gradlab: Command, tmp_path: Path, sweep: tuple[Path, Truth], dataset: xr.Dataset
):
    done = gradlab("compare", str(sweep[0]), "--by", "activation", "init", "--quantity", "delta_rms", "--folder", "out")
    assert (done.status, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "compare.png"]
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert min(picture.size) > 500
    wanted = comparison.table(dataset, ["activation", "init"], "delta_rms")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "compare.csv"), wanted)
    assert done.out.splitlines() == [
        "out/compare.png  delta_rms by activation, init; bands over replicas and runs that differ in seed",
        f"out/compare.csv  {len(wanted)} rows",
        "  1 of 4 combinations have no run",
    ]


def test_left_alone_it_takes_the_first_keys_but_the_seed_and_writes_beside_the_runs(gradlab: Command, tmp_path: Path):
    for seed in (1, 2):
        for norm in ("none", "layer"):
            words = (f"seed={seed}", f"norm={norm}")
            leave(tmp_path / "sweep" / ",".join(words), [reading(0)], *words, status="interrupted")
    done = gradlab("compare", "sweep")
    assert done.out.startswith(
        "sweep/compare.png  delta_rms by norm; bands over replicas and runs that differ in seed\n"
    )
    assert "  4 of 4 runs have not completed; their readings so far are shown\n" in done.out
    assert (
        gradlab("compare", "sweep", "--quantity", "loss", "--by", "seed").status == 0
    )  # written over, as collect does
    assert (tmp_path / "sweep" / "compare.csv").read_text().startswith("seed,step,")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--by", "colour"],
            "--by colour: these runs do not differ in it; choose from activation, init, model.depth, seed.",
        ),
        (
            ["--by", "activatoin"],
            "--by activatoin: these runs do not differ in it; did you mean activation? choose from",
        ),
        (["--by", "init", "init"], "--by init init: give one to three different keys: "),
        (
            ["--by", "init,seed", "activation", "model.depth"],
            "--by init seed activation model.depth: give one to three different keys: ",
        ),
        (["--by", ","], "--by : give one to three different keys: "),
        (
            ["--quantity", "delta"],
            "--quantity delta: these runs have no such quantity; did you mean delta_rms? choose from",
        ),
        (["--quantity", "jacobian_sv"], "--quantity jacobian_sv: these runs have no such quantity; "),
        (["--at", "5"], "--at 5: no run has a reading there; choose first, last, or a step of 0, 10, 20, 30."),
        (["--at", "-1"], "--at -1: no run has a reading there; "),
        (["--at", "\u0665"], "--at \u0665: no run has a reading there; "),
        (["--at"], "Argument --at: expected at least one argument; see gradlab compare --help."),
        (
            ["--at", "first", "--quantity", "loss"],
            "--at: loss is drawn against the step, at every reading; leave --at out.",
        ),
        (["--folder", "file"], "--folder=file: cannot be written to ("),
        (["--band", "all"], "Argument --band: invalid choice: 'all' "),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    gradlab: Command, tmp_path: Path, sweep: tuple[Path, Truth], words: list[str], sentence: str
):
    (tmp_path / "file").touch()
    before = sorted(sweep[0].iterdir())
    refused = gradlab("compare", str(sweep[0]), *words)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith(sentence)
    assert refused.err.count("\n") == 1
    assert sorted(sweep[0].iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_that_differ_in_nothing_or_are_not_there_are_refused(gradlab: Command, tmp_path: Path):
    leave(tmp_path / "one" / "run", [reading(0)])
    assert gradlab("compare", "one").err.startswith("--by: these runs differ in nothing; ")
    for folder in ("nowhere", "."):
        refused = gradlab("compare", folder if folder == "nowhere" else "empty")
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert refused.status == 2
        assert "no run lies below this folder" in refused.err


def test_more_panels_or_lines_than_one_can_see_are_refused(gradlab: Command, tmp_path: Path):
    leave(tmp_path / "sweep" / "0", [reading(0)], "init=orthogonal")
    summary = json.loads((tmp_path / "sweep" / "0" / "summary.json").read_text())
    for seed in range(1, 65):
        shutil.copytree(tmp_path / "sweep" / "0", tmp_path / "sweep" / str(seed))
        summary["config"] |= {"seed": seed, "init": {"name": "he_normal"}}
        (tmp_path / "sweep" / str(seed) / "summary.json").write_text(json.dumps(summary))
    for by, sentence in (
        (["seed", "init"], "65 panels are more than the 64 "),
        (["init", "seed"], "65 lines per panel, "),
    ):
        refused = gradlab("compare", "sweep", "--by", *by)
        assert refused.err.startswith(f"--by {' '.join(by)}: {sentence}")
        assert refused.status == 2
