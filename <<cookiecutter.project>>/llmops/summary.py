"""The machine-readable truth of one experiment: `reports/summary.json`.

Every stage after the experiment (report, gate, later register and deploy) reads this document and
nothing that another stage printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from llmops.errors import UserError
from llmops.files import unreadable, write_atomically

SUMMARY = Path("reports/summary.json")


class Model(BaseModel):
    """A frozen document without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Llm(Model):
    """Where the model's answers came from and how many were asked for.

    `calls` counts the requests of this invocation, `cached` those that unchanged rows of an earlier
    one saved. `note` says what a reader must know of replayed answers.
    """

    mode: Literal["live", "replay", "record"]
    calls: int = 0
    cached: int = 0
    note: str = ""


class Tokens(Model):
    """Tokens as the endpoint counted them; zero where it did not say."""

    prompt: int = 0
    completion: int = 0
    total: int = 0


class Latency(Model):
    """Seconds a row took, failed rows left out; null where no row completed."""

    p50: float | None = None
    p95: float | None = None


class RunSummary(Model):
    """One cell of the plan: a variant with its parameters over one dataset.

    Each row of the data was answered `repeats` times; `rows` and all other numbers count every
    answer. `outputs` is the path of a JSON Lines file, one `llmops.runs.Row` a line in the data's
    order, repeat by repeat. `cost_usd` is null unless experiment.yaml gives prices for every model
    that was used.
    """

    variant: str
    parameters: dict[str, Any]
    dataset: str
    rows: int
    repeats: int = 1
    failed: int
    tokens: Tokens
    latency_s: Latency
    cost_usd: float | None = None
    outputs: str


class Evaluation(Model):
    """One evaluator over one cell; `rows`, `repeats` and `outputs` as in RunSummary.

    Its rows have the same numbers as those of the cell.
    """

    variant: str
    dataset: str
    evaluator: str
    rows: int
    repeats: int = 1
    failed: int
    outputs: str


class Score(Model):
    """One metric of one evaluator over one cell.

    `value` and `ci95` are in the metric's own unit. `scored` of `rows` rows carry the value. Where
    there is no interval, `note` says why.

    Where each row was answered several times, `value` is the mean over the repeats and `repeat_sd`
    their standard deviation: how far the metric of one repeat is from that of the next, over the
    same data. It is the model's own noise, apart from what the choice of the rows adds.
    """

    variant: str
    dataset: str
    evaluator: str
    metric: str
    value: float | None
    ci95: tuple[float, float] | None = None
    scored: int
    rows: int
    note: str = ""
    repeats: int = 1
    repeat_sd: float | None = None


Verdict = Literal["better", "worse", "no difference", "inconclusive"]


class Comparison(Model):
    """One metric of a variant beside that of the baseline over the same rows of a dataset.

    `evaluator` is empty for what the runs themselves are compared by: latency, cost and failed
    rows. `difference` is the candidate's value less the baseline's and `ci95` its interval, both in
    the metric's own unit. Each interval is 95 % by itself: of 20 comparisons in which nothing
    differs, about one is called better or worse.

    Of the rows of the data that both scored, `wins` are better, `losses` worse and `ties` the same;
    one that was answered several times counts once, with its mean. All three are null where a row
    has no value of its own. `flipped` are the numbers of the wins and losses, at most the first 50.
    `note` says what is missing. How the verdict comes about stands in
    `llmops.verdict.comparison`.

    `base` names the version that the baseline's value is of, as `main (abc1234)`; where it is empty
    the baseline is a variant of this same experiment.
    """

    base: str = ""
    dataset: str
    evaluator: str
    metric: str
    baseline: str
    candidate: str
    baseline_value: float | None
    candidate_value: float | None
    difference: float | None
    ci95: tuple[float, float] | None = None
    lower_is_better: bool = False
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    flipped: tuple[int, ...] = ()
    verdict: Verdict
    sentence: str
    note: str = ""


Label = bool | int | float | str
"""A score that people or a judge gave a row."""


class Disagreement(Model):
    """A labelled row with two scores; `judge` is null where it gave none."""

    row: int
    people: Label
    judge: Label | None


