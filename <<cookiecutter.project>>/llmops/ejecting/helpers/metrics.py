"""Metrics that an aggregation's functions log by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_metrics: ContextVar[dict[str, Any]] = ContextVar("metrics")


def log_metric(key: str, value: Any, variant_id: str | None = None) -> None:
    """Keep a metric; outside an aggregation nobody wants it."""
    _metrics.get({})[key if variant_id is None else f"{key}.{variant_id}"] = value


@contextmanager
def logged_metrics() -> Iterator[dict[str, Any]]:
    """What is logged within."""
    found: dict[str, Any] = {}
    token = _metrics.set(found)
    try:
        yield found
    finally:
        _metrics.reset(token)
