"""`gradlab reproduce`: examine the guide's claims, write a report, and compare with the verdicts on record."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab.schema import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from experiments.claims.claim import Scale
    from experiments.report.catalogue import Entry
    from experiments.report.content import ClaimsReport
    from experiments.report.outcome import ClaimResult
    from experiments.report.store import Store

FOLDERS = {"full": "runs/reproduce", "quick": "runs/reproduce-quick"}
"""Scale -> where its samples and report are kept unless told otherwise."""

WIDTH = 110
"""Columns where there is no terminal to ask."""

STYLES = {"holds": "green", "condition": "yellow", "fails": "bold red", "undecided": "dim", "error": "bold reverse"}
"""Kind of verdict -> how a terminal shows it."""


def main(arguments: Sequence[str]) -> int:
    """Measure what is not stored yet, write the report; 0 if every claim reached its verdict on record, else 1.

    Raises:
        ConfigError: an id that no claim has, or a flag or folder that cannot be used; nothing has been written then.
    """
    started = time.perf_counter()
    options = _parse(arguments)
    from experiments.report import catalogue

    entries = catalogue.choose(options.ids)
    if options.list:
        return _list(entries)
    if options.record:
        if options.quick:
            raise ConfigError("--record: a quick run is too small to put verdicts on record; leave out --quick.")
        catalogue.refuse_to_record()
    catalogue.recorded()  # refused before anything is measured
    folder = Path(FOLDERS["quick" if options.quick else "full"] if options.folder is None else options.folder)

    from experiments.claims.claim import FULL, QUICK
    from experiments.report.folder import taken

    with taken(folder, [entry.claim.id for entry in entries]):
        try:
            scale = QUICK if options.quick else FULL
            report, lost = _examine(entries, scale, folder, options.workers, options.again, started)
        except KeyboardInterrupt:
            from experiments.main import INTERRUPTED

            print(f"Interrupted; what was measured is kept in {folder}, and the same command goes on.", file=sys.stderr)
            return INTERRUPTED
        differences = report.differences
        if options.record:
            report = _on_record(report)
        paths, failure = _write(report, folder, options.record)
    _tell(report, [*differences, *paths])
    if lost:
        print(f"Not kept in {folder / 'samples'}: {', '.join(lost)} ({lost[next(iter(lost))]}).", file=sys.stderr)
    if failure:
        print(f"The report is not whole: {failure}; what is kept in {folder} is used again.", file=sys.stderr)
    return 1 if report.differences or lost or failure else 0


def _write(report: ClaimsReport, folder: Path, is_record: bool) -> tuple[list[str], str]:
    """Write what there is to write; its paths, and why it is not all of it if it is not."""
    from experiments import report as reports

    lines: list[str] = []
    try:
        lines += map(str, reports.write(report, folder))
        if is_record:
            lines += _record(report)
    except OSError as error:
        return lines, f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return lines, ""


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "gradlab reproduce",
        description="Examine the guide's claims: measure, judge by the rule of each, and write a report.",
        epilog="Ends with 0 if every claim reached the verdict on record, with 1 and the differences if not. What was"
        " measured is kept, and used again by the next call if the code is still the same.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("ids", nargs="*", metavar="ID", help="claims to examine, as --list names them (default: all)")
    add("--quick", action="store_true", help="fewer networks and steps; what that cannot support is not decided")
    add("--list", action="store_true", help="name the claims with their verdicts on record, and measure nothing")
    add("--folder", metavar="DIR", help="for samples and report (default: runs/reproduce, or runs/reproduce-quick)")
    add("--workers", type=int, metavar="N", help="processes, of one thread each (default: as many as there are cores)")
    add("--again", action="store_true", help="forget what was measured of these claims before")
    add(
        "--record",
        action="store_true",
        help="put the verdicts on record in a checkout; with all claims, docs/claims.md too",
    )
    options = parser.parse_intermixed_args(list(arguments))
    if options.folder == "":
        raise ConfigError("--folder: give the name of a folder, or leave out the flag.")
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: give a number of at least 1.")
    return options


# --- examining ------------------------------------------------------------------------------------------------------


def _examine(
    entries: Sequence[Entry], scale: Scale, folder: Path, workers: int | None, is_again: bool, started: float
) -> tuple[ClaimsReport, Mapping[str, str]]:
    """Measure what is not stored, judge everything, and draw it; with the claims whose samples could not be kept."""
    from experiments.report import SAMPLES, catalogue, fingerprint, pool
    from experiments.report.content import ClaimsReport
    from experiments.report.measurement import ClaimTask, Measurement, now
    from experiments.report.outcome import judge
    from experiments.report.store import Store
    from lab.record.summary import versions

    store, recorded = Store(folder / SAMPLES), catalogue.recorded()
    lost: dict[str, str] = {}
    claims = {entry.claim.id: entry.claim for entry in entries}
    keys = {entry.claim.id: fingerprint.fingerprint(entry, scale) for entry in entries}
    if is_again:
        for id_ in keys:
            store.forget(id_)
    outcomes: dict[str, ClaimResult] = {}
    for id_, claim in claims.items():
        stored = store.load(id_, keys[id_])
        if stored is not None:
            outcomes[id_] = judge(claim, scale, stored, recorded.get(id_), is_reused=True)
    missing = [entry for entry in _longest_first(entries, store) if entry.claim.id not in outcomes]
    jobs = [ClaimTask(entry.claim.id, entry.module, scale) for entry in missing]
    together = [job for job in jobs if not claims[job.id].is_timed]
    alone = [job for job in jobs if claims[job.id].is_timed]

    console = _console(is_error=True)
    if outcomes:
        console.print(f"{len(outcomes)} of {len(entries)} claims were measured before.")
    with _ProgressDisplay(console, len(entries), len(outcomes)) as watch:
        results = pool.measure_all(together, alone, workers or pool.cores(), watch.started)
        with closing(results):
            for job, found in results:
                if isinstance(found, Measurement):
                    try:
                        store.save(job.id, keys[job.id], found)
                    except OSError as error:  # a full disk; the verdict is told all the same
                        lost[job.id] = error.strerror or str(error)
                outcomes[job.id] = judge(claims[job.id], scale, found, recorded.get(job.id))
                watch.finished(outcomes[job.id])
        watch.says("drawing")
        drawn = [_drawn(outcomes[id_]) for id_ in claims]
    return ClaimsReport(
        drawn, len(catalogue.catalogue()), scale, versions(), time.perf_counter() - started, now()
    ), lost


def _longest_first(entries: Sequence[Entry], store: Store) -> list[Entry]:
    """By the seconds they took last time; where that is not known, those that train come first, and many arms."""

    def cost(entry: Entry) -> tuple[float, bool, int]:
        seconds = store.seconds(entry.claim.id)
        return float("inf") if seconds is None else seconds, entry.claim.needs_full, len(entry.claim.arms)

    return sorted(entries, key=cost, reverse=True)


def _drawn(outcome: ClaimResult) -> ClaimResult:
    from experiments.report.measurement import Failure
    from experiments.report.outcome import draw

    picture = draw(outcome)
    if isinstance(picture, Failure):
        return replace(outcome, failure=outcome.failure or picture)
    return replace(outcome, picture=picture)


def _on_record(report: ClaimsReport) -> ClaimsReport:
    """The report as it is once its verdicts are on record."""
    outcomes = [o if o.failure else replace(o, recorded=o.verdict) for o in report.outcomes]
    return replace(report, outcomes=outcomes)


def _record(report: ClaimsReport) -> list[str]:
    """Put the verdicts on record; the document only if it would be whole. What was written, and what was not."""
    from experiments import report as reports
    from experiments.report import catalogue

    sound = {outcome.claim.id: outcome.verdict for outcome in report.outcomes if not outcome.failure}
    catalogue.record(sound)
    if len(sound) < report.claims:
        return [str(catalogue.RECORDED), "docs/claims.md and README.md are still those of the last whole record."]
    return list(map(str, [catalogue.RECORDED, *reports.commit(report, catalogue.REPOSITORY)]))


# --- telling --------------------------------------------------------------------------------------------------------


class _ProgressDisplay:
    """Progress over claims: a bar and what is being measured, or a line for each claim where there is no terminal."""

    def __init__(self, console: Console, claims: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console, self.claims, self.done = console, claims, done
        self.running: list[str] = []
        self.progress: Progress = Progress(
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", total=claims, completed=done)

    def __enter__(self) -> _ProgressDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, id_: str) -> None:
        self.running.append(id_)
        self._show()

    def finished(self, outcome: ClaimResult) -> None:
        self.running.remove(outcome.claim.id)
        self.done += 1
        took = f" ({outcome.measurement.seconds:.1f} s)" if outcome.measurement else ""
        count = "" if self.console.is_terminal else f"{self.done} of {self.claims}  "
        self.console.print(f"{count}{_line(outcome)}{took}", soft_wrap=True, highlight=False)
        self._show()

    def says(self, what: str) -> None:
        self.progress.update(self.task, description=what)

    def _show(self) -> None:
        self.progress.update(self.task, completed=self.done)
        self.says(", ".join(self.running))


def _tell(report: ClaimsReport, lines: Sequence[str]) -> None:
    """Counts, and lines below them, on standard output."""
    from experiments.report.content import KINDS
    from experiments.report.rendering import duration

    console = _console()
    reused = sum(outcome.is_reused for outcome in report.outcomes)
    before = f", {reused} of them measured before" if reused else ""
    console.print(f"{len(report.outcomes)} claims in {duration(report.seconds)}{before}:", highlight=False)
    for verdict, count in report.counts.items():
        kind = KINDS[verdict]
        console.print(f"  [{STYLES[kind.name]}]{kind.sign}[/] {kind.title}: {count}", highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _line(outcome: ClaimResult) -> str:
    from rich.markup import escape

    from experiments.report.content import KINDS

    kind = KINDS[outcome.verdict]
    but = f", on record: {outcome.recorded}" if outcome.difference and outcome.recorded and not outcome.failure else ""
    if outcome.failure:
        but = f", {outcome.failure.reason}"
    return f"[{STYLES[kind.name]}]{kind.sign}[/] {outcome.claim.id}: {kind.title}{escape(but)}"


def _list(entries: Sequence[Entry]) -> int:
    from rich.markup import escape
    from rich.table import Table

    from experiments.report import catalogue

    verdicts: Mapping[str, str] = catalogue.recorded()
    table = Table(box=None, pad_edge=False)
    for heading in ("claim", "section", "what the guide says", "verdict on record"):
        table.add_column(heading, no_wrap=heading == "claim")
    for entry in entries:
        claim = entry.claim
        table.add_row(claim.id, claim.section, escape(claim.statement), verdicts.get(claim.id, "none"))
    _console().print(table)
    return 0


def _console(is_error: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    return Console(stderr=is_error, width=None if stream.isatty() else WIDTH)
