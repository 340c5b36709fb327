"""Compares variants with the baseline variant and with a base version, from what is on disk.

The baseline of a dataset is `default` where it ran, otherwise the first variant that did. A variant
is compared with itself in the base version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from llmops import metrics, results
from llmops.config import Evaluator, Experiment, Price
from llmops.errors import UserError
from llmops.explain import quoted
from llmops.runs import Draws, Run, read_rows
from llmops.summary import Base, Comparison, Evaluation, RunSummary, Score, Summary
from llmops.verdict.comparison import Evidence, Measure, Rules, compare

BASELINE = "default"
LATENCY, COST, FAILED = "latency p50 (s)", "cost (USD)", "failed rows"
RUN_RULES = Rules(frozenset({LATENCY, COST, FAILED}))


def compared(summary: Summary, experiment: Experiment) -> Summary:
    """The summary with its comparisons: metrics in the order of the scores, then the runs.

    Raises:
        UserError: experiment.yaml says of a metric, which no evaluator gave, how to compare it.
    """
    runs = (*_runs(summary, experiment.prices), *_runs_before(summary, experiment.prices))
    found = (*_metrics(summary, experiment), *runs)
    return summary.model_copy(update={"comparison": found})


def judged_again(summary: Summary, experiment: Experiment) -> Summary:
    """The summary with its metrics compared by the rules of now; raises as `compared` does."""
    runs = [one for one in summary.comparison if not one.evaluator]
    found = (*_metrics(summary, experiment), *runs)
    return summary.model_copy(update={"comparison": found})


def variant_of(variants: Sequence[str]) -> str:
    """The baseline among the variants of a dataset, which are in the order of the plan."""
    return BASELINE if BASELINE in variants else variants[0]


# --- metrics -------------------------------------------------------------------------------------


def _metrics(summary: Summary, experiment: Experiment) -> Iterator[Comparison]:
    for evaluator in experiment.evaluators:
        scores = [score for score in summary.scores if score.evaluator == evaluator.name]
        rules = rules_of(evaluator, experiment, scores)
        own = [one for one in summary.evaluations if one.evaluator == evaluator.name]
        for dataset in dict.fromkeys(one.dataset for one in own):
            group = [one for one in own if one.dataset == dataset]
            if len(group) > 1:
                yield from _against(group, scores, rules)
        if summary.base:
            yield from _against_base(own, scores, rules, summary.base)


def _against(
    group: Sequence[Evaluation], scores: Sequence[Score], rules: Rules
) -> Iterator[Comparison]:
    first = variant_of([one.variant for one in group])
    baseline = next(evidence(one, scores) for one in group if one.variant == first)
    for one in group:
        if one.variant != first:
            yield from compare(evidence(one, scores), baseline, rules)


def _against_base(
    own: Sequence[Evaluation], scores: Sequence[Score], rules: Rules, base: Base
) -> Iterator[Comparison]:
    """Each evaluation with the base's of the same variant."""
    for one in own:
        cell = one.variant, one.dataset, one.evaluator
        for before in base.evaluations:
            if (before.variant, before.dataset, before.evaluator) == cell:
                then = [score for score in base.scores if score.evaluator == one.evaluator]
                found = compare(evidence(one, scores), evidence(before, then), rules)
                yield from _named(found, base)


def _named(found: Iterable[Comparison], base: Base) -> Iterator[Comparison]:
    for one in found:
        yield one.model_copy(update={"base": base.name})


def rules_of(evaluator: Evaluator, experiment: Experiment, scores: Sequence[Score]) -> Rules:
    """The evaluator's own rules; of a metric that the gate bounds only above, less is better."""
    # A judge none of whose answers could be read has no metric of what it scores.
    of_judge = evaluator.judge.scores if evaluator.judge else ()
    known = {*(score.metric for score in scores), *of_judge}
    for key in ("lower_is_better", "margin"):
        for metric in getattr(evaluator, key):
            if scores and metric not in known:
                raise UserError(
                    f"{experiment.file('evaluators')}: evaluators[{evaluator.name}].{key}: "
                    f"'{metric}' is no metric of it (expected one of {quoted(known)})."
                )
    gate = experiment.gate.checks if experiment.gate else ()
    checks = [check for check in gate if check.evaluator == evaluator.name]
    above = {check.metric for check in checks if check.max is not None}
    below = {check.metric for check in checks if check.min is not None}
    return Rules(frozenset(evaluator.lower_is_better) | above - below, evaluator.margin)


