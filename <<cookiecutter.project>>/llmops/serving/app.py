"""The server's paths: POST /score, and what people and probes ask beside it.

Errors are {"error": {"code", "message"}} with

    400 invalid_json, invalid_inputs   what is wrong, by the inputs' names
    404 not_found   405 method_not_allowed (Allow)   406 not_acceptable   408 too_slow
    413 too_large   415 unsupported_media_type
    500 flow_failed, worker_died       the flow raised; type and message, no traceback
    502 model_failed                   the model's endpoint did, `status` is its own (or null)
    503 unavailable (Retry-After)      not ready, shutting down, or too many requests under way
    504 timeout                        no answer in time; what the flow still does is given up

A stream that fails after its first piece ends with an event `error` of the same form.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.serving import feedback as said
from llmops.serving import pages
from llmops.serving.bodies import EVENTS, JSON, MAX_BODY_BYTES, Problem, dump
from llmops.serving.bundle import Bundle
from llmops.serving.feedback import Feedback
from llmops.serving.log import Journal, Record, Traces, request_id
from llmops.serving.messages import WHOLE, accepted_types, parse, read_body, read_inputs, reply
from llmops.serving.pool import Answer, NotReadyError, Pool
from llmops.serving.signature import Signature

PROBES = {"/health", "/ready"}
"""Asked every few seconds, and not logged."""
_CODES = {404: "not_found", 405: "method_not_allowed"}


@dataclass
class Service:
    """All that the paths need. `llm` says where answers come from: live or replay."""

    name: str
    bundle: Bundle
    signature: Signature
    pool: Pool
    journal: Journal
    document: dict[str, Any]
    llm: str
    feedback: Feedback = field(default_factory=Feedback)
    traces: Traces | None = None
    max_body: int = MAX_BODY_BYTES
    draining: bool = False
    under_way: int = 0

    def refuse(self) -> Problem | None:
        """Why no request can be taken now."""
        if self.draining:
            return Problem(503, "unavailable", "The server is shutting down.", 1)
        if not self.pool.ready:
            return Problem(503, "unavailable", "The flow is not loaded yet.", 2)
        if self.under_way >= self.bundle.concurrency:
            message = f"{self.under_way} requests are under way, which is the limit."
            return Problem(503, "unavailable", message, 1)
        return None


def build(service: Service) -> ASGIApp:
    """The ASGI application."""
    routes = [
        Route("/score", score, methods=["POST"]),
        Route("/feedback", feedback, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/version", version),
        Route("/openapi.json", openapi),
        Route("/swagger.json", openapi),
        Route("/docs", docs),
        Route("/", page),
    ]
    handlers: Any = {
        Problem: _problem,
        HTTPException: _http_problem,
        ClientDisconnect: _gone,
        Exception: _bug,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.service = service
    return _Observed(app, service)


# ---- The paths


async def score(request: Request) -> Response:
    """200 with the flow's outputs as JSON, or as events where it streams and the client asks so."""
    service, record = _service(request), _record(request)
    accepted = accepted_types(request)
    if problem := service.refuse():
        raise problem
    inputs = read_inputs(service.signature, await read_body(request, service.max_body))
    if service.journal.content:
        record.content["inputs"] = inputs
    if EVENTS in accepted:
        return await _streamed(service, record, inputs, accepted)
    service.under_way += 1
    try:
        answer = await service.pool.run(inputs)
    except NotReadyError:
        raise Problem(503, "unavailable", "The flow is being loaded again.", 2) from None
    finally:
        service.under_way -= 1
    return _answered(service, record, answer)


async def feedback(request: Request) -> Response:
    """200 once the line is in the file; see `llmops.serving.feedback`."""
    service = _service(request)
    given = parse(await read_body(request, service.max_body))
    if wrong := said.problems(given):
        raise Problem(400, "invalid_inputs", "; ".join(wrong))
    try:
        service.feedback.add(given)
    except OSError as error:
        raise Problem(500, "not_kept", f"{service.feedback.path}: {error.strerror}") from error
    return reply({"status": "Feedback received."})


async def health(request: Request) -> Response:
    """200 as long as the process serves: {"status": "Healthy", "version"}."""
    return reply({"status": "Healthy", "version": _service(request).bundle.flow_hash[:12]})


async def ready(request: Request) -> Response:
    """200 when a request to /score would be taken, else 503."""
    if problem := _service(request).refuse():
        raise problem
    return reply({"status": "Ready"})


async def version(request: Request) -> Response:
    """200 with what is served; the build that BUILD_INFO names comes before the flow's hash."""
    service = _service(request)
    bundle = service.bundle
    facts = {"name": bundle.name, "variant": bundle.variant, "flow_hash": bundle.flow_hash}
    facts |= {"commit": bundle.commit, "deployment": service.name, "llm": service.llm}
    info = os.environ.get("BUILD_INFO", "")
    number = re.search(r'"build_number": *"([^"]+)"', info)
    own = number[1] if number else bundle.flow_hash[:12]
    return reply({"status": "Healthy", "version": own, "build_info": info, **facts})


