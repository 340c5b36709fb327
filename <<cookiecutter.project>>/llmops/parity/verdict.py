"""The verdict of `make parity`: by the rows and, where they cannot tell, by the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmops.parity.document import Cell, Metric, Verdict
from llmops.verdict.comparison import FEWEST


@dataclass(frozen=True)
class Decision:
    """A verdict, the level that it rests on, one sentence, and what more a reader must know."""

    verdict: Verdict
    level: Literal[1, 2]
    sentence: str
    reasons: tuple[str, ...] = ()


def by_rows(cells: Sequence[Cell]) -> Decision | None:
    """What the rows alone decide; null where the evaluators must be asked."""
    told = tuple(reasons(cells))
    rows, asked = _sum(cells, "rows"), _sum(cells, "requests_a")
    if all(cell.proven for cell in cells):
        sentence = f"Proven over {_rows(rows)}: all {asked:,} model requests and every result."
        if not asked:
            sentence = f"Every result of {_rows(rows)}; no request to a model was seen."
        return Decision("equal", 1, sentence, told)
    if broken := _sum(cells, "only_b"):
        return Decision("different", 2, f"B fails on {_rows(broken)} where A does not.", told)
    if unanswered := _sum(cells, "unanswered"):
        sentence = f"Cannot tell: {_rows(unanswered)} had no answer of the model."
        return Decision("inconclusive", 2, sentence, told)
    if _sum(cells, "failed_same") == rows:
        return Decision("inconclusive", 2, "Cannot tell: no row completed.", told)
    if _sum(cells, "same_outputs") == rows and not _sum(cells, "random"):
        if rows < FEWEST:
            few = f"Cannot tell: {_rows(rows)} with the same results are too few to conclude that "
            return Decision("inconclusive", 2, f"{few}other requests make no difference.", told)
        return Decision("equivalent", 2, f"The same results on all {rows:,} rows.", told)
    return None


def by_metrics(cells: Sequence[Cell], metrics: Sequence[Metric]) -> Decision:
    """What the evaluators decide where `by_rows` does not."""
    told = tuple(reasons(cells))
    decide = [metric for metric in metrics if metric.decides]
    worse = [metric for metric in decide if metric.verdict == "worse"]
    open_ = [metric for metric in decide if metric.verdict == "inconclusive"]
    if worse:
        return Decision("different", 2, f"B is worse: {_named(worse)}.", told)
    if open_:
        advice = "Set `margin` for its evaluator, or run more rows."
        return Decision(
            "inconclusive", 2, f"Cannot tell of {_named(open_)} whether B is worse. {advice}", told
        )
    if decide:
        return Decision("equivalent", 2, f"B is not worse than A by {_named(decide)}.", told)
    if _sum(cells, "random"):
        sentence = "Cannot tell: A differs from itself, and no evaluator scores the results."
        return Decision("inconclusive", 2, sentence, told)
    differ = _sum(cells, "rows") - _sum(cells, "same_outputs")
    sentence = f"{_rows(differ)} {'has' if differ == 1 else 'have'} other results"
    return Decision("different", 2, f"{sentence}, and no evaluator scores them.", told)


def reasons(cells: Sequence[Cell]) -> Iterator[str]:
    """What a reader must know beside the verdict."""
    rows = _sum(cells, "rows")
    if differ := rows - _sum(cells, "same_requests"):
        yield f"{differ:,} of {_rows(rows)} ask the model for something else."
    if differ := rows - _sum(cells, "same_outputs"):
        yield f"{differ:,} of {_rows(rows)} come to another result."
    if random := _sum(cells, "random"):
        yield (
            f"A is random: run twice, {random:,} of {_rows(rows)} ask for or come to something "
            "else (chance, time, order of a set, another service)."
        )
    if any(cell.unseen for cell in cells):
        yield (
            "Some requests did not go through the OpenAI client: they were not seen row by row, so "
            "level 1 cannot be claimed."
        )
    if same := _sum(cells, "failed_same"):
        yield f"{_rows(same)} failed in both in the same way: that counts as equal."
    if other := _sum(cells, "failed_otherwise"):
        yield f"{_rows(other)} failed in both, but not in the same way."
    if only := _sum(cells, "only_a"):
        yield f"{_rows(only)} failed in A alone."
    if only := _sum(cells, "only_b"):
        yield f"{_rows(only)} failed in B alone."


def _sum(cells: Sequence[Cell], name: str) -> int:
    return sum(getattr(cell, name) for cell in cells)


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def _named(metrics: Sequence[Metric]) -> str:
    return ", ".join(dict.fromkeys(metric.comparison.metric for metric in metrics))
