"""Counts what the runs of an experiment left on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmops.config import Price
from llmops.errors import UserError
from llmops.metrics import percentile
from llmops.summary import Evaluation, Latency, RunSummary, Score, Tokens, save
from llmops.work import Work

ABOUT = "run.json"
"""The summary of a cell beside its rows, so that it can be scored again at any time."""
REASONS = 5
CHOICES = 10
LONGEST = 300
"""Characters of a reason."""


def run_summary(item: Work, prices: dict[str, Price]) -> RunSummary:
    """One cell: its rows, tokens, seconds and cost."""
    failed, seconds, usage = 0, [], dict[str, list[int]]()
    for row in item.run.rows():
        failed += row.failed
        if not row.failed and row.latency_s is not None:
            seconds.append(row.latency_s)
        for model, counts in row.usage.items():
            total = usage.setdefault(model, [0, 0, 0])
            usage[model] = [a + b for a, b in zip(total, counts, strict=True)]
    prompt, completion = (sum(counts[at] for counts in usage.values()) for at in (1, 2))
    return RunSummary(
        variant=item.variant,
        parameters=item.parameters,
        dataset=item.dataset,
        rows=item.rows,
        repeats=item.repeats,
        failed=failed,
        tokens=Tokens(prompt=prompt, completion=completion, total=prompt + completion),
        latency_s=Latency(p50=_seconds(seconds, 0.5), p95=_seconds(seconds, 0.95)),
        cost_usd=cost(usage, prices),
        outputs=str(item.run.path),
    )


def keep(item: Work, summary: RunSummary) -> None:
    """Write a cell's summary beside its rows."""
    save(summary, item.run.folder / ABOUT)


def kept(folder: Path) -> RunSummary:
    """The summary of a cell from its folder; raises UserError where it holds none."""
    try:
        return RunSummary.model_validate_json((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        beside = sorted(str(path.parent) for path in folder.parent.glob(f"*/{ABOUT}"))
        raise UserError(
            f"RUNS: '{folder}' holds no run of this version (expected one of "
            f"{', '.join(beside[:CHOICES]) or 'none: run `make experiment` first'}"
            f"{', …' if len(beside) > CHOICES else ''})."
        ) from error


def _seconds(values: list[float], share: float) -> float | None:
    return round(percentile(values, share), 4) if values else None


def cost(usage: dict[str, list[int]], prices: dict[str, Price]) -> float | None:
    """USD; null where no model was used or one that was used has no price."""
    if not usage or not set(usage) <= set(prices):
        return None
    return sum(
        (counts[1] * prices[model].prompt + counts[2] * prices[model].completion) / 1e6
        for model, counts in usage.items()
    )


def evaluation(item: Work) -> Evaluation:
    """One evaluator over one cell."""
    return Evaluation(
        variant=item.variant,
        dataset=item.dataset,
        evaluator=item.evaluator or "",
        rows=item.rows,
        repeats=item.repeats,
        failed=sum(row.failed for row in item.run.rows()),
        outputs=str(item.run.path),
    )


def scores(item: Work) -> Iterator[Score]:
    """The metrics of one evaluator over one cell."""
    for metric, measured in (item.run.metrics() or {}).items():
        yield Score(
            variant=item.variant,
            dataset=item.dataset,
            evaluator=item.evaluator or "",
            metric=metric,
            rows=item.rows,
            repeats=item.repeats,
            **measured,
        )


def failures(works: Iterable[Work]) -> list[str]:
    """Why rows failed, the most frequent reasons first, each with the line of one such row.

    Every missing recording differs in its words, so they count as one reason.
    """
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for item in works:
        for row in item.run.rows():
            if row.error is not None:
                reason = f"{row.error['type']}: {row.error['message']}"
                reason = " ".join(reason.split())[:LONGEST]
                key = item.name, str(row.error.get("code") or reason)
                counts[key] += 1
                if key not in examples:
                    examples[key] = f"{reason} ({_place(item, row.row)})"
    told = [
        f"{key[0]}: {count} {'row' if count == 1 else 'rows'} failed: {examples[key]}"
        for key, count in counts.most_common(REASONS)
    ]
    more = len(counts) - len(told)
    return [*told, f"and {more} more reasons, see the report"] if more else told


def _place(item: Work, number: int) -> str:
    """Where the data of a row stands, and which repeat it was."""
    repeat, row = divmod(number, len(item.table))
    line = f"{item.table.path}: line {item.table.line(row)}"
    return f"{line}, repeat {repeat}" if item.repeats > 1 else line
