"""summary.md: what a pull request or a job's page shows. Short on top, the details folded away."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from llmops.files import write_atomically
from llmops.report import comparisons
from llmops.report.ranking import RULE, cells
from llmops.report.rows import Joined
from llmops.report.tables import overview
from llmops.report.words import interval, moment, number, source
from llmops.summary import Check, Comparison, Score, Summary

LINES, CHECKS, COMPARED, ROWS, TEXT = 8, 5, 4, 10, 160
TOP, FEWEST = 40, 2
"""Lines above the details, and rows with an error that stand there in any case."""
_ACTIVE = re.compile(r"[\\`*~]|(?<!\w)_|_(?!\w)|#(?=\d)|\](?=\()")
VERDICTS = {
    "pass": "✅ Gate passed",
    "fail": "❌ Gate failed",
    "inconclusive": "⚠️ Gate inconclusive",
    "off": "Gate off",
}
MARKS = {"better": "✅", "worse": "❌", "no difference": "⚪", "inconclusive": "❔"}


def write_markdown(summary: Summary, failed: Sequence[Joined], count: int, path: Path) -> None:
    """Write summary.md; `failed` are the first of `count` rows with an error."""
    top = [
        f"## {VERDICTS[summary.gate.verdict]}: {text(summary.experiment)}",
        "",
        f"env {code(summary.env)} · target {code(summary.target)} · "
        f"{text(moment(summary.started_at))}",
        "",
        f"> **{source(summary).title}** {text(source(summary).text, 1000)}",
        "",
        *_table(summary, LINES),
        "",
        *_checks(summary),
        *_compared(summary),
    ]
    room = max(FEWEST, min(ROWS, TOP - len(top) - 3))
    lines = [*top, *_failed(failed[:room], count), *_details(summary)]
    with write_atomically(path) as file:
        file.write("\n".join(lines).rstrip() + "\n")


def _table(summary: Summary, most: int) -> list[str]:
    lines = overview(summary)
    if not lines:
        return ["Nothing ran."]
    left = len(lines) - most
    return [
        _line(list(lines[0])),
        _line(["---"] * len(lines[0])),
        *(_line(list(line.values())) for line in lines[:most]),
        *([_line([f"… {left} more below", *[""] * (len(lines[0]) - 1)])] if left > 0 else []),
    ]


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(text(value).replace("|", "\\|") for value in values) + " |"


def _checks(summary: Summary) -> list[str]:
    checks = sorted(summary.gate.checks, key=lambda check: check.verdict == "pass")
    left = len(checks) - CHECKS
    more = [f"- … {left} more below"] if left > 0 else []
    return ["**Gate checks**", "", *map(_check, checks[:CHECKS]), *more, ""] if checks else []


def _check(check: Check) -> str:
    mark = "✅" if check.verdict == "pass" else "❌"
    where = " · ".join(code(part) for part in (check.variant, check.dataset) if part)
    return f"- {mark} {text(check.check)} · {where}: {text(check.message)}"


def _compared(summary: Summary) -> list[str]:
    found = comparisons.by_verdict(comparisons.of_metrics(summary))
    if not found:
        return []
    left = len(found) - COMPARED
    more = [f"- … {left} more below"] if left > 0 else []
    names = ", ".join(map(code, comparisons.baselines(summary)))
    lines = (_comparison(summary, one) for one in found[:COMPARED])
    return [f"**Compared with {names}**", "", *lines, *more, ""]


def _comparisons(summary: Summary) -> list[str]:
    every = (*comparisons.of_metrics(summary), *comparisons.of_runs(summary))
    told = [_comparison(summary, one) for one in every]
    return [*told, "", comparisons.CAUTION] if told else []


def _comparison(summary: Summary, one: Comparison) -> str:
    where = f"{code(one.candidate)} · {code(comparisons.place(summary, one))}"
    return f"- {MARKS[one.verdict]} {where}: {text(one.sentence, 400)}"


def _failed(shown: Sequence[Joined], count: int) -> list[str]:
    if not count:
        return []
    first = "" if count == len(shown) else f", the first {len(shown)}"
    rows = [
        f"- {code(row.variant)} · {code(row.dataset)} · row {row.row}: {text(row.error)}"
        for row in shown
    ]
    return [f"**Rows with an error** ({count:,}{first})", "", *rows, ""]


def _details(summary: Summary) -> list[str]:
    every = _table(summary, len(cells(summary))) if len(cells(summary)) > LINES else []
    checks = [*map(_check, summary.gate.checks)] if len(summary.gate.checks) > CHECKS else []
    notes = [_metric(score) for cell in cells(summary) for score in cell.scores.values()]
    blocks = [
        ("All variants", every),
        ("All gate checks", checks),
        ("All comparisons", _comparisons(summary)),
        ("All metrics", notes),
    ]
    return [
        *(
            line
            for title, body in blocks
            if body
            for line in (f"<details><summary>{title}</summary>", "", *body, "", "</details>", "")
        ),
        f"{RULE} Intervals are 95 %. Every row is in `outputs.csv` and `index.html`.",
    ]


def _metric(score: Score) -> str:
    name = code(f"{score.evaluator}.{score.metric}")
    value = " ".join(filter(None, [number(score.value), interval(score)]))
    rows = f"{score.scored:,} of {score.rows:,} rows"
    note = f". {text(score.note)}" if score.note else ""
    return f"- {code(score.variant)} · {code(score.dataset)} · {name}: {value}, {rows}{note}"


def text(value: str, longest: int = TEXT) -> str:
    """Data on one line, cut, and with nothing in it that Markdown or HTML would act upon."""
    line = " ".join(value.split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return _ACTIVE.sub(r"\\\g<0>", html.escape(line, quote=False)).replace("@", "@\u2060")


def code(value: str) -> str:
    """A name as inline code."""
    return f"`{' '.join(value.replace('`', chr(39)).split())}`"
