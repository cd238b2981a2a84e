"""What a person sees: TensorBoard over runs of the sink, opened in headless Chromium through its DevTools protocol.

TensorBoard's pages are web components, so what is shown is read by walking through their shadow roots.
"""

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

from experiments.board import flags
from lab import schema
from lab.record.sinks.tensorboard import TensorBoard
from tests.record.test_tensorboard import reading

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 20  # seconds until something that should show counts as missing

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"),
]

RUNS = {"relu_he": ("relu", 100), "sigmoid_xavier": ("sigmoid", 100), "tanh_shallow": ("tanh", 50)}

WALK = """
const all = (selector, root = document) => [...root.querySelectorAll('*')].flatMap(element => [
    ...(element.matches(selector) ? [element] : []),
    ...(element.shadowRoot ? all(selector, element.shadowRoot) : []),
]);
const inside = node => node.tagName === 'SLOT' ? node.assignedNodes() : [...(node.shadowRoot || node).childNodes];
const hidden = node => ['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.tagName) || node.hidden;
const text = node => node.nodeType === Node.TEXT_NODE ? node.data
    : hidden(node) ? '' : inside(node).map(text).join(' ');
const shown = selector => all(selector).filter(element => element.getBoundingClientRect().height > 0)
    .map(element => text(element).replace(/\\s+/g, ' ').trim());
"""


class Page:
    """A page of headless Chromium, spoken to over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.ids = socket, itertools.count()

    def send(self, method: str, **params: Any) -> Any:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(PATIENCE))).get("id") != number:
            pass  # events, which nobody asked for
        return answer["result"]

    def open(self, url: str) -> None:
        self.send("Page.navigate", url="about:blank")  # else a URL that differs in its fragment only loads nothing
        self.send("Page.navigate", url=url)

    def shown(self, selector: str) -> list[str]:
        """The texts of the visible elements that match."""
        code = f"{{ {WALK}; shown({json.dumps(selector)}) }}"
        answer = self.send("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return list(answer["result"]["value"])

    def wait(self, selector: str, until: Callable[[list[str]], bool]) -> list[str]:
        """The texts of the visible elements that match, once `until` holds of them; else as they are in the end."""
        seen: list[str] = poll(lambda: self.shown(selector), until)
        return seen


def poll(look: Callable[[], Any], until: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not until(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


@contextmanager
def process(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    profile = tmp_path_factory.mktemp("chromium")
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    )
    with process(CHROMIUM, *flags, "--window-size=1500,3000", "about:blank", log=profile / "log"):
        announced = profile / "DevToolsActivePort"  # port, then path
        port = poll(lambda: announced.read_text().split() if announced.exists() else [], lambda lines: len(lines) == 2)[
            0
        ]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            (address,) = [tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page"]
        with connect(address, max_size=None) as socket:
            yield Page(socket)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard over runs of the sink."""
    folder, log = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("board") / "log"
    for name, (activation, depth) in RUNS.items():
        config = schema.Config(
            activation=schema.Activation(activation), model=schema.Model(depth=depth), steps=40, replicas=2
        )
        sink = TensorBoard(folder / name, config)
        for step in (0, 20, 40):
            sink.write(reading(step, depth))
        sink.close()
    command = (sys.executable, "-m", "tensorboard.main", *flags(folder, host="127.0.0.1", port=0))
    with process(*command, log=log):
        found = poll(lambda: re.search(r"http://\S+", log.read_text().partition(" at ")[2]), bool)
        assert found, log.read_text()
        poll(lambda: json.load(urlopen(f"{found[0]}data/runs")), lambda runs: len(runs) == len(RUNS))
        yield found[0]


OPEN = ["eval/accuracy", "eval/loss"] + [
    f"health/{name}" for name in ("dead_fraction", "log10_delta_rms_first_over_last", "nonfinite", "saturated_fraction")
]


