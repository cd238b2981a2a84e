"""Command lines whose mistakes are one sentence, and the exits that commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lab.schema import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 110
"""Columns of output that is not a terminal."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""


class Parser(argparse.ArgumentParser):
    """argparse without its usage message, and without abbreviated flags, which a later flag could make ambiguous."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(command, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


@contextmanager
def reading_runs() -> Iterator[None]:
    """Raise a ConfigError where the block finds no runs or cannot read them."""
    from lab.record.stored.netcdf import UnreadableError

    try:
        yield
    except (FileNotFoundError, UnreadableError) as error:
        raise ConfigError(str(error)) from error


@contextmanager
def writing_to(folder: Path, option: str = "") -> Iterator[None]:
    """Raise a ConfigError where the block cannot write into a folder, which `option` names."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{option}{folder}: cannot be written to ({error}); choose another folder.") from error


def console(is_error: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    return Console(stderr=is_error, width=None if stream.isatty() else WIDTH, highlight=False)
