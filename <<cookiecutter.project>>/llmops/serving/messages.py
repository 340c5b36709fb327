"""Bodies and headers, in and out: what a request must be like, and how an answer is written."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmops.serving import signature
from llmops.serving.bodies import EVENTS, JSON, Problem, dump, joined
from llmops.serving.signature import Signature

WHOLE = {JSON, "application/*", "*/*"}
"""What a client may accept to get an answer in one piece."""


def reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(dump(content), status, headers, JSON)


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
    return await joined(request.stream(), most)


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
