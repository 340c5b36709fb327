"""The model's answer becomes category and evidence, or says what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from promptflow.core import tool

NONE = "None"
CATEGORIES = ("Academic", "App", "Channel", "Movie", "Profile", "Shop", NONE)
EVIDENCE = ("Url", "Text content", "Both")
FENCE = re.compile(r"^\s*```\w*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


@tool
def convert_to_dict(answer: str) -> dict[str, str]:
    """Read the answer; a code fence around it and other capitals are accepted.

    `category` and `evidence` are always from the lists above, or "None". As evidence "None" is no
    answer; as category it is one, so `problem` tells a "None" that the model chose (empty) from one
    that stands in for a category which cannot be used (the reason).
    """
    try:
        fields = json.loads(_unfenced(answer))
    except ValueError:
        return _result(problem="the answer is not JSON")
    if not isinstance(fields, dict):
        return _result(problem="the answer is not a JSON object")
    category = _choice(fields.get("category"), CATEGORIES)
    evidence = _choice(fields.get("evidence"), EVIDENCE)
    problem = "" if category else f"unknown category {fields.get('category')!r}"
    return _result(category or NONE, evidence or NONE, problem)


def _unfenced(answer: str) -> str:
    match = FENCE.match(answer)
    return match[1] if match else answer


def _choice(value: Any, choices: Iterable[str]) -> str | None:
    """The one of the choices that `value` means; None where it means none of them."""
    wanted = value.strip().casefold() if isinstance(value, str) else None
    return next((choice for choice in choices if choice.casefold() == wanted), None)


def _result(category: str = NONE, evidence: str = NONE, problem: str = "") -> dict[str, str]:
    return {"category": category, "evidence": evidence, "problem": problem}
