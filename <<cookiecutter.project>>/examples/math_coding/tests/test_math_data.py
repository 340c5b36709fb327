"""The data files fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file in data/."""
    lines = (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_each_question_has_its_answer_and_stands_once() -> None:
    questions = [row["math_question"] for row in rows("data.jsonl")]
    assert len(set(questions)) == len(questions) == len(rows("eval_data.jsonl"))
    assert all(row["answer"] for row in rows("eval_data.jsonl"))


def test_the_rows_of_a_pull_request_are_some_of_all() -> None:
    def pairs(data: str, truth: str) -> set[tuple[str, str]]:
        both = zip(rows(data), rows(truth), strict=True)
        return {(question["math_question"], answer["answer"]) for question, answer in both}

    few = pairs("pr_data.jsonl", "pr_eval_data.jsonl")
    assert len(few) == 8
    assert few < pairs("data.jsonl", "eval_data.jsonl")


def test_production_log_has_unique_ids_in_order_and_marks_from_1_to_5() -> None:
    log = rows("production_log.jsonl")
    assert len({row["id"] for row in log}) == len(log)
    assert [row["timestamp"] for row in log] == sorted(row["timestamp"] for row in log)
    assert {row["feedback"] for row in log} <= {None, 1, 2, 3, 4, 5}
    assert not {row["math_question"] for row in log} & {
        row["math_question"] for row in rows("data.jsonl")
    }


def test_sample_request_is_the_flow_s_input() -> None:
    request = json.loads((ROOT / "sample-request.json").read_text(encoding="utf-8"))
    assert list(request) == list(rows("data.jsonl")[0])
