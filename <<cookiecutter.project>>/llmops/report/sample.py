"""The rows that a page shows: a bounded number, those with an error first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from llmops.report.ranking import cells
from llmops.report.rows import FAILED, Columns, Joined, joined
from llmops.report.tables import sound
from llmops.summary import Summary

MOST = 4000
LONGEST = 2000


@dataclass(slots=True)
class Sample:
    """What one reading of the rows found: all are counted, and some of each cell are kept.

    `errors` and `others` have one list a cell, each in the order of the data.
    """

    columns: Columns = field(default_factory=Columns)
    errors: list[list[Joined]] = field(default_factory=list)
    others: list[list[Joined]] = field(default_factory=list)
    total: int = 0
    failed: int = 0
    with_error: int = 0

    def merge(self, part: Sample, most: int) -> None:
        """Take over the counts of another sample and at most so many rows of each of its cells."""
        self.columns.merge(part.columns)
        for errors, others in zip(part.errors, part.others, strict=True):
            self.errors.append(errors[:most])
            self.others.append(others[: max(0, most - len(errors))])
        self.total += part.total
        self.failed += part.failed
        self.with_error += part.with_error

    def rows(self) -> list[Joined]:
        """The kept rows: those with an error first, then by dataset and row, best variant first."""
        return [*_interleaved(self.errors), *_interleaved(self.others)]

    def first_errors(self, most: int) -> list[Joined]:
        """The first rows with an error."""
        return _interleaved(self.errors)[:most]


def take(summary: Summary, most: int = MOST) -> Sample:
    """Read all rows of a summary once and keep at most so many, an equal share of each cell."""
    found = cells(summary)
    sample = Sample()
    for cell in found:
        part = _of_cell(joined(cell), max(1, most // len(found)))
        sample.merge(part, max(1, most // len(found)))
    return sample


def _of_cell(rows: Iterable[Joined], most: int) -> Sample:
    sample = Sample(errors=[[]], others=[[]])
    for row in rows:
        sample.columns.see(row)
        sample.total += 1
        sample.failed += row.status == FAILED
        sample.with_error += bool(row.error)
        kept = sample.errors[0] if row.error else sample.others[0]
        if len(kept) < most:
            kept.append(shortened(row, LONGEST))
    return sample


def _interleaved(groups: list[list[Joined]]) -> list[Joined]:
    """Rows by dataset and number; the groups are in the order of the variants: sorting keeps it."""
    datasets = list(dict.fromkeys(row.dataset for group in groups for row in group))
    rows = [row for group in groups for row in group]
    return sorted(rows, key=lambda row: (datasets.index(row.dataset), row.row, row.repeat or 0))


def shortened(row: Joined, length: int) -> Joined:
    """The row with every long text cut, so that a page stays small."""

    def cut(values: dict[str, Any]) -> dict[str, Any]:
        return {name: _short(value, length) for name, value in values.items()}

    return replace(
        row,
        error=_cut(row.error, length),
        inputs=cut(row.inputs),
        outputs=cut(row.outputs),
        scores=cut(row.scores),
        references=cut(row.references),
    )


def _short(value: Any, length: int) -> Any:
    """A number, true, false or null as it is; anything else as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53:
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _cut(text, length)


def _cut(text: str, length: int) -> str:
    return sound(text if len(text) <= length else text[: length - 1] + "…")


def packed(rows: Iterable[Joined], columns: Columns) -> Iterator[list[Any]]:
    """Rows as the page's script reads them: values only, in the order of the columns."""
    for row in rows:
        yield [
            row.variant,
            row.dataset,
            row.row,
            row.repeat,
            row.status,
            row.error,
            row.latency_s and round(row.latency_s, 3),
            row.prompt_tokens,
            row.completion_tokens,
            [row.inputs.get(name) for name in columns.inputs],
            [row.outputs.get(name) for name in columns.outputs],
            [row.scores.get(name) for name in columns.scores],
            [row.references.get(name) for name in columns.references],
        ]
