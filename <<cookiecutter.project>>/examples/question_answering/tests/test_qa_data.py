"""The documents, the questions about them and the labels fit together."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmops.indexing import reading

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
DOCUMENTS = DATA / "documents"
KINDS = {"plain": 20, "multi_document": 6, "follow_up": 5, "unanswerable": 6, "injected": 4}
"""The kinds of questions, and how many there are at least."""


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file in data/."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def grader() -> ModuleType:
    """The evaluation's own comparison of words."""
    path = ROOT / "flows" / "evaluation" / "grade.py"
    spec = importlib.util.spec_from_file_location("grade", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def said(source: str, page: int | None) -> str:
    """What stands in a document, or on one of its pages."""
    sections = reading.read(DOCUMENTS / source)
    return " ".join(f"{part.heading} {part.text}" for part in sections if part.page == page)


@pytest.mark.parametrize("prefix", ["", "pr_"])
def test_answers_stand_beside_their_questions_line_by_line(prefix: str) -> None:
    questions, answers = rows(f"{prefix}questions.jsonl"), rows(f"{prefix}answers.jsonl")
    assert [(row["id"], row["question"]) for row in questions] == [
        (row["id"], row["question"]) for row in answers
    ]


def test_there_are_enough_questions_of_each_kind() -> None:
    kinds = [row["kind"] for row in rows("answers.jsonl")]
    assert set(kinds) == set(KINDS)
    assert {kind for kind, least in KINDS.items() if kinds.count(kind) < least} == set()
    assert {row["kind"] for row in rows("pr_answers.jsonl")} == set(KINDS)


def test_a_pull_request_asks_some_of_the_same_questions() -> None:
    assert all(row in rows("questions.jsonl") for row in rows("pr_questions.jsonl"))
    assert all(row in rows("answers.jsonl") for row in rows("pr_answers.jsonl"))


@pytest.mark.parametrize("row", rows("answers.jsonl"), ids=lambda row: row["id"])
def test_every_key_fact_stands_in_a_source(row: dict[str, Any]) -> None:
    sources = [said(source["source"], source["page"]) for source in row["sources"]]
    assert all(sources), "a source or its page does not exist"
    assert (row["sources"] == row["key_facts"] == []) == (row["kind"] == "unanswerable")
    assert (len(sources) > 1) == (row["kind"] == "multi_document")
    holds = grader().holds
    for fact in row["key_facts"]:
        assert any(holds(text, fact) for text in sources), fact


@pytest.mark.parametrize("row", rows("answers.jsonl"), ids=lambda row: row["id"])
def test_the_ground_truth_itself_would_be_correct(row: dict[str, Any]) -> None:
    places = row["sources"]
    marks = grader().grade(
        *(row[name] for name in ("ground_truth", "key_facts", "forbidden", "sources")),
        answer=row["ground_truth"],
        citations=places,
        retrieved=places,
    )
    assert (marks["correct"], marks["exact_match"], marks["f1"]) == (1, 1, 1)


def test_what_must_not_be_said_stands_in_a_document() -> None:
    texts = [said(path.name, None) for path in DOCUMENTS.iterdir() if path.suffix != ".pdf"]
    forbidden = {words for row in rows("answers.jsonl") for words in row["forbidden"]}
    assert len(forbidden) >= 4
    for words in forbidden:
        assert any(words in text for text in texts), words


def test_follow_ups_have_a_conversation_before_them_and_others_none() -> None:
    for question, answer in zip(rows("questions.jsonl"), rows("answers.jsonl"), strict=True):
        assert bool(question["chat_history"]) == (answer["kind"] == "follow_up")
        for turn in question["chat_history"]:
            assert turn["inputs"]["question"] and turn["outputs"]["answer"]


def test_labels_are_marks_from_1_to_5_of_all_sizes() -> None:
    labels = rows("judge_labels.jsonl")
    assert len(labels) >= 15
    for name in ("groundedness", "relevance"):
        assert {row[name] for row in labels} == {1, 2, 3, 4, 5}


def test_production_log_has_unique_ids_known_columns_and_marks_from_1_to_5() -> None:
    log = rows("production_log.jsonl")
    assert len({row["id"] for row in log}) == len(log)
    assert {row["feedback"] for row in log} <= {None, 1, 2, 3, 4, 5}
    columns = {"id", "timestamp", "deployment", "question", "answer", "citations", "retrieved"}
    assert all(set(row) == columns | {"feedback"} for row in log)
