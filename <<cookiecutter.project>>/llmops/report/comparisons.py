"""How comparisons with the baseline are shown: order, lines of text, a bar for the interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmops.report.ranking import variants
from llmops.report.words import number
from llmops.summary import Comparison, Summary, Verdict

LINES = 10
ORDER: tuple[Verdict, ...] = ("worse", "better", "inconclusive", "no difference")
CAUTION = (
    "Each interval is 95 % by itself: of 20 comparisons in which nothing differs, about one says "
    "better or worse."
)
WIDTH, HEIGHT, LINE, EDGE = 160, 26, 8, 6


@dataclass(frozen=True, slots=True)
class Shown:
    """A comparison, and its interval as a drawing (SVG)."""

    one: Comparison
    bar: str


def of_metrics(summary: Summary, base: str = "") -> list[Comparison]:
    """The comparisons of evaluators' metrics with a base, the best variant first."""
    return [one for one in _ordered(summary) if one.evaluator and one.base == base]


def of_runs(summary: Summary, base: str = "") -> list[Comparison]:
    """The comparisons of latency, cost and failed rows with a base, the best variant first."""
    return [one for one in _ordered(summary) if not one.evaluator and one.base == base]


def bases(summary: Summary) -> list[str]:
    """What was compared with: a base version first, then the baseline variant as \"\"."""
    found = {one.base for one in summary.comparison}
    return sorted(found | ({summary.base.name} if summary.base else set()), reverse=True)


def _ordered(summary: Summary) -> list[Comparison]:
    order = {variant: place for place, variant in enumerate(variants(summary))}
    datasets = list(dict.fromkeys(one.dataset for one in summary.comparison))
    return sorted(
        summary.comparison,
        key=lambda one: (datasets.index(one.dataset), order.get(one.candidate, len(order))),
    )


def baselines(summary: Summary) -> list[str]:
    """The variants that others are compared with: one, unless datasets have different variants."""
    return list(dict.fromkeys(one.baseline for one in summary.comparison if not one.base))


def by_verdict(found: Sequence[Comparison]) -> list[Comparison]:
    """What a reviewer must see first: worse, better, then what is open."""
    return sorted(found, key=lambda one: ORDER.index(one.verdict))


def lines(summary: Summary) -> list[str]:
    """What `make experiment` prints: a line a comparison of a metric, a bounded number of them."""
    found = [one for base in bases(summary) for one in of_metrics(summary, base)]
    left = len(found) - LINES
    more = [f"… {left} more comparisons, see the report"] if left > 0 else []
    found = by_verdict(found) if more else found
    missing = summary.base.not_comparable if summary.base else ()
    pairs = ((one, f"{one.candidate} against {one.base or one.baseline}") for one in found[:LINES])
    return [
        *(f"not comparable: {reason}" for reason in missing),
        *(f"{who} on {place(summary, one)}: {one.sentence}" for one, who in pairs),
        *more,
    ]


def place(summary: Summary, one: Comparison) -> str:
    """`dataset`, and the evaluator where several ran."""
    several = len({each.evaluator for each in summary.evaluations}) > 1 and one.evaluator
    return f"{one.dataset} ({one.evaluator})" if several else one.dataset


def shown(found: Sequence[Comparison]) -> list[Shown]:
    """Comparisons with their bars; those of one metric over one dataset share a scale."""
    reach: dict[tuple[str, ...], float] = {}
    for one in found:
        key = (one.dataset, one.evaluator, one.metric)
        ends = (one.difference or 0.0, *(one.ci95 or ()))
        reach[key] = max(reach.get(key, 0.0), *map(abs, ends))
    return [
        Shown(one, _bar(one, reach[one.dataset, one.evaluator, one.metric] or 1.0)) for one in found
    ]


def signed(value: float | None) -> str:
    """A difference for people, with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def ends(one: Comparison) -> str:
    """The interval of a difference as `[-0.01, +0.07]`, empty where there is none."""
    return f"[{signed(one.ci95[0])}, {signed(one.ci95[1])}]" if one.ci95 else ""


def _bar(one: Comparison, reach: float) -> str:
    """A line from end to end of the interval, a dot for the difference, and where 0 is."""
    if one.difference is None:
        return ""
    middle, half = WIDTH / 2, WIDTH / 2 - EDGE

    def at(value: float) -> str:
        return f"{middle + value / reach * half:.1f}"

    line = ""
    if one.ci95:
        low, high = map(at, one.ci95)
        line = f'<path class="ci" d="M{low} {LINE}H{high}"/>'
    words = f"Difference {signed(one.difference)} {ends(one)}".strip()
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">'
        f'<path class="axis" d="M{EDGE} {LINE}H{WIDTH - EDGE}"/>'
        f'<path class="zero" d="M{at(0)} 1V{2 * LINE - 1}"/>'
        f'<text x="{at(0)}" y="{HEIGHT - 1}">0</text>'
        f'{line}<circle class="dot" cx="{at(one.difference)}" cy="{LINE}" r="4"/></svg>'
    )
