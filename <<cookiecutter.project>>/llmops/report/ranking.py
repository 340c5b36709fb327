"""Which variant comes first, and what belongs to it: shared by the page, Markdown and CSV."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmops.files import slug
from llmops.summary import Evaluation, RunSummary, Score, Summary

RULE = (
    "Best first within each dataset: by the first metric that the gate judges, else the first of "
    "all. Higher is better, unless the evaluator says otherwise or the gate sets only a maximum."
)
LONGEST = 60
"""Characters of a variant's name in that of its folder, which may have 255 bytes."""
FILES = ("index.html", "summary.md", "metrics.csv", "outputs.csv", "summary.json")

Metric = tuple[str, str]


@dataclass(slots=True)
class Cell:
    """One variant over one dataset.

    `run` is null where an evaluator scored the data alone. The key of `scores` is evaluator and
    metric.
    """

    variant: str
    dataset: str
    run: RunSummary | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    scores: dict[Metric, Score] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the dataset that this cell was given."""
        return self.run.rows if self.run else max((e.rows for e in self.evaluations), default=0)

    @property
    def repeats(self) -> int:
        """How often each row of the dataset was answered; `rows` and `failed` count each answer."""
        return (
            self.run.repeats if self.run else max((e.repeats for e in self.evaluations), default=1)
        )

    @property
    def failed(self) -> int:
        """Rows that have an error instead of outputs."""
        return self.run.failed if self.run else max((e.failed for e in self.evaluations), default=0)


def cells(summary: Summary) -> list[Cell]:
    """All cells of the summary: datasets in their order, in each the best variant first."""
    found: dict[tuple[str, str], Cell] = {}

    def cell(variant: str, dataset: str) -> Cell:
        return found.setdefault((variant, dataset), Cell(variant, dataset))

    for run in summary.runs:
        cell(run.variant, run.dataset).run = run
    for evaluation in summary.evaluations:
        cell(evaluation.variant, evaluation.dataset).evaluations.append(evaluation)
    for score in summary.scores:
        cell(score.variant, score.dataset).scores[score.evaluator, score.metric] = score
    datasets = dict.fromkeys(dataset for _, dataset in found)
    return [
        one
        for dataset in datasets
        for one in _best_first(summary, [c for c in found.values() if c.dataset == dataset])
    ]


def _best_first(summary: Summary, group: list[Cell]) -> list[Cell]:
    """The cells of one dataset; one without a value comes last, ties keep their order."""
    first = first_metric(summary)
    if first is None:
        return group
    sign = 1 if lower_is_better(summary, first) else -1

    def key(cell: Cell) -> tuple[bool, float]:
        score = cell.scores.get(first)
        value = score.value if score else None
        return (value is None or value != value, sign * (value or 0.0))

    return sorted(group, key=key)


def lower_is_better(summary: Summary, metric: Metric) -> bool:
    """Whether the metric was compared so, or the gate sets a maximum and no minimum for it."""
    compared = [c for c in summary.comparison if (c.evaluator, c.metric) == metric]
    if compared:
        return compared[0].lower_is_better
    bounds = {c.bound for c in summary.gate.checks if (c.evaluator, c.metric) == metric}
    return "max" in bounds and "min" not in bounds


def first_metric(summary: Summary) -> Metric | None:
    """What variants are ranked by: the gate's first metric, else the first of all."""
    judged = [(c.evaluator, c.metric) for c in summary.gate.checks if c.bound != "coverage"]
    known = metrics(summary)
    return next((metric for metric in (*judged, *known) if metric in known), None)


def metrics(summary: Summary) -> list[Metric]:
    """Every evaluator and metric of the summary, in their first order."""
    return list(dict.fromkeys((score.evaluator, score.metric) for score in summary.scores))


def variants(summary: Summary) -> list[str]:
    """The variants, the one that is best on the first dataset first."""
    return list(dict.fromkeys(cell.variant for cell in cells(summary)))


def folders(summary: Summary) -> dict[str, str]:
    """A folder name for each variant; two variants never share one."""
    taken = {name.casefold() for name in FILES}
    named: dict[str, str] = {}
    for variant in dict.fromkeys([r.variant for r in summary.runs] + variants(summary)):
        base = name = slug(variant)[:LONGEST]
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        named[variant] = name
    return named


def only(summary: Summary, variant: str) -> Summary:
    """The summary of one variant; its gate has the checks of this variant."""
    return summary.model_copy(
        update={
            "runs": tuple(run for run in summary.runs if run.variant == variant),
            "evaluations": tuple(e for e in summary.evaluations if e.variant == variant),
            "scores": tuple(score for score in summary.scores if score.variant == variant),
            "comparison": tuple(c for c in summary.comparison if variant == c.candidate),
            "gate": summary.gate.of(variant),
        }
    )
