"""`make validate`: what theory says of signal propagation, measured on the lab's own networks, a table row each.

Predictions and the deviations they allow are fixed and written down before anything is measured. The exit code is 1 if
a row is out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.schema import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from rich.console import Console
    from rich.table import Table

    from experiments.validation.row import Row, RowResult

PREDICTIONS, VERDICTS = "predictions.json", "verdicts.json"
TABLE_WIDTH = 180
"""Characters; a narrower terminal wraps the table's lines."""

MOST_WORKERS = 2
"""Processes at a time: each may hold 4 replicas of 50 layers of width 512 in float64, with gates up to 4 GB."""


def main(arguments: Sequence[str] = ()) -> int:
    """Predict, then measure, then judge every row.

    Raises:
        ConfigError: --only names no row.
    """
    parser = argparse.ArgumentParser("python -m experiments.validate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller networks and wider tolerances, about 2 minutes")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="statements to look at, 1 to 24")
    parser.add_argument("--seed", type=int, default=0, help="of all networks (default: 0)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/validation"), help="for predictions and verdicts as JSON"
    )
    options = parser.parse_args(list(arguments))

    from rich.console import Console

    from experiments import validation
    from experiments.validation.networks import FULL, QUICK

    unknown = sorted(set(options.only or ()) - set(validation.NUMBERS))
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: there is no such statement; choose from 1 to {validation.NUMBERS[-1]}."
        )
    size = replace(QUICK if options.quick else FULL, seed=options.seed)
    rows = [row for row in validation.rows(size) if not options.only or row.number in options.only]
    return validate(rows, options.folder, Console(width=max(Console().width, TABLE_WIDTH)))


def validate(rows: Sequence[Row], folder: Path, console: Console, workers: int = MOST_WORKERS) -> int:
    """Write the predictions, measure, print the table, write the verdicts; the exit code.

    With workers=0 everything happens in this process.
    """
    from experiments.validation.row import exit_code, failed, judge

    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / PREDICTIONS, [_prediction(row) for row in rows])
    console.print(f"{len(rows)} predictions, made before any measurement: {folder / PREDICTIONS}", soft_wrap=True)
    measured = dict(_measure_all([row for row in rows if not row.refusal], console, workers))
    outcomes = []
    for row in rows:
        found, error = measured.get(row.id, (None, ""))
        outcomes.append(failed(row, error) if error else judge(row, found))
    _write(folder / VERDICTS, [_verdict(outcome) for outcome in outcomes])
    console.print(_table(outcomes))
    for outcome in outcomes:
        if outcome.row.refusal or not outcome.is_passed:
            console.print(f"{outcome.row.id}: {outcome.verdict}", highlight=False, soft_wrap=True)
    out = sum(not outcome.is_passed for outcome in outcomes)
    declined = sum(bool(outcome.row.refusal) for outcome in outcomes)
    console.print(
        f"\n{len(outcomes)} rows in {time.perf_counter() - started:.0f} s: {len(outcomes) - out - declined} as"
        f" predicted, {declined} where theory declines beforehand, {out} out."
    )
    return exit_code(outcomes)


# --- measuring ------------------------------------------------------------------------------------------------------

Measured = tuple[str, tuple[Any, str]]
"""A row's id, and its measurement or the error that prevented it."""


def _measure_all(rows: Sequence[Row], console: Console, workers: int) -> Iterable[Measured]:
    """Measure rows of one network in one process; the large networks first, so that none is left to the end alone."""
    from rich.progress import track

    by_network: dict[Any, list[Row]] = {}
    for row in rows:
        by_network.setdefault(row.id if row.network is None else row.network, []).append(row)
    jobs = sorted(by_network.values(), key=lambda group: -_cost(group[0].network))
    if workers == 0:
        for job in jobs:
            yield from _measure(job)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_take_one_thread) as pool:
        running = [pool.submit(_measure, job) for job in jobs]
        try:
            done = track(as_completed(running), "Measuring", len(running), console=console, transient=True)
            for count, finished in enumerate(done, 1):
                yield from finished.result()
                if not console.is_terminal and count % 20 == 0:
                    console.print(f"{count} of {len(running)} networks measured")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _take_one_thread() -> None:
    """Before NumPy and torch are imported, which read it then: two processes of many threads would wait for cores."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _measure(rows: Sequence[Row]) -> list[Measured]:
    import numpy as np

    found: list[Measured] = []
    for row in rows:
        try:
            with np.errstate(all="ignore"):  # what comes out is looked at; a NaN is out
                found.append((row.id, (np.asarray(row.measure(), dtype=float), "")))
        except Exception as error:  # one broken row must not cost the others' minutes
            found.append((row.id, (None, f"{type(error).__name__}: {error}")))
    return found


def _cost(network: Any) -> int:
    """Something like the multiplications of a network, 0 where none is named."""
    if network is None:
        return 0
    config = network.config()
    return (
        config.model.depth
        * config.model.width**2
        * config.replicas
        * (2 if config.activation.name[-3:] == "glu" else 1)
    )


# --- telling --------------------------------------------------------------------------------------------------------


def _table(outcomes: Sequence[RowResult]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="Theory and the lab's networks")
    for heading in ("row", "predicted", "measured", "allowed", "position"):
        table.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=heading != "row")
    table.add_column("allowed for")
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        row, worst = outcome.row, outcome.worst
        if row.refusal:
            table.add_row(row.id, "none", "", "", "", row.derivation, "[yellow]assumption fails[/]")
            continue
        below, above = (reach[worst] for reach in row.reach)
        sides = f"± {above:.2g}" if below == above else f"-{below:.2g} +{above:.2g}"
        many = f" @{worst}" if row.center.size > 1 else ""
        colour = "green" if outcome.is_passed else "bold red"
        table.add_row(
            row.id,
            _span(row.center),
            _span(outcome.measured),
            sides,
            f"{outcome.position:+.2f}{many}",
            row.derivation,
            f"[{colour}]{outcome.verdict.partition(':')[0]}[/]",
        )
    table.caption = (
        "Of many numbers the first and the last are shown, and what is allowed for the worst, named after @. position:"
        " its deviation over the allowed one; within 1 is in"
    )
    return table


def _span(values: ArrayLike) -> str:
    import numpy as np

    numbers = np.atleast_1d(values)
    if len(numbers) == 1:
        return f"{numbers[0]:.6g}"
    return f"{numbers[0]:.4g} .. {numbers[-1]:.4g}"


def _prediction(row: Row) -> dict[str, Any]:
    below, above = row.reach
    return {
        "id": row.id,
        "statement": row.statement,
        "predicted": _numbers(row.center),
        "allowed_below": _numbers(below),
        "allowed_above": _numbers(above),
        "derivation": row.derivation,
        "is_control": row.is_control,
        "refusal": row.refusal,
    }


def _verdict(outcome: RowResult) -> dict[str, Any]:
    [position] = _numbers([outcome.position])
    return {
        "id": outcome.row.id,
        "measured": _numbers(outcome.measured),
        "position": position,
        "worst": outcome.worst,
        "verdict": outcome.verdict,
        "is_passed": outcome.is_passed,
    }


def _numbers(values: ArrayLike) -> list[float | None]:
    """Plain numbers for JSON, which has none that are not finite."""
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
