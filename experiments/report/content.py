"""The content of a report: results in the guide's order, counts, errors of the guide, and the origin of the samples."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from experiments.claims.claim import FULL, Scale, Verdict
from experiments.report.outcome import NOT_MEASURED, ClaimResult, as_dict

GUIDE = "Deep Learning Interview Guide: Activation Functions"

CHAPTERS: Mapping[str, str] = {
    "1": "What activation functions are for",
    "2": "Vanishing and exploding gradients, and the remedies",
    "3": "Sigmoid and tanh",
    "4": "The ReLU family",
    "5": "GELU, Swish and gates",
    "Q": "Interview questions",
    "C": "Coding questions",
}
"""First letter of a claim's section -> what that part of the guide is about."""


class Kind(NamedTuple):
    """Presentation of a verdict: CSS class, a sign besides the colour, title and explanation."""

    name: str
    sign: str
    title: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    Verdict.HOLDS: Kind("holds", "✓", "holds", "The guide is right as it stands."),
    Verdict.CONDITION: Kind(
        "condition", "◐", "holds with a condition", "True only under a condition that the guide omits."
    ),
    Verdict.FAILS: Kind("fails", "✗", "does not hold", "The measurement or the mathematics contradicts it."),
    Verdict.UNDECIDED: Kind("undecided", "?", "not decided here", "The evidence gathered here is not sufficient."),
    NOT_MEASURED: Kind("error", "!", "not measured", "An error occurred; the report shows it."),
}


class Chapter(NamedTuple):
    """A chapter of the guide."""

    key: str
    title: str
    outcomes: Sequence[ClaimResult]


@dataclass(frozen=True)
class ClaimsReport:
    """Content of a report."""

    outcomes: Sequence[ClaimResult]  # of the selected claims
    claims: int  # total number
    scale: Scale
    versions: Mapping[str, str]  # of this package, Python and libraries
    seconds: float  # duration of the command
    date: str  # UTC, ISO 8601

    @property
    def counts(self) -> Mapping[str, int]:
        """Verdict -> number of claims; `NOT_MEASURED` only if it occurs."""
        counts = Counter(outcome.verdict for outcome in self.outcomes)
        return {verdict: counts[verdict] for verdict in KINDS if counts[verdict] or verdict != NOT_MEASURED}

    @property
    def chapters(self) -> list[Chapter]:
        """The guide's chapters that have a claim, claims ordered by section."""
        parts: dict[str, list[ClaimResult]] = {key: [] for key in CHAPTERS}
        for outcome in sorted(self.outcomes, key=lambda outcome: section_order(outcome.claim.section)):
            parts[chapter_of(outcome.claim.section)].append(outcome)
        return [Chapter(key, CHAPTERS[key], part) for key, part in parts.items() if part]

    @property
    def findings(self) -> list[dict[str, str]]:
        """The guide's errors in its order, with the claims that revealed them."""
        claims = [outcome.claim for chapter in self.chapters for outcome in chapter.outcomes]
        return [{"id": claim.id, "section": claim.section, "text": text} for claim in claims for text in claim.findings]

    @property
    def differences(self) -> list[str]:
        """Sentences on differences from the recorded verdicts; claims without a record share one sentence."""
        different = [outcome for outcome in self.outcomes if outcome.difference]
        new = [outcome.claim.id for outcome in different if outcome.recorded is None and not outcome.failure]
        sentences = [outcome.difference for outcome in different if outcome.claim.id not in new]
        return [*sentences, f"No verdict is recorded for {', '.join(new)}."] if new else sentences

    @property
    def machines(self) -> list[str]:
        """Machines of the measurements; several if stored samples came from elsewhere."""
        return list(dict.fromkeys(outcome.measurement.machine for outcome in self.outcomes if outcome.measurement))

    @property
    def days(self) -> str:
        """The day of the measurements, or the first and the last day."""
        days = sorted(outcome.measurement.date[:10] for outcome in self.outcomes if outcome.measurement)
        return " to ".join(dict.fromkeys([*days[:1], *days[-1:]])) or self.date[:10]

    @property
    def measuring_seconds(self) -> float:
        """Duration of all measurements."""
        return sum(outcome.measurement.seconds for outcome in self.outcomes if outcome.measurement)

    @property
    def command(self) -> str:
        """The command that creates this report."""
        ids = [] if len(self.outcomes) == self.claims else [outcome.claim.id for outcome in self.outcomes]
        quick = [] if self.scale.name == FULL.name else [f"--{self.scale.name}"]
        return " ".join(["gradlab reproduce", *ids, *quick])


def as_json(report: ClaimsReport) -> str:
    """Format the report as strict JSON."""
    content: dict[str, Any] = {
        "guide": GUIDE,
        "command": report.command,
        "date": report.date,
        "scale": asdict(report.scale),
        "machines": report.machines,
        "versions": dict(report.versions),
        "seconds": round(report.seconds, 1),
        "counts": dict(report.counts),
        "differences": report.differences,
        "findings": report.findings,
        "claims": [as_dict(outcome) for outcome in report.outcomes],
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def chapter_of(section: str) -> str:
    """Return the key of a section's chapter: "3" for "3.1, Q2", "Q" for "Q1", "C" for "coding 2"."""
    return section.strip()[:1].upper()


def section_order(section: str) -> tuple[int, list[int]]:
    """Return a sort key for sections such as "3.1, Q2": the first one counts."""
    first = section.split(",")[0]
    return list(CHAPTERS).index(chapter_of(section)), [int(number) for number in re.findall(r"\d+", first)]


def in_short(outcome: ClaimResult) -> str:
    """Summarize a result in one line: the condition if there is one, else the first sentence of the reason."""
    if outcome.judgement is None:
        return outcome.failure.reason if outcome.failure else ""
    if outcome.judgement.verdict == Verdict.CONDITION:
        return outcome.judgement.condition
    return first_sentence(outcome.judgement.reason)


def first_sentence(text: str) -> str:
    """Return the first sentence; `e.g.`, `i.e.`, `et al.` and decimal points do not end it."""
    return re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!al\.)\s+(?=[^a-z])", text.strip(), maxsplit=1)[0]
