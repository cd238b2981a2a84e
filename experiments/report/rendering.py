"""The report as a page and as Markdown: templates, and how numbers and marked-up words look in either."""

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

PAGE, TEXT, SUMMARY = "report.html", "report.md", "summary.md"
"""Templates."""
FIXED = range(-4, 6)
"""Decimal exponents of numbers that are written without one."""
DIGITS = 4
"""Significant digits of a number without an interval."""


def page(report: ClaimsReport) -> str:
    """The report as one HTML file that needs no other."""
    return _render(PAGE, report)


def text(report: ClaimsReport, has_pictures: bool) -> str:
    """The report as Markdown; `has_pictures` shows figures/ID.png, which lie beside it."""
    return _render(TEXT, report, has_pictures=has_pictures)


def summary(report: ClaimsReport, link: str) -> str:
    """Verdicts and their claims as a table in Markdown; `link` is the file that the claims are explained in."""
    return _render(SUMMARY, report, link=link)


def _render(name: str, report: ClaimsReport, **more: Any) -> str:
    template = _environment(name).get_template(name)
    return template.render(report=report, guide=GUIDE, kinds=KINDS, **more).strip() + "\n"


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
    """The value to as many digits as its interval supports."""
    return _written(number.value, number)


def interval(number: Number) -> str:
    """Both ends of the interval, empty where there is none."""
    if number.lower is None or number.upper is None:
        return ""
    return f"{_written(number.lower, number)} to {_written(number.upper, number)}"


def predicted(number: Number) -> str:
    """What theory says, empty where it says nothing."""
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
            return _without_minus_zero(f"{x:.{min(max(decimals, 0), 10)}f}")
        short = f"{x:.{max(DIGITS - 1 - exponent, 0)}f}"
        return short.rstrip("0").rstrip(".") if "." in short else short
    if decimals is None:
        mantissa, power = f"{x:.{DIGITS - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    else:
        mantissa, power = f"{x:.{min(max(exponent + decimals, 1), 6)}e}".split("e")
    return f"{mantissa}e{int(power)}"


def _decimals(number: Number) -> int | None:
    """Decimals that show two digits of the interval's width; None where there is no interval with a width."""
    if number.lower is None or number.upper is None:
        return None
    width = number.upper - number.lower
    if not math.isfinite(width) or width <= 0:
        return None
    return 1 - math.floor(math.log10(width))


def _without_minus_zero(text: str) -> str:
    return text.removeprefix("-") if float(text) == 0 else text


def _pretty(write: Any, is_page: bool, number: Number) -> str:
    """Powers of ten as people write them on a page, and a minus that is one."""
    written = write(number)
    if not is_page:
        return str(written)
    powers = re.sub(r"e(-?\d+)", r"&nbsp;&times;&nbsp;10<sup>\1</sup>", str(escape(written)))
    return Markup(powers.replace("-", "&minus;"))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# --- words ----------------------------------------------------------------------------------------------------------


def html_words(words: str) -> Markup:
    """Words for a page; what stands between backticks is code."""
    parts = [escape(part) for part in words.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def markdown_words(words: str) -> str:
    """Words for Markdown: characters that would mean something there are escaped, but not within backticks."""
    parts = words.replace("\n", " ").split("`")
    return "`".join(part if i % 2 else _SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


_SPECIAL = re.compile(r"([\\*<|$]|(?<!\w)_|_(?!\w))")


def table_cell(words: str) -> str:
    """Markdown within a cell of a table, where a bar would end it even in code."""
    return re.sub(r"(?<!\\)\|", r"\\|", words)
