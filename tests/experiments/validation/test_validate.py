"""The command: what it writes and prints, and the whole of it on small networks."""

import json
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from experiments import validate
from experiments.validation import STATEMENTS, expected
from lab.schema import ConfigError
from tests.experiments.validation.rows import row


def run(rows, folder):
    printed = StringIO()
    code = validate.validate(rows, folder, Console(file=printed, width=200), workers=0)
    return code, printed.getvalue()


def test_a_doctored_measurement_changes_verdict_table_and_exit_code(tmp_path):
    honest = [row(name="first"), row(name="second", predicted=[1.0, 2.0], measured=[1.0, 2.0])]
    assert run(honest, tmp_path)[0] == 0
    code, printed = run([honest[0], row(name="second", predicted=[1.0, 2.0], measured=[1.0, 2.2])], tmp_path)
    assert code == 1
    assert "03 second: OUT" in printed
    first, second = json.loads((tmp_path / validate.VERDICTS).read_text())
    assert (first["is_passed"], second["is_passed"]) == (True, False)
    assert second["measured"] == [1.0, 2.2]


def test_the_exit_code_is_1_if_any_row_is_out_or_there_is_none(tmp_path):
    assert run([row(name="in"), row(name="out", measured=2.0)], tmp_path)[0] == 1
    assert run([], tmp_path)[0] == 1


def predictions_lie_in(folder):
    """Measures 1 if the predictions are written already."""
    [written] = json.loads((folder / validate.PREDICTIONS).read_text())
    return written["predicted"][0]


def test_predictions_are_written_before_anything_is_measured(tmp_path):
    late = replace(row(name="late"), measure=partial(predictions_lie_in, tmp_path))
    assert run([late], tmp_path)[0] == 0


def breaks_down():
    raise ValueError("the network fell over")


def test_a_measurement_that_breaks_down_costs_no_other_row(tmp_path):
    broken = replace(row(name="broken"), measure=breaks_down)
    code, printed = run([broken, row(name="whole")], tmp_path)
    assert code == 1
    assert "03 broken: failed: ValueError: the network fell over" in printed
    assert [verdict["is_passed"] for verdict in json.loads((tmp_path / validate.VERDICTS).read_text())] == [False, True]


def test_a_statement_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--only 25"):
        validate.main(["--only", "25", "--folder", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_every_statement_holds_on_small_networks(tmp_path: Path):
    assert validate.main(["--quick", "--folder", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / validate.PREDICTIONS).read_text())
    assert {int(row["id"][:2]) for row in rows} == set(STATEMENTS)
    names = [row["id"].split(" ", 1)[1] for row in rows]
    assert len(set(names)) == len(names)
    cells = [name for name in names if any(f", {init}, depth" in name for init in expected.INITS)]
    assert len(cells) == 60
    assert sum(row["is_control"] for row in rows) >= 8
