"""`gradlab collect`: all runs below a folder as one dataset and one table, also while they run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from experiments.arguments import Parser, reading_runs, writing_to

LISTED = 20
"""Largest number of unfinished runs that are named; `gradlab status --all` names all of them."""


def main(arguments: Sequence[str]) -> int:
    """Write collected.nc and summaries.csv into the folder and name the runs that have not completed.

    Raises:
        ConfigError: the folder holds no run with readings, or cannot be written to.
    """
    parser = Parser("gradlab collect", description="Gather all runs below a folder, also while some still run.")
    parser.add_argument("folder", help="the output_dir of a sweep, or any folder above runs")
    folder = Path(parser.parse_args(list(arguments)).folder)
    from lab.sweep import results

    with reading_runs():
        collected = results.collect(folder)
    with writing_to(folder):
        table, rows = results.write(collected, folder)
    dataset = collected.dataset
    print(f"{len(collected.summaries)} runs, {dataset.sizes['run']} with readings:")
    print(f"  {table}  {' x '.join(f'{size} {name}s' for name, size in dataset.sizes.items())}")
    print(f"  {rows}")
    for name, status in islice(collected.failed.items(), LISTED):
        print(f"  {status}: {name}")
    if len(collected.failed) > LISTED:
        print(f"  and {len(collected.failed) - LISTED} more have not completed; see gradlab status {folder}")
    if collected.waiting:
        print(f"  waiting: {collected.waiting} more runs")
    return 0
