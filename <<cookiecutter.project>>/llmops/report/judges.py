"""How far judges agree with people, for every form of the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.package import file_hash
from llmops.report.comparisons import signed
from llmops.report.inert import code, text
from llmops.report.words import NONE, number
from llmops.runs import Row, read_rows
from llmops.summary import Judge, Label, Summary

ROWS, LONGEST = 20, 600
REASONS = ("reason", "reasoning", "explanation", "rationale", "justification")
"""Outputs that say why a judge gave a score; one that begins with the score's name goes first."""


@dataclass(frozen=True, slots=True)
class Differing:
    """A row on which people and the judge differ, with the judge's reason or what went wrong."""

    row: int
    people: str
    judge: str
    reason: str
    inputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Shown:
    """One score of a judge as the page shows it; `verdict` is a class of the page's style."""

    one: Judge
    verdict: str
    values: list[str]
    differing: list[Differing]
    more: int


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a judge goes by: the file's text, or why it is not shown."""

    evaluator: str
    path: str
    text: str
    note: str


def name(judge: Judge) -> str:
    """The score as `evaluator.score`."""
    return f"{judge.evaluator}.{judge.score}"


def lines(summary: Summary) -> list[str]:
    """What is printed: a line for each score that is not known to be as people give it."""
    return [f"{name(judge)}: {judge.sentence}" for judge in _doubtful(summary)]


def headline(summary: Summary) -> list[str]:
    """One line of Markdown about what a reviewer must know, or none."""
    found = _doubtful(summary)
    if not found:
        return []
    more = f" … and {len(found) - 1} more below" if len(found) > 1 else ""
    told = text(found[0].sentence, 400)
    doubt = "Not" if found[0].flagged else "Perhaps not"
    return [f"- ⚠️ **{doubt} to be relied on:** {code(name(found[0]))}: {told}.{more}"]


def details(summary: Summary) -> list[str]:
    """A line of Markdown for each score, and one for each rubric."""
    scores = [
        f"- {'⚠️' if one.flagged or one.unsure else '✅'} {code(name(one))}: "
        f"{text(one.sentence, 400)}. {text(_besides(one), 400)}"
        for one in summary.judges
    ]
    files = dict.fromkeys(
        f"- {code(one.evaluator)} goes by {code(one.rubric)}, held against {code(one.labels)}"
        for one in summary.judges
    )
    return [*scores, *files]


def shown(summary: Summary) -> list[Shown]:
    """The scores for the page, with the rows on which people and the judge differ."""
    return [
        Shown(
            judge,
            "fail" if judge.flagged else "inconclusive" if judge.unsure else "pass",
            [_value(value) for value in judge.values],
            list(_differing(judge)),
            max(0, len(judge.differ) - ROWS),
        )
        for judge in summary.judges
    ]


def rubrics(summary: Summary) -> list[Rubric]:
    """What each judge goes by, as it was in this run."""
    first = {judge.evaluator: judge for judge in reversed(summary.judges)}
    return [_rubric(first[name]) for name in dict.fromkeys(j.evaluator for j in summary.judges)]


def share(value: float | None) -> str:
    """`83 %`."""
    return NONE if value is None else f"{value:.0%}".replace("%", " %")


def bias(judge: Judge) -> str:
    """How much higher than people the judge scores on average, with its sign."""
    return signed(judge.bias)


def interval(judge: Judge) -> str:
    """The 95 % interval of the agreement as `[0.12, 0.54]`, empty where there is none."""
    return f"[{number(judge.ci95[0])}, {number(judge.ci95[1])}]" if judge.ci95 else ""


def _doubtful(summary: Summary) -> list[Judge]:
    found = (judge for judge in summary.judges if judge.flagged or judge.unsure)
    return sorted(found, key=lambda judge: not judge.flagged)


def note(judge: Judge) -> str:
    """The verdict in words, and what else must be known of it."""
    more = judge.note if judge.agreement is not None else ""
    parts = (f"{part[0].upper()}{part[1:]}." for part in (judge.sentence, more) if part)
    return " ".join(parts)


def _besides(judge: Judge) -> str:
    if judge.equal is None:
        return ""
    found = [f"Equal on {share(judge.equal)} of rows"]
    if judge.bias is not None:
        found.append(f"{bias(judge)} against people on average")
    if judge.note and judge.agreement is not None:
        found.append(judge.note)
    return "; ".join(found) + "."


def _rubric(judge: Judge) -> Rubric:
    path = Path(judge.rubric)
    try:
        content, same = path.read_text(encoding="utf-8-sig"), file_hash(path)
    except (OSError, UnicodeDecodeError):
        return Rubric(judge.evaluator, judge.rubric, "", "The file is gone since this run.")
    note = "" if same == judge.rubric_sha256 else "The file has changed since this run."
    return Rubric(judge.evaluator, judge.rubric, content, note)


def _differing(judge: Judge) -> Iterator[Differing]:
    wanted = {one.row: one for one in judge.differ[:ROWS]}
    rows = {row.row: row for row in read_rows(Path(judge.outputs)) if row.row in wanted}
    for number_, one in wanted.items():
        row = rows.get(number_) or Row(number_, {}, None)
        inputs = {key: _cut(_value(value)) for key, value in row.inputs.items()}
        said = "no score" if one.judge is None else _value(one.judge)
        yield Differing(number_, _value(one.people), said, _cut(_reason(judge, row)), inputs)


def _reason(judge: Judge, row: Row) -> str:
    """Why the judge gave a row this score, in its own words; or why it gave none."""
    if row.error is not None:
        return f"{row.error.get('type', 'Error')}: {row.error.get('message', '')}"
    outputs: Mapping[str, Any] = row.outputs or {}
    for key in (*(f"{judge.score}_{word}" for word in REASONS), *REASONS):
        if isinstance(outputs.get(key), str) and outputs[key].strip():
            return str(outputs[key]).strip()
    if judge.score in outputs:
        return ""
    return "No output of this name."


def _value(value: Label | Any) -> str:
    """A value as in the data: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
