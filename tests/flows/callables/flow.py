"""Plain Python callables, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any


def run(text: str, level: int, mood: str = "calm") -> dict[str, Any]:
    if text.startswith("Broken"):
        raise ValueError("broken text")
    return {"shout": text.upper(), "level": level, "mood": mood, "words": text.split()}


async def later(text: str, level: int, mood: str = "calm") -> dict[str, Any]:
    await asyncio.sleep(0.01)
    return run(text, level, mood)


def aggregate(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {"level": sum(row["level"] for row in rows) / len(rows), "rows": len(rows)}
