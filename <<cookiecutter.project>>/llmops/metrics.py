"""Metrics with intervals: pure functions over an aggregation."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist, stdev
from typing import Any

from llmops.running.runners import Aggregate, Aggregation

RESAMPLES = 1000
FEWEST = 100
ROWS_DRAWN = 10_000_000
SEED = 20260420
BUDGET_S = 30.0
PATIENCE_S = 0.5
"""Seconds after which the time that is left is estimated."""
DEFINED = 0.9
"""The least share of draws in which a metric must have a value, for an interval."""

Column = Sequence[float | None]
"""Numbers in order; null where there is none."""


@dataclass(frozen=True)
class Metric:
    """A metric's value, its 95 % interval, and a note where either is missing.

    `repeat_sd` is the standard deviation of the metric over the repeats, null with fewer than two.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    note: str = ""
    repeat_sd: float | None = None


@dataclass(frozen=True)
class Measured:
    """Metrics by name, and what a comparison with another cell over the same rows needs of them.

    `draws` has the metric over each draw of rows, `alone` each row's own value: the aggregation
    over this row and no other. Both are empty where they could not be had; `why_alone` then says
    why there are no values of rows.
    """

    metrics: dict[str, Metric]
    draws: dict[str, Column] = field(default_factory=dict)
    alone: dict[str, Column] = field(default_factory=dict)
    why_alone: str = ""


class TooSlow(Exception):  # noqa: N818  # a measurement, not a mistake
    """The aggregation takes so long that its draws would not end in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"one aggregation takes {seconds:.2g} s")


def measure(
    aggregation: Aggregation,
    scored: Sequence[int],
    rows: int,
    why_not: str = "",
    repeats: int = 1,
) -> Measured:
    """Each metric of an aggregation with its 95 % bootstrap interval.

    Rows are drawn with replacement and the flow's own aggregation is run on each draw, see `draws`
    and `interval`. `scored` are the numbers of the rows that the aggregation is about, `rows` is
    how many the dataset has. `why_not` is a reason to run it no more.

    With several `repeats`, a row of the dataset is drawn with all its answers: they are not
    independent of one another, and taken for so many rows they would make the interval too narrow
    (the cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8;
    Field and Welsh, Journal of the Royal Statistical Society B 69, 2007).
    """
    end = time.perf_counter() + BUDGET_S
    each = dict[str, Column]()
    if repeats > 1 and not why_not:
        try:
            aggregation, each = _by_repeat(aggregation, scored, rows, end)
        except TooSlow as error:
            why_not = str(error)
    count = len(scored) if repeats == 1 else len({number % rows for number in scored})
    names = [name for name, value in aggregation.values.items() if _is_number(value)]
    note, why_alone = why_not or _too_few(count), why_not
    drawn, alone = dict[str, Column](), dict[str, Column]()
    places: list[int | None] = [None] * (rows * repeats)
    for place, number in enumerate(scored):
        places[number] = place
    if not note:
        chosen = (_chosen(places, rows, draw) for draw in draws(rows))
        try:
            drawn = _columns(aggregation.again, names, chosen, resamples(rows), end)
        except TooSlow as error:
            note = str(error)
    if not why_alone:
        single = (_chosen(places, rows, [row]) for row in range(rows))
        try:
            alone = _columns(aggregation.again, names, single, rows, end)
        except TooSlow as error:
            why_alone = str(error)
    metrics = {
        name: _metric(value, drawn.get(name, ()), count, note)
        for name, value in aggregation.values.items()
    }
    if repeats > 1:
        metrics = {n: _with_spread(one, each.get(n), repeats) for n, one in metrics.items()}
    return Measured(metrics, drawn, alone, why_alone)


def resamples(rows: int) -> int:
    """How many draws there are of so many rows."""
    return max(FEWEST, min(RESAMPLES, ROWS_DRAWN // max(rows, 1)))


def draws(rows: int) -> Iterator[list[int]]:
    """Row numbers drawn with replacement from all rows of a dataset.

    They depend on the number of rows alone, so any two cells over the same dataset are resampled in
    pairs. A row that failed in a cell drops out of that cell's draw, and of no other's.
    """
    generator = random.Random(SEED)
    every = range(rows)
    for _ in range(resamples(rows)):
        yield generator.choices(every, k=rows)


def interval(drawn: Column, rows: int) -> tuple[float, float] | None:
    """The 95 % interval of a number from its draws; null where too few of them have a value.

    The percentile bootstrap is too narrow for few rows, so its percentiles are moved outwards as
    far as Student's t with `rows` - 1 degrees of freedom asks for: Hesterberg, What Teachers Should
    Know About the Bootstrap, The American Statistician 69 (2015), "expanded percentile".
    """
    values = sorted(value for value in drawn if value is not None)
    if rows < 2 or not values or len(values) < len(drawn) * DEFINED:
        return None
    tail = NormalDist().cdf(-math.sqrt(rows / (rows - 1)) * _student(rows - 1))
    return _between(values, tail), _between(values, 1 - tail)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of the (unsorted) values lie, linear between neighbours."""
    return _between(sorted(values), share)


