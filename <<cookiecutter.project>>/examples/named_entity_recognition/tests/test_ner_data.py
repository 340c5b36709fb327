"""The data files fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file in data/."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("data", "truth"),
    [("data.jsonl", "eval_data.jsonl"), ("pr_data.jsonl", "pr_eval_data.jsonl")],
)
def test_truth_stands_beside_its_text_line_by_line(data: str, truth: str) -> None:
    expected = [{**row, "results": None} for row in rows(data)]
    assert [{**row, "results": None} for row in rows(truth)] == expected


@pytest.mark.parametrize("row", rows("eval_data.jsonl"), ids=lambda row: row["text"][:30])
def test_every_true_entity_occurs_in_its_text(row: dict[str, str]) -> None:
    assert all(entity.strip() in row["text"] for entity in row["results"].split(","))


def test_production_log_has_unique_ids_and_marks_from_1_to_5() -> None:
    log = rows("production_log.jsonl")
    assert len({row["id"] for row in log}) == len(log)
    assert {row["feedback"] for row in log} <= {None, 1, 2, 3, 4, 5}
