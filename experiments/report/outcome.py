"""The result of one claim: its verdict and figure, or why they are missing."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from experiments.claims.claim import FULL, Claim, Judgement, Scale, Verdict
from experiments.claims.networks import SEED
from experiments.report.measurement import Failure, Measurement, failure
from lab import schema

FIGURE_SIZE, DPI = (7.5, 4.0), 150
"""Inches, and pixels per inch: enough for the widest phone screen."""
PICTURE_SIZE = tuple(round(96 * inches) for inches in FIGURE_SIZE)
"""In pixels of CSS, of which there are 96 per inch."""
COLOURS = 256
"""A palette makes a figure's file three times smaller."""

NOT_MEASURED = "not measured"
"""In place of a verdict after a failure."""


class Arm(NamedTuple):
    """A network of a claim, described by a command, else in words, else by its name alone."""

    command: str = ""
    words: str = ""


@dataclass(frozen=True)
class ClaimResult:
    """A claim and its result; a failure leaves the later parts out."""

    claim: Claim
    scale: Scale
    recorded: str | None  # verdict
    measurement: Measurement | None = None
    judgement: Judgement | None = None
    failure: Failure | None = None  # of measuring, judging or drawing
    picture: bytes = b""  # PNG
    is_reused: bool = False  # the samples were stored by an earlier call

    @property
    def verdict(self) -> str:
        """One of the four verdicts, or `NOT_MEASURED`."""
        return NOT_MEASURED if self.judgement is None else self.judgement.verdict

    @property
    def difference(self) -> str:
        """One sentence on the difference from the recorded verdict or on the failure, empty if there is neither.

        An undecided claim of a quick run is no difference.
        """
        if self.failure is not None:
            return f"{self.claim.id}: {self.failure.reason}"
        if self.verdict == self.recorded or (self.scale.name != FULL.name and self.verdict == Verdict.UNDECIDED):
            return ""
        if self.recorded is None:
            return f'{self.claim.id}: this run reached "{self.verdict}"; no verdict is recorded.'
        return f'{self.claim.id}: this run reached "{self.verdict}"; the recorded verdict is "{self.recorded}".'

    @property
    def command(self) -> str:
        """The command that repeats the measurement."""
        quick = "" if self.scale.name == FULL.name else f" --{self.scale.name}"
        return f"gradlab reproduce {self.claim.id}{quick}"

    @property
    def arms(self) -> Mapping[str, Arm]:
        """Name -> the network, with the overrides that `measure` adds."""
        shown_with = self.claim.shown_with
        return {name: _arm((*words, *shown_with.get(name, ()))) for name, words in self.claim.arms.items()}


def judge(
    claim: Claim, scale: Scale, measured: Measurement | Failure, recorded: str | None, is_reused: bool = False
) -> ClaimResult:
    """Judge a measurement; an exception of the rule becomes a Failure."""
    if isinstance(measured, Failure):
        return ClaimResult(claim, scale, recorded, failure=measured)
    try:
        judgement = claim.decide(measured.samples, scale)
    except Exception as error:
        return ClaimResult(claim, scale, recorded, measured, failure=failure(error), is_reused=is_reused)
    return ClaimResult(claim, scale, recorded, measured, judgement, is_reused=is_reused)


def draw(outcome: ClaimResult) -> bytes | Failure:
    """Draw the figure of a claim as PNG; empty if nothing was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    if outcome.measurement is None:
        return b""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    full_colour, palette = io.BytesIO(), io.BytesIO()
    try:
        outcome.claim.draw(figure, outcome.measurement.samples)
        figure.savefig(full_colour, format="png", dpi=DPI)
    except Exception as error:
        return failure(error)
    picture = Image.open(full_colour).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(palette, "png", optimize=True)
    return palette.getvalue()


def as_dict(outcome: ClaimResult) -> dict[str, Any]:
    """Convert a result, without samples and picture, to types that JSON has."""
    claim, judgement, measurement = outcome.claim, outcome.judgement, outcome.measurement
    values = {part.name: getattr(claim, part.name) for part in fields(claim) if part.name != "shown_with"}
    return {
        **{name: value for name, value in values.items() if not callable(value)},
        "arms": {name: [*words_, *claim.shown_with.get(name, ())] for name, words_ in claim.arms.items()},
        "verdict": outcome.verdict,
        "recorded": outcome.recorded,
        "difference": outcome.difference,
        "reason": judgement.reason if judgement else None,
        "condition": judgement.condition if judgement else None,
        "numbers": [{k: _plain(v) for k, v in asdict(n).items()} for n in (judgement.numbers if judgement else ())],
        "command": outcome.command,
        "seconds": round(measurement.seconds, 3) if measurement else None,
        "date": measurement.date if measurement else None,
        "machine": measurement.machine if measurement else None,
        "warnings": list(measurement.warnings) if measurement else [],
        "error": asdict(outcome.failure) if outcome.failure else None,
    }


def _plain(value: Any) -> Any:
    """Convert a number to JSON, which has no NaN or infinity: null, or a string."""
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
