"""The `gradlab` command: runs the entry point of a command, and imports nothing heavy before that."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from experiments.arguments import INTERRUPTED as INTERRUPTED
from lab.machine.terminal import ignore_broken_pipes
from lab.schema import ConfigError

COMMANDS = {
    "run": "train one configuration, or a sweep of them with -m, and measure every layer's gradient",
    "board": "open TensorBoard on a folder of runs",
    "status": "show how far the runs of a sweep are, once or live",
    "collect": "gather all runs below a folder into one dataset and one table",
    "compare": "draw a quantity in every combination of swept keys, and write the table behind it",
    "theory": "predict every layer's gradient at initialization from mean-field theory, without training",
    "phase": "draw the order-to-chaos map: where gradients vanish, explode or keep their size",
    "reproduce": "examine the claims of a textbook guide, and compare with the verdicts on record",
    "figures": "draw every activation with its derivative, and both forms of GELU against torch's",
}
"""Command -> its help; the entry point is `main(arguments)` of the module of that name in experiments/."""

ENTRY_POINTS = "gradlab.commands"
"""Group of entry points by which other packages add commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    if arguments is None:  # a process of its own, not a call within a program
        ignore_broken_pipes()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        from lab import __version__

        print(f"gradlab {__version__}")
        return 0
    if words[0].startswith(("-sc", "--shell-completion")):  # from Hydra's completion script
        if "query" in " ".join(words) and (known := complete(os.environ.get("COMP_LINE", ""))) is not None:
            print("\n".join(known))
            return 0
        words.insert(0, "run")
    others = [] if words[0] in COMMANDS else list(entry_points(group=ENTRY_POINTS, name=words[0]))
    try:
        if words[0] not in COMMANDS and not others:
            raise ConfigError(f"gradlab {words[0]}: there is no such command; choose one of {', '.join(COMMANDS)}.")
        command = others[0].load() if others else importlib.import_module(f"experiments.{words[0]}").main
        return int(command(words[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        remedy = " Repeat the same command to resume." if words[0] == "run" else ""
        print(f"Interrupted; everything measured so far is saved.{remedy}", file=sys.stderr)
        return INTERRUPTED


def complete(line: str) -> list[str] | None:
    """Completions of a command line; None after `gradlab run`, where Hydra completes."""
    words = line.split() + ([""] if line.endswith(" ") else [])
    if len(words) <= 2:
        return [command for command in COMMANDS if command.startswith("".join(words[1:]))]
    return None if words[1] == "run" else []  # without completions the shell offers file names


def usage() -> str:
    """The help of `gradlab`, one line per command."""
    width = max(map(len, COMMANDS))
    commands = {**COMMANDS, **{point.name: f"from {point.value}" for point in entry_points(group=ENTRY_POINTS)}}
    lines = [f"  gradlab {name:<{width}}  {text}" for name, text in commands.items()]
    first, last = "gradlab: why does a deep network not train?", "gradlab COMMAND --help says more."
    return "\n".join([first, "", *lines, "", last])


if __name__ == "__main__":
    sys.exit(main())
