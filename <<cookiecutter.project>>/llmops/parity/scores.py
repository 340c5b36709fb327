"""Level 2: is B worse than A by the metrics of the evaluators, over the same rows?

A paired test of non-inferiority: B is *not worse* by a metric where the whole 95 % interval of the
difference lies above the largest loss that counts as none, the evaluator's `margin`. Without a
margin only a difference that is certain says something: better is not worse, worse is worse. Of
fewer than `comparison.FEWEST` rows nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from llmops.parity.document import Metric
from llmops.summary import Comparison
from llmops.verdict.comparison import FEWEST, Evidence, Rules, compare

NotWorse = Literal["not worse", "worse", "inconclusive"]
Doubt = Callable[[str], str]


def judged(variant: str, a: Evidence, b: Evidence, rules: Rules, doubt: Doubt) -> list[Metric]:
    """Each metric of one evaluator over one cell.

    `doubt` says of a metric why its evaluator is not to be trusted, or nothing.
    """
    found = compare(replace(b, variant="B"), replace(a, variant="A"), rules)
    return [_judged(variant, one, a, b, rules, doubt) for one in found]


def deciding(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics with `decides` set: those with a margin, or all where none has one.

    What is certainly worse decides in any case.
    """
    margins = any(metric.margin for metric in metrics)
    return [
        one.model_copy(
            update={"decides": one.margin is not None or one.verdict == "worse" or not margins}
        )
        for one in metrics
    ]


def _judged(
    variant: str,
    one: Comparison,
    a: Evidence,
    b: Evidence,
    rules: Rules,
    doubt: Doubt,
) -> Metric:
    margin = rules.margins.get(one.metric)
    verdict, why = _verdict(one, margin)
    sides = [side.metrics.get(one.metric) for side in (a, b)]
    scored = [side.scored if side else 0 for side in sides]
    if verdict == "not worse" and scored[0] != scored[1]:
        verdict, why = "inconclusive", f"A has {scored[0]} scored rows, B {scored[1]}"
    if doubted := doubt(one.metric):
        verdict, why = "inconclusive", doubted
    word = "cannot tell" if verdict == "inconclusive" else f"B is {verdict}"
    return Metric(
        variant=variant,
        comparison=one,
        margin=margin,
        verdict=verdict,
        sentence=f"{one.metric} ({_moved(one)}): {', '.join(filter(None, (word, why)))}.",
    )


def _verdict(one: Comparison, margin: float | None) -> tuple[NotWorse, str]:
    """The verdict, and the reason where the numbers do not say it themselves."""
    rows = None if one.ties is None else (one.wins or 0) + (one.losses or 0) + one.ties
    if one.difference is None:
        return "inconclusive", "a value is missing"
    if rows is not None and rows < FEWEST:
        return "inconclusive", f"{rows} scored rows are too few (at least {FEWEST})"
    if one.verdict == "no difference":
        return "not worse", "" if one.difference else "the same on every row"
    if margin is not None and one.ci95:
        least, most = _losses(one)
        if most <= margin:
            return "not worse", f"a loss of at most {_number(max(most, 0))}, margin {margin:g}"
        if least > margin:
            return "worse", f"a loss of at least {_number(least)}, margin {margin:g}"
        return "inconclusive", f"a loss of up to {_number(most)} is possible, margin {margin:g}"
    if margin is None and one.verdict != "inconclusive":
        return ("not worse" if one.verdict == "better" else "worse"), ""
    return "inconclusive", "there is no interval" if one.ci95 is None else "there is no margin"


def _losses(one: Comparison) -> tuple[float, float]:
    """The ends of the interval of how much worse B is."""
    low, high = one.ci95 or (0.0, 0.0)
    return (low, high) if one.lower_is_better else (-high, -low)


def _moved(one: Comparison) -> str:
    values = f"A {_number(one.baseline_value)}, B {_number(one.candidate_value)}"
    if one.ci95 and one.difference:
        values += (
            f", 95 % interval of the difference {_number(one.ci95[0])} to {_number(one.ci95[1])}"
        )
    return values


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3g}"
