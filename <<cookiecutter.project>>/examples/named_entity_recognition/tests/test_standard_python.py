"""The flow flows/standard_python: a row of the data, from recorded answers."""

from __future__ import annotations

from typing import Any

import pytest

from llmops import trial

ROW: dict[str, Any] = {
    "text": (
        "Maren Tolvik opened the new wing of the Fenmoor museum on Tuesday, "
        "together with the sculptor Idris Quell."
    ),
    "entity_type": "people",
}
VARIANTS: list[dict[str, str]] = [{}, {"ner_llm_variant": "variant_1"}]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_row(variant: dict[str, str]) -> None:
    row = trial.replayed("flows/standard_python", ROW | variant)
    if row.error and row.error.get("code") == "recording_missing":
        pytest.skip("no recorded answer: make record")
    assert row.error is None
    assert set(row.outputs or {}) == {"entities"}
