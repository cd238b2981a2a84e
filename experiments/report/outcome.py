"""What became of a claim: measured, judged and drawn, or what went wrong."""

from __future__ import annotations

import io
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from experiments.claims.claim import FULL, Claim, Judgement, Scale, Verdict
from experiments.claims.networks import SEED
from experiments.report.measurement import Failure, Measurement, failure
from lab import schema

FIGURE_SIZE, DPI = (7.5, 4.0), 150
"""Inches, and pixels an inch: as many pixels as the widest telephone has."""
COLOURS = 256
"""Of a figure: a palette makes it a third as large."""
POINTS = 96
"""CSS pixels an inch."""

NOT_MEASURED = "not measured"
"""In place of a verdict where something went wrong."""


class Arm(NamedTuple):
    """A network of a claim: by overrides as a command, else in words, else by its name alone."""

    command: str = ""
    words: str = ""


@dataclass(frozen=True)
class ClaimResult:
    """A claim and what came of it.

    Attributes:
        recorded: the verdict on record, None where there is none.
        measurement, judgement: None where a failure prevented them.
        failure: of measuring, judging or drawing; None where all went well.
        picture: the figure as PNG, empty where there is none.
        is_reused: the samples were stored before.
    """

    claim: Claim
    scale: Scale
    recorded: str | None
    measurement: Measurement | None = None
    judgement: Judgement | None = None
    failure: Failure | None = None
    picture: bytes = b""
    is_reused: bool = False

    @property
    def verdict(self) -> str:
        """One of four verdicts, or `NOT_MEASURED`."""
        return NOT_MEASURED if self.judgement is None else self.judgement.verdict

    @property
    def difference(self) -> str:
        """In a sentence, how this departs from the record; empty where it does not.

        A quick run is not held against a verdict that it cannot support.
        """
        if self.failure is not None:
            return f"{self.claim.id}: {self.failure.reason}"
        if self.verdict == self.recorded:
            return ""
        if self.scale.name != FULL.name and self.verdict == Verdict.UNDECIDED:
            return ""
        if self.recorded is None:
            return f'{self.claim.id}: this run reached "{self.verdict}"; no verdict is on record.'
        return f'{self.claim.id}: this run reached "{self.verdict}"; on record is "{self.recorded}".'

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height in points of the page, from the PNG's header."""
        width, height = struct.unpack(">II", self.picture[16:24])
        return round(width / DPI * POINTS), round(height / DPI * POINTS)

    @property
    def command(self) -> str:
        """What repeats it."""
        quick = "" if self.scale.name == FULL.name else f" --{self.scale.name}"
        return f"gradlab reproduce {self.claim.id}{quick}"

    @property
    def arms(self) -> Mapping[str, Arm]:
        """Name -> the command of one such network, or what else is said of it."""
        shown_with = self.claim.shown_with
        return {name: _arm((*words, *shown_with.get(name, ()))) for name, words in self.claim.arms.items()}


def judge(
    claim: Claim, scale: Scale, found: Measurement | Failure, recorded: str | None, is_reused: bool = False
) -> ClaimResult:
    """The outcome of a measurement, without its picture."""
    if isinstance(found, Failure):
        return ClaimResult(claim, scale, recorded, failure=found)
    try:
        judgement = claim.decide(found.samples, scale)
    except Exception as error:  # the others are judged all the same
        return ClaimResult(claim, scale, recorded, found, failure=failure(error), is_reused=is_reused)
    return ClaimResult(claim, scale, recorded, found, judgement, is_reused=is_reused)


def draw(outcome: ClaimResult) -> bytes | Failure:
    """The figure of an outcome as PNG; empty where nothing was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    if outcome.measurement is None:
        return b""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    whole, small = io.BytesIO(), io.BytesIO()
    try:
        outcome.claim.draw(figure, outcome.measurement.samples)
        figure.savefig(whole, format="png", dpi=DPI)
    except Exception as error:  # the others are drawn all the same
        return failure(error)
    picture = Image.open(whole).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(small, "png", optimize=True)
    return small.getvalue()


def as_dict(outcome: ClaimResult) -> dict[str, Any]:
    """All there is to know about it but samples and picture, in types that JSON has."""
    claim, judgement, measurement = outcome.claim, outcome.judgement, outcome.measurement
    words = ("id", "section", "statement", "limit", "source", "quantity", "rule", "caption", "training")
    flags = ("needs_full", "is_timed")
    return {
        **{name: getattr(claim, name) for name in (*words, *flags)},
        "findings": list(claim.findings),
        "arms": {name: [*words_, *claim.shown_with.get(name, ())] for name, words_ in claim.arms.items()},
        "verdict": outcome.verdict,
        "recorded": outcome.recorded,
        "difference": outcome.difference,
        "reason": judgement.reason if judgement else None,
        "condition": judgement.condition if judgement else None,
        "numbers": [
            {key: _plain(value) for key, value in asdict(number).items()}
            for number in (judgement.numbers if judgement else ())
        ],
        "command": outcome.command,
        "seconds": round(measurement.seconds, 3) if measurement else None,
        "date": measurement.date if measurement else None,
        "machine": measurement.machine if measurement else None,
        "warnings": list(measurement.warnings) if measurement else [],
        "error": asdict(outcome.failure) if outcome.failure else None,
    }


def _plain(value: Any) -> Any:
    """A value for JSON, which has no number that is not finite: null, or infinity as a word."""
    if isinstance(value, str) or value is None:
        return value
    if np.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return None if np.isnan(value) else float(value)


_GROUPS = {part.name for part in fields(schema.Config)}


def _arm(overrides: Sequence[str]) -> Arm:
    keys = [word.partition("=")[0].lstrip("+") for word in overrides]
    is_config = all("=" in word for word in overrides) and all(key.split(".")[0] in _GROUPS for key in keys)
    if overrides and is_config:
        seed = () if "seed" in keys else (f"seed={SEED}",)
        return Arm(command=f"gradlab run {shlex.join([*overrides, *seed])}")
    return Arm(words=", ".join(overrides))
