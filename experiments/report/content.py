"""What a report says: outcomes in the guide's order with their counts, the guide's slips, and where it was measured."""

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
    """How a verdict is told: in a class of its own, with a sign beside the colour, in few words and in a sentence."""

    name: str
    sign: str
    title: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    Verdict.HOLDS: Kind("holds", "✓", "holds", "As the guide says it."),
    Verdict.CONDITION: Kind(
        "condition", "◐", "holds with a condition", "True only under a condition, which the guide leaves out."
    ),
    Verdict.FAILS: Kind("fails", "✗", "does not hold", "The measurement or the mathematics contradicts it."),
    Verdict.UNDECIDED: Kind("undecided", "?", "not decided here", "The evidence gathered here cannot tell."),
    NOT_MEASURED: Kind("error", "!", "not measured", "Something went wrong; the report says what."),
}


class Chapter(NamedTuple):
    """A part of the guide."""

    key: str
    title: str
    outcomes: Sequence[ClaimResult]


class Finding(NamedTuple):
    """A slip of the guide, and the claim that brought it to light."""

    id: str
    section: str
    text: str


@dataclass(frozen=True)
class ClaimsReport:
    """Everything a report says.

    Attributes:
        outcomes: of the claims that were asked for.
        claims: how many there are in all.
        scale: at which they were measured.
        versions: of this package, Python and libraries.
        seconds: that the command took, or NaN.
        date: of the report, UTC, ISO 8601.
    """

    outcomes: Sequence[ClaimResult]
    claims: int
    scale: Scale
    versions: Mapping[str, str]
    seconds: float
    date: str

    @property
    def counts(self) -> Mapping[str, int]:
        """Verdict -> number of claims; the four verdicts are always there."""
        found = Counter(outcome.verdict for outcome in self.outcomes)
        return {verdict: found[verdict] for verdict in KINDS if found[verdict] or verdict != NOT_MEASURED}

    @property
    def chapters(self) -> list[Chapter]:
        """The guide's parts that have a claim, claims by section."""
        found: dict[str, list[ClaimResult]] = {key: [] for key in CHAPTERS}
        for outcome in sorted(self.outcomes, key=lambda outcome: section_order(outcome.claim.section)):
            found[chapter_of(outcome.claim.section)].append(outcome)
        return [Chapter(key, CHAPTERS[key], part) for key, part in found.items() if part]

    @property
    def findings(self) -> list[Finding]:
        """The guide's slips, in its order."""
        claims = [outcome.claim for chapter in self.chapters for outcome in chapter.outcomes]
        return [Finding(claim.id, claim.section, text) for claim in claims for text in claim.findings]

    @property
    def differences(self) -> list[str]:
        """How this run departs from the verdicts on record, in sentences; claims that have none share one."""
        different = [outcome for outcome in self.outcomes if outcome.difference]
        new = [outcome.claim.id for outcome in different if outcome.recorded is None and not outcome.failure]
        sentences = [outcome.difference for outcome in different if outcome.claim.id not in new]
        return [*sentences, f"No verdict is on record of {', '.join(new)}."] if new else sentences

    @property
    def machines(self) -> list[str]:
        """Where it was measured; more than one if stored samples came from elsewhere."""
        return list(dict.fromkeys(outcome.measurement.machine for outcome in self.outcomes if outcome.measurement))

    @property
    def days(self) -> str:
        """When it was measured: a day, or the first and the last."""
        found = sorted(outcome.measurement.date[:10] for outcome in self.outcomes if outcome.measurement)
        ends = list(dict.fromkeys([*found[:1], *found[-1:]]))
        return " to ".join(ends) or self.date[:10]

    @property
    def measuring_seconds(self) -> float:
        """The sum over claims."""
        return sum(outcome.measurement.seconds for outcome in self.outcomes if outcome.measurement)

    @property
    def command(self) -> str:
        """What makes this report."""
        ids = [] if len(self.outcomes) == self.claims else [outcome.claim.id for outcome in self.outcomes]
        quick = [] if self.scale.name == FULL.name else [f"--{self.scale.name}"]
        return " ".join(["gradlab reproduce", *ids, *quick])


def as_json(report: ClaimsReport) -> str:
    """The report for programs: strict JSON."""
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
        "findings": [finding._asdict() for finding in report.findings],
        "claims": [as_dict(outcome) for outcome in report.outcomes],
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def chapter_of(section: str) -> str:
    """The key of a section's chapter: "3" of "3.1, Q2", "Q" of "Q1", "C" of "coding 2"."""
    return section.strip()[:1].upper()


def section_order(section: str) -> tuple[int, list[int]]:
    """A sorting key by the first section that is named."""
    first = section.split(",")[0]
    return list(CHAPTERS).index(chapter_of(section)), [int(number) for number in re.findall(r"\d+", first)]


def in_short(outcome: ClaimResult) -> str:
    """One line on a verdict: its condition if it has one, else the first sentence of its reason."""
    if outcome.judgement is None:
        return outcome.failure.reason if outcome.failure else ""
    if outcome.judgement.verdict == Verdict.CONDITION:
        return outcome.judgement.condition
    return first_sentence(outcome.judgement.reason)


def first_sentence(text: str) -> str:
    """Up to the first full stop that a new sentence follows; `e.g.` and the point of a number end none."""
    return re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!al\.)\s+(?=[^a-z])", text.strip(), maxsplit=1)[0]
