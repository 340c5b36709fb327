"""Answers that come in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


def joined(parts: AsyncIterator[Any]) -> str:
    """The whole text of an answer that comes in pieces."""
    return asyncio.run(_joined(parts))


async def _joined(parts: AsyncIterator[Any]) -> str:
    return "".join([str(part) async for part in parts])
