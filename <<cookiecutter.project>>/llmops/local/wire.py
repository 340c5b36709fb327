"""Requests as they come in, one hop on to a deployment, and their answers on the way back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from llmops.local.routing import HEADER
from llmops.local.servers import Server
from llmops.serving.bodies import EVENTS, Problem, dump, joined
from llmops.serving.log import request_id

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

ONE_HOP = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
    *(b"trailer", b"transfer-encoding", b"upgrade", b"content-length"),
}
NOT_ASKED_ON = ONE_HOP | {b"host", b"expect", b"x-request-id", HEADER.encode()}
NOT_ANSWERED_ON = ONE_HOP | {b"date", b"server"}

Headers = list[tuple[bytes, bytes]]


class NotBegun(Exception):  # noqa: N818  # a state of the world
    """No connection came about, so the deployment knows nothing of the request."""


class Gone(Exception):  # noqa: N818  # a state of the world
    """The client went away."""


@dataclass
class Asked:
    """A request on its way.

    `deployment` is the one that it went to, `answered` its answer, if that came whole; `over` says
    that the client has it, `gone` that there is no client any more.
    """

    method: str
    path: str
    target: str
    headers: Headers
    request_id: str
    body: bytes = b""
    deployment: str = ""
    answered: bytes = b""
    over: bool = False
    gone: bool = False
    began: float = field(default_factory=time.perf_counter)

    def header(self, name: str) -> str | None:
        """A header's value, null where there is none."""
        wanted = name.lower().encode()
        return next((v.decode("latin-1") for k, v in self.headers if k == wanted), None)


@dataclass
class Reply:
    """An answer; a body in pieces is passed on as it comes."""

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]


async def through(server: Server, asked: Asked) -> Reply:
    """What a deployment answers.

    Raises:
        NotBegun: it knows nothing of the request.
        Problem: it did not answer.
    """
    name = asked.deployment = server.kept.name
    if not server.able or server.session is None or server.session.closed:
        raise NotBegun(name)
    headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in asked.headers]
    headers = [(k, v) for k, v in headers if k.encode("latin-1") not in NOT_ASKED_ON]
    try:
        answer = await server.session.request(
            asked.method,
            URL(f"http://deployment{asked.target}", encoded=True),
            headers=[*headers, ("x-request-id", asked.request_id)],
            data=asked.body or None,
            allow_redirects=False,
        )
        server.requests += 1
        server.errors += answer.status >= 500
        given = [(k.lower(), v) for k, v in answer.raw_headers]
        given = [(k, v) for k, v in given if k not in NOT_ANSWERED_ON]
        if answer.content_type == EVENTS:
            return Reply(answer.status, given, _pieces(server, answer))
        asked.answered = await answer.read()
        return Reply(answer.status, given, asked.answered)
    except aiohttp.ClientConnectorError as error:
        raise NotBegun(name) from error
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
        raise _lost(server, error) from error


def _lost(server: Server, error: Exception) -> Problem:
    server.errors += 1
    name = server.kept.name
    if isinstance(error, TimeoutError):
        return Problem(504, "timeout", f"Deployment '{name}' did not answer in time.")
    message = f"Deployment '{name}' ended before it answered. The flow may have run."
    return Problem(503, "deployment_lost", message)


async def _pieces(server: Server, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A stream of events; where it breaks off, the last event says so, as a server's would."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except (aiohttp.ClientError, OSError) as error:
        problem = _lost(server, error)
        yield b"event: error\ndata: " + dump(problem.body) + b"\n\n"
    finally:
        answer.close()


def read(scope: Scope) -> Asked:
    """A request as it came, without its body."""
    headers: Headers = list(scope["headers"])
    target: bytes = scope.get("raw_path") or b""
    if not target.startswith(b"/"):  # as a client asks its proxy
        target = b"/"
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    asked = Asked(scope["method"], scope["path"], target.decode("latin-1"), headers, "")
    asked.request_id = request_id(asked.header("x-request-id") or "")
    return asked


async def body_of(receive: Receive, most: int) -> bytes:
    """The whole body; raises Problem, and Gone where the client does not wait."""
    message = await _received(receive)
    if not message.get("more_body") and len(message["body"]) <= most:
        return bytes(message["body"])
    return await joined(_chunks(message, receive), most)


async def _chunks(message: Any, receive: Receive) -> AsyncIterator[bytes]:
    yield message["body"]
    while message.get("more_body"):
        message = await _received(receive)
        yield message["body"]


async def _received(receive: Receive) -> Any:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message


@contextmanager
def watched(asked: Asked, receive: Receive) -> Iterator[None]:
    """Cancel what goes on inside when the client goes away before its answer is over."""
    inside = asyncio.current_task()
    assert inside

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not asked.over:
            asked.gone = True
            inside.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def answer(asked: Asked, reply: Reply, send: Send) -> None:
    """Send an answer to the client."""
    headers = reply.headers
    if isinstance(reply.body, bytes):
        headers = [*headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if isinstance(reply.body, bytes):
        asked.over = True
        await send({"type": "http.response.body", "body": reply.body})
        return
    async for piece in reply.body:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    asked.over = True
    await send({"type": "http.response.body", "body": b""})
