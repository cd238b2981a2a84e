"""Examining the guide's claims: measuring them in processes, keeping samples, judging, and telling what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.report.content import ClaimsReport

PAGE, TEXT, DATA, PICTURES, SAMPLES = "report.html", "report.md", "claims.json", "figures", "samples"
"""What a run leaves in its folder; the page needs none of the others."""

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
"""README's lines around the table of verdicts, which is written there."""


def write(report: ClaimsReport, folder: Path) -> list[Path]:
    """Write the report in its three forms, and the figures that the Markdown shows, and return their paths."""
    from experiments.report import content, rendering

    forms = {
        PAGE: rendering.page(report),
        TEXT: rendering.text(report, has_pictures=True),
        DATA: content.as_json(report),
    }
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for outcome in report.outcomes:
        if outcome.picture:
            _put(folder / PICTURES / f"{outcome.claim.id}.png", outcome.picture)
    for name, words in forms.items():
        _put(folder / name, words.encode())
    return [folder / name for name in forms]


def commit(report: ClaimsReport, repository: Path) -> list[Path]:
    """Write docs/claims.md, and README's table of verdicts where README has a place for it."""
    from experiments.report import rendering

    page, readme = repository / "docs" / "claims.md", repository / "README.md"
    _put(page, rendering.text(report, has_pictures=False).encode())
    words = readme.read_text(encoding="utf-8")
    if words.count(BEGIN) != 1 or words.count(END) != 1:
        return [page]
    before, _, rest = words.partition(BEGIN)
    after = rest.partition(END)[2]
    table = rendering.summary(report, link="docs/claims.md")
    _put(readme, f"{before}{BEGIN}\n{table}{END}{after}".encode())
    return [page, readme]


def _put(path: Path, content: bytes) -> None:
    from lab.machine.files import atomic_write

    with atomic_write(path) as draft:
        draft.write_bytes(content)
