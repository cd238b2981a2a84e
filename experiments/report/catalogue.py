"""Which claims there are and the module of each, so that another process can find it, and the verdicts on record."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import experiments
from experiments import claims
from experiments.claims.claim import Claim
from lab.machine.files import atomic_write
from lab.schema import ConfigError

MODULES: tuple[str, ...] = tuple(f"experiments.claims.{topic}" for topic in claims.TOPICS)
"""Modules with `CLAIMS`, in the guide's order."""

REPOSITORY = Path(experiments.__file__).parents[1]
RECORDED = Path(claims.__file__).with_name("recorded.json")
"""Claim's id -> the verdict that a full run reached."""


@dataclass(frozen=True)
class Entry:
    """A claim and the name of the module whose `CLAIMS` hold it."""

    claim: Claim
    module: str


def catalogue() -> dict[str, Entry]:
    """Every claim by its id, in order."""
    return {claim.id: Entry(claim, name) for name in MODULES for claim in import_module(name).CLAIMS}


def choose(ids: Sequence[str]) -> list[Entry]:
    """The claims of these ids, once each and in the guide's order; all if there is no id.

    Raises:
        ConfigError: an id that no claim has.
    """
    known = catalogue()
    for id_ in ids:
        if id_ not in known:
            close = difflib.get_close_matches(id_, known, n=3)
            hint = f"did you mean {' or '.join(close)}" if close else "gradlab reproduce --list names all of them"
            raise ConfigError(f"{id_}: there is no such claim; {hint}{'?' if close else '.'}")
    return [entry for id_, entry in known.items() if id_ in ids or not ids]


def recorded() -> dict[str, str]:
    """The verdicts on record; none where there is no file.

    Raises:
        ConfigError: the file holds something else.
    """
    if not RECORDED.exists():
        return {}
    try:
        verdicts = json.loads(RECORDED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        verdicts = None
    if not isinstance(verdicts, dict) or not all(isinstance(verdict, str) for verdict in verdicts.values()):
        raise ConfigError(
            f"{RECORDED}: this file should hold the verdicts on record and cannot be read; restore it with git"
            " checkout, or delete it and record anew."
        )
    return verdicts


def record(reached: Mapping[str, str]) -> None:
    """Put verdicts on record, keep those of other claims, and forget claims that are no more."""
    verdicts = {**recorded(), **reached}
    kept = {id_: verdicts[id_] for id_ in catalogue() if id_ in verdicts}
    with atomic_write(RECORDED) as draft:
        draft.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def refuse_to_record() -> None:
    """Raise a ConfigError where this is no checkout, whose verdicts are a part of the repository."""
    if not (REPOSITORY / "pyproject.toml").is_file() or not (REPOSITORY / "docs").is_dir():
        raise ConfigError("--record: verdicts are on record in a checkout of the repository; run it there.")
