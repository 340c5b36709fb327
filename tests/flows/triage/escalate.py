from __future__ import annotations

from promptflow.core import tool


@tool
def escalate(text: str, tone: str) -> str:
    return f"[{tone}] call somebody: {text}"
