from __future__ import annotations

from helper import ORIGIN, same
from promptflow.core import tool


@tool
def grade(urgency: str, truth: str, text: str, weight: float) -> dict[str, object]:
    if text.startswith("Ελλ"):
        raise ValueError("no grade for this alphabet")
    hit = same(urgency, truth)
    return {"hit": hit, "weighted": hit * weight, "by": ORIGIN, "length": len(text)}
