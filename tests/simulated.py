"""Simulated experiments whose true value is known: how often does the 95 % interval hold it?"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from llmops.metrics import Measured, measure
from llmops.running.runners import over
from llmops.verdict.comparison import Evidence, Measure, compare

Rows = Sequence[Any]
Statistic = Callable[[Rows], float]


@dataclass(frozen=True)
class Case:
    """Rows of which the statistic is `true` in the long run; `row` draws one of them."""

    name: str
    rows: int
    row: Callable[[random.Random], Any]
    true: float
    statistic: Statistic = fmean


def measured(rows: Rows, statistic: Statistic = fmean) -> Measured:
    """What the worker keeps of an evaluation; a row that is null was not scored."""
    scored = [number for number, row in enumerate(rows) if row is not None]

    def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
        return {"f1": statistic([rows[scored[at]] for at in chosen])}

    return measure(over(len(scored), aggregate), scored, len(rows))


def evidence(rows: Rows, variant: str = "new", statistic: Statistic = fmean) -> Evidence:
    """The same as one side of a comparison."""
    found = measured(rows, statistic)
    scored = sum(row is not None for row in rows)
    metrics = {
        name: Measure(
            metric.value, scored, found.draws.get(name, ()), found.alone.get(name, ()), metric.note
        )
        for name, metric in found.metrics.items()
    }
    return Evidence(variant, "news", "match", metrics)


def f1(rows: Sequence[tuple[int, int, int]]) -> float:
    """The F1 of all rows together: of hits, and of what was found and expected."""
    hits, found, expected = (sum(column) for column in zip(*rows, strict=True))
    return 2 * hits / (found + expected) if found + expected else 0.0


def share(likely: float) -> Callable[[random.Random], float]:
    """A row that is right with this probability."""
    return lambda dice: float(dice.random() < likely)


def partly(dice: random.Random) -> float:
    """The F1 of one row as it often is: four in ten are perfect, the others in between."""
    return 1.0 if dice.random() < 0.4 else dice.betavariate(4, 2)


def entities(dice: random.Random) -> tuple[int, int, int]:
    """Up to five expected, each found with a probability of 0.8, and sometimes a wrong one."""
    expected = dice.randint(1, 5)
    hits = sum(dice.random() < 0.8 for _ in range(expected))
    return hits, hits + (dice.random() < 0.3), expected


def pair(dice: random.Random) -> tuple[float, float]:
    """Baseline and candidate right or wrong on one row: hard rows are hard for both."""
    hard = dice.random() < 0.5
    return float(dice.random() < (0.6 if hard else 0.9)), float(
        dice.random() < (0.75 if hard else 0.95)
    )


CASES = (
    Case("mean of 15", 15, lambda dice: dice.gauss(0, 1), 0.0),
    Case("mean of 30, many perfect", 30, partly, 0.4 + 0.6 * 4 / 6),
    Case("accuracy of 50", 50, share(0.8), 0.8),
    Case("F1 over 40 rows together", 40, entities, 2 * 2.4 / (2.4 + 0.3 + 3), f1),
    Case("median of 51", 51, lambda dice: dice.gauss(2, 1), 2.0, median),
)
DIFFERENCES = (
    Case("difference of accuracies of 50", 50, pair, 0.1),
    Case("difference of means of 20", 20, lambda d: (d.gauss(0, 1), d.gauss(0.3, 1)), 0.3),
)


def held(case: Case, experiments: int, seed: int = 1) -> float:
    """The share of experiments whose interval holds the true value."""
    dice = random.Random(seed)
    return fmean(
        _within(case.true, measured(_rows(case, dice), case.statistic).metrics["f1"].ci95)
        for _ in range(experiments)
    )


def held_difference(case: Case, experiments: int, seed: int = 1) -> float:
    """The same of the difference between the two numbers of each row."""
    dice = random.Random(seed)
    found = []
    for _ in range(experiments):
        old, new = zip(*_rows(case, dice), strict=True)
        (comparison,) = compare(evidence(new), evidence(old, "default"))
        found.append(_within(case.true, comparison.ci95))
    return fmean(found)


def _rows(case: Case, dice: random.Random) -> list[Any]:
    return [case.row(dice) for _ in range(case.rows)]


def _within(true: float, ci95: tuple[float, float] | None) -> bool:
    assert ci95 is not None
    return ci95[0] - 1e-9 <= true <= ci95[1] + 1e-9
