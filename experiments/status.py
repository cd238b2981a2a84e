"""`gradlab status`: the progress of all runs below a folder, once or as a live table."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import INTERRUPTED, Parser
from lab.machine.terminal import duration
from lab.record.states import DONE, IN_TROUBLE
from lab.record.stored.json_values import printable
from lab.schema import ConfigError
from lab.sweep import RunState, count_states, find_runs, time_left

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType

SHOWN = 12
"""Rows per state in the table without --all."""
EVERY = 2.0
"""Seconds between two observations."""
WIDTH = 110
"""Width in columns if the output is not a terminal."""
BAR = 20
"""Columns of a run's progress bar."""
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


@dataclass(frozen=True)
class Observation:
    """The runs below a folder at one moment."""

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
        0; 1 if a run failed, was interrupted or killed, or left a summary that cannot be read; 130 after Ctrl-C.

    Raises:
        ConfigError: the folder holds no run, or a flag makes no sense.
    """
    options = _parse(arguments)
    observed = observe(Path(options.folder))
    if not options.watch:
        _print(observed, options)
        return observed.exit_status
    try:
        return (_watch_in_lines if options.json or not sys.stdout.isatty() else _watch_live)(observed, options)
    except KeyboardInterrupt:  # the usual way to leave
        return INTERRUPTED


def observe(folder: Path) -> Observation:
    """Observe the runs below a folder.

    Raises:
        ConfigError: there is none.
    """
    runs = find_runs(folder)
    if not runs:
        raise ConfigError(f"{folder}: no run lies at or below this folder; give the output_dir of a run or a sweep.")
    return Observation(folder, runs)


def as_json(observed: Observation) -> dict[str, Any]:
    """Everything that is known, as plain values."""
    keys = ("step", "steps", "seconds", "left", "error")
    return {
        "folder": str(observed.folder),
        "counts": count_states(observed.runs),
        "left": time_left(observed.runs),
        "runs": [
            {"run": run.name, "state": run.state, **{key: getattr(run, key) for key in keys}} for run in observed.runs
        ],
    }


def headline(observed: Observation) -> str:
    """The counts and the time left, in one line."""
    counts = count_states(observed.runs)
    done = f"{sum(counts[state] for state in DONE)} of {len(observed.runs)} runs done"
    parts = [done + (f" ({counts['diverged']} diverged)" if counts["diverged"] else "")]
    parts += [f"{number} {state}" for state, number in counts.items() if number and state not in DONE]
    if not observed.is_over:
        left = time_left(observed.runs)
        parts.append("time left unknown" if left is None else f"about {duration(left)} left")
    return ", ".join(parts)


def render(observed: Observation, has_all: bool) -> Group:
    """The counts with a bar, and a table of the running and unsuccessful runs, or of all."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    runs = observed.runs
    done = sum(run.state in DONE for run in runs)
    parts: list[RenderableType] = [
        Text(printable(str(observed.folder)), "bold"),
        Text(headline(observed)),
        Columns([ProgressBar(total=len(runs), completed=done, width=60), f"{done / len(runs):.0%}"]),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("run", "state", "step", "", "left, or outcome"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "step" else "left")
    kinds = [[run for run in runs if run.state == state] for state in ("running", *IN_TROUBLE)]
    shown = list(runs) if has_all else [run for kind in kinds for run in kind[:SHOWN]]
    for run in shown:
        table.add_row(Text(run.name), Text(run.state, STYLES[run.state], no_wrap=True), *_cells(run))
    if shown:
        parts += [Text(), table]
    if not has_all and (hidden := sum(map(len, kinds)) - len(shown)):
        parts.append(Text(f"and {hidden} more of them; --all shows every run", "dim"))
    states = {run.state for run in runs}
    if "running" not in states and states & {"failed", "interrupted", "killed", "waiting"}:
        parts += [Text(), Text("Nothing is running. Repeat the sweep's command to do what remains.")]
    return Group(*parts)


def _cells(run: RunState) -> Iterator[RenderableType]:
    """A run's step, progress bar and outcome."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    steps = "" if run.state == "waiting" else "?"
    if run.step is not None:
        steps = f"{run.step:,}" + ("" if run.steps is None else f" of {run.steps:,}")
    yield Text(steps, no_wrap=True)
    if run.state == "running" and run.step is not None and run.steps:
        yield ProgressBar(total=run.steps, completed=min(run.step, run.steps), width=BAR)
    else:
        yield ""
    outcome = run.error
    if run.state == "running":
        outcome = "unknown" if run.left is None else duration(run.left)
    elif not outcome and run.state == "unreadable":
        outcome = "its summary.json cannot be read"
    elif run.state in DONE and run.seconds is not None:
        outcome = f"in {duration(run.seconds)}"
    yield Text(outcome)


def _print(observed: Observation, options: Namespace) -> None:
    if options.json:
        print(json.dumps(as_json(observed), indent=2))
    else:
        _console().print(render(observed, options.all))


def _watch_live(observed: Observation, options: Namespace) -> int:
    from rich.live import Live

    console = _console()
    try:
        with Live(render(observed, options.all), console=console, auto_refresh=False) as live:
            while not observed.is_over:
                time.sleep(options.every)
                observed = observe(observed.folder)
                live.update(render(observed, options.all), refresh=True)
    finally:
        console.show_cursor()  # Live leaves it hidden if Ctrl-C comes while it draws for the first time
    return observed.exit_status


def _watch_in_lines(observed: Observation, options: Namespace) -> int:
    """Without a terminal: a line whenever the counts have changed, and the table at the end."""
    counts: dict[str, int] = {}
    while True:
        if options.json:
            print(json.dumps(as_json(observed)), flush=True)
        elif counts != (counts := count_states(observed.runs)):
            print(headline(observed), flush=True)
        if observed.is_over:
            break
        time.sleep(options.every)
        observed = observe(observed.folder)
    if not options.json:
        _print(observed, options)
    return observed.exit_status


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
    parser.add_argument("--all", action="store_true", help="a row for every run, not only for those with problems")
    parser.add_argument("--watch", action="store_true", help="observe repeatedly until nothing runs or waits")
    parser.add_argument("--every", type=float, metavar="SECONDS", help=f"between observations (default: {EVERY:g})")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch, a line per observation")
    options = parser.parse_args(list(arguments))
    if options.every is not None and not options.watch:
        raise ConfigError("--every: only --watch observes more than once; add --watch.")
    options.every = EVERY if options.every is None else options.every
    if not 0.1 <= options.every <= 86400:
        raise ConfigError(f"--every={options.every:g}: give a number of seconds from 0.1 to 86400.")
    return options
