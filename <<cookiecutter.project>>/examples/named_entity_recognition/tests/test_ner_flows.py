"""The Python nodes of the flows, called directly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FLOWS = Path(__file__).parents[1] / "flows"


def load(path: str) -> ModuleType:
    """Import a node by its path: two flows have a module of the same name."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), FLOWS / f"{path}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Collect what the aggregation nodes log as metrics."""
    metrics: dict[str, float] = {}
    monkeypatch.setattr("promptflow.core.log_metric", metrics.__setitem__)
    return metrics


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ada Birk, Tomas Rehn", ["Ada Birk", "Tomas Rehn"]),
        ("  Ada Birk ,, ", ["Ada Birk"]),
        ("Ada Birk, ADA BIRK, ada birk", ["Ada Birk"]),
        ('- Ada Birk\n- "Tomas Rehn"\r\n', ["Ada Birk", "Tomas Rehn"]),
        ("Anna-Lena Oort", ["Anna-Lena Oort"]),
        ("-", []),
        ("", []),
    ],
)
def test_cleansing_makes_a_clean_list(answer: str, expected: list[str]) -> None:
    assert load("standard/cleansing").cleansing(answer) == expected


@pytest.mark.parametrize(
    ("truth", "entities", "precision", "recall", "f1", "exact"),
    [
        ("Ada Birk, Tomas Rehn", ["tomas  rehn", "Ada Birk"], 1, 1, 1, 1),
        ("Ada Birk, Tomas Rehn", ["Ada Birk"], 1, 0.5, 2 / 3, 0),
        ("Ada Birk", ["Ada Birk", "Lund"], 0.5, 1, 2 / 3, 0),
        ("Ada Birk", ["Lund"], 0, 0, 0, 0),
        ("Ada Birk", [], 0, 0, 0, 0),
        ("", ["Lund"], 0, 0, 0, 0),
        ("", [], 1, 1, 1, 1),
    ],
)
def test_match_scores_a_row(
    truth: str, entities: list[str], precision: float, recall: float, f1: float, exact: float
) -> None:
    scores = load("evaluation/match").match(truth, entities)
    assert scores == pytest.approx(
        {"precision": precision, "recall": recall, "f1": f1, "exact_match": exact}
    )


def test_summarise_leaves_unscored_rows_out_of_the_mean(logged: dict[str, float]) -> None:
    rows = [{"f1": 1.0}, None, {"f1": 0.5}]
    assert load("evaluation/summarise").summarise(rows) == {"rows": 3, "scored": 2}
    assert logged == {"f1": 0.75}


def test_summarise_logs_nothing_when_no_row_was_scored(logged: dict[str, float]) -> None:
    assert load("evaluation/summarise").summarise([None]) == {"rows": 1, "scored": 0}
    assert logged == {}


@pytest.mark.parametrize(
    ("entities", "grounded"),
    [
        (["Ada Birk", "lund"], 1.0),
        (["Ada Birk", "Malmo"], 0.0),
        (["Ad"], 0.0),  # only a part of a word
        ([], None),
    ],
)
def test_check_looks_entities_up_in_the_text(entities: list[str], grounded: float | None) -> None:
    result = load("post_production/check").check("Ada  Birk lives in Lund.", entities, 4)
    assert result == {
        "grounded": grounded,
        "empty": float(not entities),
        "entity_count": len(entities),
        "feedback": 4,
    }


def test_post_production_means_count_only_rows_with_a_value(logged: dict[str, float]) -> None:
    check = load("post_production/check").check
    rows = [check("Ada in Lund", ["Ada", "Lund"], 5), check("Hello", [], None), None]
    counts = load("post_production/summarise").summarise(rows)
    assert logged == {
        "grounded_share": 1.0,
        "empty_share": 0.5,
        "entities_per_text": 1.0,
        "feedback_mean": 5.0,
    }
    assert counts == {
        "grounded_share": 1,
        "empty_share": 2,
        "entities_per_text": 2,
        "feedback_mean": 1,
    }
