"""All claims together: each has a case in which its verdict must change, and that case leads to what is on record."""

import pytest

from experiments.report import catalogue
from tests.experiments.claims import (
    test_claims_costs,
    test_claims_functions,
    test_claims_gated,
    test_claims_gradients,
    test_claims_relu,
)

FILES = (test_claims_costs, test_claims_functions, test_claims_gated, test_claims_gradients, test_claims_relu)
CASES = {id_: case for file in FILES for id_, case in file.CASES.items()}


def test_every_claim_has_a_case_that_it_fails():
    assert set(CASES) == set(catalogue.catalogue())


@pytest.mark.parametrize("claim_id", list(catalogue.catalogue()))
def test_the_case_that_passes_has_the_verdict_on_record(claim_id: str):
    """The samples that a test takes for the real ones must lead where the real ones led, else the test shows little."""
    claim = catalogue.catalogue()[claim_id].claim
    like_measured, doctored = CASES[claim_id]
    assert claim.judge(like_measured).verdict == catalogue.recorded()[claim_id]
    assert claim.judge(doctored).verdict != catalogue.recorded()[claim_id]
