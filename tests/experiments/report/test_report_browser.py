"""The report as a reader sees it: opened from disk in headless Chromium, on a telephone and a desk, light and dark."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image
from websockets.sync.client import connect

from experiments import report as reports
from experiments.claims.claim import FULL, Verdict
from experiments.report import outcome
from experiments.report.content import ClaimsReport
from experiments.report.measurement import Failure
from experiments.report.outcome import ClaimResult
from tests.experiments import fake_claims
from tests.experiments.report.test_report import DATE, examined
from tests.record.test_tensorboard_browser import CHROMIUM, Page, poll, process

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]

SIZES = {"telephone": (390, 844), "tablet": (768, 1024), "desk": (1280, 900)}
HARD = "a_word_without_an_end_" * 8
"""Text that no line can hold."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 40 claims with everything that is hard to fit into a narrow page."""
    claims, outcomes = fake_claims.CLAIMS, []
    for number in range(40):
        claim = claims[number % 4]
        claim = replace(
            claim, id=f"{claim.id}-number-{number}", arms={"wide": tuple(f"init.gain={i}" for i in range(40))}
        )
        outcomes.append(examined(claim, (0.5, 2.0, 3.0, 0.9)[number % 4]))
    judgement = outcomes[3].judgement
    assert judgement is not None
    hard = replace(judgement, verdict=Verdict.UNDECIDED, condition=HARD, reason=f"{HARD} {HARD}")
    outcomes[3] = replace(outcomes[3], judgement=hard, claim=replace(outcomes[3].claim, statement=f"`{HARD}` {HARD}"))
    trace = "\n".join(f"  File {HARD}, line {line}" for line in range(5))
    lost = replace(claims[0], id="lost", section="5.1")
    outcomes.append(ClaimResult(lost, FULL, "holds", failure=Failure(f"OSError: {HARD}", trace)))
    folder = tmp_path_factory.mktemp("report")
    report = ClaimsReport(outcomes, len(outcomes), FULL, {"gradlab": "0.1.0"}, 100.0, DATE)
    return reports.write(report, folder)[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    profile = tmp_path_factory.mktemp("chromium")
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    with process(CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank", log=profile / "log"):
        announced = profile / "DevToolsActivePort"  # port, then path
        lines = poll(lambda: announced.read_text().split() if announced.exists() else [], lambda lines: len(lines) == 2)
        with urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
            (address,) = [tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page"]
        with connect(address, max_size=None) as socket:
            yield Page(socket)


def look(page: Page, file: Path, size: str, theme: str = "light") -> None:
    """Open the report in a window of a size; returns when it is drawn."""
    width, height = SIZES[size]
    is_telephone = size == "telephone"
    page.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_telephone
    )
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    page.open(file.as_uri())
    poll(lambda: ask(page, "document.readyState + location.protocol"), lambda state: state == "completefile:")


def ask(page: Page, expression: str) -> Any:
    answer = page.send("Runtime.evaluate", expression=expression, returnByValue=True)
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")


def shown(page: Page, selector: str) -> int:
    found = f"[...document.querySelectorAll('{selector}')]"
    return int(ask(page, f"{found}.filter(e => e.offsetHeight > 0 && e.checkVisibility()).length"))


def choose(page: Page, verdict: str) -> None:
    ask(page, f"document.querySelector('.filter [value={verdict}]').click()")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_window(page: Page, file: Path, size: str, theme: str):
    look(page, file, size, theme)
    ask(page, "document.querySelectorAll('details').forEach(details => details.open = true)")
    width = ask(page, "document.documentElement.clientWidth")
    assert SIZES[size][0] - 20 <= width <= SIZES[size][0]  # less a scroll bar
    assert ask(page, "document.documentElement.scrollWidth") == width
    # Not even what a box of its own could scroll to, but for a traceback and the numbers.
    overhanging = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('pre, .wide')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert ask(page, overhanging) == []


@pytest.mark.parametrize("size", SIZES)
def test_every_figure_is_decoded_and_as_wide_as_there_is_room(page: Page, file: Path, size: str):
    look(page, file, size)
    images = "[...document.querySelectorAll('figure img')]"
    poll(lambda: ask(page, f"{images}.every(i => i.complete)"), bool)
    sizes = ask(page, f"{images}.map(i => [i.naturalWidth, i.clientWidth, i.clientHeight])")
    assert len(sizes) == 40
    for natural, width, height in sizes:
        assert natural == round(outcome.FIGURE_SIZE[0] * outcome.DPI)
        assert width >= min(SIZES[size][0] - 20, 600)
        assert height == pytest.approx(width * 4 / 7.5, abs=1.5)


def test_a_choice_of_verdict_hides_the_others_everywhere_and_all_brings_them_back(page: Page, file: Path):
    look(page, file, "desk")
    everything = {"article.claim": 41, ".summary tbody tr": 41, ".side li[data-verdict]": 41, "section.chapter": 4}
    assert {selector: shown(page, selector) for selector in everything} == everything
    for verdict, count, chapters in (("holds", 19, 2), ("condition", 10, 1), ("undecided", 1, 1), ("error", 1, 1)):
        choose(page, verdict)
        assert [shown(page, selector) for selector in everything] == [count] * 3 + [chapters]
        assert shown(page, f'[data-verdict="{verdict}"]') == 3 * count
        assert shown(page, "table.summary") == chapters
        assert shown(page, "#part-slips") == 1
    choose(page, "all")
    assert {selector: shown(page, selector) for selector in everything} == everything


def test_without_a_choice_and_without_scripts_everything_is_shown(page: Page, file: Path):
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        look(page, file, "telephone")
        assert shown(page, "article.claim") == 41
        choose(page, "fails")  # no script of the page is needed for that either
        assert shown(page, "article.claim") == 10
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)


def test_nothing_is_fetched(page: Page, file: Path):
    look(page, file, "desk")
    names = ask(page, "performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 5))")
    assert set(names) <= {"data:"}


def test_the_verdicts_can_be_counted_on_the_first_screen_of_a_telephone(page: Page, file: Path):
    look(page, file, "telephone")
    bottom = ask(page, "document.querySelector('.tiles').getBoundingClientRect().bottom")
    assert bottom < SIZES["telephone"][1]
    assert len(page.shown(".tile")) == 5
    assert page.shown(".tile")[1] == "◐ 10 holds with a condition True only under a condition that the guide omits."


def test_a_tap_enlarges_a_figure_on_a_telephone_and_another_gives_it_back(page: Page, file: Path):
    look(page, file, "telephone")
    width = "document.querySelector('figure img').clientWidth"
    assert ask(page, width) == 390
    for expected in (820, 390):
        ask(page, "document.querySelector('figure img').click()")
        assert ask(page, width) == expected
        assert ask(page, "document.documentElement.scrollWidth") == 390


def test_the_contents_stand_beside_the_claims_on_a_desk_and_fold_on_a_telephone(page: Page, file: Path):
    look(page, file, "desk")
    assert (shown(page, ".side"), shown(page, ".inline-contents")) == (1, 0)
    look(page, file, "telephone")
    assert (shown(page, ".side"), shown(page, ".inline-contents")) == (0, 1)
    assert shown(page, ".inline-contents a") == 0
    ask(page, "document.querySelector('.inline-contents summary').click()")
    assert shown(page, ".inline-contents a") > 41


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.2)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(page: Page, file: Path, theme: str):
    # 4.5 to 1 is what WCAG 2.2 asks of text at level AA.
    look(page, file, "desk", theme)
    texts = (
        "p, dd, dt, td, th, a, h1, h2, h3, small, b, code, figcaption, summary, pre, .badge, .sign, .filter label,"
        " .source, .units, .if"
    )
    colours = (
        "(() => { const back = e => { const c = getComputedStyle(e).backgroundColor;"
        " return c === 'rgba(0, 0, 0, 0)' && e.parentElement ? back(e.parentElement) : c; };"
        f" return [...document.querySelectorAll('{texts}')]"
        ".map(e => [getComputedStyle(e).color, back(e), e.outerHTML.slice(0, 60)]) })()"
    )
    found = ask(page, colours)
    assert len(found) > 500
    for text, behind, what in found:
        light, dark = sorted((luminance(text), luminance(behind)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, what
    body = luminance(ask(page, "getComputedStyle(document.body).backgroundColor"))
    assert body > 0.9 if theme == "light" else body < 0.05


def test_a_figure_keeps_a_light_ground_in_the_dark(page: Page, file: Path):
    look(page, file, "desk", "dark")
    ask(page, "document.querySelector('figure').scrollIntoView()")
    box = ask(
        page,
        "(r => [r.x, r.y + scrollY, r.width, r.height])(document.querySelector('.picture').getBoundingClientRect())",
    )
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}
    shot = page.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L")
    histogram = picture.histogram()
    assert sum(histogram[230:]) > 0.7 * sum(histogram)  # paper
    assert sum(histogram[:120]) > 0.005 * sum(histogram)  # ink