def test_time_series_opens_with_at_most_12_cards_of_a_network_of_100_layers(page: Page, board: str):
    page.open(f"{board}#timeseries")
    groups = page.wait("metrics-card-group-toolbar", lambda groups: len(groups) == 7)
    assert groups[3] == "layers 1,400 cards"
    cards = page.wait("card-view tb-truncated-path", lambda cards: len(cards) >= len(OPEN))
    assert [title.replace(" ", "") for title in cards] == OPEN
    assert len(page.shown("card-view")) == len(OPEN) <= 12


def test_time_series_lists_the_runs(page: Page, board: str):
    page.open(f"{board}#timeseries")
    rows = page.wait("runs-data-table tb-data-table-content-row", lambda rows: len(rows) >= len(RUNS))
    assert rows == list(RUNS)


def test_the_scalars_page_opens_with_the_same_cards(page: Page, board: str):
    page.open(f"{board}#scalars")
    cards = page.wait("tf-card-heading", lambda cards: len(cards) >= len(OPEN))
    assert [title.split()[0] for title in cards] == OPEN
    assert any(group.startswith("layers 1400") for group in page.shown("tf-category-paginated-view"))


def test_custom_scalars_opens_on_the_charts_that_matter_with_a_line_for_each_run(page: Page, board: str):
    page.open(f"{board}#custom_scalars")
    cards = page.wait(
        "tf-custom-scalar-multi-line-chart-card",
        lambda cards: len(cards) >= 7 and all(f"({run})" in card for card in cards for run in RUNS),
    )
    charts = dict(zip(page.shown("tf-card-heading"), cards, strict=True))
    assert list(charts) == [
        "log10 delta_rms against layer: first and last reading, and theory for the first",
        "training loss",
        "delta_slope: decades of gradient per layer",
        "log10 delta_rms at 0, 1/4, 2/4, 3/4 and 4/4 of the depth",
        "held-out accuracy",
        "dead share",
        "diverged share of replicas",
    ]
    for run in RUNS:
        assert f"train/loss ({run})" in charts["training loss"]
        for when in ("first", "last"):
            assert f"profile/log10_delta_rms/{when} ({run})" in next(iter(charts.values()))


def test_the_charts_are_served_a_point_for_every_reading_and_layer(board: str):
    # The legend of a chart lists runs even where no point is left to draw, so this asks for the points themselves.
    def points(tag: str) -> int:
        with urlopen(f"{board}data/plugin/scalars/scalars?run=relu_he&tag={tag.replace('/', '%2F')}") as answer:
            return len(json.load(answer))

    assert points("train/loss") == 3
    assert points("profile/log10_delta_rms/first") == 100


def test_the_hparams_table_has_a_row_for_each_run_with_its_choices_and_metrics(page: Page, board: str):
    page.open(f"{board}#hparams")
    size = (1 + len(RUNS)) * 12
    cells = page.wait("vaadin-grid-cell-content", lambda cells: len(cells) == size and cells.count("") == len(RUNS))
    rows = [cells[i : i + 12] for i in range(0, len(cells), 12)]
    heading = ["Trial ID", "Show Metrics", "activation", "init", "model.depth", "norm", "residual"]
    metrics = ["train/loss", "eval/accuracy", "train/delta_slope", "health/dead_fraction", "train/diverged_fraction"]
    assert rows[0] == heading + metrics
    assert {row[0]: (row[2], float(row[4])) for row in rows[1:]} == RUNS
    assert [float(number) for number in rows[1][7:]] == [0.5, 0.5, 0.5, 0.5, 0]


def test_the_images_page_shows_a_heat_map_for_each_run(page: Page, board: str):
    page.open(f"{board}#images")
    cards = page.wait("tf-card-heading", lambda cards: len(cards) >= len(RUNS))
    assert [card.split()[:2] for card in cards] == [["heat_map/log10_delta_rms", run] for run in RUNS]
