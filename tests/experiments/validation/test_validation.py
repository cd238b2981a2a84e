"""The validation's verdicts, on measurements that are doctored, and the whole of it on small networks."""

import json
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import validate
from experiments.validation import NUMBERS, networks, reference, scatter, table
from experiments.validation.row import Row, exit_code, failed, judge, refused
from lab import schema
from lab.schema import ConfigError


def number(value, *_):
    """A measurement that is known."""
    return value


def row(measured=1.0, predicted=1.0, allowed=0.1, name="row", **other):
    return Row(3, name, "a statement", predicted, allowed, "by hand", partial(number, measured), **other)


def judged(measured, **other):
    return judge(row(**other), measured)


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("measured", "verdict"), [(1.0, "in"), (1.0999, "in"), (1.1001, "OUT"), (0.8999, "OUT")])
def test_a_measurement_is_in_as_far_as_is_allowed(measured, verdict):
    outcome = judged(measured)
    assert (outcome.verdict, outcome.is_passed) == (verdict, verdict == "in")
    assert outcome.position == pytest.approx((measured - 1) / 0.1)


def test_either_side_has_its_own_allowance():
    sides = {"predicted": 0.0, "allowed": (0.1, 0.5)}
    assert judged(0.4, **sides).is_passed
    assert not judged(-0.4, **sides).is_passed


def test_one_number_out_of_many_is_enough_and_is_named():
    many = {"predicted": np.zeros(4), "allowed": np.array([1.0, 1.0, 0.1, 0.0])}
    assert judged([0.9, -0.9, 0.05, 0.0], **many).is_passed
    outcome = judged([0.9, -0.9, -0.2, 0.0], **many)
    assert (outcome.verdict, outcome.worst, outcome.position) == ("OUT", 2, pytest.approx(-2))
    assert not judged([0.0, 0.0, 0.0, 1e-12], **many).is_passed  # the last one has to be met exactly


