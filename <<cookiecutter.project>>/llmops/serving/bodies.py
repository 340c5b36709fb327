"""What a server and the router before it have in common: bodies as they come in, and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable
from typing import Any

MAX_BODY_BYTES = 2**20
DISCARDED = 64 * 2**20
"""Of a body that is too large so much is read, so that its client reads the answer."""
BODY_S = 30.0
JSON = "application/json"
EVENTS = "text/event-stream"


class Problem(Exception):  # noqa: N818  # an answer, not a mistake of the server's
    """A request that gets an error: its status, code and message, and what else the body says."""

    def __init__(
        self, at: int, code: str, message: str, retry_after: float | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = at
        self.body = {"error": {"code": code, "message": message, **more}}
        seconds = f"{max(retry_after, 1):.0f}" if retry_after is not None else ""
        self.headers = {"retry-after": seconds} if seconds else {}


async def joined(chunks: AsyncIterable[bytes], most: int) -> bytes:
    """The whole body; raises Problem (408 or 413) where it comes too slowly or is too large."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in chunks:
                size += len(chunk)
                if size <= most:
                    body += chunk
                elif size > DISCARDED:
                    break
    except TimeoutError:
        raise Problem(408, "too_slow", f"The body took more than {BODY_S:g} s.") from None
    if size > most:
        raise Problem(413, "too_large", f"The body is larger than {most:,} bytes.")
    return bytes(body)


def dump(content: Any) -> bytes:
    """JSON as it must be: NaN and infinity, which it does not know, become null."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # half a surrogate pair too, which UTF-8 does not hold
        plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return json.dumps(plain).encode()
