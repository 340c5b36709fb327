"""Sections cut into passages: some hundred words each, with where they stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmops.indexing.reading import Section

Vectors = Any
"""An array of numpy: (passages, dimensions), rounded to 16 bits; of one passage (dimensions,)."""
LONGEST_WORD = 40
"""Characters that count as one word: a longer one counts, and may be cut, as several."""
_PIECE = re.compile(rf"(\S{{1,{LONGEST_WORD}}})(\s*)")
_SENTENCE = (".", "!", "?", ":", '."', ".)")


@dataclass(frozen=True)
class Chunk:
    """A passage of a document.

    `id` is `<source>#<n>`, or `<source>#p<page>.<n>` where there are pages. `page` and `n` count
    from 1. `heading` is empty where the document has none.
    """

    id: str
    source: str
    page: int | None
    heading: str
    text: str

    @property
    def embedded(self) -> str:
        """What is embedded: the text below its heading."""
        return f"{self.heading}\n\n{self.text}" if self.heading else self.text


def cut(source: str, sections: Iterable[Section], words: int, overlap: int) -> list[Chunk]:
    """The passages of a document, in its order; none reaches over a heading or a page."""
    numbers: Counter[int | None] = Counter()
    found = []
    for section in sections:
        for text in split(section.text, words, overlap):
            numbers[section.page] += 1
            page = f"p{section.page}." if section.page else ""
            name = f"{source}#{page}{numbers[section.page]}"
            found.append(Chunk(name, source, section.page, section.heading, text))
    return found


def split(text: str, words: int, overlap: int) -> list[str]:
    """A text in pieces of at most `words` words; each but the first repeats the last `overlap`.

    A piece ends with a paragraph or, failing that, a sentence, where one ends in its second half.
    White space becomes one blank, one line's end, or one blank line.
    """
    pieces = [(word, _separator(space)) for word, space in _PIECE.findall(text.strip())]
    found, start = [], 0
    while start < len(pieces):
        end = _end(pieces, start, words, overlap)
        found.append("".join(word + space for word, space in pieces[start:end]).rstrip())
        if end == len(pieces):
            break
        start = end - overlap
    return found


def _end(pieces: list[tuple[str, str]], start: int, words: int, overlap: int) -> int:
    """Where the piece from `start` ends; always behind the overlap, so that the next goes on."""
    last = start + words
    if last >= len(pieces):
        return len(pieces)
    places = range(last, start + max(overlap, words // 2), -1)
    paragraph = (end for end in places if pieces[end - 1][1] == "\n\n")
    sentence = (end for end in places if pieces[end - 1][0].endswith(_SENTENCE))
    return next(paragraph, None) or next(sentence, last)


def _separator(space: str) -> str:
    if space.count("\n") > 1:
        return "\n\n"
    return "\n" if "\n" in space else " " if space else ""
