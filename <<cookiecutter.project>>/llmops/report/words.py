"""How numbers, times and the source of the answers are written for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from llmops.report.ranking import Cell, Metric
from llmops.summary import Llm, Score, Summary

NONE = "\u2013"
TIMES = "\u00d7"


def metric_title(summary: Summary, metric: Metric) -> str:
    """`metric`, or `evaluator.metric` where several evaluators ran."""
    several = len({score.evaluator for score in summary.scores}) > 1
    return ".".join(metric) if several else metric[1]


def number(value: float | None) -> str:
    """A number for people: two decimals, more for a small one, none for a large one."""
    if value is None or value != value:
        return NONE
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    whole = abs(value) >= 1000 or (abs(value) >= 10 and value == round(value))
    return f"{value:,.0f}" if whole else f"{value:.2f}"


def interval(score: Score) -> str:
    """The 95 % interval as `[0.79, 0.94]`, empty where there is none."""
    return f"[{number(score.ci95[0])}, {number(score.ci95[1])}]" if score.ci95 else ""


def coverage(score: Score) -> str:
    """`28 of 30 rows` where some rows carry no value, otherwise empty."""
    what = "rows" if score.repeats == 1 else "answers"
    return f"{score.scored:,} of {score.rows:,} {what}" if score.scored < score.rows else ""


def spread(score: Score) -> str:
    """`repeat sd 0.02` where rows were answered several times, otherwise empty."""
    return "" if score.repeat_sd is None else f"repeat sd {number(score.repeat_sd)}"


def written(score: Score | None) -> str:
    """A score in one piece of text: value, interval, spread, and how many rows carry it."""
    if score is None:
        return NONE
    partial = ", ".join(filter(None, (spread(score), coverage(score))))
    parts = [number(score.value), interval(score), f"({partial})" if partial else ""]
    return " ".join(part for part in parts if part)


def seconds(value: float | None) -> str:
    """Seconds for people."""
    return NONE if value is None else f"{value:.2f} s"


def rows(cell: Cell) -> str:
    """`30`, or, where each row was answered three times, 30 times `3 repeats`."""
    each = f"{cell.rows // cell.repeats:,}"
    return each if cell.repeats == 1 else f"{each} {TIMES} {cell.repeats} repeats"


def rows_failed(cell: Cell) -> str:
    """`30`, or `30 (2 failed)`; of repeats each answer counts."""
    return f"{rows(cell)} ({cell.failed:,} failed)" if cell.failed else rows(cell)


def cost(cell: Cell) -> str:
    """USD, or nothing where the prices are not known."""
    if cell.run is None or cell.run.cost_usd is None:
        return ""
    return f"${cell.run.cost_usd:,.4f}" if cell.run.cost_usd < 1 else f"${cell.run.cost_usd:,.2f}"


def moment(text: str) -> str:
    """An ISO 8601 time in UTC for people; any other text as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = ""
    if when.tzinfo is not None:
        when, zone = when.astimezone(UTC), " UTC"
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


class Source(NamedTuple):
    """`mode` is live, replay or record."""

    mode: str
    title: str
    text: str


TITLES = {"live": "Live.", "replay": "Replayed, not live.", "record": "Live, and recorded."}
ASKED = {
    "live": "answered by the model",
    "replay": "answered from recordings/, no model was asked",
    "record": "answered by the model",
}


def source(summary: Summary) -> Source:
    """Say where the answers came from and how many there were."""
    llm = summary.llm
    here = summary.target == "local"  # Azure does not tell how many calls its runs made
    sentences = [f"{_calls(llm.calls)} {ASKED[llm.mode]}."] if here or llm.calls else []
    if llm.cached:
        sentences.append(
            f"{_calls(llm.cached)} spared: their rows are unchanged since an earlier run."
        )
    return Source(llm.mode, TITLES[llm.mode], " ".join(filter(None, [*sentences, llm.note])))


def index(summary: Summary) -> str:
    """`16 documents, 129 passages, version 3fa94d21c0be`; empty where the flow searches none."""
    if (found := summary.index) is None:
        return ""
    return f"{found.documents:,} documents, {found.chunks:,} passages, version {found.version[:12]}"


def answered(llm: Llm) -> Source:
    """The same of `make parity`, where one answer serves each request that is the same."""
    how = f" {ASKED['replay']}"
    if llm.mode != "replay":
        once = ": the model was asked once for each that is different, now or earlier"
        how = f"{once} (FRESH=1 asks again)"
    told = f"{_calls(llm.calls)}{how}."
    return Source(llm.mode, TITLES[llm.mode], " ".join(filter(None, [told, llm.note])))


def _calls(count: int) -> str:
    return f"{count:,} call" if count == 1 else f"{count:,} calls"
