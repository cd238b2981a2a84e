"""`gradlab status`: how far the runs below a folder are, once or as a live table."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import Parser
from lab.record.states import DONE, IN_TROUBLE
from lab.schema import ConfigError
from lab.sweep import status
from lab.sweep.status import RunState

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.text import Text

SHOWN = 12
"""Rows of a kind in the table unless all are asked for."""
EVERY = 2.0
"""Seconds between two looks."""
WIDTH = 110
"""Columns where there is no terminal to ask."""
BAR = 20
"""Columns of a run's progress."""
STYLES = {
    "finished": "green",
    "diverged": "yellow",
    "running": "cyan",
    "failed": "red",
    "interrupted": "magenta",
    "killed": "red",
    "unreadable": "red",
    "waiting": "dim",
}
INTERRUPTED = 130


@dataclass(frozen=True)
class Look:
    """The runs below a folder at a moment."""

    folder: Path
    runs: Sequence[RunState]

    @property
    def is_over(self) -> bool:
        return not any(run.state in ("running", "waiting") for run in self.runs)

    @property
    def exit_status(self) -> int:
        return int(any(run.state in IN_TROUBLE for run in self.runs))


def main(arguments: Sequence[str]) -> int:
    """Print the state of all runs below a folder.

    Returns:
        0; 1 if a run failed, was interrupted or killed, or left a summary that cannot be read; 130 if Ctrl-C ended
        the watching.

    Raises:
        ConfigError: the folder holds no run, or a flag makes no sense.
    """
    options = _parse(arguments)
    found = look(Path(options.folder))
    if not options.watch:
        _print(found, options)
        return found.exit_status
    try:
        return (_watch_in_lines if options.json or not sys.stdout.isatty() else _watch_live)(found, options)
    except KeyboardInterrupt:  # the way to leave, and no run's loss
        return INTERRUPTED


def look(folder: Path) -> Look:
    """The runs below a folder.

    Raises:
        ConfigError: there is none.
    """
    runs = status.find(folder)
    if not runs:
        raise ConfigError(f"{folder}: no run lies at or below this folder; give the output_dir of a run or a sweep.")
    return Look(folder, runs)


def as_json(found: Look) -> dict[str, Any]:
    """Everything that is known, as plain values."""
    keys = ("step", "steps", "seconds", "left", "error")
    runs = [{"run": run.name, "state": run.state, **{key: getattr(run, key) for key in keys}} for run in found.runs]
    return {
        "folder": str(found.folder),
        "counts": status.count(found.runs),
        "left": status.time_left(found.runs),
        "runs": runs,
    }


