"""The picture of GELU's forms and their differences."""

from __future__ import annotations

import numpy as np

from lab.plot import gelu
from lab.plot.gelu import GeluDifference


def test_the_largest_difference_is_named_where_it_is_closest_to_0():
    x = np.array([-3.0, -1.0, 0.0, 2.0])
    comparison = GeluDifference("a", "b", "float32", x, np.array([-5.0, 1.0, 0.0, 5.0]))
    assert comparison.largest == (5.0, 2.0)


def test_forms_that_are_equal_can_be_drawn():
    x = np.linspace(-1, 1, 11)
    same = GeluDifference("a", "b", "float64", x, np.zeros(11))
    figure = gelu.draw(x, x, x, [same])
    assert "largest: 0 at" in figure.get_axes()[1].texts[0].get_text()
