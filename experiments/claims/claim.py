"""A claim of the guide as a value: the statement, its measurement, and the rule that decides.

`measure` is the expensive part and returns samples, named float64 arrays that can be stored; `judge` is pure and turns
samples into a verdict; `draw` shows them. So a stored run is judged again without a network, and a test can feed
`judge` doctored samples.
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
"""Name -> float64 array; where a value was measured for each replica, replicas are the last axis."""


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
"""What `profiles.measure` adds to an arm: gradients at initialization of a random one that enters at the end."""

FULL = Scale("full", replicas=16, share=1.0)
QUICK = Scale("quick", replicas=4, share=0.2)


@dataclass(frozen=True)
class Number:
    """A measured or computed number; `lower` and `upper` are None if there is no interval.

    Attributes:
        name: what it is, in a few words.
        lower, upper: its 95% interval over replicas.
        units: of all three.
        predicted: what theory says, None where it says nothing.
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
        condition: for `holds with a condition`, under which; for `not decided here`, what would decide it.
        numbers: everything worth a row, with intervals.
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
        statement: what the guide says, in our words.
        limit: what the literature adds, in our words.
        source: of the limit: authors, year, section.
        quantity: what is measured.
        rule: the decision rule in words, with tolerance or effect size; `judge` is the same in code.
        caption: what the figure shows.
        arms: name -> config overrides of every network that is run; empty for pure mathematics.
        shown_with: arm -> overrides that `measure` adds to it, so that the command a report shows makes that network.
        training: in words, how the arms are trained that are not in `shown_with`: steps, learning rates.
        measure: runs the arms, or computes, at a scale.
        judge: applies the rule.
        draw: draws the samples into an empty figure.
        needs_full: the rule asks for replicas and steps that a quick run does not have.
        is_timed: it measures time and must run alone on the machine.
        findings: slips of the guide that came to light, one sentence each.
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
                reason=f"A quick run is too small for the rule. What it points to: {judgement.reason}",
            )
        return judgement
