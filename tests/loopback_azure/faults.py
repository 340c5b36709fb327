"""Faults on demand, and the record of every request: what stands before all services."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import URL, Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CODES, AzureError, respond
from .proxy import CONTROL


@dataclass
class Fault:
    """The next `times` requests that match get `status` instead of an answer, after `skip` of them.

    `method` and `path` are regular expressions; `path` is searched in host and path together.
    Status 0 drops the connection; with `after`, once the service has done what was asked.
    """

    status: int
    method: str = ""
    path: str = ""
    code: str = ""
    message: str = "Injected by a test."
    retry_after: float | None = None
    times: int = 1
    skip: int = 0
    after: bool = False

    def matches(self, method: str, place: str) -> bool:
        """Whether it is this request's turn."""
        if not (self.times and re.match(self.method, method) and re.search(self.path, place)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True

    @property
    def error(self) -> AzureError:
        """What the client is told."""
        wait = {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:g}"}
        return AzureError(self.status, self.code or CODES[self.status], self.message, (), wait)


@dataclass
class FailedOperation:
    """The next `times` long operations on a resource of type `kind` end in Failed."""

    kind: str
    code: str = "InternalServerError"
    message: str = "Injected by a test."
    times: int = 1


class Recorder:
    """Writes each request into `log`, in the order of arrival, and lets faults strike.

    An entry is {"method", "host", "path", "comp", "api_version", "status"}; a dropped connection
    has status 0. Queries are left out: they hold signatures. `spans` are the times in which the
    services worked at a request.
    """

    def __init__(self, app: ASGIApp, drop: Callable[[int], None]) -> None:
        self._app, self._drop = app, drop
        self.log: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.spans: list[tuple[float, float]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        host = Headers(scope=scope).get("host", "").split(":")[0]
        if host == CONTROL:
            return await self._app(scope, receive, send)
        began = time.monotonic()
        try:
            return await self._answer(host, scope, receive, send)
        finally:
            self.spans.append((began, time.monotonic()))

    async def _answer(self, host: str, scope: Scope, receive: Receive, send: Send) -> None:
        entry = _describe(scope, host)
        self.log.append(entry)

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            await send(message)

        place = host + str(scope["path"])
        fault = next((f for f in self.faults if f.matches(scope["method"], place)), None)
        if fault is None:
            return await self._app(scope, receive, note)
        if fault.after:
            await self._app(scope, receive, _unheard)
        if fault.status == 0:
            return self._drop(scope["client"][1])
        return await respond(host, fault.error)(scope, receive, note)


async def _unheard(message: Message) -> None:
    """An answer that never arrives."""


def _describe(scope: Scope, host: str) -> dict[str, Any]:
    query = dict(pair.partition("=")[::2] for pair in URL(scope=scope).query.split("&"))
    return {
        "method": scope["method"],
        "host": host,
        "path": scope["path"],
        "comp": query.get("comp", ""),
        "api_version": query.get("api-version", ""),
        "status": 0,
    }
