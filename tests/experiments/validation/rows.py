"""Rows for tests, with measurements that are known."""

from functools import partial

from experiments.validation.row import Row, Tolerance


def number(value, *_):
    """A measurement that is known."""
    return value


def row(measured=1.0, predicted=1.0, allowed=0.1, name="row", **other):
    tolerance = Tolerance(allowed, "by hand")
    return Row(name, "a statement", predicted, tolerance, partial(number, measured), number=3, **other)
