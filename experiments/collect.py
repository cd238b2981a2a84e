"""`gradlab collect`: all runs below a folder as one dataset and one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lab.schema import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Write collected.nc and summaries.csv into the folder and name the runs that did not come to an end.

    Raises:
        ConfigError: the folder holds no run with readings.
    """
    parser = argparse.ArgumentParser("gradlab collect", description="Gather all runs below a folder.")
    parser.add_argument("folder", help="the output_dir of a sweep, or any folder above runs")
    folder = Path(parser.parse_args(list(arguments)).folder)
    from lab import results

    try:
        collected = results.collect(folder)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    table, rows = results.write(collected, folder)
    dataset = collected.dataset
    print(f"{len(collected.summaries)} runs, {dataset.sizes['run']} with readings:")
    print(f"  {table}  {' x '.join(f'{size} {name}s' for name, size in dataset.sizes.items())}")
    print(f"  {rows}")
    for name, status in collected.failed.items():
        print(f"  {status}: {name}")
    return 0
