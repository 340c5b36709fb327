"""Read the judge's reply."""

from __future__ import annotations

import json
import re
from typing import Any

from promptflow.core import tool

NAMES = ("groundedness", "relevance")
FENCE = re.compile(r"^\s*```\w*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


@tool
def marks(reply: str | None, judged: bool) -> dict[str, Any]:
    """The two marks, whole numbers from 1 to 5, and the reason.

    Both marks are None where the answer was not judged, and where the reply cannot be used;
    `problem` is then what is wrong with it, and empty otherwise.
    """
    if not judged:
        return _result(reason="the answer declines, so there is nothing to judge")
    try:
        fields = json.loads(FENCE.sub(r"\1", reply or ""))
    except ValueError:
        return _result(problem="the judge's reply is not JSON")
    found = [fields.get(name) if isinstance(fields, dict) else None for name in NAMES]
    if not all(_is_mark(mark) for mark in found):
        return _result(problem="the judge's reply lacks a mark from 1 to 5")
    return _result(found[0], found[1], str(fields.get("reason") or ""))


def _is_mark(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 5


def _result(
    groundedness: int | None = None,
    relevance: int | None = None,
    reason: str = "",
    problem: str = "",
) -> dict[str, Any]:
    marks = {"groundedness": groundedness, "relevance": relevance}
    return {**marks, "reason": reason, "problem": problem}
