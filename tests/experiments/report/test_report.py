"""The report: what a page, Markdown and JSON say of outcomes, in words and numbers that mean what they say."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import report as reports
from experiments.claims.claim import FULL, QUICK, Claim, Judgement, Number, Verdict
from experiments.report import content, measurement, outcome, rendering
from experiments.report.content import ClaimsReport
from experiments.report.measurement import Failure, Measurement
from experiments.report.outcome import ClaimResult
from tests.experiments import fake_claims

REPOSITORY = Path(__file__).parents[3]
DATE = "2026-03-04T05:06:07+00:00"
VOID = {"meta", "img", "input", "br", "link", "hr"}


def examined(claim: Claim, center: float, recorded: str | None = None) -> ClaimResult:
    """A fake claim measured at a center that decides its verdict, and drawn."""
    found = Measurement({"x": np.array([center + 0.01 * i for i in range(4)])}, 12.3, DATE, "a machine, 2 cores", ())
    judged = outcome.judge(claim, FULL, found, recorded)
    picture = outcome.draw(judged)
    assert isinstance(picture, bytes)
    return replace(judged, picture=picture)


@pytest.fixture(scope="module")
def report() -> ClaimsReport:
    """One claim of each kind, two of the first."""
    slope, rate, cost, training = fake_claims.CLAIMS
    undecided = examined(training, 0.9, "holds")
    assert undecided.judgement is not None
    judgement = replace(undecided.judgement, verdict=Verdict.UNDECIDED, condition="more replicas")
    outcomes = [
        examined(slope, 0.5, "holds"),
        examined(rate, 2.0, "holds"),
        examined(cost, 3.0, "does not hold"),
        replace(undecided, judgement=judgement),
        replace(examined(replace(slope, id="second", section="Q10", findings=()), 0.5, "holds")),
        ClaimResult(
            replace(slope, id="lost", section="5.1"), FULL, None, failure=Failure("OSError: <gone>", "Trace <b>")
        ),
    ]
    return ClaimsReport(outcomes, 6, FULL, {"gradlab": "0.1.0", "torch": "2.13.0"}, 61.0, DATE)


class Page(HTMLParser):
    """What a page is made of; refuses tags that are not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def page(report: ClaimsReport) -> Page:
    return Page(rendering.page(report))


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_has_every_claim_once_and_every_link_leads_somewhere(report: ClaimsReport, page: Page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {found.claim.id for found in report.outcomes} <= set(ids)
    links = page.values("href")
    assert len(links) > 3 * len(report.outcomes)
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(report: ClaimsReport, page: Page):
    source = rendering.page(report)
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'"data:image/png;base64,[^"]*"', "", source))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert all(picture.startswith("data:image/png;base64,iVBOR") for picture in page.values("src"))
    assert len(page.values("src")) == 5


def test_words_that_look_like_tags_are_shown_and_mean_nothing(page: Page):
    text = "".join(page.text)
    assert "Not where the <script>alert(1)</script> is." in text
    assert "A second sentence with a < b & c_d*e follows." in text
    assert ("code", {}) in page.tags
    assert "OSError: <gone>" in text


@pytest.mark.parametrize("form", ["page", "markdown", "json"])
def test_no_form_names_a_folder_of_this_machine(report: ClaimsReport, form: str):
    try:
        raise RuntimeError(f"cannot read {REPOSITORY}/lab/data.py nor {Path.home()}/secret")
    except RuntimeError as error:
        broken = replace(report.outcomes[0], judgement=None, failure=measurement.failure(error))
    report = replace(report, outcomes=[broken])
    source = {
        "page": lambda: rendering.page(report),
        "markdown": lambda: rendering.text(report, has_pictures=True),
        "json": lambda: content.as_json(report),
    }[form]()
    assert "cannot read lab/data.py nor" in source
    assert str(REPOSITORY) not in source
    assert str(Path.home()) + "/" not in source
    assert not re.search(r"/(home|root|usr|tmp|work)/", source)


def test_a_traceback_through_a_library_names_no_folder_either():
    try:
        np.load("/nowhere/at/all.npy")
    except OSError as error:
        found = measurement.failure(error)
    assert "numpy/" in found.traceback
    assert "site-packages" not in found.traceback


