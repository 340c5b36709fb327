"""The tables of a report: one for the terminal, two as CSV."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from llmops.files import write_atomically
from llmops.report.ranking import (
    cells,
    metrics,
)
from llmops.report.rows import Columns, Joined
from llmops.report.words import cost, metric_title, rows_failed, seconds, written
from llmops.summary import Score, Summary

METRICS = ("variant", "parameters", "dataset", "evaluator", "metric", "value",
           "ci_low", "ci_high", "scored", "rows")  # fmt: skip
ROW = ("variant", "dataset", "row", "status", "error",
       "latency_s", "prompt_tokens", "completion_tokens")  # fmt: skip
REPEATED = (*ROW[:3], "repeat", *ROW[3:])
SPREAD = (*METRICS, "repeats", "repeat_sd")
"""Columns where rows were answered several times."""

_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def table(summary: Summary) -> str:
    """The table that `make experiment` prints: a line a variant and dataset, best first."""
    from tabulate import tabulate

    return tabulate(overview(summary), headers="keys", disable_numparse=True)


def overview(summary: Summary) -> list[dict[str, str]]:
    """A line a variant and dataset, best first, as text; a column that is all empty is left out."""
    columns = metrics(summary)
    lines = [
        {
            "variant": cell.variant,
            "dataset": cell.dataset,
            "rows": rows_failed(cell),
            **{metric_title(summary, one): written(cell.scores.get(one)) for one in columns},
            "tokens": f"{cell.run.tokens.total:,}" if cell.run else "",
            "p50": seconds(cell.run.latency_s.p50) if cell.run else "",
            "cost": cost(cell),
        }
        for cell in cells(summary)
    ]
    used = {name for line in lines for name, text in line.items() if text}
    return [{name: text for name, text in line.items() if name in used} for line in lines]


def write_metrics(summary: Summary, path: Path) -> None:
    """Write metrics.csv: a line a score; numbers in full."""
    parameters = {run.variant: run.parameters for run in summary.runs}
    titles = SPREAD if any(score.repeats > 1 for score in summary.scores) else METRICS
    with write_atomically(path) as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        for cell in cells(summary):
            for score in cell.scores.values():
                values = _metric(score, parameters.get(score.variant, {}))
                writer.writerow(map(guarded, values[: len(titles)]))


def _metric(score: Score, parameters: dict[str, Any]) -> tuple[Any, ...]:
    low, high = score.ci95 or (None, None)
    return (score.variant, parameters, score.dataset, score.evaluator, score.metric, score.value,
            low, high, score.scored, score.rows, score.repeats, score.repeat_sd)  # fmt: skip


def facts(summary: Summary) -> tuple[str, ...]:
    """The columns of outputs.csv before inputs and outputs."""
    return REPEATED if any(run.repeats > 1 for run in summary.runs) else ROW


class RowTable:
    """outputs.csv, written a row at a time; `facts` are the columns before inputs and outputs."""

    def __init__(self, file: IO[str], columns: Columns, facts: tuple[str, ...] = ROW) -> None:
        self._columns = columns
        self._facts = facts
        self._writer = csv.writer(file)
        self._write(
            [
                *facts,
                *(f"inputs.{name}" for name in columns.inputs),
                *(f"outputs.{name}" for name in columns.outputs),
                *columns.scores,
            ]
        )

    def add(self, row: Joined) -> None:
        """Write one row."""
        self._write(
            [
                *(getattr(row, name) for name in self._facts),
                *(row.inputs.get(name) for name in self._columns.inputs),
                *(row.outputs.get(name) for name in self._columns.outputs),
                *(row.scores.get(name) for name in self._columns.scores),
            ]
        )

    def _write(self, values: Iterable[Any]) -> None:
        self._writer.writerow(map(guarded, values))


def guarded(value: Any) -> str | int | float:
    """A CSV cell that a spreadsheet shows as text, and does not run as a formula.

    A number stays a number, also one in text; other text that starts like a formula gets an
    apostrophe in front. Lists and objects become JSON.
    """
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return sound(json.dumps(value, ensure_ascii=False))
    if _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        value = "'" + value
    return sound(value)


def sound(text: str) -> str:
    """Text that UTF-8 can hold: half of a surrogate pair becomes a question mark."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
