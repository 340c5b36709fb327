"""The evaluation flow, called directly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FLOW = Path(__file__).parents[1] / "flows" / "evaluation" / "flow.py"


@pytest.fixture(scope="module")
def flow() -> ModuleType:
    """The flow's module, imported by its path."""
    spec = importlib.util.spec_from_file_location("evaluation_flow", FLOW)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("answer", "exact_match", "contains"),
    [
        ("Mercury", 1, 1),
        (" mercury\n", 1, 1),
        ("It is Mercury.", 0, 1),
        ("Venus", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_row_is_scored(
    flow: ModuleType, answer: str, exact_match: float, contains: float
) -> None:
    expected = {"exact_match": exact_match, "contains": contains}
    assert flow.run(ground_truth="Mercury", answer=answer) == expected


def test_metrics_are_means_over_the_rows(flow: ModuleType) -> None:
    rows = [{"exact_match": 0.0, "contains": 1.0}, {"exact_match": 1.0, "contains": 1.0}]
    assert flow.aggregate(rows) == {"exact_match": 0.5, "contains": 1.0}


def test_no_rows_have_no_metrics(flow: ModuleType) -> None:
    assert flow.aggregate([]) == {}