@pytest.mark.parametrize("measured", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("allowed", [0.1, np.inf])
def test_what_is_not_finite_is_out_however_much_is_allowed(measured, allowed):
    assert not judged(measured, allowed=allowed).is_passed


def test_a_limit_that_is_not_finite_lets_nothing_pass():
    assert not judged(1.5, allowed=np.inf).is_passed
    assert not judged(1.5, allowed=np.nan).is_passed


def test_another_count_of_numbers_is_no_pass():
    assert not judged([1.0, 1.0]).is_passed


def test_a_control_passes_only_when_it_is_found_out():
    assert judged(2.0, is_control=True).verdict == "caught"
    assert judged(2.0, is_control=True).is_passed
    assert judged(1.0, is_control=True).verdict == "NOT CAUGHT"
    assert not judged(1.0, is_control=True).is_passed
    assert not judged([1.0, 1.0], is_control=True).is_passed
    assert not judged(np.nan, is_control=True).is_passed
    assert not judged(2.0, allowed=np.nan, is_control=True).is_passed
    assert not failed(row(is_control=True), "it broke").is_passed


def test_an_assumption_may_fail_only_if_theory_said_so_before():
    outcome = judge(refused(3, "declined", "a statement", "norm=odd: there is no theory."), None)
    assert outcome.verdict == "assumption fails: norm=odd: there is no theory."
    assert outcome.is_passed


def test_the_exit_code_is_1_if_any_row_is_out_or_there_is_none():
    good, bad = judged(1.0), judged(2.0)
    assert exit_code([good, good]) == 0
    assert exit_code([good, bad]) == 1
    assert exit_code([]) == 1


# --- the command ----------------------------------------------------------------------------------------------------


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


def predictions_lie_in(folder):
    """Measures 1 if the predictions are written already."""
    [written] = json.loads((folder / validate.PREDICTIONS).read_text())
    return written["predicted"][0]


def test_predictions_are_written_before_anything_is_measured(tmp_path):
    late = Row(3, "late", "a statement", 1.0, 0.1, "by hand", partial(predictions_lie_in, tmp_path))
    assert run([late], tmp_path)[0] == 0


def breaks_down():
    raise ValueError("the network fell over")


def test_a_measurement_that_breaks_down_costs_no_other_row(tmp_path):
    broken = Row(3, "broken", "a statement", 1.0, 0.1, "by hand", breaks_down)
    code, printed = run([broken, row(name="whole")], tmp_path)
    assert code == 1
    assert "03 broken: failed: ValueError: the network fell over" in printed
    assert [verdict["is_passed"] for verdict in json.loads((tmp_path / validate.VERDICTS).read_text())] == [False, True]


def test_a_statement_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--only 25"):
        validate.main(["--only", "25", "--folder", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


# --- what rows compare with -----------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_activation_and_usual_initialization():
    cells = [(activation, init) for activation in schema.ACTIVATIONS for init in table.INITS]
    assert len(cells) == 60
    found = table.cell(networks.QUICK, "tanh", "he_normal")
    depth = networks.QUICK.depth
    assert found.center.shape == (depth,)
    assert np.all(found.reach[0][:-1] > 0)
    # Of 30 layers of width 128 and 4 replicas: 3 sqrt(v L / (n S)) / (2 ln 10) decades with v from 2 to 8, and a bias.
    assert 0.2 < found.reach[0][0] < 0.6


@pytest.mark.parametrize(
    ("name", "V", "D"),
    [("relu", 0.5, 0.5), ("identity", 1.0, 1.0), ("erf", 2 / np.pi * np.arcsin(2 / 3), 4 / np.pi / np.sqrt(5))],
)
def test_the_reference_integrates_what_has_a_closed_form(name, V, D):
    assert reference.moments(name, 1.0)[:2] == pytest.approx((V, D), rel=1e-12)


def test_the_reference_knows_random_slopes_and_gates():
    slope_moment = reference.moments("rrelu", 1.0).D
    assert 2 * slope_moment - 1 == pytest.approx(0.05613, abs=5e-6)
    assert reference.moments("bilinear", 3.0)[:2] == pytest.approx((9.0, 6.0), rel=1e-12)
    assert reference.moments("reglu", 3.0)[:2] == pytest.approx((4.5, 3.0), rel=1e-12)


def test_the_steps_of_narrow_relu_networks_have_their_leading_orders():
    mean, variance = scatter.log_step()
    first_order = 5 / scatter.WIDTH  # and what follows is as small again
    assert mean == pytest.approx(-first_order / 2, rel=first_order)
    assert variance == pytest.approx(first_order, rel=first_order)
    assert scatter.power_mean(1) == pytest.approx(1, rel=1e-12)
    assert scatter.power_mean(2) == pytest.approx(1 + 5 / scatter.WIDTH, rel=1e-12)


def test_a_wide_chain_of_gram_matrices_follows_the_correlation_map():
    def correlation(gram):
        return gram[..., 0, 1] / np.sqrt(gram[..., 0, 0] * gram[..., 1, 1])

    mean, deviation = reference.gram_chain("relu", 2.0, 0.0, np.eye(2), 4, 1024, correlation)
    c = [0.0]
    for _ in range(3):
        c.append(reference.relu_correlation(c[-1]))
    assert mean == pytest.approx(c, abs=0.02)
    assert deviation[0] == pytest.approx(1 / np.sqrt(1024), rel=0.2)  # a sample correlation of independent numbers


def test_inputs_have_the_gram_matrix_asked_for():
    gram = np.array([[0.7, 0.3], [0.3, 0.4]])
    for features in (8, 9):
        (x,) = networks.examples_of_gram(gram, features).numpy()
        found = x @ x.T / features
        assert found[0] == pytest.approx(gram[0], rel=0.05)
        assert found[1, 1] == pytest.approx(0.4, rel=1e-12)


# --- everything -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_statement_holds_on_small_networks(tmp_path: Path):
    assert validate.main(["--quick", "--folder", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / validate.PREDICTIONS).read_text())
    assert {int(row["id"][:2]) for row in rows} == set(NUMBERS)
    names = [row["id"].split(" ", 1)[1] for row in rows]
    assert len(set(names)) == len(names)
    cells = [name for name in names if any(f", {init}, depth" in name for init in table.INITS)]
    assert len(cells) == 60
    assert sum(row["is_control"] for row in rows) >= 8