def headline(found: Look) -> str:
    """The counts, and the time left, in a line."""
    counts = status.count(found.runs)
    done = sum(counts[state] for state in DONE)
    parts = [
        f"{done} of {len(found.runs)} runs done" + (f" ({counts['diverged']} diverged)" if counts["diverged"] else "")
    ]
    parts += [f"{number} {state}" for state, number in counts.items() if number and state not in DONE]
    if not found.is_over:
        left = status.time_left(found.runs)
        parts.append("time left unknown" if left is None else f"about {duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A length of time as people say it, in two units at most."""
    whole = round(seconds)
    for size, name, below, of in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {of}" if rest else "")
    return f"{whole} s"


def render(found: Look, has_all: bool) -> Group:
    """The counts with a bar, and the rows that matter: what runs and what went wrong, or every run."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = sum(run.state in DONE for run in found.runs)
    parts: list[RenderableType] = [
        Text(status.printable(str(found.folder)), "bold"),
        Text(headline(found)),
        Columns([ProgressBar(total=len(found.runs), completed=done, width=60), f"{done / len(found.runs):.0%}"]),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("run", "state", "step", "", "left, or what happened"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "step" else "left")
    hidden = 0
    for kind in ((run for run in found.runs),) if has_all else _kinds(found.runs):
        rows = list(kind)
        shown = len(rows) if has_all else SHOWN
        hidden += max(0, len(rows) - shown)
        for run in rows[:shown]:
            state = Text(run.state, STYLES[run.state], no_wrap=True)
            table.add_row(Text(run.name), state, _steps(run), _bar(run), _what(run))
    if table.row_count:
        parts += [Text(), table]
    if hidden:
        parts.append(Text(f"and {hidden} more of them; --all shows every run", "dim"))
    if note := _note(found):
        parts += [Text(), Text(note)]
    return Group(*parts)


def _kinds(runs: Sequence[RunState]) -> list[list[RunState]]:
    return [[run for run in runs if run.state == state] for state in ("running", *IN_TROUBLE)]


def _steps(run: RunState) -> Text:
    from rich.text import Text

    if run.step is None:
        return Text("" if run.state == "waiting" else "?")
    return Text(f"{run.step:,}" + ("" if run.steps is None else f" of {run.steps:,}"), no_wrap=True)


def _bar(run: RunState) -> RenderableType:
    from rich.progress_bar import ProgressBar

    if run.state != "running" or run.step is None or not run.steps:
        return ""
    return ProgressBar(total=run.steps, completed=min(run.step, run.steps), width=BAR)


def _what(run: RunState) -> Text:
    from rich.text import Text

    if run.state == "running":
        return Text("unknown" if run.left is None else duration(run.left))
    if run.error:
        return Text(run.error)
    if run.state == "unreadable":
        return Text("its summary.json cannot be read")
    return Text(f"in {duration(run.seconds)}" if run.state in DONE and run.seconds is not None else "")


def _note(found: Look) -> str:
    counts = status.count(found.runs)
    if not counts["running"] and any(counts[state] for state in ("failed", "interrupted", "killed", "waiting")):
        return "Nothing runs at the moment. The sweep's command, repeated, leaves out what is done and does the rest."
    return ""


def _print(found: Look, options: Namespace) -> None:
    if options.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        _console().print(render(found, options.all))


def _watch_live(found: Look, options: Namespace) -> int:
    from rich.live import Live

    console = _console()
    try:
        with Live(render(found, options.all), console=console, auto_refresh=False) as live:
            while not found.is_over:
                time.sleep(options.every)
                found = look(found.folder)
                live.update(render(found, options.all), refresh=True)
    finally:
        console.show_cursor()  # Live leaves it hidden if Ctrl-C comes while it draws for the first time
    return found.exit_status


def _watch_in_lines(found: Look, options: Namespace) -> int:
    """Where no terminal can keep a table alive: a line whenever the counts have changed, and the table at the end."""
    before: dict[str, int] = {}
    while True:
        counts = status.count(found.runs)
        if options.json or counts != before:
            print(json.dumps(as_json(found)) if options.json else headline(found), flush=True)
        before = counts
        if found.is_over:
            break
        time.sleep(options.every)
        found = look(found.folder)
    if not options.json:
        _print(found, options)
    return found.exit_status


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser(
        "gradlab status",
        description="Show how far the runs at and below a folder are. The exit status is 1 if a run failed, was"
        " interrupted or killed, else 0.",
    )
    parser.add_argument("folder", help="the output_dir of a sweep or a run, or any folder above runs")
    parser.add_argument("--all", action="store_true", help="a row for every run, not only for those that need a look")
    parser.add_argument("--watch", action="store_true", help="look again and again until nothing runs or waits")
    parser.add_argument("--every", type=float, metavar="SECONDS", help=f"between two looks (default: {EVERY:g})")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch, a line a look")
    options = parser.parse_args(list(arguments))
    if options.every is not None and not options.watch:
        raise ConfigError("--every: only --watch looks more than once; add --watch.")
    options.every = EVERY if options.every is None else options.every
    if not 0.1 <= options.every <= 86400:
        raise ConfigError(f"--every={options.every:g}: give a number of seconds from 0.1 to 86400.")
    return options
