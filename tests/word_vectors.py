"""Embeddings for the example question_answering, computed from word counts: there is no model here.

Latent semantic analysis (Deerwester et al., 1990): the documents' paragraphs are counted into a
table of features by paragraphs, each count weighed by how often (sublinear) and by how rare it is
(inverse frequency), and a singular value decomposition keeps the table's main directions. A text is
where its own counts point to, with length 1. Texts that share rare words, words of one stem, or
words of one paragraph lie near each other; synonyms that the documents do not hold do not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
(HOUSE,) = TESTS.parent.glob("*cookiecutter.project*")
DOCUMENTS = HOUSE / "examples" / "question_answering" / "data" / "documents"
STEM, LETTERS = 6, 4
COMMON = re.compile(
    "a|an|and|any|are|as|at|be|been|before|but|by|can|did|do|does|for|from|go|had|has|have|how|i|"
    "if|in|is|it|its|many|may|me|much|must|my|of|on|one|or|our|that|the|their|them|there|they|this|"
    "to|was|we|were|what|when|where|which|who|whose|why|will|with|would|you|your"
)
"""Words that say nothing of a text's subject; those of questions are rare in documents."""
WEIGHT = 0.3
"""What a group of letters counts beside a whole word."""


def vector(text: str, dimensions: int) -> list[float]:
    """The direction of a text; dimensions that the documents do not fill are 0."""
    found = (counted(text) @ axes())[:dimensions].tolist()
    length = math.hypot(*found) or 1.0
    return [number / length for number in found] + [0.0] * (dimensions - len(found))


def features(text: str) -> Iterator[str]:
    """The stems of a text's words (their first letters), and the groups of letters in them."""
    for word in re.findall(r"\w+", text.lower()):
        if COMMON.fullmatch(word):
            continue
        yield (word.removesuffix("s") or word)[:STEM]
        padded = f"{word} "
        yield from (f"~{padded[at : at + LETTERS]}" for at in range(len(padded) - LETTERS + 1))


def counted(text: str) -> Any:
    """The weighed features of a text, in the order of the table; unknown ones do not count."""
    import numpy

    places, rarities = known()
    row = numpy.zeros(len(places))
    for feature, count in Counter(features(text)).items():
        if feature in places:
            weight = WEIGHT if feature.startswith("~") else 1
            row[places[feature]] = (1 + math.log(count)) * rarities[feature] * weight
    return row


@cache
def axes() -> Any:
    """The main directions of the table, one a column."""
    import numpy

    table = numpy.array([counted(paragraph) for paragraph in paragraphs()])
    return numpy.linalg.svd(table, full_matrices=False)[2].T


@cache
def known() -> tuple[dict[str, int], dict[str, float]]:
    """The place of each feature, and its inverse frequency among the paragraphs."""
    counts = Counter(feature for part in paragraphs() for feature in set(features(part)))
    total = 1 + len(paragraphs())
    rarities = {feature: math.log(total / count) for feature, count in counts.items()}
    return {feature: place for place, feature in enumerate(sorted(counts))}, rarities


@cache
def paragraphs() -> list[str]:
    """The paragraphs of the documents; of a PDF those of the text that it was made from."""
    texts = [path for path in DOCUMENTS.iterdir() if path.suffix in (".md", ".txt", ".html")]
    texts += (TESTS / "documents").glob("*.txt")
    whole = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(texts))
    parts = re.sub(r"<(p|h\d|li)\b[^>]*>", "\n\n", whole).split("\n\n")
    return [part for part in (re.sub(r"<[^>]*>", " ", part).strip() for part in parts) if part]
