"""`gradlab reproduce`: examine the guide's claims, write a report, and compare with the verdicts on record."""

from __future__ import annotations

import argparse
import os
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
    from experiments.report.content import Report
    from experiments.report.outcome import Outcome
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
    folder = Path(options.folder or FOLDERS["quick" if options.quick else "full"])
    _refuse_folder(folder)

    from experiments.claims.claim import FULL, QUICK

    try:
        report = _examine(entries, QUICK if options.quick else FULL, folder, options.workers, options.again, started)
    except KeyboardInterrupt:
        from lab.__main__ import INTERRUPTED

        print(f"Interrupted; what was measured is kept in {folder}, and the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    from experiments import report as reports

    differences = report.differences
    if options.record:
        report = _on_record(report)
    paths = reports.write(report, folder)
    if options.record:
        paths += _record(report)
    _tell(report, [*differences, *map(str, paths)])
    return 1 if report.differences else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "gradlab reproduce",
        description="Examine the guide's claims: measure, judge by rules fixed beforehand, and write a report.",
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
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: give a number of at least 1.")
    return options


def _refuse_folder(folder: Path) -> None:
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"--folder {folder}: {above} is no folder that can be written in; choose another.")


# --- examining ------------------------------------------------------------------------------------------------------


def _examine(
    entries: Sequence[Entry], scale: Scale, folder: Path, workers: int | None, is_again: bool, started: float
) -> Report:
    """Measure what is not stored, judge everything, and draw it."""
    from experiments.report import catalogue, fingerprint, pool
    from experiments.report.content import Report
    from experiments.report.measurement import Job, Measurement, now
    from experiments.report.outcome import judge
    from experiments.report.store import Store
    from lab.summary import versions

    store, recorded = Store(folder / "samples"), catalogue.recorded()
    claims = {entry.claim.id: entry.claim for entry in entries}
    keys = {entry.claim.id: fingerprint.fingerprint(entry, scale) for entry in entries}
    if is_again:
        for id_ in keys:
            store.forget(id_)
    outcomes: dict[str, Outcome] = {}
    for id_, claim in claims.items():
        stored = store.load(id_, keys[id_])
        if stored is not None:
            outcomes[id_] = judge(claim, scale, stored, recorded.get(id_), is_reused=True)
    missing = [entry for entry in _longest_first(entries, store) if entry.claim.id not in outcomes]
    jobs = [Job(entry.claim.id, entry.module, scale) for entry in missing]
    together = [job for job in jobs if not claims[job.id].is_timed]
    alone = [job for job in jobs if claims[job.id].is_timed]

    console = _console(is_error=True)
    if outcomes:
        console.print(f"{len(outcomes)} of {len(entries)} claims were measured before.")
    with _Watch(console, len(entries), len(outcomes)) as watch:
        results = pool.measure_all(together, alone, workers or pool.cores(), watch.started)
        with closing(results):
            for job, found in results:
                if isinstance(found, Measurement):
                    store.save(job.id, keys[job.id], found)
                outcomes[job.id] = judge(claims[job.id], scale, found, recorded.get(job.id))
                watch.finished(outcomes[job.id])
        watch.says("drawing")
        drawn = [_drawn(outcomes[id_]) for id_ in claims]
    return Report(drawn, len(catalogue.catalogue()), scale, versions(), time.perf_counter() - started, now())


def _longest_first(entries: Sequence[Entry], store: Store) -> list[Entry]:
    """By the seconds they took last time; where that is not known, those that train come first, and many arms."""

    def cost(entry: Entry) -> tuple[float, bool, int]:
        seconds = store.seconds(entry.claim.id)
        return float("inf") if seconds is None else seconds, entry.claim.needs_full, len(entry.claim.arms)

    return sorted(entries, key=cost, reverse=True)


def _drawn(outcome: Outcome) -> Outcome:
    from experiments.report.measurement import Failure
    from experiments.report.outcome import draw

    picture = draw(outcome)
    if isinstance(picture, Failure):
        return replace(outcome, failure=outcome.failure or picture)
    return replace(outcome, picture=picture)


def _on_record(report: Report) -> Report:
    """The report as it is once its verdicts are on record."""
    outcomes = [o if o.failure else replace(o, recorded=o.verdict) for o in report.outcomes]
    return replace(report, outcomes=outcomes)


def _record(report: Report) -> list[Path]:
    """Put the verdicts on record; the document only if it would be whole. The paths of what was written."""
    from experiments import report as reports
    from experiments.report import catalogue

    sound = {outcome.claim.id: outcome.verdict for outcome in report.outcomes if not outcome.failure}
    catalogue.record(sound)
    is_whole = len(sound) == report.claims
    return [catalogue.RECORDED, *(reports.commit(report, catalogue.REPOSITORY) if is_whole else [])]


# --- telling --------------------------------------------------------------------------------------------------------


class _Watch:
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

    def __enter__(self) -> _Watch:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, id_: str) -> None:
        self.running.append(id_)
        self._show()

    def finished(self, outcome: Outcome) -> None:
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


def _tell(report: Report, lines: Sequence[str]) -> None:
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


def _line(outcome: Outcome) -> str:
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
