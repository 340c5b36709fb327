"""The flow flows/standard_python: a row of the data, from recorded answers."""

from __future__ import annotations

from typing import Any

import pytest

from llmops import trial

ROW: dict[str, Any] = {
    "question": "How much does a full membership cost a year, and how much is a share?",
    "chat_history": [],
}
VARIANTS: list[dict[str, str]] = [
    {},
    {"retrieve_variant": "hybrid_8"},
    {"retrieve_variant": "vector"},
    {"retrieve_variant": "keyword"},
    {"answer_variant": "brief"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_row(variant: dict[str, str]) -> None:
    row = trial.replayed("flows/standard_python", ROW | variant)
    if row.error and row.error.get("code") == "recording_missing":
        pytest.skip("no recorded answer: make record")
    assert row.error is None
    assert set(row.outputs or {}) == {
        "answer",
        "citations",
        "retrieved",
        "passages",
        "standalone_question",
    }
