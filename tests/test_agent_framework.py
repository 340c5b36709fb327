"""A flow of Microsoft Agent Framework beside prompt flow: it runs, its calls count and replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin import StandIn
from usecase import AOAI, UseCase

FLOW = Path(__file__).parent / "flows" / "agent_framework" / "flow.py"
LETTERS = ("the tram was late", "the guide was kind", "the lift was broken")
ANSWERS = [
    {"when": ["complaint or praise", "kind"], "answer": "Praise\n"},
    {"when": ["complaint or praise"], "answer": "Complaint"},
]
DAG = {
    "inputs": {"reply": {"type": "string"}},
    "outputs": {"words": {"type": "int", "reference": "${count.output}"}},
    "nodes": [
        {
            "name": "count",
            "type": "python",
            "source": {"type": "code", "path": "count.py"},
            "inputs": {"reply": "${inputs.reply}"},
        }
    ],
}
COUNT = """
from promptflow.core import tool


@tool
def count(reply: str) -> int:
    return len((reply or "").split())
"""


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn(answers=ANSWERS) as standin:
        yield standin


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """Three letters, and an evaluator of prompt flow's."""
    use = UseCase(tmp_path)
    use.write("flows/standard/flow.py", FLOW.read_bytes())
    (use.folder / "flows/evaluation/flow.py").unlink()
    use.write("flows/evaluation/flow.dag.yaml", json.dumps(DAG))
    use.write("flows/evaluation/count.py", COUNT)
    use.rows([{"text": text} for text in LETTERS])
    mappings = {"reply": "${run.outputs.reply}"}
    own = {"name": "own", "flow": "flows/evaluation"}
    use.configure(
        connections=[AOAI],
        evaluators=[{**own, "datasets": [{"name": "words", "mappings": mappings}]}],
    )
    return use


def test_rows_calls_and_answers_without_the_model(use: UseCase, standin: StandIn) -> None:
    given = {"AOAI_API_BASE": standin.url, "AOAI_API_KEY": "k" * 20}
    recorded = use.run("record", **given)
    assert recorded.code == 0 and recorded.summary, recorded.text
    rows = [row for row in use.finished() if "label" in row["outputs"]]
    told = {row["inputs"]["text"]: row for row in rows}
    assert {text: row["outputs"]["label"] for text, row in told.items()} == dict(
        zip(LETTERS, ("complaint", "praise", "complaint"), strict=True)
    )
    assert LETTERS[0] in told[LETTERS[0]]["outputs"]["reply"]
    assert told[LETTERS[1]]["outputs"]["reply"] is None
    calls = {text: row["usage"]["standin-small"] for text, row in told.items()}
    assert [calls[text][0] for text in LETTERS] == [2, 1, 2]
    assert all(call[1] > 0 and call[2] > 0 for call in calls.values())
    assert all(row["aggregation"] == {"_length": len(text)} for text, row in told.items())
    again = use.run("experiment", LLM="replay", FRESH="1")
    assert again.code == 0 and again.summary, again.text
    assert again.summary["scores"] == recorded.summary["scores"]
    (kept,) = (use.folder / "recordings").glob("*.jsonl")
    requests = [json.loads(line)["request"] for line in kept.read_text().splitlines()]
    assert len(requests) == 5 and all(request["max_tokens"] == 64 for request in requests)
