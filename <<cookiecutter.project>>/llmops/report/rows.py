"""Rows of a run joined with what the evaluators made of them, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.report.ranking import Cell
from llmops.runs import Row, read_rows
from llmops.summary import Evaluation

COMPLETED, UNSCORED, FAILED = "completed", "unscored", "failed"


@dataclass(slots=True)
class Joined:
    """One row of a cell.

    `repeat` counts from 0, and is null where each row was answered once. `status` is completed,
    failed (the flow has no outputs) or unscored (an evaluator failed or has no such row). `scores`
    are an evaluator's outputs as `<evaluator>.<output>`; `references` are the inputs that an
    evaluator had besides, such as the expected answer.
    """

    variant: str
    dataset: str
    row: int
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    repeat: int | None = None
    status: str = COMPLETED
    error: str = ""
    latency_s: float | None = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    scores: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> str:
        """`12`, or `12, repeat 1`."""
        return str(self.row) if self.repeat is None else f"{self.row}, repeat {self.repeat}"


@dataclass(slots=True)
class Columns:
    """The names that occur in the rows, in the order in which they first occur."""

    inputs: dict[str, None] = field(default_factory=dict)
    outputs: dict[str, None] = field(default_factory=dict)
    scores: dict[str, None] = field(default_factory=dict)
    references: dict[str, None] = field(default_factory=dict)

    def see(self, row: Joined) -> None:
        """Take in the names of a row."""
        self.inputs.update(dict.fromkeys(row.inputs))
        self.outputs.update(dict.fromkeys(row.outputs))
        self.scores.update(dict.fromkeys(row.scores))
        self.references.update(dict.fromkeys(row.references))

    def merge(self, other: Columns) -> None:
        """Take in the names that another set has seen."""
        self.inputs.update(other.inputs)
        self.outputs.update(other.outputs)
        self.scores.update(other.scores)
        self.references.update(other.references)


def joined(cell: Cell) -> Iterator[Joined]:
    """The rows of a cell in the order of the data."""
    source = cell.run or next(iter(cell.evaluations), None)
    if source is None:
        return
    beside = cell.evaluations if cell.run else cell.evaluations[1:]
    readers = [(e.evaluator, _Reader(e.outputs)) for e in beside]
    for row in read_rows(Path(source.outputs)):
        one = _start(cell, row)
        if isinstance(source, Evaluation):
            one.outputs, one.scores = {}, _named(source.evaluator, row.outputs)
        yield _with_scores(one, row.row, readers)


class _Reader:
    """Walks along a sorted file of rows beside another one."""

    def __init__(self, path: str) -> None:
        self._rows = read_rows(Path(path))
        self._next = next(self._rows, None)

    def at(self, number: int) -> Row | None:
        """The row of this number; numbers must be asked for in rising order."""
        while self._next is not None and self._next.row < number:
            self._next = next(self._rows, None)
        return self._next if self._next is not None and self._next.row == number else None


def _start(cell: Cell, row: Row) -> Joined:
    repeat, number = divmod(row.row, max(1, cell.rows // cell.repeats))
    return Joined(
        variant=cell.variant,
        dataset=cell.dataset,
        row=row.row if cell.repeats == 1 else number,
        repeat=None if cell.repeats == 1 else repeat,
        inputs=row.inputs or {},
        outputs=row.outputs or {},
        status=FAILED if row.failed else COMPLETED,
        error=_message(row),
        latency_s=row.latency_s,
        prompt_tokens=sum(used[1] for used in row.usage.values()),
        completion_tokens=sum(used[2] for used in row.usage.values()),
    )


def _with_scores(one: Joined, number: int, readers: list[tuple[str, _Reader]]) -> Joined:
    for evaluator, reader in readers:
        row = reader.at(number)
        if row is not None:
            known = one.inputs | one.outputs
            seen = {name: value for name, value in row.inputs.items() if known.get(name) != value}
            one.references.update(_named(evaluator, seen))
            one.scores.update(_named(evaluator, row.outputs))
        if one.status == FAILED or (row is not None and not row.failed):
            continue
        one.status = UNSCORED
        if row is not None:
            one.error = "; ".join(filter(None, [one.error, f"{evaluator}: {_message(row)}"]))
    return one


def _named(evaluator: str, values: dict[str, Any] | None) -> dict[str, Any]:
    return {f"{evaluator}.{name}": value for name, value in (values or {}).items()}


def _message(row: Row) -> str:
    if row.error is None:
        return ""
    return f"{row.error.get('type', 'Error')}: {row.error.get('message', '')}"