def evidence(evaluation: Evaluation, scores: Sequence[Score]) -> Evidence:
    """What an evaluation kept; draws over another number of rows would be no pairs."""
    kept = Run(Path(evaluation.outputs).parent).draws()
    rows = evaluation.rows // evaluation.repeats
    if kept is None or kept.rows != rows:
        kept = Draws(rows)
    cell = evaluation.variant, evaluation.dataset
    return Evidence(
        *cell,
        evaluation.evaluator,
        {
            score.metric: Measure(
                score.value,
                -(-score.scored // score.repeats),
                kept.draws.get(score.metric, ()) if score.ci95 else (),
                kept.alone.get(score.metric, ()),
                score.note or (f"no values of rows: {kept.why_alone}" if kept.why_alone else ""),
            )
            for score in scores
            if (score.variant, score.dataset) == cell
        },
    )


# --- latency, cost and failed rows ---------------------------------------------------------------


@dataclass
class _Column:
    """One number of a run by repeat and row, and what `taken` makes of those that a draw has."""

    name: str
    value: float | None
    taken: Callable[[list[float]], float]
    repeats: list[list[float | None]]
    drawn: list[float | None] = field(default_factory=list)

    @property
    def alone(self) -> list[float | None]:
        """Each row's own number: the mean over its repeats."""
        if len(self.repeats) == 1:
            return self.repeats[0]
        rows = zip(*self.repeats, strict=True)
        known = ([value for value in row if value is not None] for row in rows)
        return [fmean(values) if values else None for values in known]

    @property
    def moves(self) -> bool:
        """Whether not all numbers are the same."""
        return len({value for repeat in self.repeats for value in repeat}) > 1

    def draw(self, chosen: Sequence[int]) -> None:
        found = (map(repeat.__getitem__, chosen) for repeat in self.repeats)
        values = [value for column in found for value in column if value is not None]
        self.drawn.append(self.taken(values) if values else None)


def _runs(summary: Summary, prices: dict[str, Price]) -> Iterator[Comparison]:
    """Replayed runs are not compared by latency: it is not the model's."""
    live = summary.llm.mode != "replay"
    for dataset in dict.fromkeys(run.dataset for run in summary.runs):
        group = [run for run in summary.runs if run.dataset == dataset]
        if len(group) > 1:
            baseline = variant_of([run.variant for run in group])
            sides = {side.variant: side for side in _run_evidence(group, prices, live)}
            first = sides.pop(baseline)
            for side in sides.values():
                yield from compare(side, first, RUN_RULES)


def _runs_before(summary: Summary, prices: dict[str, Price]) -> Iterator[Comparison]:
    """Each run with the base's of the same variant."""
    live, base = summary.llm.mode != "replay", summary.base
    for run in summary.runs:
        for before in base.runs if base else ():
            if base and (before.variant, before.dataset) == (run.variant, run.dataset):
                first, side = _run_evidence([before, run], prices, live)
                yield from _named(compare(side, first, RUN_RULES), base)


def _run_evidence(
    group: Sequence[RunSummary], prices: dict[str, Price], live: bool
) -> Iterator[Evidence]:
    """What runs over one dataset took and cost, all by the same draws."""
    wanted = {FAILED}
    if live and any(run.latency_s.p50 is not None for run in group):
        wanted.add(LATENCY)
    if all(run.cost_usd is not None for run in group):
        wanted.add(COST)
    rows = group[0].rows // group[0].repeats
    found = [[c for c in _columns(run, prices) if c.name in wanted] for run in group]
    columns = [column for own in found for column in own]
    moving = [column for column in columns if column.moves]
    for chosen in metrics.draws(rows):
        for column in moving:
            column.draw(chosen)
    for column in columns:  # where all rows are the same, so are all draws
        column.drawn = column.drawn or [column.value] * metrics.resamples(rows)
    for run, own in zip(group, found, strict=True):
        taken = {c.name: Measure(c.value, rows, c.drawn, c.alone) for c in own}
        yield Evidence(run.variant, run.dataset, "", taken)


def _columns(run: RunSummary, prices: dict[str, Price]) -> list[_Column]:
    """A row that is not there has no number; a failed one has no latency, but may have a cost."""
    rows = run.rows // run.repeats

    def empty() -> list[list[float | None]]:
        return [[None] * rows for _ in range(run.repeats)]

    seconds, usd, failed = empty(), empty(), empty()
    for row in read_rows(Path(run.outputs)):
        if row.row < run.rows:
            repeat, at = divmod(row.row, rows)
            seconds[repeat][at] = None if row.failed else row.latency_s
            usd[repeat][at] = results.cost(row.usage, prices) or 0.0
            failed[repeat][at] = float(row.failed)
    return [
        _Column(
            LATENCY, run.latency_s.p50, lambda values: metrics.percentile(values, 0.5), seconds
        ),
        _Column(COST, run.cost_usd, sum, usd),
        _Column(FAILED, run.failed, sum, failed),
    ]
