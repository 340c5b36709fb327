"""The question that the documents are searched for."""

from __future__ import annotations

QUOTES = "\"'“”„ "


def standalone(question: str, rewritten: str | None, follow_up: bool) -> str:
    """The rewritten question in a conversation, else the visitor's own; one line either way.

    Where the model rewrote it to nothing, the visitor's own words stay.
    """
    chosen = rewritten.strip(QUOTES + "\n") if follow_up and rewritten else ""
    return " ".join((chosen or question).split())