async def openapi(request: Request) -> Response:
    """200 with the OpenAPI document."""
    return reply(_service(request).document)


async def docs(request: Request) -> Response:
    """200 with the page that shows the OpenAPI document."""
    return pages.DOCS.response()


async def page(request: Request) -> Response:
    """200 with the test page."""
    return pages.TEST.response()


# ---- Answers


def _answered(service: Service, record: Record, answer: Answer) -> Response:
    record.usage = answer.get("usage") or {}
    if error := answer.get("error"):
        raise _failure(error)
    outputs = answer.get("outputs") or {}
    if service.journal.content:
        record.content["outputs"] = outputs
    return reply(outputs)


async def _streamed(
    service: Service, record: Record, inputs: dict[str, Any], accepted: set[str]
) -> Response:
    """What the first word of the worker calls for: events, or JSON of a flow that has no stream."""
    events = _counted(service, inputs)
    try:
        first = await anext(events)
    except NotReadyError:
        raise Problem(503, "unavailable", "The flow is being loaded again.", 2) from None
    if "part" in first:
        body = _events(service, record, first, events)
        return StreamingResponse(body, media_type=EVENTS, headers={"cache-control": "no-cache"})
    await events.aclose()
    response = _answered(service, record, first)
    if not accepted & WHOLE:
        raise Problem(406, "not_acceptable", f"This flow does not stream. Accept {JSON}.")
    return response


async def _counted(service: Service, inputs: dict[str, Any]) -> Any:
    service.under_way += 1
    try:
        async with aclosing(service.pool.stream(inputs)) as answers:  # type: ignore[type-var]
            async for answer in answers:
                yield answer
    finally:
        service.under_way -= 1


async def _events(
    service: Service, record: Record, first: Answer, rest: Any
) -> AsyncIterator[bytes]:
    whole: dict[str, str] = {}
    async with aclosing(rest):
        answer = first
        while "part" in answer:
            whole |= {name: whole.get(name, "") + piece for name, piece in answer["part"].items()}
            yield b"data: " + dump(answer["part"]) + b"\n\n"
            answer = await anext(rest)
    record.usage = answer.get("usage") or {}
    if error := answer.get("error"):
        problem = _failure(error)
        record.error = problem.body["error"]["code"]
        yield b"event: error\ndata: " + dump(problem.body) + b"\n\n"
        return
    if outputs := answer.get("outputs"):
        yield b"data: " + dump(outputs) + b"\n\n"
    if service.journal.content:
        record.content["outputs"] = {**(outputs or {}), **whole}


def _failure(error: dict[str, Any]) -> Problem:
    """What a worker's error is to a client."""
    message = f"{error['type']}: {error['message']}"
    if error["type"] == "Timeout":
        return Problem(504, "timeout", error["message"])
    if error["type"] == "WorkerDied":
        return Problem(500, "worker_died", error["message"])
    if "status" in error:
        more = {"status": error["status"], "reason": error.get("code")}
        return Problem(502, "model_failed", message, error.get("retry_after"), **more)
    return Problem(500, "flow_failed", message)


async def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    _record(request).error = problem.body["error"]["code"]
    return reply(problem.body, problem.status, problem.headers)


async def _http_problem(request: Request, error: Exception) -> Response:
    """404 and 405 (with Allow), as the routing finds them."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "error")
    allowed = (error.headers or {}).get("Allow", "")
    paths = ", ".join(r.path for r in request.app.routes if isinstance(r, Route))
    told = f"Use {allowed}." if allowed else f"There is nothing here (expected one of {paths})."
    _record(request).error = code
    body = {"error": {"code": code, "message": told}}
    return reply(body, error.status_code, dict(error.headers or {}))


async def _bug(request: Request, error: Exception) -> Response:
    """What the server itself did not foresee."""
    told = {"code": "internal", "message": f"The server failed: {type(error).__name__}."}
    return reply({"error": told}, 500)


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; the status stands in the log."""
    return Response(status_code=499)


# ---- Requests


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _record(request: Request) -> Record:
    record: Record = request.scope["record"]
    return record


# ---- Around every request


class _Observed:
    """Gives each request its id, its headers, its line in the log and its span."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], own: Service
    ) -> None:
        self._app, self._service = app, own
        self._deployment = own.name.encode("ascii", "replace")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        service = self._service
        headers = dict(scope["headers"])
        own = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        record = scope["record"] = Record(scope["method"], scope["path"], own)
        known = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers.items()}
        traced = service.traces and record.path not in PROBES
        span = service.traces.start(record, known) if service.traces and traced else None

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                more = [(b"x-request-id", own.encode())]
                more.append((b"azureml-model-deployment", self._deployment))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:  # Starlette has answered 500; the log tells what it was
            record.error = f"{type(error).__name__}: {error}"
        finally:
            if record.path not in PROBES:
                service.journal.write(record)
            if span is not None and service.traces:
                service.traces.end(span, record, service.journal.content)
