"""Level 1, row by row: the same requests to models, and the same outputs.

Requests are compared as recordings are found: without the order of keys, parameters that are null
and how the answer is delivered. Their order within a row does not count, because a flow may send
some of them at the same time; how often each is sent does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.parity import wording
from llmops.parity.document import Cell, Difference
from llmops.recordings import MISSING, Json, key, relevant
from llmops.runs import Row

SHOWN = 5
"""Rows whose requests, and rows whose outputs, are shown of a cell."""


@dataclass(frozen=True)
class Pair:
    """A row as A and as B did it."""

    a: Row
    b: Row

    @property
    def same_requests(self) -> bool:
        """Whether both sent the same requests, in whatever order."""
        return bag(self.a.requests or ()) == bag(self.b.requests or ())

    @property
    def same_outputs(self) -> bool:
        """Whether both came to the same; to fail in the same way is the same, too."""
        return result(self.a) == result(self.b)

    @property
    def failure(self) -> str:
        """Which of the counts of `Cell` a failed row belongs to; empty where both completed."""
        if self.a.failed and self.b.failed:
            return "failed_same" if self.same_outputs else "failed_otherwise"
        return "only_a" if self.a.failed else "only_b" if self.b.failed else ""

    @property
    def unanswered(self) -> bool:
        """Whether a model gave one of them no answer."""
        return unanswered(self.a) or unanswered(self.b)


def bag(requests: Iterable[Json]) -> Counter[str]:
    """How often each request is sent, by the key that its recording has."""
    return Counter(map(name_of, requests))


def name_of(request: Json) -> str:
    """The key of one request."""
    return key(request["path"], 0, request["request"])


def result(row: Row) -> str:
    """What a row came to, in canonical form."""
    if row.error is not None:
        found: Any = {"type": row.error["type"], "message": row.error["message"]}
        return f"failed {json.dumps(found, sort_keys=True)}"
    return canonical(outputs(row))


def outputs(row: Row) -> Json:
    """The outputs without those that only an aggregation takes."""
    return {n: v for n, v in (row.outputs or {}).items() if not n.startswith("_")}


def canonical(value: Any) -> str:
    """JSON in which equal values are equal texts: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(relevant({"value": value}), sort_keys=True, default=str)


def unanswered(row: Row) -> bool:
    """Whether no model answered a row: there is no recording, or a fault that passes."""
    error = row.error or {}
    return error.get("code") == MISSING or bool(error.get("retryable"))


@dataclass
class Tally:
    """What one reading of a cell's rows finds."""

    variant: str
    dataset: str
    counts: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def add(self, pair: Pair, again: Row) -> None:
        """Count a row; `again` is what A made of it the second time."""
        twice = Pair(pair.a, again)
        random = not (twice.same_requests and twice.same_outputs)
        self.counts.update(
            {
                "rows": 1,
                "same_requests": pair.same_requests,
                "same_outputs": pair.same_outputs,
                "unanswered": pair.unanswered,
                "random": random,
            }
        )
        if not pair.unanswered and not random and (failure := pair.failure):
            self.counts[failure] += 1
        self.counts["requests_a"] += len(pair.a.requests or ())
        self.counts["requests_b"] += len(pair.b.requests or ())
        self._show(pair)

    def _show(self, pair: Pair) -> None:
        shown = Counter(one.what for one in self.differences)
        if not pair.same_requests and shown["requests"] < SHOWN:
            self._keep(pair, "requests", wording.requests(*unmatched(pair)))
        if not pair.same_outputs and shown["outputs"] < SHOWN:
            self._keep(pair, "outputs", wording.results(_shown(pair.a), _shown(pair.b)))

    def _keep(self, pair: Pair, what: Any, lines: Sequence[str]) -> None:
        self.differences.append(
            Difference(
                variant=self.variant,
                dataset=self.dataset,
                row=pair.a.row,
                what=what,
                lines=tuple(lines),
            )
        )

    def cell(self, unseen: bool) -> Cell:
        """The counts as they are kept."""
        return Cell(variant=self.variant, dataset=self.dataset, unseen=unseen, **self.counts)


def compare(tally: Tally, a: Iterable[Row], b: Iterable[Row], again: Iterable[Row]) -> Tally:
    """Count every row of a cell; the three are in the order of the data."""
    for one, other, second in zip(a, b, again, strict=True):
        tally.add(Pair(one, other), second)
    return tally


def unmatched(pair: Pair) -> tuple[list[Json], list[Json]]:
    """The requests of each that the other did not send."""
    first, second = bag(pair.a.requests or ()), bag(pair.b.requests or ())
    left = (
        _take(pair.a.requests or (), first - second),
        _take(pair.b.requests or (), second - first),
    )
    return list(left[0]), list(left[1])


def _take(requests: Iterable[Json], wanted: Counter[str]) -> Iterator[Json]:
    left = Counter(wanted)
    for request in requests:
        name = name_of(request)
        if left[name] > 0:
            left[name] -= 1
            yield request


def _shown(row: Row) -> Json:
    if row.error is not None:
        return {"failed": f"{row.error['type']}: {row.error['message']}"}
    return outputs(row)
