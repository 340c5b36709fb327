from __future__ import annotations

from promptflow.core import tool


@tool
async def count(loud: str) -> int:
    return len(loud)
