"""`gradlab compare`: a quantity in every combination of swept keys, as small multiples and as the table behind them."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.arguments import Parser, reading_runs, writing_to
from lab.machine.files import atomic_write
from lab.readings.quantities import QUANTITIES
from lab.readings.swept import FIRST, LAST, in_order
from lab.schema import ConfigError

if TYPE_CHECKING:
    import xarray as xr

PICTURE, TABLE = "compare.png", "compare.csv"
MOST_KEYS = 3
REPEATS = ("seed", "first_replica")
"""Keys that are swept for the sake of error bars."""


def main(arguments: Sequence[str]) -> int:
    """Write compare.png and compare.csv.

    Raises:
        ConfigError: no run, or a key, quantity, reading or folder that cannot be used; nothing has been written.
    """
    options = _parse(arguments)
    source = Path(options.source)
    folder = Path(options.folder or source)
    from lab.plot import comparison as comparison_figure
    from lab.plot import style
    from lab.sweep import comparison, results

    with reading_runs():
        dataset = results.read(source)
    swept = results.swept_keys_of(dataset)
    by = _keys(options.by, swept)
    quantity = options.quantity
    available = [name for name in QUANTITIES if name in dataset]
    if quantity not in available:
        advice = _advice(quantity, available)
        raise ConfigError(f"--quantity {quantity}: these runs have no such quantity; {advice}.")
    at = _readings(options.at, quantity, dataset)
    _refuse_too_many(by, dataset)
    table = comparison.table(dataset, by, quantity, at)
    if not len(table):
        raise ConfigError(f"--quantity {quantity}: no run has a value of it there; choose another --at or quantity.")
    pooled = comparison.pooled(dataset, by, swept, quantity)
    over = "replicas" + (f" and runs that differ in {', '.join(pooled)}" if pooled else "")
    picture = comparison_figure.draw(table, by, quantity, over, options.band)
    with writing_to(folder, "--folder="):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / PICTURE) as draft, atomic_write(folder / TABLE) as rows:
            style.save(picture, draft)
            table.to_csv(rows, index=False)
    print(f"{folder / PICTURE}  {quantity} by {', '.join(by)}; bands over {over}")
    print(f"{folder / TABLE}  {len(table)} rows")
    for note in _notes(dataset, by):
        print(f"  {note}")
    return 0


def _keys(chosen: Sequence[str] | None, swept: Sequence[str]) -> list[str]:
    """The keys to compare by; by default the first two that are not `REPEATS`."""
    if not swept:
        raise ConfigError("--by: these runs differ in nothing; compare the runs of a sweep, gradlab run -m key=a,b.")
    if chosen is None:
        return ([key for key in swept if key not in REPEATS] or list(swept))[:2]
    keys = [key for text in chosen for key in text.split(",") if key]
    for key in keys:
        if key not in swept:
            raise ConfigError(f"--by {key}: these runs do not differ in it; {_advice(key, swept)}.")
    if not 1 <= len(set(keys)) == len(keys) <= MOST_KEYS:
        raise ConfigError(f"--by {' '.join(keys)}: give one to three different keys: panels, lines, rows of panels.")
    return keys


def _readings(chosen: Sequence[str] | None, quantity: str, dataset: xr.Dataset) -> list[str | int]:
    """The readings to show: steps, or the first and the last."""
    if chosen is None:
        return [FIRST, LAST]
    if set(dataset[quantity].dims) <= {"run", "step", "replica"}:
        raise ConfigError(f"--at: {quantity} is drawn against the step, at every reading; leave --at out.")
    steps = {str(step): step for step in dataset["step"].to_numpy().tolist()}
    for text in chosen:
        if text not in (FIRST, LAST, *steps):
            names = list(steps)
            listed = ", ".join(names if len(names) <= 12 else [*names[:6], "...", *names[-5:]])
            raise ConfigError(f"--at {text}: no run has a reading there; choose first, last, or a step of {listed}.")
    return [steps.get(text, text) for text in dict.fromkeys(chosen)]


def _refuse_too_many(by: Sequence[str], dataset: xr.Dataset) -> None:
    """Refuse more panels, or lines per panel, than one picture can show."""
    from lab.plot.comparison import MOST_LINES, MOST_PANELS, grid_of

    of_panel, of_line, of_row = grid_of(by)
    panels, lines = _combinations(dataset, of_panel, of_row), _combinations(dataset, of_line)
    excess = ""
    if panels > MOST_PANELS:
        excess = f"{panels} panels are more than the {MOST_PANELS} that one picture holds"
    elif lines > MOST_LINES:
        excess = f"{lines} lines per panel, for {of_line}, are more than the {MOST_LINES} that can be told apart"
    if excess:
        remedy = "change the order of the keys, or compare a part of the sweep"
        raise ConfigError(f"--by {' '.join(by)}: {excess}; {remedy}.")


def _combinations(dataset: xr.Dataset, *keys: str | None) -> int:
    return math.prod(len(in_order(dataset[key].to_numpy().tolist())) for key in keys if key)


def _notes(dataset: xr.Dataset, by: Sequence[str]) -> Iterator[str]:
    """Gaps in the data behind the picture."""
    from lab.record.states import DONE
    from lab.sweep.comparison import combinations

    grid = _combinations(dataset, *by)
    if missing := grid - len(list(combinations(dataset, by))):
        yield f"{missing} of {grid} combinations have no run"
    if incomplete := sum(status not in DONE for status in dataset["status"].to_numpy().tolist()):
        yield f"{incomplete} of {dataset.sizes['run']} runs have not completed; their readings so far are shown"


def _advice(name: str, options: Sequence[str]) -> str:
    near = get_close_matches(name.lower(), options, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"choose from {', '.join(options)}"


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser(
        "gradlab compare",
        description="Draw a quantity in every combination of swept keys: a panel for each value of the first key, a"
        " line for each of the second, a row of panels for each of the third; with one key, a line for each of its"
        " values. A quantity of the layers is drawn against the layer, any other against the step. Lines are medians.",
    )
    add = parser.add_argument
    add("source", metavar="DIR", help="the output_dir of a sweep, or any folder above runs")
    add("--by", nargs="+", metavar="KEY", help="swept keys, one to three (default: the first two but the seed)")
    add("--quantity", default="delta_rms", metavar="NAME", help="what to draw (default: delta_rms)")
    add("--at", nargs="+", metavar="READING", help="first, last or a step (default: first last)")
    band = "from 16 to 84%% (the default), or from the smallest to the largest"
    add("--band", choices=("percentiles", "range"), default="percentiles", help=band)
    add("--folder", metavar="DIR", help=f"where {PICTURE} and {TABLE} go (default: the runs' folder)")
    return parser.parse_args(list(arguments))
