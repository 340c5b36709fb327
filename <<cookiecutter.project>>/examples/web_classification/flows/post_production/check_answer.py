"""Check one answer that the endpoint gave in production; there is no ground truth for it."""

from __future__ import annotations

from typing import Any

from promptflow.core import tool

CATEGORIES = ("Academic", "App", "Channel", "Movie", "Profile", "Shop", "None")
EVIDENCE = ("Url", "Text content", "Both")


@tool
def check_answer(category: str, evidence: str, feedback: int | None) -> dict[str, Any]:
    """Three yes-or-no scores (1 or 0), and what the aggregation needs beside them.

    `feedback` is 1 or 0 from the user, null where nobody said anything.
    """
    return {
        "answered": int(bool(category.strip())),
        "category_valid": int(category in CATEGORIES),
        "evidence_valid": int(evidence in EVIDENCE),
        "none": int(category == "None"),
        "feedback": feedback,
    }
