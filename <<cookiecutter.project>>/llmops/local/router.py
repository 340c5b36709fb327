"""The router's web application: each request goes to one deployment, and its answer comes back.

A request is read whole, at most MAX_BODY_BYTES, before it is passed on, so that it can be sent to
another deployment where the first one certainly did not begin it, mirrored, and kept. An answer
comes whole, or piece by piece where it is a stream of events. What the router itself answers:

    404 not_found          the header names a deployment that is not there
    408 too_slow           the body does not arrive
    413 too_large          the body is larger than MAX_BODY_BYTES
    503 unavailable        no deployment with traffic, or not the one that the header names, is up
    503 deployment_lost    it ended while it answered; the flow may have run
    504 timeout            it does not answer
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmops.local import wire
from llmops.local.endpoint import Endpoint
from llmops.local.journal import Journal
from llmops.local.routing import HEADER, drawn, pick
from llmops.local.servers import Server
from llmops.local.wire import Asked, Gone, NotBegun, Reply
from llmops.serving import feedback
from llmops.serving.bodies import JSON, MAX_BODY_BYTES, Problem, dump

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MOST_MIRRORED = 64
"""Copies under way at once; further ones are left out, so that a slow deployment holds nobody."""
GONE = 499
"""The status in the log where the client went away before its answer."""
SCORE = "/score"


class Router:
    """The ASGI application."""

    def __init__(self, endpoint: Endpoint, most_bytes: int = MAX_BODY_BYTES) -> None:
        self._endpoint, self._most = endpoint, most_bytes
        self._journal = Journal(endpoint.place / "requests.jsonl")
        self._said = feedback.Feedback(endpoint.place)
        self._copies: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; where its client goes away, it ends at the deployment, too."""
        if scope["type"] != "http":
            return
        asked, status = wire.read(scope), 500
        try:
            status = await self._respond(asked, receive, send)
        except asyncio.CancelledError:
            if not asked.gone:
                raise
            status = GONE
        except Gone:
            status = GONE
        finally:
            self._note(asked, status)

    async def _respond(self, asked: Asked, receive: Receive, send: Send) -> int:
        try:
            asked.body = await wire.body_of(receive, self._most)
            with wire.watched(asked, receive):
                reply = await self._reply(asked)
                await wire.answer(asked, reply, send)
        except Problem as problem:
            reply = _refused(asked, problem)
            await wire.answer(asked, reply, send)
        return reply.status

    async def _reply(self, asked: Asked) -> Reply:
        match asked.method, asked.path:
            case "GET", "/health":
                return _json(
                    asked, {"status": "Healthy", "endpoint": self._endpoint.state.endpoint}
                )
            case "GET", "/ready":
                self._chosen(asked, set())
                return _json(asked, {"status": "Ready"})
            case "POST", "/feedback":
                return self._feedback(asked)
        self._mirror(asked)
        return await self._forward(asked)

    async def _forward(self, asked: Asked) -> Reply:
        """The answer of the first deployment that takes the request."""
        if (name := asked.header(HEADER)) is not None:
            return await self._named(asked, name)
        tried: set[str] = set()
        while True:
            server = self._chosen(asked, tried)
            with suppress(NotBegun):
                return await wire.through(server, asked)
            tried.add(server.kept.name)

    async def _named(self, asked: Asked, name: str) -> Reply:
        there = self._endpoint.servers
        if name not in there:
            known = ", ".join(there) or "none"
            message = f"{HEADER}: there is no deployment '{name}' (expected one of {known})."
            raise Problem(404, "not_found", message)
        with suppress(NotBegun):
            return await wire.through(there[name], asked)
        raise Problem(503, "unavailable", f"Deployment '{name}' is {there[name].status}.")

    def _chosen(self, asked: Asked, tried: set[str]) -> Server:
        traffic, able = self._endpoint.state.traffic, self._endpoint.able - tried
        name = pick(traffic, able, self._sticky(asked))
        if name is None:
            raise Problem(503, "unavailable", "No deployment that takes traffic is up just now.")
        return self._endpoint.servers[name]

    def _sticky(self, asked: Asked) -> str | None:
        """The value that decides, of a header or of an input; null where chance does."""
        key = self._endpoint.state.sticky_key
        if not key or (value := asked.header(key)) is not None:
            return value if key else None
        inputs = _parsed(asked.body)
        found = inputs.get(key) if isinstance(inputs, dict) else None
        return found if found is None or isinstance(found, str) else json.dumps(found)

    def _mirror(self, asked: Asked) -> None:
        """Send a copy to who shall see so many percent of the requests, and answer none."""
        state = self._endpoint.state
        if not state.mirror or asked.path != SCORE or asked.header(HEADER) is not None:
            return
        for name, percent in state.mirror.items():
            if len(self._copies) < MOST_MIRRORED and drawn(percent):
                copy = asyncio.create_task(self._copy(replace(asked, deployment=name)))
                self._copies.add(copy)
                copy.add_done_callback(self._copies.discard)

    async def _copy(self, asked: Asked) -> None:
        status = 503
        try:
            reply = await wire.through(self._endpoint.servers[asked.deployment], asked)
            status = reply.status
            if not isinstance(reply.body, bytes):
                async for _ in reply.body:
                    pass
        except Problem as problem:
            status = problem.status
        except NotBegun:
            pass
        finally:
            self._note(asked, status, mirrored=True)

    def _feedback(self, asked: Asked) -> Reply:
        if not (asked.header("content-type") or JSON).startswith(JSON):  # a page of another site
            raise Problem(415, "unsupported_media_type", f"Expected {JSON}.")
        given = _parsed(asked.body)
        if wrong := feedback.problems(given):
            raise Problem(400, "invalid_inputs", "; ".join(wrong))
        try:
            self._said.add(given)
        except OSError as error:
            raise Problem(500, "not_kept", f"{self._said.path}: {error.strerror}") from error
        return _json(asked, {"status": "Feedback received."})

    def _note(self, asked: Asked, status: int, mirrored: bool = False) -> None:
        if asked.path != SCORE:
            return
        line: dict[str, Any] = {
            "request_id": asked.request_id,
            "deployment": asked.deployment,
            "mirrored": mirrored,
            "status": status,
            "seconds": round(time.perf_counter() - asked.began, 4),
        }
        kept = self._endpoint.state.deployments.get(asked.deployment)
        if kept and asked.answered and drawn(kept.collects):
            line |= {"inputs": _parsed(asked.body), "outputs": _parsed(asked.answered)}
        self._journal.add(**line)


def _json(asked: Asked, content: Any, status: int = 200) -> Reply:
    return _own(asked, status, json.dumps(content).encode())


def _refused(asked: Asked, problem: Problem) -> Reply:
    reply = _own(asked, problem.status, dump(problem.body))
    if problem.status == 503:
        reply.headers.append((b"retry-after", b"1"))
    return reply


def _own(asked: Asked, status: int, body: bytes) -> Reply:
    headers = [(b"content-type", JSON.encode()), (b"x-request-id", asked.request_id.encode())]
    if asked.deployment:
        headers.append((HEADER.encode(), asked.deployment.encode()))
    return Reply(status, headers, body)


def _parsed(body: bytes) -> Any:
    """What is JSON; null for anything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
