"""Two examples ship their flow twice: for prompt flow, and ejected from it, as plain Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from usecase import UseCase, example

EJECTED = Path("flows/standard_python")
EXAMPLES = ("named_entity_recognition", "question_answering")


@pytest.fixture(params=EXAMPLES)
def use(request: pytest.FixtureRequest, tmp_path: Path) -> UseCase:
    return example(tmp_path, request.param)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_second_is_what_eject_writes_of_the_first(use: UseCase) -> None:
    test = use.folder / "tests/test_standard_python.py"
    shipped, tested = content(use.folder / EJECTED), test.read_text("utf-8")
    told = use.run("eject", FLOW="flows/standard", TO="python", YES="1")
    assert told.code == 0, told.text
    assert content(use.folder / EJECTED) == shipped
    # In a repo llmops is its own, and its import stands apart.
    assert test.read_text("utf-8") == tested.replace("\n\nfrom llmops", "\nfrom llmops")


@pytest.mark.parametrize("variants", ["", "all"])
def test_they_are_equal(use: UseCase, variants: str) -> None:
    told = use.run("parity", A="flows/standard", B=str(EJECTED), VARIANTS=variants, LLM="replay")
    assert told.code == 0, told.text
    found = json.loads((use.folder / "reports/parity.json").read_text("utf-8"))
    assert (found["verdict"], found["level"]) == ("equal", 1)
    for cell in found["cells"]:
        assert cell["same_requests"] == cell["same_outputs"] == cell["rows"] > 10
        assert cell["requests_a"] == cell["requests_b"] >= cell["rows"] - 10
