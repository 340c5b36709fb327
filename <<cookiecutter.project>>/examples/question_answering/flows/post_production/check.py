"""Check one answer of production without knowing the right one."""

from __future__ import annotations

from typing import Any

from promptflow.core import tool


@tool
def check(
    answer: str,
    citations: list[dict[str, Any]],
    retrieved: list[dict[str, Any]],
    feedback: float | None,
) -> dict[str, float | None]:
    """Say whether the answer declines, cites anything, and cites what was not retrieved.

    `cited` and `made_up` are None where it declines, `made_up` also where it cites nothing.
    `feedback` is passed on (None: the user gave none).
    """
    declined = answer.strip().lower().replace("\u2019", "'").startswith("i don't know")
    cited = {(source["source"], source.get("page")) for source in citations}
    seen = {(source["source"], source.get("page")) for source in retrieved}
    return {
        "declined": float(declined),
        "cited": None if declined else float(bool(cited)),
        "made_up": float(not cited <= seen) if cited and not declined else None,
        "feedback": feedback,
    }