def test_each_claim_shows_verdict_reason_condition_figure_numbers_rule_limit_source_arms_and_command(
    report: ClaimsReport,
):
    source = rendering.page(report)
    article = source[source.index('<article class="claim" id="rate"') :].split("</article>")[0]
    text = re.sub(r"\s+", " ", "".join(Page(article + "</article>").text))
    for said in (
        *("holds with a condition", "section 2.3", "The *rate* is < 1 & bounded by a_b.", "Value against replica."),
        *(
            "Condition: layers of a | b units",
            "Evidence: It is 2.01, e.g. more than 0.1.",
            "Holds if the mean is below",
        ),
        *("(Nobody 1999, section 2)", "gradlab run activation=tanh model.width=8", "by hand: one matrix, repeated"),
        *("gradlab reproduce rate (12 s)", "x, units | a layer", "no number", "∞"),
    ):
        assert said in text, said
    assert 'alt="Value against replica."' in article
    assert "3.8&nbsp;&times;&nbsp;10<sup>&minus;19</sup>" in article
    undecided = source[source.index('<article class="claim" id="training"') :].split("</article>")[0]
    assert "What would decide it:</b> more replicas" in undecided


def test_verdicts_are_told_by_sign_and_word_and_not_by_colour_alone(report: ClaimsReport):
    assert len({kind.sign for kind in content.KINDS.values()}) == len(content.KINDS) == 5
    source = rendering.page(report)
    for found in report.outcomes:
        kind = content.KINDS[found.verdict]
        badge = f'<span class="badge {kind.name}"><span class="sign" aria-hidden="true">{kind.sign}</span> {kind.title}'
        assert source.count(badge) == 2 * sum(other.verdict == found.verdict for other in report.outcomes)


def test_the_styles_hide_by_every_kind_of_verdict_and_nothing_is_hidden_without_a_choice(
    report: ClaimsReport, page: Page
):
    style = rendering.page(report).split("<style>")[1].split("</style>")[0]
    kinds = {kind.name for kind in content.KINDS.values()}
    assert set(re.findall(r'\[value="(\w+)"\]:checked', style)) == kinds
    choices = [attributes for _, attributes in page.tags if attributes.get("type") == "radio"]
    assert {choice["value"] for choice in choices} == kinds | {"all"}
    assert [choice["value"] for choice in choices if "checked" in choice] == ["all"]


def test_the_guides_slips_have_a_section_of_their_own(report: ClaimsReport):
    source = rendering.page(report)
    section = source[source.index('<section id="part-slips">') :].split("</section>")[0]
    assert section.count("Section 3.1 says 0.1 where 0.2 is meant.") == 2
    assert '<a href="#slope">slope</a>' in section


def test_a_report_of_some_claims_says_so(report: ClaimsReport):
    some = replace(report, outcomes=report.outcomes[:2], scale=QUICK)
    source = rendering.page(some)
    assert "2 of the 6 statements" in re.sub(r"\s+", " ", source)
    assert "gradlab reproduce slope rate --quick" in source
    assert "This was a quick run" in source
    assert "Slips" not in rendering.page(replace(report, outcomes=report.outcomes[1:2]))


def test_pictures_are_drawn_at_their_size_in_few_colours(report: ClaimsReport):
    from PIL import Image

    found = report.outcomes[0]
    assert outcome.PICTURE_SIZE == (720, 384)
    assert len(found.picture) < 60_000
    picture = Image.open(io.BytesIO(found.picture))
    assert picture.size == (1125, 600)
    assert picture.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


# --- Markdown -------------------------------------------------------------------------------------------------------


def test_markdown_has_every_claim_and_tables_whose_rows_have_as_many_cells_as_their_heading(report: ClaimsReport):
    text = rendering.text(report, has_pictures=True)
    assert re.findall(r"^### ([a-z]+)$", text, re.MULTILINE) == ["training", "rate", "slope", "lost", "second", "cost"]
    assert text.count("![Value against replica.](figures/") == 5
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) == 1 + 5 + 5
    for heading, rule, *rows in tables:
        assert re.fullmatch(r"(\|-+:?)+\|", rule)
        assert rows
        for row in (rule, *rows):
            assert len(re.findall(r"(?<!\\)\|", row)) == heading.count("|"), row
    assert not re.search(r"\n\n\n", text)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_markdown_links_lead_to_headings(report: ClaimsReport):
    text = rendering.text(report, has_pictures=False)
    assert "figures/" not in text
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links == {found.claim.id for found in report.outcomes}


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("a * b < c", r"a \* b \< c"),
        ("weight_var and _this_", r"weight_var and \_this\_"),
        ("`a*b_c` and 2 * 3", r"`a*b_c` and 2 \* 3"),
        ("|x| \\ $y$", r"\|x\| \\ \$y\$"),
    ],
)
def test_markdown_shows_words_as_they_are(words: str, written: str):
    assert rendering.markdown_words(words) == written


