"""summary.md: what a pull request or a job's page shows. Short on top, the details folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmops.files import write_atomically
from llmops.report import comparisons, judges
from llmops.report.headline import MARKS, against, headline, title
from llmops.report.inert import code, short, text
from llmops.report.ranking import RULE, cells, metrics
from llmops.report.rows import Joined
from llmops.report.tables import overview
from llmops.report.words import index, interval, metric_title, moment, number, spread
from llmops.summary import Check, Comparison, Score, Summary

LINES, METRICS, CHECKS, COMPARED, ROWS = 5, 5, 4, 3, 10
TOP, FEWEST = 40, 2
"""Lines above the details, and rows with an error that stand there in any case."""
CHECKED = {"fail": "❌", "inconclusive": "⚠️", "pass": "✅", "skipped": "⚪"}
OPEN, CLOSE = "<details>", "</details>"
CUT = "**Cut here: there is no room for more. All of it is in `reports/summary.md` of this run.**\n"


def write_markdown(summary: Summary, failed: Sequence[Joined], count: int, path: Path) -> None:
    """Write summary.md; `failed` are the first of `count` rows with an error."""
    top = [
        *headline(summary),
        "",
        *_checks(summary),
        *_best(summary),
        "",
        *_compared(summary),
    ]
    room = max(FEWEST, min(ROWS, TOP - len(top) - 3))
    lines = [*top, *_failed(failed[:room], count), *_details(summary), *_foot(summary)]
    with write_atomically(path) as file:
        file.write("\n".join(lines).rstrip() + "\n")


def cut(document: str, most: int) -> str:
    """The whole lines of a summary that fit into so many bytes of UTF-8, and a word about the rest.

    It is empty where not even the word fits.
    """
    raw = document.encode()
    if len(raw) <= most:
        return document
    room = most - len(f"\n\n{CLOSE}\n\n{CUT}")
    if room < 0:
        return ""
    kept = raw[:room].decode(errors="ignore").rpartition("\n")[0]
    marks = [line[: len(CLOSE)] for line in kept.splitlines()]
    inside = sum(mark.startswith(OPEN) for mark in marks) > marks.count(CLOSE)
    return "\n\n".join([kept, *([CLOSE] if inside else []), CUT])


def _table(summary: Summary) -> list[str]:
    """Every variant with every number."""
    lines = overview(summary)
    return [*_grid(list(lines[0]), lines), "", RULE] if lines else []


def _best(summary: Summary) -> list[str]:
    """The best variants with what decides between them; the other numbers are in the details."""
    lines = overview(summary)
    if not lines:
        return ["Nothing ran."]
    one_dataset = len({line["dataset"] for line in lines}) == 1
    decided = [metric_title(summary, one) for one in metrics(summary)[:METRICS]]
    wanted = {"variant", "rows", "cost", *decided, *([] if one_dataset else ["dataset"])}
    left = len(lines) - LINES
    more = [_line([f"… {left} more below"])] if left > 0 else []
    shown = [{**line, "variant": short(line["variant"])} for line in lines[:LINES]]
    return [*_grid([name for name in lines[0] if name in wanted], shown), *more]


def _grid(names: Sequence[str], lines: Sequence[Mapping[str, str]]) -> list[str]:
    body = (_line([line[name] for name in names]) for line in lines)
    return [_line(names), _line(["---"] * len(names)), *body]


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(text(value).replace("|", "\\|") for value in values) + " |"


def _checks(summary: Summary) -> list[str]:
    checks = sorted(summary.gate.checks, key=lambda check: list(CHECKED).index(check.verdict))
    left = len(checks) - CHECKS
    more = [f"- … {left} more below"] if left > 0 else []
    return ["**Gate checks**", "", *map(_check, checks[:CHECKS]), *more, ""] if checks else []


def _check(check: Check) -> str:
    mark = CHECKED[check.verdict]
    where = " · ".join(code(part) for part in (check.variant, check.dataset) if part)
    return f"- {mark} {text(check.check)} · {where}: {text(check.message, 400)}"


def _compared(summary: Summary) -> list[str]:
    found = comparisons.by_verdict(against(summary))
    if not found:
        return []
    left = len(found) - COMPARED
    more = [f"- … {left} more below"] if left > 0 else []
    one_place = len({(one.candidate, one.dataset) for one in found}) == 1
    lines = (
        _comparison(one, "" if one_place else _where(summary, one)) for one in found[:COMPARED]
    )
    return [f"**Compared with {title(summary)}**", "", *lines, *more, ""]


def _comparisons(summary: Summary) -> list[str]:
    """All of them, those with the base first."""
    groups: dict[str, list[str]] = {}
    for base in comparisons.bases(summary):
        for one in (*comparisons.of_metrics(summary, base), *comparisons.of_runs(summary, base)):
            line = _comparison(one, _where(summary, one))
            groups.setdefault(base or one.baseline, []).append(line)
    told = [
        line
        for name, lines in groups.items()
        for line in (f"**Compared with {code(name)}**", "", *lines, "")
    ]
    return [*told, comparisons.CAUTION] if told else []


def _where(summary: Summary, one: Comparison) -> str:
    return f"{code(one.candidate)} · {code(comparisons.place(summary, one))}: "


def _comparison(one: Comparison, where: str) -> str:
    return f"- {MARKS[one.verdict]} {where}{text(one.sentence, 400)}"


def _failed(shown: Sequence[Joined], count: int) -> list[str]:
    if not count:
        return []
    first = "" if count == len(shown) else f", the first {len(shown)}"
    rows = [
        f"- {code(row.variant)} · {code(row.dataset)} · row {row.number}: {text(row.error)}"
        for row in shown
    ]
    return [f"**Rows with an error** ({count:,}{first})", "", *rows, ""]


def _details(summary: Summary) -> list[str]:
    checks = [*map(_check, summary.gate.checks)] if len(summary.gate.checks) > CHECKS else []
    notes = [_metric(score) for cell in cells(summary) for score in cell.scores.values()]
    blocks = [
        ("All variants", _table(summary)),
        ("All gate checks", checks),
        ("All comparisons", _comparisons(summary)),
        ("All metrics", notes),
        ("Judges and people", judges.details(summary)),
    ]
    return [
        line
        for title, body in blocks
        if body
        for line in (f"{OPEN}<summary>{title}</summary>", "", *body, "", CLOSE, "")
    ]


def _metric(score: Score) -> str:
    name = code(f"{score.evaluator}.{score.metric}")
    value = " ".join(filter(None, [number(score.value), interval(score), spread(score)]))
    rows = f"{score.scored:,} of {score.rows:,} rows"
    note = f". {text(score.note)}" if score.note else ""
    return f"- {code(score.variant)} · {code(score.dataset)} · {name}: {value}, {rows}{note}"


def _foot(summary: Summary) -> list[str]:
    return [
        "Intervals are 95 %. Every row is in `outputs.csv` and `index.html`. "
        f"Of {text(moment(summary.started_at))} · env {code(summary.env)} · "
        f"target {code(summary.target)}" + (f" · index: {index(summary)}" if summary.index else "")
    ]
