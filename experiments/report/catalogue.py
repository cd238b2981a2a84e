"""All claims with the modules that hold them, and the recorded verdicts."""

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
"""Id of a claim -> its verdict in the last full run."""


@dataclass(frozen=True)
class Entry:
    """A claim and the module whose `CLAIMS` hold it, by which another process finds it."""

    claim: Claim
    module: str


def catalogue() -> dict[str, Entry]:
    """Return every claim by its id, in the guide's order."""
    return {claim.id: Entry(claim, name) for name in MODULES for claim in import_module(name).CLAIMS}


def choose(ids: Sequence[str]) -> list[Entry]:
    """Return the claims with these ids in the guide's order, all claims if there are no ids.

    Raises:
        ConfigError: an id is unknown.
    """
    known = catalogue()
    for id_ in ids:
        if id_ not in known:
            close = difflib.get_close_matches(id_, known, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "gradlab reproduce --list names all of them."
            raise ConfigError(f"{id_}: there is no such claim; {hint}")
    return [entry for id_, entry in known.items() if id_ in ids or not ids]


def recorded() -> dict[str, str]:
    """Return the recorded verdicts by claim; empty if there is no record. Raises ConfigError if the file is damaged."""
    try:
        verdicts = json.loads(RECORDED.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        verdicts = None
    if not isinstance(verdicts, dict) or not all(isinstance(verdict, str) for verdict in verdicts.values()):
        raise ConfigError(
            f"{RECORDED}: the recorded verdicts cannot be read; restore the file with git checkout, or delete it and"
            " record them again."
        )
    return verdicts


def record(reached: Mapping[str, str]) -> None:
    """Record verdicts. Those of other claims do not change; claims that no longer exist are removed."""
    verdicts = {**recorded(), **reached}
    current = {id_: verdicts[id_] for id_ in catalogue() if id_ in verdicts}
    with atomic_write(RECORDED) as draft:
        draft.write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
