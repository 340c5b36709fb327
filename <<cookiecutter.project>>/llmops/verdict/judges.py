"""Whether evaluators that ask a model score as people do, by the run over rows that people scored.

A judge is an evaluator with a block `judge:`. Its flow also runs over rows that people scored, as
one more work of the experiment, on this machine whatever TARGET is. How the agreement is measured
stands in `llmops.verdict.agreement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops import config
from llmops.config import Evaluator, Experiment
from llmops.errors import UserError
from llmops.explain import quoted
from llmops.package import file_hash
from llmops.summary import Disagreement, Judge, Summary
from llmops.verdict import agreement, judge_labels
from llmops.work import Work

UNMEASURED = "nobody knows whether the judge agrees with people: this run did not measure it"
MOST = 50
"""Rows on which a judge and people differ that a summary names."""


def measured(found: Iterable[Work], experiment: Experiment) -> tuple[Judge, ...]:
    """The agreement of every score of every judge; the works are those of `work.labels`, done.

    Raises:
        UserError: a score is no output of the judge's flow.
    """
    pairs = zip(found, _named(experiment), strict=True)
    file = experiment.file("evaluators")
    return tuple(one for work, (who, judge) in pairs for one in _scores(work, who, judge, file))


def doubt(judged: Sequence[Judge], evaluator: Evaluator, metric: str) -> str:
    """Why a metric of an evaluator tells nothing; empty where it does, and where it asks no model.

    A metric that is one of the judge's scores is as good as that one, any other as the worst.
    """
    if evaluator.judge is None:
        return ""
    own = [judge for judge in judged if judge.evaluator == evaluator.name]
    own = [judge for judge in own if judge.score == metric] or own
    return next((judge.sentence for judge in own if judge.flagged), "") if own else UNMEASURED


def judged_again(summary: Summary, experiment: Experiment) -> Summary:
    """The summary with its judges held against the limits of now; those that are gone left out."""
    limits = {evaluator.name: judge.min_agreement for evaluator, judge in _named(experiment)}
    kept = (one for one in summary.judges if one.evaluator in limits)
    again = tuple(one.held_against(limits[one.evaluator]) for one in kept)
    return summary.model_copy(update={"judges": again})


def _named(experiment: Experiment) -> Iterator[tuple[Evaluator, config.Judge]]:
    for evaluator in experiment.evaluators:
        if evaluator.judge is not None:
            yield evaluator, evaluator.judge


def _scores(work: Work, evaluator: Evaluator, judge: config.Judge, file: str) -> Iterator[Judge]:
    outputs = {row.row: row.outputs for row in work.run.rows() if row.outputs is not None}
    for name, column in judge.scores.items():
        known = {output for each in outputs.values() for output in each}
        if known and name not in known:
            raise UserError(
                f"{file}: evaluators[{evaluator.name}].judge.scores: '{name}' is no output "
                f"of {work.flow.path} (expected one of {quoted(known)})."
            )
        yield _score(work, evaluator.name, judge, name, _found(work, outputs, name, column))


def _found(
    work: Work, outputs: Mapping[int, Mapping[str, Any]], name: str, column: str
) -> tuple[judge_labels.Labels, list[agreement.Value | None]]:
    """What people said of each row, and the judge."""
    people = judge_labels.read(column, work.table)
    said = (outputs.get(row, {}).get(name) for row in range(len(work.table)))
    return people, [agreement.alike(value, people.kind) for value in said]


def _score(
    work: Work,
    evaluator: str,
    judge: config.Judge,
    name: str,
    scores: tuple[judge_labels.Labels, list[agreement.Value | None]],
) -> Judge:
    people, said = scores
    found = agreement.measure(people.values, said)
    made = Judge(
        evaluator=evaluator,
        score=name,
        agreement=found.kappa,
        ci95=found.ci95,
        weights="quadratic" if people.kind == "number" else "none",
        equal=found.equal,
        bias=found.bias,
        scored=found.scored,
        rows=found.rows,
        min_agreement=judge.min_agreement,
        flagged=True,
        note=found.note,
        rubric=judge.rubric,
        rubric_sha256=file_hash(Path(judge.rubric)),
        labels=judge.labels,
        labels_sha256=file_hash(work.table.path),
        outputs=str(work.run.path),
        values=found.values,
        confusion=found.confusion,
        differ=tuple(
            Disagreement(row=row, people=people.values[row], judge=said[row])
            for row in found.differ[:MOST]
        ),
    )
    return made.held_against(judge.min_agreement)
