"""What people said of the rows of a judge: read from its file, and checked before any row runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmops.config import Judge
from llmops.data import REFERENCE, Table, resolve
from llmops.explain import quoted, shown
from llmops.flows import Flow
from llmops.verdict.agreement import Kind, kind

COLUMN = "${data.<column>}"


class Labels(NamedTuple):
    """The scores that people gave, a row each, all of one kind."""

    values: tuple[Any, ...]
    kind: Kind


def read(column: str, table: Table) -> Labels:
    """The scores of a column, which `problems` found nothing wrong with."""
    values = tuple(resolve(column, {"data": record}) for record in table)
    found = kind(values[0])
    assert found is not None
    return Labels(tuple(v.strip() if isinstance(v, str) else v for v in values), found)


def problems(where: str, judge: Judge, flow: Flow, table: Table | None) -> Iterator[str]:
    """What is wrong with the scores of a judge, whose place in experiment.yaml is `where`.

    `table` is null where its file is none.
    """
    for name, column in judge.scores.items():
        place = f"{where}.scores.{name}"
        if flow.outputs is not None and name not in flow.outputs:
            choices = quoted(flow.outputs)
            yield f"{place}: '{name}' is no output of {flow.path} (expected one of {choices})."
        if not _is_column(column):
            yield f"{place}: '{column}' is no column of the labelled rows (expected {COLUMN})."
        elif table is not None and (problem := _unlike(column, table)):
            yield f"{place}: '{column}': {problem}"


def rubric(where: str, judge: Judge, root: Path) -> Iterator[str]:
    """What is wrong with the file that says what the judge goes by."""
    path, place = root / judge.rubric, f"{where}.rubric: '{judge.rubric}'"
    try:
        if not path.read_text(encoding="utf-8-sig").strip():
            yield f"{place} is empty. Write down what the judge goes by."
    except FileNotFoundError:
        files = sorted(str(p.relative_to(root)) for p in path.parent.glob("*") if p.is_file())
        yield f"{place} is not there (files: {', '.join(files[:10]) or 'none'})."
    except UnicodeDecodeError:
        yield f"{place} is not UTF-8. Save the file as UTF-8."
    except OSError as error:
        yield f"{place} cannot be read ({error.strerror}). Name a file."


def _is_column(column: str) -> bool:
    match = REFERENCE.match(column)
    return match is not None and match[1].startswith("data.")


def _unlike(column: str, table: Table) -> str:
    """The first row whose score is missing, is none, or is of another kind than the one above."""
    first: Kind | None = None
    for row, record in enumerate(table):
        line = f"{table.path}: line {table.line(row)}"
        try:
            value = resolve(column, {"data": record})
        except KeyError:
            names = ", ".join(sorted(table.columns))
            return f"{line} has no such column (columns: {names})."
        found = kind(value)
        if found is None:
            return (
                f"{line}: {shown(value)} is no score (expected a number, a label, true or false)."
            )
        first = first or found
        if found != first:
            return (
                f"{line}: {shown(value)} is a {found}, those above are {first}s. Scores of one "
                "column are of one type."
            )
    return ""
