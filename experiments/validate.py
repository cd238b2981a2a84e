"""`make validate`: predictions on signal propagation against the lab's own networks, one table row each.

Predictions and tolerances are fixed and written before anything is measured. The exit code is 1 if a row is out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.schema import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from rich.console import Console
    from rich.table import Table

    from experiments.validation import Row, RowResult
    from experiments.validation.networks import NetworkCase
    from lab.typing import Array

PREDICTIONS, VERDICTS = "predictions.json", "verdicts.json"
TABLE_WIDTH = 180
"""Characters; a narrower terminal wraps the table's lines."""

MAX_WORKERS = 2
"""Processes at a time: each may hold 4 replicas of 50 layers of width 512 in float64, with gates up to 4 GB."""


def main(arguments: Sequence[str] = ()) -> int:
    """Predict, then measure, then judge every row.

    Raises:
        ConfigError: --only names no row.
    """
    parser = argparse.ArgumentParser("python -m experiments.validate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller networks and wider tolerances, about 2 minutes")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="statements to compare, 1 to 24")
    parser.add_argument("--seed", type=int, default=0, help="of all networks (default: 0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/validation"), help="of predictions and verdicts")
    options = parser.parse_args(list(arguments))

    from rich.console import Console

    from experiments.validation import FULL, QUICK, STATEMENTS, rows

    unknown = sorted(set(options.only or ()) - set(STATEMENTS))
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: no such statement; choose from 1 to {max(STATEMENTS)}.")
    size = replace(QUICK if options.quick else FULL, seed=options.seed)
    console = Console(width=max(Console().width, TABLE_WIDTH))
    return validate(rows(size, set(options.only or STATEMENTS)), options.folder, console)


def validate(rows: Sequence[Row], folder: Path, console: Console, workers: int = MAX_WORKERS) -> int:
    """Write the predictions, measure, print the table, write the verdicts; return the exit code.

    With workers=0 everything happens in this process.
    """
    from experiments.validation import failed, judge

    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / PREDICTIONS, [_prediction(row) for row in rows])
    console.print(f"{len(rows)} predictions, made before any measurement: {folder / PREDICTIONS}", soft_wrap=True)
    measured = dict(_measure_all([row for row in rows if not row.refusal], console, workers))
    results = []
    for row in rows:
        values = measured.get(row.id)
        results.append(failed(row, values) if isinstance(values, str) else judge(row, values))
    _write(folder / VERDICTS, [_verdict(result) for result in results])
    console.print(_table(results))
    for result in results:
        if result.row.refusal or not result.is_passed:
            console.print(f"{result.row.id}: {result.verdict}", highlight=False, soft_wrap=True)
    out = sum(not result.is_passed for result in results)
    declined = sum(bool(result.row.refusal) for result in results)
    console.print(
        f"\n{len(results)} rows in {time.perf_counter() - started:.0f} s: {len(results) - out - declined} as"
        f" predicted, {declined} where theory declines beforehand, {out} out."
    )
    return 0 if results and out == 0 else 1


# --- measuring ------------------------------------------------------------------------------------------------------

Measured = tuple[str, "Array | str"]
"""A row's id, and its measurement or the error that prevented it."""


def _measure_all(rows: Sequence[Row], console: Console, workers: int) -> Iterable[Measured]:
    """Measure all rows of a network in one process; the largest networks first, to keep all workers busy."""
    from rich.progress import track

    from lab.machine.pool import run_tasks

    by_network: dict[NetworkCase | str, list[Row]] = {}
    for row in rows:
        by_network.setdefault(row.network or row.id, []).append(row)
    groups = sorted(
        by_network.values(), key=lambda rows: rows[0].network.cost() if rows[0].network else 0, reverse=True
    )
    outcomes = run_tasks(_measure, groups, workers)
    finished = track(outcomes, "Measuring", len(groups), console=console, transient=True)
    for count, (group, measured) in enumerate(finished, 1):
        yield from [(row.id, str(measured)) for row in group] if isinstance(measured, Exception) else measured
        if not console.is_terminal and count % 20 == 0:
            console.print(f"{count} of {len(groups)} networks measured")


def _measure(rows: Sequence[Row]) -> list[Measured]:
    import numpy as np

    measured: list[Measured] = []
    for row in rows:
        arguments = () if row.network is None else (row.network,)
        try:
            with np.errstate(all="ignore"):  # a NaN is judged as out
                measured.append((row.id, np.asarray(row.measure(*arguments), dtype=float)))
        except Exception as error:  # a row that fails must not discard the others' minutes
            measured.append((row.id, f"{type(error).__name__}: {error}"))
    return measured


def _table(results: Sequence[RowResult]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="Theory and the lab's networks")
    for heading in ("row", "predicted", "measured", "allowed", "position"):
        table.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=heading != "row")
    table.add_column("allowed for")
    table.add_column("verdict", no_wrap=True)
    for result in results:
        row, worst = result.row, result.worst
        if row.refusal:
            table.add_row(row.id, "none", "", "", "", row.tolerance.derivation, "[yellow]assumption fails[/]")
            continue
        below, above = (reach[worst] for reach in row.reach)
        index = f" @{worst}" if row.center.size > 1 else ""
        colour = "green" if result.is_passed else "bold red"
        table.add_row(
            row.id,
            _span(row.center),
            _span(result.measured),
            f"± {above:.2g}" if below == above else f"-{below:.2g} +{above:.2g}",
            f"{result.position:+.2f}{index}",
            row.tolerance.derivation,
            f"[{colour}]{result.verdict.partition(':')[0]}[/]",
        )
    table.caption = (
        "Of several numbers the first and the last are shown, and the tolerance of the worst, whose index follows @."
        " position: deviation over the allowed one; within 1 is in"
    )
    return table


def _span(numbers: Array) -> str:
    return f"{numbers[0]:.6g}" if len(numbers) == 1 else f"{numbers[0]:.4g} .. {numbers[-1]:.4g}"


def _prediction(row: Row) -> dict[str, Any]:
    below, above = row.reach
    return {
        "id": row.id,
        "statement": row.statement,
        "predicted": _numbers(row.center),
        "allowed_below": _numbers(below),
        "allowed_above": _numbers(above),
        "derivation": row.tolerance.derivation,
        "is_control": row.is_control,
        "refusal": row.refusal,
    }


def _verdict(result: RowResult) -> dict[str, Any]:
    [position] = _numbers([result.position])
    return {
        "id": result.row.id,
        "measured": _numbers(result.measured),
        "position": position,
        "worst": result.worst,
        "verdict": result.verdict,
        "is_passed": result.is_passed,
    }


def _numbers(values: ArrayLike) -> list[float | None]:
    """Return floats for JSON; NaN and infinity become null."""
    import numpy as np

    return [float(x) if np.isfinite(x) else None for x in np.atleast_1d(values)]


def _write(path: Path, content: Any) -> None:
    from lab.machine.files import atomic_write

    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("Interrupted; the predictions are written, no verdict is.")