class Judge(Model):
    """How far one score of an evaluator agrees with people, over rows that they scored.

    `agreement` is Cohen's kappa, weighted by the square of the difference where `weights` says so,
    and null where `note` says why it has no value. `equal` is the share of the scored rows on which
    both agree, `bias` the judge's mean less people's. The judge is `flagged` where the agreement is
    not known or less than `min_agreement`, and `unsure` where that lies inside the interval.

    `values` are the scores that were given; `confusion` has for each of people's how often the
    judge gave each. `differ` are the rows on which they differ, furthest apart first, at most 50.
    `outputs` is the file of what the judge said, a `llmops.runs.Row` a line.
    """

    evaluator: str
    score: str
    agreement: float | None
    ci95: tuple[float, float] | None = None
    weights: Literal["quadratic", "none"]
    equal: float | None = None
    bias: float | None = None
    scored: int
    rows: int
    min_agreement: float
    flagged: bool
    unsure: bool = False
    note: str = ""
    rubric: str
    rubric_sha256: str
    labels: str
    labels_sha256: str
    outputs: str
    values: tuple[Label, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    differ: tuple[Disagreement, ...] = ()

    def held_against(self, limit: float) -> Judge:
        """The same with another `min_agreement`."""
        flagged = self.agreement is None or self.agreement < limit
        unsure = self.ci95 is not None and self.ci95[0] < limit <= self.ci95[1]
        changed = {"min_agreement": limit, "flagged": flagged, "unsure": unsure}
        return self.model_copy(update=changed)

    @property
    def sentence(self) -> str:
        """What the figures come to, for people; no full stop."""
        if self.agreement is None:
            return f"nobody knows whether the judge agrees with people: {self.note}"
        found, wanted = (f"{each:.2f}" for each in (self.agreement, self.min_agreement))
        if found == wanted and self.flagged:
            found = f"{self.agreement:.4f}"
        part = "" if self.scored == self.rows else f"{self.scored:,} of "
        rows = f"on {part}{self.rows:,} labelled rows"
        open_ = ""
        if self.unsure and self.ci95:
            low, high = self.ci95
            open_ = f" (95 % interval {low:.2f} to {high:.2f}: more labelled rows may tell)"
        verb = "disagrees" if self.flagged else "may disagree" if self.unsure else "agrees"
        return f"the judge {verb} with people: kappa {found}, wanted {wanted}, {rows}{open_}"


GateVerdict = Literal["pass", "fail", "inconclusive"]
Bound = Literal[
    "min", "max", "coverage", "max_drop", "max_cost_usd", "max_latency_p95_s", "answered"
]


class Check(Model):
    """One line of the gate with the numbers that decided it; `check` says it in words.

    `evaluator` is empty for what is no metric: cost, latency, and rows that have no answer. `value`
    is what was held against `limit`; for `max_drop` that is how much worse than the base it is,
    less than 0 where it is better. `ci95` is its interval. A check that this run cannot make is
    skipped and does not count. `message` gives numbers and reason.
    """

    check: str
    evaluator: str
    metric: str
    bound: Bound
    variant: str
    dataset: str
    verdict: Literal["pass", "fail", "inconclusive", "skipped"]
    value: float | None
    ci95: tuple[float, float] | None = None
    limit: float
    message: str


class Gate(Model):
    """The verdict over all checks; `off` where experiment.yaml has no gate."""

    verdict: Literal["pass", "fail", "inconclusive", "off"] = "off"
    checks: tuple[Check, ...] = ()
    on_inconclusive: Literal["warn", "fail"] = "warn"

    @property
    def stops(self) -> bool:
        """Whether nothing may go further from here."""
        stopping = ("fail", "inconclusive") if self.on_inconclusive == "fail" else ("fail",)
        return self.verdict in stopping

    def of(self, variant: str) -> Gate:
        """The same gate over the checks of one variant; off where none is about it."""
        own = tuple(check for check in self.checks if check.variant == variant)
        verdict = overall(own) if own else "off"
        return self.model_copy(update={"verdict": verdict, "checks": own})


def overall(checks: Iterable[Check]) -> GateVerdict:
    """The worst of the checks; inconclusive where not one of them could be made."""
    found = {check.verdict for check in checks} - {"skipped"}
    if "fail" in found:
        return "fail"
    return "pass" if found == {"pass"} else "inconclusive"


class Base(Model):
    """The version that this one was compared with: what it ran and scored over the same rows.

    `ref` is what the user named, `commit` the start of its hash. `not_comparable` says in sentences
    what could not be compared and is left out.
    """

    ref: str
    commit: str
    runs: tuple[RunSummary, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    scores: tuple[Score, ...] = ()
    not_comparable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The version for people, as in `Comparison.base`."""
        return f"{self.ref} ({self.commit})"


class Index(Model):
    """The index over documents that the runs searched.

    `version` is its content address; `model` embedded its `chunks` into vectors of `dimensions`.
    `origin` recorded: the vectors come from recordings/. `search` names the index in Azure AI
    Search that holds it, null where it is files.
    """

    version: str
    documents: int
    chunks: int
    model: str
    dimensions: int
    origin: Literal["live", "recorded"]
    search: str | None = None


class Summary(Model):
    """One experiment: what ran, what it scored and what the gate says."""

    experiment: str
    env: str
    target: Literal["local", "azure", "azure-pipeline"] = "local"
    llm: Llm
    index: Index | None = None
    started_at: str
    seconds: float
    runs: tuple[RunSummary, ...]
    evaluations: tuple[Evaluation, ...] = ()
    scores: tuple[Score, ...] = ()
    comparison: tuple[Comparison, ...] = ()
    judges: tuple[Judge, ...] = ()
    base: Base | None = None
    gate: Gate = Gate()


Document = TypeVar("Document", bound=Model)


def save(document: Model, path: Path = SUMMARY) -> None:
    """Write a summary or another document; raises UserError where the folder cannot be written."""
    with write_atomically(path) as file:
        file.write(document.model_dump_json(indent=2) + "\n")


def load(path: Path = SUMMARY) -> Summary:
    """Read the summary that `make experiment` wrote.

    Raises:
        UserError: there is none, or it is not a summary of this version.
    """
    return read(Summary, path, "experiment", "a summary of this version")


def read(kind: type[Document], path: Path, task: str, what: str = "of this version") -> Document:
    """Read a document that `make <task>` writes.

    Raises:
        UserError: there is none, it cannot be read, or it is not `what`.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found. Run `make {task}` first.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise UserError(f"{path}: not {what}. Run `make {task}` again.") from error