def _between(ordered: Sequence[float], share: float) -> float:
    """The same of values in order."""
    at = share * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _student(freedom: int) -> float:
    """The 97.5 % point of Student's t, to three digits from 5 degrees of freedom on.

    Fisher and Cornish, Technometrics 2 (1960); below, it is far out all the same.
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


def _by_repeat(
    aggregation: Aggregation, scored: Sequence[int], rows: int, end: float
) -> tuple[Aggregation, dict[str, Column]]:
    """The aggregation as the mean over the repeats, and each metric by repeat.

    All answers together would be another metric than that of one repeat where it counts or adds
    up. A repeat weighs as much as it has rows, so a mean of rows is that of all answers.
    """
    repeat_of = [number // rows for number in scored]

    def again(chosen: Sequence[int]) -> dict[str, Any]:
        taken = [(len(own), _tried(aggregation.again, own)) for own in _split(chosen, repeat_of)]
        return {name: _mean([(n, found.get(name)) for n, found in taken]) for name in names}

    names = [name for name, value in aggregation.values.items() if _is_number(value)]
    groups = _split(range(len(scored)), repeat_of)
    columns = _columns(aggregation.again, names, groups, len(groups), end)
    sizes = [len(group) for group in groups]
    means = {n: _mean(list(zip(sizes, column, strict=True))) for n, column in columns.items()}
    return Aggregation(aggregation.values | means, again), columns


def _with_spread(metric: Metric, column: Column | None, repeats: int) -> Metric:
    """A metric with its standard deviation over the repeats; null column: it was not taken so."""
    if metric.value is None:
        return metric
    known = [value for value in column or () if value is not None]
    note = ""
    if column is None:
        note = "taken over all repeats together"
    elif len(known) < repeats:
        note = f"no value in {repeats - len(known)} of {repeats} repeats"
    return replace(
        metric,
        note="; ".join(filter(None, (metric.note, note))),
        repeat_sd=stdev(known) if len(known) > 1 else None,
    )


def _split(chosen: Iterable[int], repeat_of: Sequence[int]) -> list[list[int]]:
    """The choice by repeat; one of which nothing was chosen is left out."""
    groups: dict[int, list[int]] = {}
    for place in chosen:
        groups.setdefault(repeat_of[place], []).append(place)
    return list(groups.values())


def _mean(weighted: Sequence[tuple[int, Any]]) -> float | None:
    """The mean of the numbers among the values, each with its weight."""
    known = [(weight, value) for weight, value in weighted if _is_number(value)]
    total = sum(weight for weight, _ in known)
    return math.fsum(weight * value for weight, value in known) / total if total else None


def _chosen(places: Sequence[int | None], rows: int, draw: Sequence[int]) -> list[int]:
    """Where the answers to the drawn rows are; one that failed is nowhere."""
    if len(places) == rows:
        return [place for row in draw if (place := places[row]) is not None]
    return [place for row in draw for place in places[row::rows] if place is not None]


def _columns(
    aggregate: Aggregate,
    names: Sequence[str],
    choices: Iterable[Sequence[int]],
    count: int,
    end: float,
) -> dict[str, Column]:
    """Each metric over every one of `count` choices of rows; TooSlow as soon as that shows."""
    columns: dict[str, list[float | None]] = {name: [] for name in names}
    start = time.perf_counter()
    for done, chosen in enumerate(choices, start=1):
        metrics = _tried(aggregate, chosen)
        for name, column in columns.items():
            column.append(_rounded(metrics.get(name)))
        took = time.perf_counter() - start
        if took > PATIENCE_S and start + took / done * count > end:
            raise TooSlow(took / done)
    return dict(columns)


def _tried(aggregate: Aggregate, chosen: Sequence[int]) -> dict[str, Any]:
    """The metrics of a choice; none where the flow cannot aggregate it, such as a single row."""
    if not chosen:
        return {}
    try:
        return aggregate(chosen)
    except Exception:  # the user's function, on rows that it may not be made for
        return {}


def _too_few(rows: int) -> str:
    return "" if rows > 1 else "one row" if rows else "no row"


def _metric(value: Any, drawn: Column, rows: int, note: str) -> Metric:
    if not _is_number(value):
        return Metric(None, None, f"not a number: {value!r}"[:80])
    ci95 = None if note else interval(drawn, rows)
    if ci95 is None:
        note = f"no interval: {note or 'undefined on too many resamples'}"
    return Metric(float(value), ci95, note)


def _rounded(value: Any) -> float | None:
    """Nine digits: a file of half the size, and rows that differ in the last bit are the same."""
    return float(f"{value:.9g}") if _is_number(value) else None


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False
