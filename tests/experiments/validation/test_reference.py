"""The references that rows compare with, against closed forms."""

import numpy as np
import pytest

from experiments.validation import expected, maps, networks, reference, scatter


def test_the_table_has_a_row_for_every_usual_initialization():
    row, *others = expected.table_rows(networks.QUICK, ["tanh"])
    assert len(others) == len(expected.INITS) - 1
    depth = networks.QUICK.depth
    assert row.center.shape == (depth,)
    assert np.all(row.reach[0][:-1] > 0)
    # Of 30 layers of width 128 and 4 replicas: 3 sqrt(v L / (n S)) / (2 ln 10) decades with v from 2 to 8, and a bias.
    assert 0.2 < row.reach[0][0] < 0.6


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
    samples = reference.gram_chain("relu", 2.0, 0.0, np.eye(2), 4, 1024, maps.correlation)
    c = [0.0]
    for _ in range(3):
        c.append(reference.relu_correlation(c[-1]))
    assert samples.mean(1) == pytest.approx(c, abs=0.02)
    assert samples[0].std() == pytest.approx(1 / np.sqrt(1024), rel=0.2)  # a sample correlation of independent numbers


def test_inputs_have_the_gram_matrix_asked_for():
    gram = np.array([[0.7, 0.3], [0.3, 0.4]])
    for features in (8, 9):
        (x,) = networks.examples_of_gram(gram, features).numpy()
        measured = x @ x.T / features
        assert measured[0] == pytest.approx(gram[0], rel=0.05)
        assert measured[1, 1] == pytest.approx(0.4, rel=1e-12)
