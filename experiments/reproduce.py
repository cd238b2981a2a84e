"""`gradlab reproduce`: examine the guide's claims, write a report, and compare with the recorded verdicts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.arguments import INTERRUPTED, Parser, console
from lab.schema import ConfigError

if TYPE_CHECKING:
    from experiments.claims.claim import Scale
    from experiments.report.catalogue import Entry
    from experiments.report.content import ClaimsReport
    from experiments.report.outcome import ClaimResult

FOLDERS = {"full": "runs/reproduce", "quick": "runs/reproduce-quick"}
"""Scale -> default folder of its samples and report."""

STYLES = {"holds": "green", "condition": "yellow", "fails": "bold red", "undecided": "dim", "error": "bold reverse"}
"""Kind of verdict -> style in the terminal."""


def main(arguments: Sequence[str]) -> int:
    """Measure what is not stored yet and write the report; 0 if every claim reached its recorded verdict, else 1.

    Raises:
        ConfigError: an id is unknown, or a flag or the folder cannot be used; nothing has been measured then.
    """
    started = time.perf_counter()
    options = _parse(arguments)
    from experiments.report import SAMPLES, catalogue

    entries = catalogue.choose(options.ids)
    if options.list:
        return _list(entries)
    repository = catalogue.REPOSITORY
    if options.record and not ((repository / "pyproject.toml").is_file() and (repository / "docs").is_dir()):
        raise ConfigError("--record: this is no checkout of the repository, which holds the recorded verdicts.")
    catalogue.recorded()  # raises if it is damaged
    folder = Path(FOLDERS["quick" if options.quick else "full"] if options.folder is None else options.folder)

    from experiments.claims.claim import FULL, QUICK
    from experiments.report.store import locked

    with locked(folder):
        try:
            scale = QUICK if options.quick else FULL
            report, unsaved = _examine(entries, scale, folder, options.workers, options.again, started)
        except KeyboardInterrupt:
            print(f"Interrupted; samples are saved in {folder}, and the same command resumes.", file=sys.stderr)
            return INTERRUPTED
        differences = report.differences
        if options.record:
            results = [x if x.failure else replace(x, recorded=x.verdict) for x in report.outcomes]
            report = replace(report, outcomes=results)
        paths, error = _write(report, folder, options.record)
    _print_summary(report, [*differences, *paths])
    for id_, reason in unsaved.items():
        print(f"{id_}: the samples could not be saved in {folder / SAMPLES} ({reason}).", file=sys.stderr)
    if error:
        print(f"The report is incomplete ({error}); repeat the command, which reuses saved samples.", file=sys.stderr)
    return 1 if report.differences or unsaved or error else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    about = "Examine the guide's claims: measure, judge each by its rule, and write a report."
    status = "Exit code 0 if every claim reached its recorded verdict, else 1."
    samples = "Samples are saved, and reused by the next call if the code is unchanged."
    parser = Parser("gradlab reproduce", description=about, epilog=f"{status} {samples}")
    add = parser.add_argument
    add("ids", nargs="*", metavar="ID", help="claims to examine, see --list (default: all)")
    add("--quick", action="store_true", help="fewer networks and steps; claims that need more are not decided")
    add("--list", action="store_true", help="list the claims with their recorded verdicts, without measuring")
    add("--folder", metavar="DIR", help="for samples and report (default: runs/reproduce, or runs/reproduce-quick)")
    add("--workers", type=int, metavar="N", help="worker processes with one thread each (default: one per core)")
    add("--again", action="store_true", help="discard the saved samples of these claims and measure again")
    add("--record", action="store_true", help="record the verdicts in a checkout, and docs/claims.md with all claims")
    options = parser.parse_intermixed_args(list(arguments))
    if options.folder == "":
        raise ConfigError("--folder: give the name of a folder, or leave out the flag.")
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: give a number of at least 1.")
    if options.record and options.quick:
        raise ConfigError("--record: a quick run is too small to record verdicts; leave out --quick.")
    return options


def _examine(
    entries: Sequence[Entry], scale: Scale, folder: Path, workers: int | None, is_again: bool, started: float
) -> tuple[ClaimsReport, Mapping[str, str]]:
    """Measure the claims without stored samples; judge and draw all. Also return why samples could not be saved."""
    from experiments.report import SAMPLES, catalogue
    from experiments.report.content import ClaimsReport
    from experiments.report.fingerprint import fingerprint
    from experiments.report.measurement import ClaimTask, Failure, Measurement, measure, now
    from experiments.report.outcome import draw, judge
    from experiments.report.store import Store
    from lab.machine import pool
    from lab.record.summary import versions

    store, recorded = Store(folder / SAMPLES), catalogue.recorded()
    claims = {entry.claim.id: entry.claim for entry in entries}
    keys = {entry.claim.id: fingerprint(entry, scale) for entry in entries}
    results: dict[str, ClaimResult] = {}
    unsaved: dict[str, str] = {}
    for id_, claim in claims.items():
        if is_again:
            store.forget(id_)
        if (stored := store.load(id_, keys[id_])) is not None:
            results[id_] = judge(claim, scale, stored, recorded.get(id_), is_reused=True)

    def expected_cost(entry: Entry) -> tuple[float, bool, int]:
        """The time of the last measurement; unknown ones come first, training before others, then many arms."""
        return store.seconds(entry.claim.id), entry.claim.needs_full, len(entry.claim.arms)

    longest_first = sorted(entries, key=expected_cost, reverse=True)
    tasks = [ClaimTask(e.claim.id, e.module, scale) for e in longest_first if e.claim.id not in results]
    parallel = [task for task in tasks if not claims[task.id].is_timed]
    timed = [task for task in tasks if claims[task.id].is_timed]  # each has the machine to itself

    terminal = console(is_error=True)
    if results:
        terminal.print(f"{len(results)} of {len(entries)} claims are already measured.")
    running: list[str] = []
    description = TextColumn("{task.description}", markup=False)
    columns = BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), description
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task("", total=len(entries), completed=len(results))

        def show_started(task: ClaimTask) -> None:
            running.append(task.id)
            progress.update(bar, description=", ".join(running))

        for group, processes in ((parallel, workers), (timed, 1)):
            with closing(pool.run_tasks(measure, group, processes, show_started)) as finished:
                for task, outcome in finished:
                    measured = Failure(str(outcome)) if isinstance(outcome, Exception) else outcome
                    if isinstance(measured, Measurement):
                        try:
                            store.save(task.id, keys[task.id], measured)
                        except OSError as error:  # for example a full disk; the claim is judged all the same
                            unsaved[task.id] = error.strerror or str(error)
                    results[task.id] = result = judge(claims[task.id], scale, measured, recorded.get(task.id))
                    running.remove(task.id)
                    progress.update(bar, completed=len(results), description=", ".join(running))
                    count = "" if terminal.is_terminal else f"{len(results)} of {len(entries)}  "
                    terminal.print(f"{count}{_line(result)}", soft_wrap=True)
        progress.update(bar, description="drawing")
        drawn = []
        for id_ in claims:
            picture, result = draw(results[id_]), results[id_]
            if isinstance(picture, bytes):
                drawn.append(replace(result, picture=picture))
            else:
                drawn.append(replace(result, failure=result.failure or picture))
    seconds = time.perf_counter() - started
    return ClaimsReport(drawn, len(catalogue.catalogue()), scale, versions(), seconds, now()), unsaved


def _write(report: ClaimsReport, folder: Path, is_record: bool) -> tuple[list[str], str]:
    """Write the report, and with `is_record` the verdicts and documents; return lines to print and the error."""
    from experiments import report as reports
    from experiments.report import catalogue

    lines: list[str] = []
    try:
        lines += map(str, reports.write(report, folder))
        verdicts = {result.claim.id: result.verdict for result in report.outcomes if not result.failure}
        if is_record:
            catalogue.record(verdicts)
            lines.append(str(catalogue.RECORDED))
        if is_record and len(verdicts) == report.claims:
            lines += map(str, reports.commit(report, catalogue.REPOSITORY))
        elif is_record:
            lines.append("docs/claims.md and README.md are unchanged: they need the verdicts of all claims.")
    except OSError as error:
        return lines, f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return lines, ""


def _print_summary(report: ClaimsReport, lines: Sequence[str]) -> None:
    from experiments.report.content import KINDS
    from lab.machine.terminal import duration

    terminal = console()
    reused = sum(result.is_reused for result in report.outcomes)
    earlier = f", {reused} of them measured earlier" if reused else ""
    terminal.print(f"{len(report.outcomes)} claims in {duration(report.seconds)}{earlier}:")
    for verdict, count in report.counts.items():
        kind = KINDS[verdict]
        terminal.print(f"  [{STYLES[kind.name]}]{kind.sign}[/] {kind.title}: {count}")
    for line in lines:
        terminal.print(line, soft_wrap=True, markup=False)


def _line(result: ClaimResult) -> str:
    from experiments.report.content import KINDS

    kind = KINDS[result.verdict]
    note = f", recorded: {result.recorded}" if result.difference and result.recorded else ""
    if result.failure:
        note = f", {result.failure.reason}"
    if result.measurement:
        note += f" ({result.measurement.seconds:.1f} s)"
    return f"[{STYLES[kind.name]}]{kind.sign}[/] {result.claim.id}: {kind.title}{escape(note)}"


def _list(entries: Sequence[Entry]) -> int:
    from experiments.report import catalogue

    verdicts = catalogue.recorded()
    table = Table(box=None, pad_edge=False)
    for heading in ("claim", "section", "statement of the guide", "recorded verdict"):
        table.add_column(heading, no_wrap=heading == "claim")
    for claim in (entry.claim for entry in entries):
        table.add_row(claim.id, claim.section, escape(claim.statement), verdicts.get(claim.id, "none"))
    console().print(table)
    return 0
