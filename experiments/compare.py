"""`gradlab compare`: a quantity in every combination of swept keys, as small multiples and as the table behind them."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import Parser
from lab.machine.files import atomic_write
from lab.schema import ConfigError

if TYPE_CHECKING:
    import xarray as xr

PICTURE, TABLE = "compare.png", "compare.csv"
MOST_KEYS = 3
REPEATS = ("seed", "first_replica")
"""Keys that are swept for the sake of the error bars."""


def main(arguments: Sequence[str]) -> int:
    """Write compare.png and compare.csv.

    Raises:
        ConfigError: no run, or a key, quantity, reading or folder that cannot be used; nothing has been written then.
    """
    options = _parse(arguments)
    source = Path(options.source)
    folder = Path(options.folder or source)
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if source.exists() and not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise ConfigError(f"--folder={folder}: {above} is no folder that can be written in; choose another.")
    dataset, swept = _runs(source)
    from lab.plot import comparison as comparison_figure
    from lab.plot import style
    from lab.sweep import comparison

    by = _keys(options.by, swept)
    quantity = _quantity(options.quantity, dataset)
    at = _readings(options.at, quantity, dataset)
    _refuse_too_many(by, dataset)
    table = comparison.table(dataset, by, quantity, at)
    if not len(table):
        raise ConfigError(f"--quantity {quantity}: no run has a value of it there; choose another --at or quantity.")
    pooled = comparison.pooled(dataset, by, swept, quantity)
    over = "replicas" + (f" and runs that differ in {', '.join(pooled)}" if pooled else "")
    picture = comparison_figure.draw(table, by, quantity, over, options.band)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / PICTURE) as draft, atomic_write(folder / TABLE) as rows:
            style.save(picture, draft)
            table.to_csv(rows, index=False)
    except OSError as error:
        raise ConfigError(f"--folder={folder}: what was compared cannot be written there ({error}).") from error
    print(f"{folder / PICTURE}  {quantity} by {', '.join(by)}; bands over {over}")
    print(f"{folder / TABLE}  {len(table)} rows")
    for note in _notes(dataset, by):
        print(f"  {note}")
    return 0


def _runs(source: Path) -> tuple[xr.Dataset, list[str]]:
    """All runs below a folder, and the keys in which they differ."""
    from lab.record.netcdf import UnreadableError
    from lab.sweep import results

    try:
        dataset = results.read(source)
    except (FileNotFoundError, UnreadableError) as error:
        raise ConfigError(str(error)) from error
    return dataset, results.swept_keys_of(dataset)


def _keys(given: Sequence[str] | None, swept: Sequence[str]) -> list[str]:
    """The keys to compare by; the first two that are not just repeats, unless they are given."""
    if not swept:
        raise ConfigError("--by: these runs differ in nothing; compare the runs of a sweep, gradlab run -m key=a,b.")
    if given is None:
        return ([key for key in swept if key not in REPEATS] or list(swept))[:2]
    keys = [key for text in given for key in text.split(",") if key]
    for key in keys:
        if key not in swept:
            raise ConfigError(f"--by {key}: these runs do not differ in it; {_advice(key, swept)}.")
        if keys.count(key) > 1:
            raise ConfigError(f"--by {key}: it is there twice; give each key once.")
    if not 1 <= len(keys) <= MOST_KEYS:
        raise ConfigError(f"--by: {len(keys)} keys; give one to three, for panels, lines and rows of panels.")
    return keys


def _quantity(name: str, dataset: xr.Dataset) -> str:
    from lab.sweep.comparison import QUANTITIES

    there = [quantity for quantity in QUANTITIES if quantity in dataset]
    if name not in there:
        raise ConfigError(f"--quantity {name}: these runs have no such quantity; {_advice(name, there)}.")
    return name


def _readings(given: Sequence[str] | None, quantity: str, dataset: xr.Dataset) -> list[str | int]:
    """Which readings of the quantity; the first and the last unless they are given."""
    from lab.sweep.comparison import FIRST, LAST

    if given is None:
        return [FIRST, LAST]
    if set(dataset[quantity].dims) <= {"run", "step", "replica"}:
        raise ConfigError(f"--at: {quantity} is drawn against the step, at every reading; leave --at out.")
    steps = dataset["step"].to_numpy().tolist()
    found: list[str | int] = []
    for text in dict.fromkeys(given):
        if text in (FIRST, LAST):
            found.append(text)
        elif text.isascii() and text.isdecimal() and int(text) in steps:
            found.append(int(text))
        else:
            listed = ", ".join(map(str, steps if len(steps) <= 12 else [*steps[:6], "...", *steps[-5:]]))
            raise ConfigError(f"--at {text}: no run has a reading there; choose first, last, or a step of {listed}.")
    return found


def _refuse_too_many(by: Sequence[str], dataset: xr.Dataset) -> None:
    from lab.plot.comparison import MOST_LINES, MOST_PANELS, grid_of
    from lab.sweep.comparison import in_order

    count = {key: len(in_order(dataset[key].to_numpy().tolist())) for key in by}
    of_panel, of_line, of_row = grid_of(by)
    panels = [key for key in (of_panel, of_row) if key]
    together = 1
    for key in panels:
        together *= count[key]
    if together > MOST_PANELS:
        raise ConfigError(
            f"--by {' '.join(by)}: {together} panels are more than the {MOST_PANELS} that one picture holds; change the"
            " order of the keys, or compare a part of the sweep."
        )
    if count[of_line] > MOST_LINES:
        raise ConfigError(
            f"--by {' '.join(by)}: {count[of_line]} lines a panel, for {of_line}, are more than the {MOST_LINES} that"
            " can be told apart; change the order of the keys, or compare a part of the sweep."
        )


def _notes(dataset: xr.Dataset, by: Sequence[str]) -> list[str]:
    """What a person should know who reads the picture."""
    from lab.record.states import DONE
    from lab.sweep.comparison import combinations, in_order

    whole_grid = 1
    for key in by:
        whole_grid *= len(in_order(dataset[key].to_numpy().tolist()))
    missing = whole_grid - sum(1 for _ in combinations(dataset, by))
    notes = [f"{missing} of {whole_grid} combinations have no run"] if missing else []
    open_runs = sum(status not in DONE for status in dataset["status"].to_numpy().tolist())
    if open_runs:
        notes.append(f"{open_runs} of {dataset.sizes['run']} runs have not come to their end; they show what there is")
    return notes


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
    parser.add_argument("source", metavar="DIR", help="the output_dir of a sweep, or any folder above runs")
    options: dict[str, Any] = {"nargs": "+", "metavar": "KEY"}
    parser.add_argument("--by", **options, help="swept keys, one to three (default: the first two but the seed)")
    parser.add_argument("--quantity", default="delta_rms", metavar="NAME", help="what to draw (default: delta_rms)")
    parser.add_argument("--at", nargs="+", metavar="READING", help="first, last or a step (default: first last)")
    parser.add_argument(
        "--band",
        choices=("percentiles", "range"),
        default="percentiles",
        help="from 16 to 84%% (the default), or from the smallest to the largest",
    )
    parser.add_argument("--folder", metavar="DIR", help=f"where {PICTURE} and {TABLE} go (default: the runs' folder)")
    return parser.parse_args(list(arguments))
