"""What a server says of its requests: a line of JSON each, and a span where traces are wanted.

A line: time, request_id, deployment, method, path, status, seconds, and of a scored request calls
(of models) and tokens. What was asked and answered stands in it with LOG_CONTENT=1 alone, keys
never.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from llmops.lines import moment

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
TRACED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass
class Record:
    """One request. `usage` is that of `llmops.runs.Row`; `content` may be asked for, or not."""

    method: str
    path: str
    request_id: str
    status: int = 0
    usage: dict[str, list[int]] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.perf_counter() - self.began

    @property
    def tokens(self) -> dict[str, int]:
        """What its models were given and gave."""
        rows = [*self.usage.values()]
        return {"prompt": sum(u[1] for u in rows), "completion": sum(u[2] for u in rows)}


class Journal:
    """Writes the lines; `secrets` never stand in one."""

    def __init__(self, deployment: str, to: IO[str], content: bool, secrets: Iterable[str]) -> None:
        self.content = content
        self._deployment, self._to, self._secrets = deployment, to, sorted(secrets, key=len)[::-1]

    def write(self, record: Record) -> None:
        """One line for one request; a full disk does not stop the server."""
        line: dict[str, Any] = {
            "time": moment(),
            "request_id": record.request_id,
            "deployment": self._deployment,
            "method": record.method,
            "path": record.path,
            "status": record.status,
            "seconds": round(record.seconds, 4),
        }
        if record.error:
            line["error"] = record.error
        if record.usage:
            line["calls"] = sum(u[0] for u in record.usage.values())
            line["tokens"] = record.tokens
        if self.content:
            line |= record.content
        text = json.dumps(line, default=str)
        for secret in self._secrets:
            text = text.replace(json.dumps(secret)[1:-1], "***")
        try:
            self._to.write(text + "\n")
            self._to.flush()
        except OSError:
            pass


class Traces:
    """A span for each request, for the collector that OTEL_EXPORTER_OTLP_ENDPOINT names."""

    def __init__(self, deployment: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = os.environ.get("OTEL_SERVICE_NAME") or deployment
        self._provider = TracerProvider(resource=Resource.create({"service.name": named}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("llmops.serving")
        self._deployment = deployment

    def start(self, record: Record, headers: Mapping[str, str]) -> Any:
        """A span, below the one that the caller's `traceparent` names."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        above = TraceContextTextMapPropagator().extract(headers)
        name = f"{record.method} {record.path}"
        return self._tracer.start_span(name, context=above, kind=SpanKind.SERVER)

    def end(self, span: Any, record: Record, content: bool) -> None:
        """Say what became of the request; content only where it is asked for."""
        from opentelemetry.trace import StatusCode

        tokens = record.tokens
        attributes: dict[str, Any] = {
            "http.request.method": record.method,
            "url.path": record.path,
            "http.response.status_code": record.status,
            "llmops.deploying.deployment": self._deployment,
            "llmops.request_id": record.request_id,
            "gen_ai.usage.input_tokens": tokens["prompt"],
            "gen_ai.usage.output_tokens": tokens["completion"],
        }
        if content:
            said = {
                f"llmops.{key}": json.dumps(v, default=str) for key, v in record.content.items()
            }
            attributes |= said
        span.set_attributes(attributes)
        if record.status >= 500:
            span.set_status(StatusCode.ERROR, record.error)
        span.end()

    def close(self) -> None:
        """Send what is left; takes seconds where the collector does not answer."""
        self._provider.shutdown()


def traces(deployment: str) -> Traces | None:
    """Where spans go; none where no collector is named."""
    return Traces(deployment) if any(os.environ.get(name) for name in TRACED) else None


def request_id(given: str | None) -> str:
    """The caller's own, if it is one, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
