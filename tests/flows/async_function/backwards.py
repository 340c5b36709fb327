from __future__ import annotations

import asyncio


async def backwards(text: str, level: int = 1) -> dict[str, str]:
    await asyncio.sleep(0.001)
    if text == "x":
        raise KeyError("too short to turn")
    return {"turned": text[::-1], "level": str(level)}
