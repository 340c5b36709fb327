"""Which sources an answer cites, and what they say."""

from __future__ import annotations

import re
from typing import Any

BRACKETS = re.compile(r"\[([^\[\]]+)\]")
SOURCE = re.compile(r"(?P<source>\S.*?\.\w{2,4})(?:,? p(?:\.|age)? ?(?P<page>\d+))?", re.IGNORECASE)


def cite(answer: str, passages: list[dict[str, Any]]) -> dict[str, Any]:
    """Read `[source]` and `[source p. n]` out of the answer; several may stand in one bracket.

    `citations` are source and page, each once, in the order of the answer; `retrieved` are the
    passages without their text; `passages` is the text of the cited ones, for a judge.
    """
    citations = cited(answer)
    wanted = [(c["source"], c["page"]) for c in citations]
    kept = [p for p in passages if (p["source"], p["page"]) in wanted]
    return {
        "citations": citations,
        "retrieved": [{name: p[name] for name in ("source", "page", "id")} for p in passages],
        "passages": "\n".join(f"[{p['label']}] {p['text']}" for p in kept),
    }


def cited(answer: str) -> list[dict[str, Any]]:
    """The sources that stand in square brackets; other words in brackets are none."""
    found: list[dict[str, Any]] = []
    parts = (part.strip() for text in BRACKETS.findall(answer) for part in text.split(";"))
    for match in filter(None, map(SOURCE.fullmatch, parts)):
        page = int(match["page"]) if match["page"] else None
        citation = {"source": match["source"], "page": page}
        if citation not in found:
            found.append(citation)
    return found
