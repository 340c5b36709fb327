"""Metrics with intervals: pure functions over an aggregation."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmops.runners import Aggregate, Aggregation

RESAMPLES = 500
FEWEST = 100
ROWS_DRAWN = 10_000_000
SEED = 20260420
BUDGET_S = 30.0


@dataclass(frozen=True)
class Metric:
    """A metric's value, its 95 % interval, and a note where either is missing."""

    value: float | None
    ci95: tuple[float, float] | None = None
    note: str = ""


def measure(aggregation: Aggregation, rows: int, why_not: str = "") -> dict[str, Metric]:
    """Each metric of an aggregation over `rows` rows with its 95 % bootstrap interval.

    Rows are drawn with replacement and the flow's own aggregation is run on each draw (percentile
    bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). The draws
    depend only on the number of rows, so two variants over the same rows are resampled in pairs.
    `why_not` is a reason to run it on no draw.
    """
    resamples = max(FEWEST, min(RESAMPLES, ROWS_DRAWN // max(rows, 1)))
    note = why_not or _too_few_or_slow(aggregation.again, rows, resamples)
    draws = [] if note else _draws(aggregation.again, rows, resamples)
    return {name: _metric(name, value, draws, note) for name, value in aggregation.values.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the (unsorted) values lie, linear between neighbours."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _draws(aggregate: Aggregate, rows: int, resamples: int) -> list[dict[str, Any]]:
    generator = random.Random(SEED)
    every = range(rows)
    return [aggregate(generator.choices(every, k=rows)) for _ in range(resamples)]


def _too_few_or_slow(aggregate: Aggregate, rows: int, resamples: int) -> str:
    if rows < 2:
        return "no interval: one row"
    start = time.perf_counter()
    aggregate(range(rows))
    seconds = time.perf_counter() - start
    if seconds * resamples > BUDGET_S:
        return f"no interval: one aggregation takes {seconds:.2g} s"
    return ""


def _metric(name: str, value: Any, draws: Sequence[dict[str, Any]], note: str) -> Metric:
    if not _is_number(value):
        return Metric(None, None, f"not a number: {value!r}"[:80])
    drawn = [float(draw[name]) for draw in draws if _is_number(draw.get(name))]
    if note or len(drawn) < len(draws) * 0.9:
        return Metric(float(value), None, note or "no interval: undefined on too many resamples")
    return Metric(float(value), (percentile(drawn, 0.025), percentile(drawn, 0.975)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
