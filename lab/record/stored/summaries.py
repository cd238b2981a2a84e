"""StoredSummary: the content of a run's summary.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.record.states import STATES
from lab.record.stored.json_values import amount, count, mapping, number, printable, read_json, sequence, text
from lab.schema import flatten


@dataclass(frozen=True)
class StoredSummary:
    """A run's summary.json, as far as it is well-formed; a foreign or hand-edited one holds less."""

    status: str = "unreadable"  # one of `STATES`
    settings: Mapping[str, Any] = field(default_factory=dict)  # dotted key -> number, text, truth value or None
    last: Mapping[str, float | None] = field(default_factory=dict)  # metric -> value at the last reading
    best: Mapping[str, float | None] = field(default_factory=dict)
    diverged_replicas: int = 0
    steps_done: int | None = None
    seconds: float | None = None
    fingerprint: str | None = None
    error: str = ""  # traceback of a failed run

    @property
    def last_line(self) -> str:
        """The last line of the traceback, printable."""
        return printable(next((line.strip() for line in reversed(self.error.splitlines()) if line.strip()), ""))

    def metrics(self) -> dict[str, Any]:
        """The columns of summaries.csv."""
        columns: dict[str, Any] = {printable(f"last_{name}"): value for name, value in self.last.items()}
        columns |= {printable(f"best_{name}"): value for name, value in self.best.items()}
        columns |= {name: getattr(self, name) for name in ("diverged_replicas", "steps_done", "seconds")}
        return {**columns, "fingerprint": printable(self.fingerprint or "") or None}


def read_summary(path: Path) -> StoredSummary | None:
    """Read a summary.json of any content; None if there is no such file."""
    if not path.exists():
        return None
    content = mapping(read_json(path))
    status = text(content.get("status"))
    if status is None:
        return StoredSummary()
    return StoredSummary(
        status=status if status in STATES else "unreadable",
        settings=plain_settings(content.get("config")),
        last={name: number(value) for name, value in mapping(content.get("last")).items()},
        best={name: number(mapping(value).get("value")) for name, value in mapping(content.get("best")).items()},
        diverged_replicas=sum(mapping(fate).get("status") == "diverged" for fate in sequence(content.get("replicas"))),
        steps_done=count(content.get("steps_done")),
        seconds=amount(content.get("seconds")),
        fingerprint=text(content.get("fingerprint")),
        error=text(content.get("error")) or "",
    )


def plain_settings(config: Any) -> dict[str, Any]:
    """A configuration with dotted keys and plain values; other values as JSON."""

    def plain(value: Any) -> Any:
        is_plain = value is None or isinstance(value, str | bool) or number(value) is not None
        return value if is_plain else json.dumps(value, default=str)

    try:
        return {key: plain(value) for key, value in flatten(mapping(config)).items()}
    except RecursionError:
        return {}
