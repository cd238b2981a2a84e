"""Examination of the guide's claims: measure them in worker processes, store samples, judge, and write the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from lab.machine.files import atomic_write

if TYPE_CHECKING:
    from experiments.report.content import ClaimsReport

PAGE, TEXT, DATA, PICTURES, SAMPLES = "report.html", "report.md", "claims.json", "figures", "samples"
"""Contents of a folder of `gradlab reproduce`; the page is self-contained."""

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
"""Lines of README.md that enclose the table of verdicts."""


def write(report: ClaimsReport, folder: Path) -> list[Path]:
    """Write the report as HTML, Markdown and JSON with its figures, and return the paths of the three documents."""
    from experiments.report import content, rendering

    documents = {
        PAGE: rendering.page(report),
        TEXT: rendering.text(report, has_pictures=True),
        DATA: content.as_json(report),
    }
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for outcome in report.outcomes:
        if outcome.picture:
            _put(folder / PICTURES / f"{outcome.claim.id}.png", outcome.picture)
    for name, text in documents.items():
        _put(folder / name, text.encode())
    return [folder / name for name in documents]


def commit(report: ClaimsReport, repository: Path) -> list[Path]:
    """Write docs/claims.md, and the table of verdicts between `BEGIN` and `END` of README.md if it has these lines."""
    from experiments.report import rendering

    page, readme = repository / "docs" / "claims.md", repository / "README.md"
    _put(page, rendering.text(report, has_pictures=False).encode())
    table = f"{BEGIN}\n{rendering.summary(report, link='docs/claims.md')}{END}"
    text, count = re.subn(f"{BEGIN}.*{END}", lambda _: table, readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    _put(readme, text.encode())
    return [page, readme] if count else [page]


def _put(path: Path, content: bytes) -> None:
    with atomic_write(path) as draft:
        draft.write_bytes(content)
