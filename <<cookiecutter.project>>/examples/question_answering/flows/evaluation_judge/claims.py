"""Whether there is anything to judge."""

from __future__ import annotations

from promptflow.core import tool


@tool
def claims(answer: str) -> bool:
    """Whether the answer claims something: one that is empty or says "I don't know" does not."""
    plain = answer.strip().lower().replace("\u2019", "'")
    return bool(plain) and not plain.startswith("i don't know")
