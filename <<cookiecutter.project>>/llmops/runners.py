"""What runs a flow inside a worker: the interface, and the runner for plain Python callables."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import statistics
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from llmops.runs import Row

Aggregate = Callable[[Sequence[int]], dict[str, Any]]
"""Metrics of the rows at these positions; a position may be chosen more than once."""


class FlowError(Exception):
    """What a flow raised, where only the name of its type is left of it."""

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.trace = trace


class Aggregation(NamedTuple):
    """Metrics of all rows, and how to take them of a draw of rows."""

    values: dict[str, Any]
    again: Aggregate


class Runner(ABC):
    """A loaded flow; `run` is called from many threads."""

    @abstractmethod
    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs of one row, and what aggregation will need of it. Raises what the flow raises."""

    @abstractmethod
    def aggregate(self, rows: Iterable[Row]) -> Aggregation | None:
        """The flow's own aggregation over completed rows; null without one."""


class CallableRunner(Runner):
    """`flow.py:run`, sync or async; `aggregate(rows)` beside it takes the list of outputs."""

    def __init__(self, job: dict[str, Any]) -> None:
        module_name, _, name = job["entry"].partition(":")
        module = importlib.import_module(module_name)
        self._function = getattr(module, name)
        self._aggregate = getattr(module, "aggregate", None)
        self._loop = _loop() if inspect.iscoroutinefunction(self._function) else None

    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Runner."""
        answer = self._function(**inputs)
        if self._loop is not None:
            answer = asyncio.run_coroutine_threadsafe(answer, self._loop).result()
        if not isinstance(answer, dict):
            raise TypeError(
                f"the flow returned a {type(answer).__name__}, expected a dict of outputs"
            )
        return answer, {}

    def aggregate(self, rows: Iterable[Row]) -> Aggregation | None:
        """See Runner."""
        function = self._aggregate
        if function is None:
            return None
        outputs = [row.outputs for row in rows]
        return over(len(outputs), lambda chosen: dict(function([outputs[at] for at in chosen])))


def over(rows: int, aggregate: Aggregate) -> Aggregation:
    """An aggregation with the metrics of all rows; of no rows there are none."""
    return Aggregation(aggregate(range(rows)) if rows else {}, aggregate)


def means(rows: Iterable[Row]) -> Aggregation:
    """The mean of each numeric output, for a flow that has no aggregation of its own."""
    outputs = [row.outputs or {} for row in rows]
    names = sorted({k for row in outputs for k, v in row.items() if isinstance(v, int | float)})

    def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
        columns = {name: [outputs[at].get(name) for at in chosen] for name in names}
        numbers = {n: [v for v in c if isinstance(v, int | float)] for n, c in columns.items()}
        return {name: statistics.fmean(values) for name, values in numbers.items() if values}

    return over(len(outputs), aggregate)


def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
