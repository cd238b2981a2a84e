"""The verdicts on rows, with measurements that are known."""

import numpy as np
import pytest

from experiments.validation.row import failed, judge, refused
from tests.experiments.validation.rows import row


def judged(measured, **other):
    return judge(row(**other), measured)


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


def test_a_control_passes_only_when_it_is_caught():
    assert judged(2.0, is_control=True).verdict == "caught"
    assert judged(2.0, is_control=True).is_passed
    assert judged(1.0, is_control=True).verdict == "NOT CAUGHT"
    assert not judged(1.0, is_control=True).is_passed
    assert not judged([1.0, 1.0], is_control=True).is_passed
    assert not judged(np.nan, is_control=True).is_passed
    assert not judged(2.0, allowed=np.nan, is_control=True).is_passed
    assert not failed(row(is_control=True), "it broke").is_passed


def test_an_assumption_may_fail_only_if_theory_said_so_before():
    outcome = judge(refused("declined", "a statement", "norm=odd: there is no theory."), None)
    assert outcome.verdict == "assumption fails: norm=odd: there is no theory."
    assert outcome.is_passed
