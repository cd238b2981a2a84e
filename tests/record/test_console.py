"""The console sink, rendered for a terminal and for a file."""

import io
import re

import numpy as np
import pytest
from rich.console import Console as RichConsole

from lab.record.sinks.console import Console, describe, summary_table
from tests.record.test_tensorboard import reading

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOWS_ESCAPES = re.compile(r"\x1b\[")


def show(*records, steps: int = 100, is_terminal: bool = False, width: int = 140) -> str:
    """What the sink prints on these readings."""
    screen = io.StringIO()
    sink = Console("mine", steps, RichConsole(file=screen, force_terminal=is_terminal, width=width, color_system=None))
    for record in records:
        sink.write(record)
        sink.progress.refresh()
    sink.close()
    return screen.getvalue()


def cells(printed: str, row: str) -> list[str]:
    """The cells of the closing table's row of that name."""
    [line] = [line for line in printed.splitlines() if line.startswith(f"│ {row} ")]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


DELTA = np.array([[1e-9, 3e-9], [1e-12, 5e-12], [1e-3, 1e-3]])
DEAD = np.array([[0.0, 0.5], [0.25, 0.25], [0.5, 0.0]])


def test_a_reading_is_one_line_with_loss_slowest_gradient_and_dead_share():
    line = describe(reading(0, loss=[0.5, 1.5], delta_rms=DELTA, dead_fraction=DEAD))
    assert line == "loss 1  slowest layer 1 at 3.0e-12  dead 25.0%"


def test_no_dead_share_is_shown_where_none_applies():
    assert "dead" not in describe(reading(0, dead_fraction=np.nan))


def test_replicas_that_diverged_are_counted_and_not_averaged():
    loss = [np.nan, 2.0]
    delta = np.where([True, False], np.nan, DELTA)
    line = describe(reading(3, loss=loss, delta_rms=delta, diverged=[0]))
    assert line.startswith("loss 2  1 of 2 diverged  slowest layer 1 at 5.0e-12")
    line = describe(reading(3, loss=np.inf, delta_rms=np.nan, diverged=[0, 1]))
    assert line.startswith("loss not finite  2 of 2 diverged  slowest not finite")


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_shows_one_live_line_with_steps_a_second_and_the_time_left(width: int):
    records = [reading(step, loss=step, delta_rms=DELTA) for step in (0, 20_000, 40_000)]
    printed = show(*records, steps=100_000, is_terminal=True, width=width)
    assert SHOWS_ESCAPES.search(printed)
    live = [line for line in re.split(r"[\r\n]", ESCAPES.sub("", printed)) if "40000/100000" in line]
    # `reading` takes a second a step.
    seen = r" *40000/100000 1 steps/s (\d+:\d\d|--:--) loss 4e\+04  slowest layer 1 at 3\.0e-12  dead 50\.0% *"
    assert re.fullmatch(seen, live[-1])
    assert "step 40000" not in printed.partition("median")[0]


def test_the_name_of_a_run_stands_above_its_line_and_its_table_whatever_is_in_it():
    assert show(reading(0), is_terminal=True).startswith("mine\n")
    for is_terminal in (True, False):
        screen = io.StringIO()
        console = RichConsole(file=screen, force_terminal=is_terminal, width=140, color_system=None)
        sink = Console("data=[a],[bold]", 10, console)
        sink.write(reading(0))
        sink.close()
        assert "data=[a],[bold]" in screen.getvalue()


def test_a_file_gets_about_ten_plain_lines_however_many_readings_there_are():
    printed = show(*(reading(step) for step in range(101)), steps=100)
    lines = [line for line in printed.splitlines() if line.startswith("mine  step ")]
    assert not SHOWS_ESCAPES.search(printed)
    assert lines[0].startswith("mine  step 0/100  loss 0.5")
    assert lines[-1].startswith("mine  step 100/100  ")
    assert lines[-1].endswith("1 steps/s")
    assert 10 <= len(lines) <= 12


def test_the_closing_table_holds_the_first_and_the_last_reading_with_their_spread():
    first = reading(0, loss=[1.0, 3.0], delta_rms=DELTA, dead_fraction=DEAD, eval_accuracy=[0.1, 0.2])
    last = reading(100, loss=0.25, delta_rms=1.0, dead_fraction=np.nan, eval_accuracy=np.nan, delta_slope=[0.5, -0.5])
    printed = show(first, last)
    assert cells(printed, "loss") == ["2 (1 to 3)", "0.25 (0.25 to 0.25)"]
    assert cells(printed, "held-out accuracy, %") == ["15 (10 to 20)", "n/a"]
    assert cells(printed, "delta_slope (decades per layer)") == ["0.5 (0.5 to 0.5)", "0 (-0.5 to 0.5)"]
    assert cells(printed, "delta_rms, first over last layer") == ["2e-06 (1e-06 to 3e-06)", "1 (1 to 1)"]
    assert cells(printed, "dead units, %") == ["25 (25 to 25)", "n/a"]
    assert cells(printed, "diverged replicas") == ["0 of 2", "0 of 2"]


def test_the_closing_table_says_how_many_values_were_not_finite():
    first = reading(0)
    last = reading(7, loss=[np.nan, 2.0], delta_rms=np.inf, grad_norm=np.inf, delta_slope=np.inf, diverged=[0])
    printed = show(first, last)
    assert cells(printed, "loss")[1] == "2 (2 to 2, 1 not finite)"
    assert cells(printed, "delta_slope (decades per layer)")[1] == "Inf"
    assert cells(printed, "diverged replicas")[1] == "1 of 2"


def test_one_replica_needs_no_spread():
    printed = show(reading(0, replicas=1, loss=2.0))
    assert cells(printed, "loss") == ["2"]


def test_a_run_of_no_steps_shows_one_column():
    record = reading(0)
    assert [column.header for column in summary_table("mine", record, record).columns][1:] == ["step 0"]
    assert "step 0/0" in show(record, steps=0)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_run_without_any_reading_shows_no_table(is_terminal: bool):
    assert "median" not in show(is_terminal=is_terminal)


def test_a_narrow_terminal_still_shows_the_loss():
    printed = ESCAPES.sub("", show(reading(0), reading(50), is_terminal=True, width=50))
    assert "50/100 1 steps/s --:-- loss 0.5" in printed
