"""A claim of the guide as a value: the statement, its measurement, and the rule that decides.

`measure` is the expensive part and returns samples, named float64 arrays that can be stored; `judge` is pure and turns
samples into a verdict; `draw` shows them. So stored samples can be judged again without a network, and a test can pass
doctored samples to `judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from lab.typing import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Samples = Mapping[str, Array]
"""Name -> float64 array; replicas are the last axis if there is one value per replica."""


class Verdict(StrEnum):
    HOLDS = "holds"
    CONDITION = "holds with a condition"
    FAILS = "does not hold"
    UNDECIDED = "not decided here"


@dataclass(frozen=True)
class Scale:
    """Size of a run: `replicas` is the sample size of every interval, `share` scales training steps and grids."""

    name: str
    replicas: int
    share: float

    def steps(self, full: int) -> int:
        """Return the number of training steps: `full` in a full run, fewer in a quick one."""
        return max(1, round(full * self.share))


AT_START = ("steps=0", "probe.cotangent=random")
"""Overrides that `profiles.measure` adds to an arm: the gradient at initialization of a random cotangent at the end."""

FULL = Scale("full", replicas=16, share=1.0)
QUICK = Scale("quick", replicas=4, share=0.2)


@dataclass(frozen=True)
class Number:
    """A measured or computed number; `lower` and `upper` are None if there is no interval.

    Attributes:
        name: a short description.
        lower, upper: the 95% interval over replicas.
        units: of value and interval.
        predicted: the theoretical value, None if there is none.
    """

    name: str
    value: float
    lower: float | None = None
    upper: float | None = None
    units: str = ""
    predicted: float | None = None


@dataclass(frozen=True)
class Judgement:
    """Result of applying the rule to samples.

    Attributes:
        verdict: one of four.
        reason: one to three sentences with the numbers that decided.
        condition: of `holds with a condition`; for `not decided here`, what would decide it.
        numbers: rows of the report's table, with intervals.
    """

    verdict: Verdict
    reason: str
    numbers: tuple[Number, ...]
    condition: str = ""

    def __post_init__(self) -> None:
        if self.verdict in (Verdict.CONDITION, Verdict.UNDECIDED) and not self.condition:
            raise ValueError(f"{self.verdict}: say under which condition, or what would decide it.")


@dataclass(frozen=True)
class Claim:
    """One falsifiable statement.

    Attributes:
        id: as on the command line.
        section: of the guide.
        statement: of the guide, paraphrased.
        limit: of the statement according to the literature, paraphrased.
        source: of the limit: authors, year, section.
        quantity: the measured quantities.
        rule: the decision rule in words, with tolerance or effect size; `judge` is the same in code.
        caption: of the figure.
        arms: name -> config overrides of every network that is run; empty for pure mathematics.
        shown_with: arm -> overrides that `measure` adds to it, so that the reported command builds that network.
        training: steps and learning rates of the arms that are not in `shown_with`, in words.
        measure: runs the arms, or computes, at a scale.
        judge: applies the rule.
        draw: draws the samples into an empty figure.
        needs_full: the rule needs more replicas and steps than a quick run has.
        is_timed: it measures time and must run alone on the machine.
        findings: errors of the guide revealed by the claim, one sentence each.
    """

    id: str
    section: str
    statement: str
    limit: str
    source: str
    quantity: str
    rule: str
    caption: str
    measure: Callable[[Scale], Samples]
    judge: Callable[[Samples], Judgement]
    draw: Callable[[Figure, Samples], None]
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shown_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    training: str = ""
    needs_full: bool = False
    is_timed: bool = False
    findings: tuple[str, ...] = ()

    def decide(self, samples: Samples, scale: Scale) -> Judgement:
        """Judge samples; a quick run leaves claims undecided that need a full one."""
        judgement = self.judge(samples)
        if self.needs_full and scale.name != FULL.name:
            return replace(
                judgement,
                verdict=Verdict.UNDECIDED,
                condition=f"a full run: {FULL.replicas} replicas and all steps, gradlab reproduce {self.id}",
                reason=f"A quick run is too small for the rule. Its indication: {judgement.reason}",
            )
        return judgement
