"""The Python nodes beside the sandbox, called directly."""

from __future__ import annotations

import importlib.util
import json
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


def metrics(path: str, rows: list[dict[str, object]]) -> dict[str, float]:
    """What an aggregation logs for these rows."""
    node = load(path)
    logged: dict[str, float] = {}
    vars(node)["log_metric"] = logged.__setitem__
    assert node.aggregate(rows) == logged
    return logged


CODE = "x = 1\nprint(x)"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (CODE, CODE),
        (f"```python\n{CODE}\n```", CODE),
        (f"Sure!\n\n```py\n{CODE}\n```\nIt prints 1.", CODE),
        (f"```\n{CODE}\n```", CODE),
        (f"```python\n{CODE}", CODE),
        (f"```python\r\n{CODE}\r\n```", CODE),
        (f"Run\n```bash\npython x.py\n```\nthis\n```python\n{CODE}\n```", CODE),
        (f"  ```python\n  {CODE.replace(chr(10), chr(10) + '  ')}\n  ```", CODE),
        (json.dumps({"plan": "p", "code": CODE}), CODE),
        (f"```json\n{json.dumps({'code': CODE})}\n```", CODE),
        (json.dumps({"code": f"```python\n{CODE}\n```"}), CODE),
        ('{"code": "x = 1\nprint(x)"}', CODE),
        (json.dumps({"plan": "no program"}), '{"plan": "no program"}'),
        ("", ""),
    ],
)
def test_refine_finds_the_program(reply: str, code: str) -> None:
    assert load("standard/code_refine").refine(reply).replace("\r", "") == code


@pytest.mark.parametrize(
    ("truth", "answer", "correct"),
    [
        ("42", "42", 1),
        ("42", "42.0", 1),
        ("42", "42.000000000000004", 1),
        ("42", "42.1", 0),
        ("42", "42 days", 0),
        ("3.25", "3.24", 1),
        ("3.25", "3.2512", 1),
        ("3.25", "3.23", 0),
        ("0.5000", "1/2", 1),
        ("0.5000", "0.5002", 0),
        ("1234.50", "$1,234.50", 1),
        ("15", "15 %", 1),
        ("123", "1,23", 0),
        ("12", "1 2", 0),
        ("18446744073709551616", "18446744073709551615", 0),
        ("-3", "-3", 1),
        ("3", "1/0", 0),
        ("3", "nan", 0),
        ("3", "-inf", 0),
        ("3", "1e999999999", 0),
        ("Monday", " monday", 1),
        ("Monday", "Tuesday", 0),
        ("2025-07-22", "2025-07-22", 1),
        ("3", "", 0),
    ],
)
def test_compare_numbers_with_tolerance_and_text_without(
    truth: str, answer: str, correct: int
) -> None:
    scores = load("evaluation/compare").compare(ground_truth=truth, answer=answer)
    assert scores == {"correct": correct, "error": 0}


def test_an_error_is_never_correct() -> None:
    compare = load("evaluation/compare").compare
    scores = compare(ground_truth="error: timeout", answer="error: timeout")
    assert scores == {"correct": 0, "error": 1}


def test_the_evaluation_gives_shares_of_the_scored_rows() -> None:
    right: dict[str, object] = {"correct": 1, "error": 0}
    wrong: dict[str, object] = {"correct": 0, "error": 1}
    rows = [right, right, right, wrong]
    assert metrics("evaluation/aggregate", rows) == {"accuracy": 0.75, "error_share": 0.25}
    assert metrics("evaluation/aggregate", []) == {}


@pytest.mark.parametrize(
    ("answer", "feedback", "expected"),
    [
        ("42.5", 4, {"error": 0, "numeric": 1, "feedback": 4}),
        ("1,234", None, {"error": 0, "numeric": 1, "feedback": None}),
        ("Saturday", 9, {"error": 0, "numeric": 0, "feedback": None}),
        ("inf", "4", {"error": 0, "numeric": 0, "feedback": None}),
        ("error: ValueError", 1, {"error": 1, "numeric": 0, "feedback": 1}),
    ],
)
def test_assess_reads_a_line_of_the_log(
    answer: str, feedback: object, expected: dict[str, object]
) -> None:
    assert load("post_production/assess").assess(answer=answer, feedback=feedback) == expected


def test_the_mean_of_the_feedback_leaves_out_lines_without() -> None:
    rows: list[dict[str, object]] = [
        {"error": 0, "numeric": 1, "feedback": 5},
        {"error": 0, "numeric": 0, "feedback": 2},
        {"error": 1, "numeric": 0, "feedback": None},
        {"error": 0, "numeric": 1, "feedback": None},
    ]
    assert metrics("post_production/aggregate", rows) == {
        "error_share": 0.25,
        "numeric_share": 0.5,
        "feedback_mean": 3.5,
    }
    assert "feedback_mean" not in metrics("post_production/aggregate", rows[2:])
    assert metrics("post_production/aggregate", []) == {}
