"""Bodies and headers, in and out: what a request must be like, and how an answer is written."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmops.serving import signature
from llmops.serving.signature import Signature

MAX_BODY_BYTES = 1024 * 1024
DISCARDED = 64 * 1024 * 1024
"""Of a body that is too large so much is read, so that the client reads the answer."""
BODY_S = 30.0
JSON = "application/json"
EVENTS = "text/event-stream"
WHOLE = {JSON, "application/*", "*/*"}
"""What a client may accept to get an answer in one piece."""


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


def reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(dump(content), status, headers, JSON)


def dump(content: Any) -> bytes:
    """JSON as it must be: NaN and infinity, which it does not know, become null."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # half a surrogate pair too, which UTF-8 does not hold
        plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return json.dumps(plain).encode()


def accepted_types(request: Request) -> set[str]:
    """The media types that the client takes; raises 406 where there is none of ours."""
    given = ",".join(request.headers.getlist("accept")) or "*/*"
    found = {part.partition(";")[0].strip().lower() for part in given.split(",")}
    if not found & {*WHOLE, EVENTS}:
        raise Problem(406, "not_acceptable", f"Accept {JSON} or {EVENTS}.")
    return found


async def read_body(request: Request, most: int) -> bytes:
    """The whole body; raises 408, 413 or 415."""
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json"):
        raise Problem(415, "unsupported_media_type", f"content-type '{kind[:80]}', expected {JSON}")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
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


def parse(body: bytes) -> Any:
    """The JSON value of a body; raises 400."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Problem(400, "invalid_json", "The body is nested too deeply.") from None
    except ValueError as error:
        raise Problem(400, "invalid_json", f"The body is not JSON: {error}") from None


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON value")


def read_inputs(flow: Signature, body: bytes) -> dict[str, Any]:
    """The flow's inputs; raises 400 with everything that is wrong with them."""
    given = parse(body)
    if not isinstance(given, dict):
        raise Problem(400, "invalid_inputs", "expected a JSON object with the flow's inputs")
    if wrong := signature.problems(flow, given):
        raise Problem(400, "invalid_inputs", "; ".join(wrong))
    return signature.settled(flow, given)
