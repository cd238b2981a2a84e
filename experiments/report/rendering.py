"""The report as HTML and as Markdown: templates, and the format of numbers and text in both."""

from __future__ import annotations

import base64
import functools
import math
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.claims.claim import Number
from experiments.report.content import GUIDE, KINDS, ClaimsReport, in_short
from experiments.report.outcome import PICTURE_SIZE
from lab.machine.terminal import duration

FIXED = range(-4, 6)
"""Decimal exponents of numbers in fixed-point notation."""
DIGITS = 4
"""Significant digits of a number without an interval."""


def page(report: ClaimsReport) -> str:
    """Render the report as one self-contained HTML page."""
    return _render("report.html", report)


def text(report: ClaimsReport, has_pictures: bool) -> str:
    """Render the report as Markdown; `has_pictures` includes figures/ID.png from the same folder."""
    return _render("report.md", report, has_pictures=has_pictures)


def summary(report: ClaimsReport, link: str) -> str:
    """Render the verdicts as a Markdown table whose claims link to sections of the file `link`."""
    return _render("summary.md", report, link=link)


def _render(name: str, report: ClaimsReport, **more: Any) -> str:
    template = _environment(name).get_template(name)
    return template.render(report=report, guide=GUIDE, kinds=KINDS, picture_size=PICTURE_SIZE, **more).strip() + "\n"


@functools.cache
def _environment(name: str) -> Environment:
    is_page = name.endswith(".html")
    environment = Environment(
        loader=PackageLoader("experiments.report", "templates"),
        autoescape=is_page,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "words": html_words if is_page else markdown_words,
        "cell": table_cell,
        "short": in_short,
        "duration": duration,
        "base64": lambda content: base64.b64encode(content).decode(),
        "value": functools.partial(_pretty, value, is_page),
        "interval": functools.partial(_pretty, interval, is_page),
        "predicted": functools.partial(_pretty, predicted, is_page),
    }
    return environment


# --- numbers --------------------------------------------------------------------------------------------------------


def value(number: Number) -> str:
    """Format the value to the digits that its interval supports."""
    return _written(number.value, number)


def interval(number: Number) -> str:
    """Format both ends of the interval; empty if there is none."""
    if number.lower is None or number.upper is None:
        return ""
    return f"{_written(number.lower, number)} to {_written(number.upper, number)}"


def predicted(number: Number) -> str:
    """Format the theoretical value; empty if there is none."""
    return "" if number.predicted is None else _written(number.predicted, number)


def _written(x: float, number: Number) -> str:
    if math.isnan(x):
        return "no number"
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    if x == 0:
        return "0"
    exponent = math.floor(math.log10(abs(x)))
    decimals = _decimals(number)
    if exponent in FIXED:
        if decimals is not None:
            return f"{x:z.{min(max(decimals, 0), 10)}f}"
        short = f"{x:.{max(DIGITS - 1 - exponent, 0)}f}"
        return short.rstrip("0").rstrip(".") if "." in short else short
    if decimals is None:
        mantissa, power = f"{x:.{DIGITS - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    else:
        mantissa, power = f"{x:.{min(max(exponent + decimals, 1), 6)}e}".split("e")
    return f"{mantissa}e{int(power)}"


def _decimals(number: Number) -> int | None:
    """Return the decimals that show two digits of the interval's width; None without an interval of positive width."""
    if number.lower is None or number.upper is None:
        return None
    width = number.upper - number.lower
    if not math.isfinite(width) or width <= 0:
        return None
    return 1 - math.floor(math.log10(width))


def _pretty(write: Any, is_page: bool, number: Number) -> str:
    """Typeset powers of ten and minus signs in HTML."""
    written = write(number)
    if not is_page:
        return str(written)
    powers = re.sub(r"e(-?\d+)", r"&nbsp;&times;&nbsp;10<sup>\1</sup>", str(escape(written)))
    return Markup(powers.replace("-", "&minus;"))


# --- words ----------------------------------------------------------------------------------------------------------


def html_words(words: str) -> Markup:
    """Escape text for HTML; text between backticks becomes code."""
    parts = [escape(part) for part in words.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def markdown_words(words: str) -> str:
    """Escape text for Markdown, except between backticks."""
    parts = words.replace("\n", " ").split("`")
    return "`".join(part if i % 2 else _SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


_SPECIAL = re.compile(r"([\\*<|$]|(?<!\w)_|_(?!\w))")


def table_cell(words: str) -> str:
    """Escape vertical bars of Markdown, which would end a table cell even in code."""
    return re.sub(r"(?<!\\)\|", r"\\|", words)
