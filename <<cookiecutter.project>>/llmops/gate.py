"""Judges the scores against the limits of experiment.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from llmops import config, summary
from llmops.errors import UserError
from llmops.summary import Evaluation, Score

Bound = Literal["min", "max", "coverage"]


def judge(
    gate: config.Gate | None, scores: Sequence[Score], evaluations: Sequence[Evaluation]
) -> summary.Gate:
    """The verdict over every check, each for every variant and dataset that it names.

    An evaluation that scored no row fails its checks: without a value nothing is known.

    Raises:
        UserError: a check names a metric or a dataset that no score has.
    """
    if gate is None or not gate.checks:
        return summary.Gate()
    checks = tuple(line for check in gate.checks for line in _lines(check, scores, evaluations))
    failed = any(line.verdict == "fail" for line in checks)
    return summary.Gate(verdict="fail" if failed else "pass", checks=checks)


def _lines(
    check: config.Check, scores: Sequence[Score], evaluations: Sequence[Evaluation]
) -> Iterator[summary.Check]:
    named = [score for score in scores if score.evaluator == check.evaluator]
    own = [e for e in evaluations if e.evaluator == check.evaluator]
    datasets = sorted({evaluation.dataset for evaluation in own})
    if check.dataset is not None and check.dataset not in datasets:
        raise _unknown(check, f"dataset '{check.dataset}'", datasets)
    if named and check.metric not in {score.metric for score in named}:
        raise _unknown(check, f"metric '{check.metric}'", sorted({score.metric for score in named}))
    for evaluation in own:
        if check.dataset in (None, evaluation.dataset):
            yield from _verdicts(check, _score(check, evaluation, named))


def _unknown(check: config.Check, what: str, known: Sequence[str]) -> UserError:
    return UserError(
        f"experiment.yaml: gate: evaluator '{check.evaluator}' has no {what} "
        f"(expected one of {', '.join(known) or 'none'})."
    )


def _score(check: config.Check, evaluation: Evaluation, named: Sequence[Score]) -> Score:
    cell = (evaluation.variant, evaluation.dataset, check.metric)
    for score in named:
        if (score.variant, score.dataset, score.metric) == cell:
            return score
    variant, dataset, metric = cell
    return Score(
        variant=variant,
        dataset=dataset,
        evaluator=check.evaluator,
        metric=metric,
        value=None,
        scored=0,
        rows=evaluation.rows,
    )


def _verdicts(check: config.Check, score: Score) -> Iterator[summary.Check]:
    value, name = score.value, f"{score.evaluator}.{score.metric}"
    if check.min is not None:
        held = value is not None and value >= check.min
        yield _line(score, "min", f"{name} ≥ {check.min:g}", value, check.min, held)
    if check.max is not None:
        held = value is not None and value <= check.max
        yield _line(score, "max", f"{name} ≤ {check.max:g}", value, check.max, held)
    if check.coverage is not None:
        share = score.scored / score.rows if score.rows else 0.0
        text, held = f"coverage of {name} ≥ {check.coverage:g}", share >= check.coverage
        yield _line(score, "coverage", text, share, check.coverage, held)


def _line(
    score: Score, bound: Bound, text: str, value: float | None, limit: float, held: bool
) -> summary.Check:
    shown = "no value" if value is None else f"{value:.4g}"
    return summary.Check(
        check=text,
        evaluator=score.evaluator,
        metric=score.metric,
        bound=bound,
        variant=score.variant,
        dataset=score.dataset,
        verdict="pass" if held else "fail",
        value=value,
        limit=limit,
        message=f"{shown}, {score.scored} of {score.rows} rows scored",
    )
