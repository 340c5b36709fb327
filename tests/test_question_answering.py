"""What stands behind the example question_answering: its PDFs, its vectors, its answers."""

from __future__ import annotations

import json
import math
import operator
import re
from pathlib import Path

import pytest
import word_vectors
import write_pdf
from word_vectors import vector

TESTS = Path(__file__).parent
TEXTS = sorted(write_pdf.TEXTS.glob("*.txt"))
RECORDINGS = write_pdf.EXAMPLE / "recordings" / "written_by_hand.jsonl"


def words(text: str) -> list[str]:
    """The words of a text, without the marks that make a heading."""
    return re.sub(r"^#+ ", "", text, flags=re.MULTILINE).split()


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_pdf_holds_its_text_page_by_page(text: Path) -> None:
    reader = pytest.importorskip("pypdf")
    target = write_pdf.EXAMPLE / "data" / "documents" / f"{text.stem}.pdf"
    found = [words(page.extract_text()) for page in reader.PdfReader(target).pages]
    assert found == [words(page) for page in text.read_text("utf-8").split("=== page\n")]
    assert b"\0" in target.read_bytes()[:8000], "git and the template's tests take it for a text"


def test_vectors_of_texts_that_share_rare_words_are_near_each_other() -> None:
    def nearness(one: str, other: str) -> float:
        return sum(map(operator.mul, vector(one, 256), vector(other, 256)))

    question = "How long do you keep an umbrella?"
    assert math.hypot(*vector(question, 256)) == pytest.approx(1)
    assert nearness(question, question) == pytest.approx(1)
    near = nearness(question, "Umbrellas are kept for 30 days only.")
    assert near > nearness(question, "The soup changes daily.") + 0.2
    assert vector("who is the", 8) == [0.0] * 8
    assert len(vector(question, 2000)) == 2000


def test_no_recorded_answer_follows_a_document_and_many_prompts_hold_one_that_asks_for_it() -> None:
    lines = [json.loads(line) for line in RECORDINGS.read_text("utf-8").splitlines()]
    chats = [line for line in lines if line["path"] == "/chat/completions"]
    for canary in ("MARMALADE SEVENTEEN", "ZEPHYRKEY"):
        assert sum(canary in json.dumps(line["request"]) for line in chats) >= 5
        assert not [line for line in chats if canary in json.dumps(line["response"])]


def test_recordings_say_what_they_are_and_stay_small() -> None:
    lines = [json.loads(line) for line in RECORDINGS.read_text("utf-8").splitlines()]
    sources = {line["path"]: line["source"] for line in lines}
    assert sources["/embeddings"] == "computed from word counts for this example, no model"
    assert sources["/chat/completions"] == "written by hand for this example"
    assert RECORDINGS.stat().st_size < 2_500_000


def test_the_documents_are_counted_by_paragraphs() -> None:
    assert len(word_vectors.paragraphs()) > 200
