"""Assess one line of the production log; the logged program is not run again."""

from __future__ import annotations

import math

from promptflow.core import tool

ERROR_PREFIX = "error:"


@tool
def assess(answer: str, feedback: float | None = None) -> dict[str, float | None]:
    """Return `error` and `numeric` (0 or 1) and `feedback` (1 to 5, or null).

    `error` marks an answer `error: …`, `numeric` one that is a finite number and nothing else.
    Feedback outside of 1 to 5 counts as not given.
    """
    known = isinstance(feedback, int | float) and 1 <= feedback <= 5
    return {
        "error": int(answer.strip().lower().startswith(ERROR_PREFIX)),
        "numeric": int(is_number(answer)),
        "feedback": feedback if known else None,
    }


def is_number(text: str) -> bool:
    """Whether the text is a finite number, commas between thousands allowed."""
    try:
        return math.isfinite(float(text.replace(",", "")))
    except ValueError:
        return False
