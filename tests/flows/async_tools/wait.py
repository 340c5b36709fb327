from __future__ import annotations

import asyncio

from promptflow.core import tool


@tool
async def wait(text: str, level: int) -> str:
    await asyncio.sleep(0.01 * level)
    if level == 0:
        raise LookupError("nothing to wait for")
    return text.upper()
