"""1,000 simulated experiments a case: the 95 % interval holds the true value in 93 to 97 %.

`make intervals` runs this; it takes minutes, so `make test` has a smaller version of it.
"""

from __future__ import annotations

import pytest
from simulated import CASES, DIFFERENCES, Case, held, held_difference

EXPERIMENTS = 1000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_interval_of_a_metric(case: Case) -> None:
    assert 0.93 <= held(case, EXPERIMENTS) <= 0.97


@pytest.mark.parametrize("case", DIFFERENCES, ids=lambda case: case.name)
def test_the_interval_of_a_difference(case: Case) -> None:
    assert 0.93 <= held_difference(case, EXPERIMENTS) <= 0.97
