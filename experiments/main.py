"""The `gradlab` command: it finds the entry point that a command names, and imports nothing heavy before that."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from lab.machine.terminal import ignore_broken_pipes

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
"""Command -> what it does; the entry point is `main(arguments)` of the module of that name in experiments/."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    if arguments is None:  # a command of its own, and not a call within a program
        ignore_broken_pipes()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        from lab import __version__

        print(f"gradlab {__version__}")
        return 0
    if words[0].startswith(("-sc", "--shell-completion")):  # what Hydra's completion script calls
        if "query" in " ".join(words) and (known := complete(os.environ.get("COMP_LINE", ""))) is not None:
            print("\n".join(known))
            return 0
        words.insert(0, "run")
    if words[0] not in COMMANDS:
        print(f"gradlab {words[0]}: there is no such command; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    from lab.schema import ConfigError

    try:
        entry = importlib.import_module(f"experiments.{words[0]}")
        return int(entry.main(words[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = " The same command goes on." if words[0] == "run" else ""
        print(f"Interrupted; what was measured until now is kept.{more}", file=sys.stderr)
        return INTERRUPTED


def complete(line: str) -> list[str] | None:
    """What can stand at the end of a command line; None where that is Hydra's to say, after `gradlab run`."""
    words = line.split() + ([""] if line.endswith(" ") else [])
    if len(words) <= 2:
        return [command for command in COMMANDS if command.startswith("".join(words[1:]))]
    return None if words[1] == "run" else []  # nothing: the shell goes on with file names


def usage() -> str:
    """One line a command."""
    width = max(map(len, COMMANDS))
    lines = [f"  gradlab {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        ["gradlab: why does a deep network not train?", "", *lines, "", "gradlab COMMAND --help says more."]
    )


if __name__ == "__main__":
    sys.exit(main())