def test_a_bar_in_code_does_not_end_a_cell():
    assert rendering.table_cell(rendering.markdown_words("|x| and `|y|`")) == r"\|x\| and `\|y\|`"


def test_the_summary_names_each_claim_at_its_verdict(report: ClaimsReport):
    counts, *rows = rendering.summary(report, link="docs/claims.md").splitlines()
    assert counts == (
        "✓ holds: 2, ◐ holds with a condition: 1, ✗ does not hold: 1, ? not decided here: 1, ! not measured: 1."
    )
    cells = re.findall(r"(.)&nbsp;\[(\w+)\]\(docs/claims.md#(\w+)\)", "\n".join(rows))
    signs = {"slope": "✓", "second": "✓", "rate": "◐", "cost": "✗", "training": "?", "lost": "!"}
    assert {name: sign for sign, name, _ in cells} == signs
    assert all(name == anchor for _, name, anchor in cells)
    assert len(rows) == 3 + len(report.chapters)


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_is_strict_and_has_everything(report: ClaimsReport):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(content.as_json(report), parse_constant=refuse)
    assert list(found["counts"].items()) == [
        *[("holds", 2), ("holds with a condition", 1), ("does not hold", 1), ("not decided here", 1)],
        ("not measured", 1),
    ]
    assert (found["machines"], found["date"]) == (["a machine, 2 cores"], DATE)
    assert tuple(found["findings"][0].values()) == ("slope", "3.1, Q2", "Section 3.1 says 0.1 where 0.2 is meant.")
    rate = found["claims"][1]
    assert (rate["verdict"], rate["recorded"], rate["condition"]) == (
        *("holds with a condition", "holds", "layers of a | b units"),
    )
    mean, lost, exploded, _ = rate["numbers"]
    assert mean["value"] == pytest.approx(2.015)
    assert mean["lower"] < mean["value"] < mean["upper"]
    assert mean["predicted"] == 0.51
    assert (lost["value"], exploded["value"]) == (None, "infinity")
    assert rate["arms"]["narrow"] == ["activation=tanh", "model.width=8"]
    assert (rate["seconds"], rate["machine"], rate["command"]) == (12.3, "a machine, 2 cores", "gradlab reproduce rate")
    assert found["claims"][5]["error"] == {"reason": "OSError: <gone>", "traceback": "Trace <b>"}
    assert {"limit", "source", "rule", "quantity", "caption", "statement", "section"} <= set(rate)


def test_all_forms_are_written_whole(report: ClaimsReport, tmp_path: Path):
    paths = reports.write(report, tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md", "claims.json"]
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    pictures = [f"figures/{id_}.png" for id_ in ("cost", "rate", "second", "slope", "training")]
    assert found == ["claims.json", *pictures, "report.html", "report.md"]


# --- words and numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "value", "interval"),
    [
        (Number("", 0.23613, 0.2312, 0.2411), "0.2361", "0.2312 to 0.2411"),
        (Number("", -0.0001, -0.031, 0.032), "0.000", "-0.031 to 0.032"),
        (Number("", 1234.6, 1200.0, 1270.0), "1235", "1200 to 1270"),
        (Number("", 3.8147e-6, 3.7e-6, 3.9e-6), "3.81e-6", "3.70e-6 to 3.90e-6"),
        (Number("", 2e-19, 1e-21, 1e-18), "2.0e-19", "1.0e-21 to 1.00e-18"),
        (Number("", 5.0, 5.0, 5.0), "5", "5 to 5"),
        (Number("", 0.25), "0.25", ""),
        (Number("", 123456.0), "123456", ""),
        (Number("", 1234567.0), "1.235e6", ""),
        (Number("", 3.39e-67), "3.39e-67", ""),
        (Number("", 1000.0), "1000", ""),
        (Number("", 0.0), "0", ""),
        (Number("", float("nan"), 0.0, float("inf")), "no number", "0 to ∞"),
        (Number("", float("-inf")), "-∞", ""),
    ],
)
def test_numbers_have_the_digits_that_their_interval_supports(number: Number, value: str, interval: str):
    assert rendering.value(number) == value
    assert rendering.interval(number) == interval


