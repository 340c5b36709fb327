"""The Python nodes of the flows: answers, examples, scores and metrics."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

FLOWS = Path(__file__).resolve().parents[1] / "flows"


def load(path: str) -> ModuleType:
    """Import a node by its path below flows/; folders may hold nodes of the same name."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), FLOWS / f"{path}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


converter = load("standard/convert_to_dict")


def metrics(path: str, lines: list[dict[str, object]]) -> dict[str, float]:
    """What an aggregation logs for these lines."""
    module = load(path)
    logged: dict[str, float] = {}
    vars(module)["log_metric"] = logged.__setitem__
    getattr(module, path.rpartition("/")[2])(lines)
    return logged


@pytest.mark.parametrize(
    "answer",
    [
        '{"category": "App", "evidence": "Text content"}',
        ' {"evidence": " text Content", "category": "APP "}\n',
        '```json\n{"category": "App", "evidence": "Text content"}\n```',
        '```\n{"category": "App",\n"evidence": "Text content"}```\n',
    ],
)
def test_sound_answers(answer: str) -> None:
    expected = {"category": "App", "evidence": "Text content", "problem": ""}
    assert converter.convert_to_dict(answer) == expected


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("It is an app.", "the answer is not JSON"),
        ("", "the answer is not JSON"),
        ('Sure: {"category": "App"}', "the answer is not JSON"),
        ('["App", "Both"]', "the answer is not a JSON object"),
        ("{}", "unknown category None"),
        ('{"category": "Recipe"}', "unknown category 'Recipe'"),
        ('{"category": ["App"]}', "unknown category ['App']"),
    ],
)
def test_answer_without_a_category_says_why(answer: str, problem: str) -> None:
    expected = {"category": "None", "evidence": "None", "problem": problem}
    assert converter.convert_to_dict(answer) == expected


def test_unknown_evidence_leaves_the_category() -> None:
    given = converter.convert_to_dict('{"category": "None", "evidence": "Title"}')
    assert given == {"category": "None", "evidence": "None", "problem": ""}


def test_examples_show_each_category_once() -> None:
    examples = load("standard/prepare_examples").prepare_examples()
    assert sorted(e["category"] for e in examples) == sorted(converter.CATEGORIES)
    assert {e["evidence"] for e in examples} <= set(converter.EVIDENCE)


@pytest.mark.parametrize("prompt", ["classify_with_llm", "classify_with_llm__variant_1"])
def test_prompts_name_each_category_and_evidence(prompt: str) -> None:
    text = (FLOWS / "standard" / f"{prompt}.jinja2").read_text(encoding="utf-8")
    assert [word for word in (*converter.CATEGORIES, *converter.EVIDENCE) if word not in text] == []


def test_production_log_is_checked_against_the_same_words() -> None:
    checker = load("post_production/check_answer")
    assert (checker.CATEGORIES, checker.EVIDENCE) == (converter.CATEGORIES, converter.EVIDENCE)


@pytest.mark.parametrize(
    ("truth", "prediction", "problem", "correct"),
    [
        ("App", "app", "", 1),
        ("App", "Shop", "", 0),
        ("None", "None", "", 1),
        ("None", "None", "the answer is not JSON", 0),
    ],
)
def test_grade(truth: str, prediction: str, problem: str, correct: int) -> None:
    assert load("evaluation/grade").grade(truth, prediction, problem)["correct"] == correct


def test_accuracy_and_macro_f1() -> None:
    grade = load("evaluation/grade").grade
    pairs = [("App", "App"), ("App", "App"), ("App", "Shop"), ("Movie", "Shop")]
    logged = metrics("evaluation/aggregate", [grade(*pair, "") for pair in pairs])
    assert logged == {"accuracy": 0.5, "macro_f1": pytest.approx((0.8 + 0) / 2)}


def test_evidence() -> None:
    compare = load("evaluation_evidence/compare_evidence").compare_evidence
    results = [compare("Both", "both"), compare("Both", "Url"), compare("Url", "None")]
    logged = metrics("evaluation_evidence/aggregate_evidence", results)
    assert logged == pytest.approx({"evidence_valid": 2 / 3, "evidence_match": 1 / 3})


def test_production_metrics() -> None:
    check = load("post_production/check_answer").check_answer
    checks = [
        check("App", "Both", 1),
        check("None", "Url", None),
        check("Blog", "Both", 0),
        check("", "", None),
    ]
    assert metrics("post_production/aggregate_log", checks) == {
        "answered_share": 0.75,
        "valid_share": 0.5,
        "none_share": 0.25,
        "feedback_mean": 0.5,
    }


def test_production_log_has_every_column_in_every_line() -> None:
    log = FLOWS.parent / "data" / "production_log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    columns = {"id", "timestamp", "url", "category", "evidence", "deployment", "feedback"}
    assert all(set(line) == columns for line in lines)


def test_feedback_is_optional_and_no_rows_log_nothing() -> None:
    silent = load("post_production/check_answer").check_answer("App", "Url", None)
    assert "feedback_mean" not in metrics("post_production/aggregate_log", [silent])
    for path in (
        "evaluation/aggregate",
        "evaluation_evidence/aggregate_evidence",
        "post_production/aggregate_log",
    ):
        assert metrics(path, []) == {}
