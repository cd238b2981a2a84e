"""Command lines whose mistakes are one sentence."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from lab.schema import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse without its usage message, and without abbreviated flags, which a later flag could make ambiguous."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(command, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")
