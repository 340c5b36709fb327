"""Sees the model calls of a row: tokens by model, the last that failed, and what was asked.

The OpenAI client is what every kind of flow calls in the end, so its methods are wrapped
once in the worker process. The count of a row travels in a context variable, which prompt flow's
node threads and asyncio tasks inherit.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llmops.recordings import MARK
from llmops.recordings.calls import asked
from llmops.running.lighter import lighten

PASSING = {408, 409, 429}
CLASSES = {
    "openai.resources.chat.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.embeddings": ("Embeddings", "AsyncEmbeddings"),
    "openai.resources.responses": ("Responses", "AsyncResponses"),
}
METHODS = {"create", "parse"}
LOOPBACK = "127.0.0.1"


@dataclass
class Calls:
    """What one row asked of its models; `usage` and `requests` as in `llmops.runs.Row`."""

    usage: dict[str, list[int]] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    requests: list[dict[str, Any]] | None = None

    def add(self, model: str, usage: Any) -> None:
        """Count one answered call; `usage` is the endpoint's own count, or nothing."""
        seen = self.usage.setdefault(model, [0, 0, 0])
        seen[0] += 1
        self.add_tokens(model, usage)

    def add_tokens(self, model: str, usage: Any) -> None:
        """Add the tokens of a call that is counted already."""
        seen = self.usage[model]
        seen[1] += _first(usage, "prompt_tokens", "input_tokens")
        seen[2] += _first(usage, "completion_tokens", "output_tokens")


ROW: ContextVar[Calls | None] = ContextVar("row", default=None)
_watched: set[int] = set()


def watch() -> None:
    """Wrap the OpenAI client if it is loaded."""
    if "openai" not in sys.modules or id(sys.modules["openai"]) in _watched:
        return
    _watched.add(id(sys.modules["openai"]))
    import importlib

    lighten()
    for module, names in CLASSES.items():
        for name in names:
            owner = getattr(importlib.import_module(module), name)
            wrapper = _async if name.startswith("Async") else _sync
            for method in METHODS & vars(owner).keys():
                setattr(owner, method, wrapper(getattr(owner, method)))
    # The last step before a request goes out: nothing changes it any more.
    client = importlib.import_module("openai._base_client").BaseClient
    if hasattr(client, "_build_request"):
        client._build_request = _noting(client._build_request)


def describe(error: Exception) -> dict[str, Any]:
    """A failed call in words, and whether trying again may help.

    `retry_after` is in seconds, from the endpoint's header where it sent one.
    """
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    told = body if isinstance(body, dict) else {}
    headers = getattr(getattr(error, "response", None), "headers", {})
    no_answer = status is None and "Connection" in type(error).__name__
    no_time = "Timeout" in type(error).__name__
    return {
        "type": type(error).__name__,
        "message": str(told.get("message") or error),
        "status": status,
        "code": told.get("code"),
        "retryable": no_answer or no_time or status in PASSING or (status or 0) >= 500,
        "retry_after": _seconds(headers.get("retry-after")),
    }


def _sync(create: Callable[..., Any]) -> Any:
    @functools.wraps(create)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls = ROW.get()
        try:
            answer = create(self, *args, **kwargs)
        except Exception as error:
            if calls is not None:
                calls.error = describe(error)
            raise
        return _answered(calls, kwargs, answer)

    return counted


def _async(create: Callable[..., Any]) -> Any:
    @functools.wraps(create)
    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls = ROW.get()
        try:
            answer = await create(self, *args, **kwargs)
        except Exception as error:
            if calls is not None:
                calls.error = describe(error)
            raise
        return _answered(calls, kwargs, answer)

    return counted


def _noting(build: Callable[..., Any]) -> Any:
    @functools.wraps(build)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = build(self, *args, **kwargs)
        calls = ROW.get()
        if calls is None or calls.requests is None:
            return request
        if not kwargs.get("retries_taken"):
            calls.requests.append(asked(request.method, request.url.path, _content(request)))
        if request.url.host == LOOPBACK:  # the server of the recordings passes it on to nobody
            request.headers[MARK] = "1"
        return request

    return noted


def _content(request: Any) -> bytes:
    """The body of a request; empty where it is a stream that nobody has read."""
    try:
        return bytes(request.content)
    except Exception:  # httpx has one name for it, and the client's own copy of httpx another
        return b""


def _answered(calls: Calls | None, request: dict[str, Any], answer: Any) -> Any:
    if calls is None:
        return answer
    model = str(request.get("model", ""))
    calls.add(model, getattr(answer, "usage", None))
    calls.error = None
    if request.get("stream"):
        inner = getattr(answer, "_iterator", None)
        if isinstance(inner, Iterator):
            answer._iterator = _stream(calls, model, inner)
        elif isinstance(inner, AsyncIterator):
            answer._iterator = _async_stream(calls, model, inner)
    return answer


def _stream(calls: Calls, model: str, chunks: Iterator[Any]) -> Iterator[Any]:
    for chunk in chunks:
        calls.add_tokens(model, _usage(chunk))
        yield chunk


async def _async_stream(calls: Calls, model: str, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        calls.add_tokens(model, _usage(chunk))
        yield chunk


def _usage(chunk: Any) -> Any:
    """What a part of a stream says of tokens; the responses API says it in its last event."""
    return getattr(chunk, "usage", None) or getattr(getattr(chunk, "response", None), "usage", None)


def _first(usage: Any, *names: str) -> int:
    for name in names:
        value = getattr(usage, name, None)
        if isinstance(value, int):
            return value
    return 0


def _seconds(value: str | None) -> float | None:
    try:
        return float(value) if value else None
    except ValueError:
        return None