@pytest.mark.parametrize("exponent", range(-12, 13))
def test_a_written_number_is_the_number(exponent: int):
    for mantissa in (1.0, 1.2345678, 9.9999999):
        x = mantissa * 10.0**exponent
        assert float(rendering.value(Number("", x))) == pytest.approx(x, rel=5e-4)
        wide = Number("", x, x * 0.9, x * 1.1)
        assert float(rendering.value(wide)) == pytest.approx(x, rel=2e-2)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("It is 0.25. The rest follows.", "It is 0.25."),
        ("A gain of e.g. 3 is small. More.", "A gain of e.g. 3 is small."),
        ("Poole et al. 2016 say so; 1.5 is right", "Poole et al. 2016 say so; 1.5 is right"),
        ("Is it? Yes.", "Is it?"),
        ("One. two is no new sentence.", "One. two is no new sentence."),
    ],
)
def test_the_first_sentence_ends_where_a_new_one_begins(text: str, first: str):
    assert content.first_sentence(text) == first


def test_in_short_is_the_condition_or_the_first_sentence(report: ClaimsReport):
    assert [content.in_short(found) for found in report.outcomes] == [
        *("It is 0.515, e.g. more than 0.1.", "layers of a | b units", "It is 3.01, e.g. more than 0.1."),
        *("It is 0.915, e.g. more than 0.1.", "It is 0.515, e.g. more than 0.1.", "OSError: <gone>"),
    ]


def test_claims_stand_in_the_order_of_the_guides_sections(report: ClaimsReport):
    sections = ["coding 1", "Q2", "5.2, Q1", "3.1, Q2", "2.10", "2.9", "1", "Q10"]
    outcomes = [replace(report.outcomes[0], claim=replace(fake_claims.CLAIMS[0], section=s)) for s in sections]
    chapters = replace(report, outcomes=outcomes).chapters
    found = [(chapter.key, [o.claim.section for o in chapter.outcomes]) for chapter in chapters]
    assert found == [
        *[("1", ["1"]), ("2", ["2.9", "2.10"]), ("3", ["3.1, Q2"]), ("5", ["5.2, Q1"])],
        *[("Q", ["Q2", "Q10"]), ("C", ["coding 1"])],
    ]


def test_days_and_machines_are_those_of_the_samples(report: ClaimsReport):
    first, second = report.outcomes[:2]
    assert first.measurement is not None
    older = replace(first, measurement=replace(first.measurement, date="2025-12-31T23:00:00+00:00", machine="old"))
    assert replace(report, outcomes=[second]).days == "2026-03-04"
    mixed = replace(report, outcomes=[second, older])
    assert (mixed.days, mixed.machines) == ("2025-12-31 to 2026-03-04", ["a machine, 2 cores", "old"])


def test_arms_are_commands_where_they_are_overrides(report: ClaimsReport):
    claim = replace(
        fake_claims.CLAIMS[0],
        arms={"a": ("init.gain=2", "+norm=layer", "data.path=my file.npz"), "b": ("spectral radius = 1",), "c": ()},
    )
    arms = replace(report.outcomes[0], claim=claim).arms
    assert arms["a"].command == "gradlab run init.gain=2 +norm=layer 'data.path=my file.npz' seed=1"
    assert (arms["b"].command, arms["b"].words) == ("", "spectral radius = 1")
    assert arms["c"] == ("", "")


def test_an_arm_is_shown_with_what_the_measurement_adds_to_it(report: ClaimsReport):
    claim = replace(
        fake_claims.CLAIMS[0],
        arms={"a": ("norm=layer",), "b": ("norm=rms",)},
        shown_with={"a": ("steps=0", "probe.cotangent=random")},
        training="300 steps at each of <three> rates",
    )
    shown = replace(report, outcomes=[replace(report.outcomes[0], claim=claim)])
    command = "gradlab run norm=layer steps=0 probe.cotangent=random seed=1"
    assert shown.outcomes[0].arms["a"].command == command
    assert shown.outcomes[0].arms["b"].command == "gradlab run norm=rms seed=1"
    assert command in rendering.page(shown)
    assert "(training: 300 steps at each of \\<three> rates)" in rendering.text(shown, has_pictures=False)


def test_every_arm_that_is_read_at_the_start_only_is_a_configuration_of_no_steps():
    from experiments.report import catalogue
    from lab import compose

    for entry in catalogue.choose(["fix-init", "fix-residual", "exploding-product", "tanh-vanishes", "relu-sparsity"]):
        assert entry.claim.shown_with.keys() <= entry.claim.arms.keys()
        for arm, more in list(entry.claim.shown_with.items())[-2:]:
            composed = compose.compose([*entry.claim.arms[arm], *more])
            assert (composed.steps == 0) == ("steps=0" in more)


def test_a_judgement_that_is_undecided_must_say_what_would_decide(report: ClaimsReport):
    with pytest.raises(ValueError, match="what would decide it"):
        Judgement(Verdict.UNDECIDED, "Who knows.", ())
