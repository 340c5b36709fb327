"""What runs a flow inside a worker: the interface, and the runner for plain Python callables."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import json
import statistics
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import date, time
from enum import Enum
from typing import Any, NamedTuple

from llmops import entries
from llmops.runs import Row

Aggregate = Callable[[Sequence[int]], dict[str, Any]]
"""Metrics of the rows at these positions; a position may be chosen more than once."""


_MAKING = threading.Lock()
HIDDEN = "_"
"""What `run` returns under a name that begins so is for the aggregation alone."""

Emit = Callable[[dict[str, str]], None]
"""Takes the next piece of a streamed output, by the output's name."""


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

    def stream(self, inputs: dict[str, Any], row: int, emit: Emit) -> dict[str, Any]:
        """As `run`, with each piece of an output that is a stream emitted as it comes.

        Returns the outputs that were not; a flow that does not stream emits nothing.
        """
        return self.run(inputs, row)[0]

    @abstractmethod
    def aggregate(self, rows: Iterable[Row]) -> Aggregation | None:
        """The flow's own aggregation over completed rows; null without one."""


class CallableRunner(Runner):
    """`flow.py:run`, sync or async, or a class with `__call__`.

    What is no dict becomes the output `output`, as in a flex flow. A key that begins with `_` is no
    output: it is kept for `aggregate(rows)` beside it, or the class's `__aggregate__`, which takes
    a list of one dict a row, of the outputs and these.
    """

    def __init__(self, job: dict[str, Any], make: entries.Make = lambda _, value: value) -> None:
        self._function = entries.load(job["entry"], job.get("init") or {}, make)
        self._defaults = job.get("defaults") or {}
        beside = getattr(sys.modules[job["entry"].partition(":")[0]], "aggregate", None)
        self._aggregate = getattr(self._function, "__aggregate__", beside)
        call = self._function if inspect.isfunction(self._function) else self._function.__call__
        plain = inspect.unwrap(call)
        self._later = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)

    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Runner."""
        answer = self._answer(inputs)
        whole = {n: "".join(map(str, v)) if _streams(v) else v for n, v in answer.items()}
        hidden = {n: v for n, v in whole.items() if str(n).startswith(HIDDEN)}
        shown = {n: v for n, v in whole.items() if n not in hidden}
        return as_json(shown), as_json(hidden)

    def stream(self, inputs: dict[str, Any], row: int, emit: Emit) -> dict[str, Any]:
        """See Runner."""
        answer = self._answer(inputs)
        shown = {n: v for n, v in answer.items() if not str(n).startswith(HIDDEN)}
        return as_json(pour(shown, emit))

    def _answer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        answer = self._function(**{**self._defaults, **inputs})
        outputs = _outputs(_waited(answer) if self._later else answer)
        later = {n: _waited(v) for n, v in outputs.items() if isinstance(v, AsyncIterator)}
        return {**outputs, **later}

    def aggregate(self, rows: Iterable[Row]) -> Aggregation | None:
        """See Runner."""
        function = self._aggregate
        if function is None:
            return None
        given = [{**(row.outputs or {}), **row.aggregation} for row in rows]
        return over(len(given), lambda chosen: dict(function([given[at] for at in chosen])))


def _streams(value: Any) -> bool:
    """Whether an output comes in pieces."""
    return isinstance(value, Iterator)


def pour(outputs: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Emit the outputs that come in pieces until they end; returns the others."""
    for name, value in outputs.items():
        if _streams(value):
            for piece in filter(None, map(str, value)):
                emit({name: piece})
    return {name: value for name, value in outputs.items() if not _streams(value)}


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


def as_json(outputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs as JSON keeps them: a dataclass as the dict of its fields, a set as its text.

    Raises:
        TypeError, ValueError: one holds itself, or a key that is no text; it is named.
    """
    found = {}
    for name, value in outputs.items():
        try:
            found[str(name)] = json.loads(json.dumps(value, default=_simple))
        except (TypeError, ValueError) as error:
            raise type(error)(f"output '{name}': {error}") from None
    return found


def _simple(value: Any) -> Any:
    """What stands for a value that JSON does not have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):  # of pydantic
        return value.model_dump(mode="json")
    if callable(getattr(value, "tolist", None)):  # of numpy
        return value.tolist()
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _waited(answer: Any) -> Any:
    with _MAKING:
        loop = _loop()
    return asyncio.run_coroutine_threadsafe(_awaited(answer), loop).result()


async def _awaited(answer: Any) -> Any:
    answer = await answer if inspect.isawaitable(answer) else answer
    if not isinstance(answer, AsyncIterator):
        return answer
    return "".join([str(part) async for part in answer])


def _outputs(answer: Any) -> dict[str, Any]:
    """What a callable returned, as outputs."""
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        answer = dataclasses.asdict(answer)
    elif callable(getattr(answer, "model_dump", None)):
        answer = answer.model_dump(mode="json")
    return answer if isinstance(answer, dict) else {"output": answer}


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Where all rows of this process that are asynchronous run."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
