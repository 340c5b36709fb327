"""What the deployments of an endpoint answered, counted request by request."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llmops.metrics import percentile
from llmops.monitoring.intervals import wilson
from llmops.summary import Latency, Model

RECENT = 20_000
"""Requests of a deployment that are kept to be paired with mirrored ones."""
REFUSED, FAILED = 400, 500
ID = "correlationid"
"""The column with a row's request, as in what Azure ML collects."""


class Traffic(Model):
    """The requests that a deployment answered, or those `mirrored` to it, which nobody waits for.

    `errors` are statuses from 500 on, `error_share` of all requests with its 95 % interval;
    `refused` those from 400 on, the caller's own doing. `latency_s` is that of the others in
    seconds. `collected` requests were kept with what went in and out. `feedback` counts the
    requests that people gave a score, `feedback_mean` is the mean of the scores.
    """

    deployment: str
    mirrored: bool
    requests: int
    errors: int
    error_share: float
    error_ci95: tuple[float, float]
    refused: int
    latency_s: Latency
    collected: int
    feedback: int
    feedback_mean: float | None


@dataclass
class Stream:
    """The requests that a deployment answered, or those that were mirrored to it.

    `recent` has the last ones as (request_id, status, seconds); `file` the rows that were kept.
    """

    deployment: str
    mirrored: bool
    path: Path
    file: IO[str]
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    recent: deque[tuple[str, int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    said: list[float] = field(default_factory=list)
    collected: int = 0

    @property
    def name(self) -> str:
        """The deployment for people."""
        return f"{self.deployment} mirrored" if self.mirrored else self.deployment

    def add(self, record: Mapping[str, Any], score: float | None) -> None:
        """Count a request, and keep its row if it has one; `score` is what a person gave it."""
        status, seconds = record["status"], record["seconds"]
        self.statuses[status] += 1
        self.recent.append((record["request_id"], status, math.nan if seconds is None else seconds))
        if status < REFUSED and seconds is not None:
            self.seconds.append(seconds)
        given, got = record.get("inputs"), record.get("outputs")
        if status < REFUSED and isinstance(given, dict) and isinstance(got, dict):
            known = {"time": record["time"], "deployment": self.deployment, "feedback": score}
            row = {**known, **given, **got, ID: record["request_id"]}
            self.file.write(json.dumps(row) + "\n")
            self.collected += 1

    def traffic(self) -> Traffic:
        """The figures of this stream."""
        requests = self.statuses.total()
        errors = sum(n for status, n in self.statuses.items() if status >= FAILED)
        shares = (0.5, 0.95) if self.seconds else ()
        p50, p95 = [percentile(self.seconds, share) for share in shares] or (None, None)
        return Traffic(
            deployment=self.deployment,
            mirrored=self.mirrored,
            requests=requests,
            errors=errors,
            error_share=errors / requests,
            error_ci95=wilson(errors, requests),
            refused=sum(n for status, n in self.statuses.items() if REFUSED <= status < FAILED),
            latency_s=Latency(p50=p50, p95=p95),
            collected=self.collected,
            feedback=len(self.said),
            feedback_mean=math.fsum(self.said) / len(self.said) if self.said else None,
        )


@dataclass
class Seen:
    """All that the folder of an endpoint tells; `streams` in the order in which they began.

    `unread` counts lines that are none (a kill cuts the last one short), `unrouted` the statuses
    of requests that reached no deployment, `unmatched` the feedback to requests that are not there.
    `tables` are the rows to score, by the name of what they are of; those of `pairs` are the rows
    of the prior and of the current deployment about the same requests, line by line.
    """

    endpoint: str
    streams: dict[tuple[str, bool], Stream] = field(default_factory=dict)
    first: str = ""
    last: str = ""
    unread: int = 0
    unrouted: Counter[int] = field(default_factory=Counter)
    unmatched: int = 0
    prior: str = ""
    current: str = ""
    tables: dict[str, Path] = field(default_factory=dict)
    pairs: tuple[str, str] | None = None
    replayed: tuple[str, ...] = ()

    def live(self) -> list[Stream]:
        """The streams whose answers people got, the one with the most requests first."""
        found = [stream for stream in self.streams.values() if not stream.mirrored]
        return sorted(found, key=lambda stream: -stream.statuses.total())
