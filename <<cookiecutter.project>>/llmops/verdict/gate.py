"""Judges an experiment by the limits of experiment.yaml: pass, fail, or that it cannot tell.

- `min`, `max`: a value beyond the limit fails. A value within it is inconclusive where its 95 %
  interval holds the limit, and passes otherwise; without an interval the value decides alone. A
  metric without a value fails: what nobody knows does not hold.
- `coverage`, cost and latency: by the value.
- `max_drop`: by the interval of the difference from the base alone, because between two versions
  the value always differs a little. Without a base in this run the check is skipped.

Rows that no recording answers, and an evaluator that scored no row, make a run inconclusive. So
does a metric of a judge that disagrees with people: what it says holds no limit and breaks none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from llmops import config, summary
from llmops.config import Evaluator, Experiment
from llmops.errors import UserError
from llmops.recordings import MISSING
from llmops.runs import read_rows
from llmops.summary import Bound, Check, Comparison, Evaluation, RunSummary, Score, Summary, overall
from llmops.verdict import judges

LINES = 10
METRICS = {
    "max_cost_usd": "cost (USD)",
    "max_latency_p95_s": "latency p95 (s)",
    "answered": "rows with an answer",
}
"""What is judged besides the metrics of evaluators, by bound."""

Judged = tuple[Literal["pass", "fail", "inconclusive", "skipped"], str]
"""A verdict and its reason."""


def judged(result: Summary, experiment: Experiment) -> Summary:
    """The summary with its gate: every check, for every variant and dataset that it names.

    The comparisons must be there already.

    Raises:
        UserError: a check names a metric or a dataset that no score has.
    """
    rules, file = experiment.gate, experiment.file("gate")
    if rules is None or not (rules.checks or rules.max_cost_usd or rules.max_latency_p95_s):
        return result.model_copy(update={"gate": summary.Gate()})
    unrecorded = _unrecorded(result)
    missing = {(r.variant, r.dataset) for r in result.runs if unrecorded.get(r.outputs)}
    known = {evaluator.name: evaluator for evaluator in experiment.evaluators}
    found = (line for check in rules.checks for line in _lines(check, result, file))
    every = (_doubted(line, result, known) for line in found)
    checks = (
        *(_excused(o) if (o.variant, o.dataset) in missing else o for o in every),
        *_ceilings(rules, result),
        *_unanswered(result, unrecorded),
    )
    verdict = overall(checks)
    gate = summary.Gate(verdict=verdict, checks=checks, on_inconclusive=rules.on_inconclusive)
    return result.model_copy(update={"gate": gate})


def lines(gate: summary.Gate, checks: Sequence[Check]) -> list[str]:
    """These checks and the verdict for a terminal, a line each."""
    told = [
        f"{check.verdict:12}  {check.variant} on {check.dataset}: {check.check}: {check.message}"
        for check in checks
    ]
    end = ""
    if gate.verdict == "inconclusive":
        on = "goes on" if gate.on_inconclusive == "warn" else "ends here"
        end = f" (on_inconclusive: {gate.on_inconclusive}, so it {on})"
    return [*told, f"gate: {gate.verdict}{end}"]


def open_lines(gate: summary.Gate) -> list[str]:
    """The verdict with what did not pass, a bounded number of lines."""
    found = [check for check in gate.checks if check.verdict in ("fail", "inconclusive")]
    found.sort(key=lambda check: check.verdict != "fail")
    *told, verdict = lines(gate, found[:LINES])
    left = len(found) - LINES
    more = [f"… {left} more checks, see `make gate`"] if left > 0 else []
    return [*told, *more, verdict]


# --- metrics -------------------------------------------------------------------------------------


def _lines(check: config.Check, result: Summary, file: str) -> Iterator[Check]:
    named = [score for score in result.scores if score.evaluator == check.evaluator]
    own = [one for one in result.evaluations if one.evaluator == check.evaluator]
    datasets = sorted({one.dataset for one in own})
    if check.dataset is not None and check.dataset not in datasets:
        raise _unknown(file, check, f"dataset '{check.dataset}'", datasets)
    known = sorted({score.metric for score in named})
    answered = any(run.failed < run.rows for run in result.runs) or not result.runs
    scored = answered and any(one.failed < one.rows for one in own)
    if check.metric not in known and (known or scored):
        raise _unknown(file, check, f"metric '{check.metric}'", known)
    for one in own:
        if check.dataset in (None, one.dataset):
            yield from _verdicts(check, _score(check, one, named), result)


def _excused(check: Check) -> Check:
    """Where rows have no recording, what they keep from holding is open and not broken."""
    if check.verdict != "fail" or (check.value is not None and check.bound != "coverage"):
        return check
    why = f"{check.message}: rows have no recording"
    return check.model_copy(update={"verdict": "inconclusive", "message": why})


def _doubted(check: Check, result: Summary, evaluators: Mapping[str, Evaluator]) -> Check:
    """A value that a judge gave tells nothing where the judge is flagged.

    How many rows it scored is no matter of opinion, and a metric without a value fails all the
    same.
    """
    evaluator = evaluators.get(check.evaluator)
    if evaluator is None or check.verdict == "skipped":
        return check
    if check.value is None or check.bound == "coverage":
        return check
    doubt = judges.doubt(result.judges, evaluator, check.metric)
    if not doubt:
        return check
    why = f"{doubt}; look at the report. Its value: {check.message}"
    return check.model_copy(update={"verdict": "inconclusive", "message": why})


def _unknown(file: str, check: config.Check, what: str, known: Sequence[str]) -> UserError:
    return UserError(
        f"{file}: gate: evaluator '{check.evaluator}' has no {what} "
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


def _verdicts(check: config.Check, score: Score, result: Summary) -> Iterator[Check]:
    name, value = f"{score.evaluator}.{score.metric}", score.value
    if (limit := check.min) is not None:
        yield _line(score, "min", f"{name} ≥ {limit:g}", value, limit, _limited(score, limit, 1))
    if (limit := check.max) is not None:
        yield _line(score, "max", f"{name} ≤ {limit:g}", value, limit, _limited(score, limit, -1))
    if (limit := check.coverage) is not None:
        share = score.scored / score.rows if score.rows else 0.0
        found: Judged = "pass" if share >= limit else "fail", f"{_shown(share)}, {_rows(score)}"
        yield _line(score, "coverage", f"coverage of {name} ≥ {limit:g}", share, limit, found)
    if check.max_drop is not None:
        yield _dropped(score, check.max_drop, result)


def _line(
    cell: Score | RunSummary | Evaluation,
    bound: Bound,
    text: str,
    value: float | None,
    limit: float,
    found: Judged,
) -> Check:
    metric = cell if isinstance(cell, Score) else None
    verdict, why = found
    return Check(
        check=text,
        evaluator=metric.evaluator if metric else "",
        metric=metric.metric if metric else METRICS[bound],
        bound=bound,
        variant=cell.variant,
        dataset=cell.dataset,
        verdict=verdict,
        value=value,
        ci95=metric.ci95 if metric and bound in ("min", "max") else None,
        limit=limit,
        message=why,
    )


def _limited(score: Score, limit: float, up: Literal[1, -1]) -> Judged:
    """The verdict on a value that shall be at least (`up` is 1) or at most the limit."""
    value, ci95 = score.value, score.ci95
    if value is None:
        reason = score.note or f"no row of {score.rows:,} was scored"
        return "fail", f"no value: {reason}"
    found = _shown(value)
    if ci95 is not None:
        found += f", 95 % interval {_shown(ci95[0])} to {_shown(ci95[1])}"
    rows = _rows(score)
    if (value - limit) * up < 0:
        return "fail", f"{found}, {rows}"
    if ci95 is None:
        alone = "judged by the value alone"
        return "pass", f"{found}, {alone} ({score.note or 'no interval'}), {rows}"
    if min((end - limit) * up for end in ci95) < 0:
        return "inconclusive", f"{found} holds the limit, {rows}; more rows may tell"
    return "pass", f"{found}, {rows}"


def _rows(score: Score) -> str:
    return f"{score.scored:,} of {score.rows:,} rows scored"


def _shown(value: float) -> str:
    return f"{value:.4g}"


# --- against the base ----------------------------------------------------------------------------


def _dropped(score: Score, limit: float, result: Summary) -> Check:
    base = result.base
    name = f"{base.ref} ({base.commit[:7]})" if base else "the base"
    place = (score.variant, score.dataset, score.evaluator, score.metric)
    pairs = (one for one in result.comparison if one.base)
    is_it = (o for o in pairs if (o.candidate, o.dataset, o.evaluator, o.metric) == place)
    found, drop, ci95 = next(is_it, None), None, None
    judged: Judged
    if found:
        (drop, ci95), judged = _drop(found), _allowed(found, limit)
    elif base:
        reasons = " ".join(base.not_comparable) or "it has no such cell."
        judged = "inconclusive", f"not comparable with {name}: {reasons}"
    else:
        judged = "skipped", "not compared with a base; `make compare BASE=main` does"
    text = f"{score.evaluator}.{score.metric} at most {limit:g} worse than {name}"
    line = _line(score, "max_drop", text, drop, limit, judged)
    return line.model_copy(update={"ci95": ci95})


def _drop(one: Comparison) -> tuple[float | None, tuple[float, float] | None]:
    """How much worse than the base it is, with the interval of that."""
    up = 1 if one.lower_is_better else -1
    drop = None if one.difference is None else one.difference * up + 0.0
    if one.ci95 is None:
        return drop, None
    low, high = sorted(end * up + 0.0 for end in one.ci95)
    return drop, (low, high)


def _allowed(one: Comparison, limit: float) -> Judged:
    """The verdict by the interval alone; `one.sentence` says what moved.

    Where the interval leaves 0 and the comparison cannot tell all the same (few rows changed, or
    only rows that one side did not score), the interval is not to be trusted either.
    """
    drop, ci95 = _drop(one)
    if drop == 0 and one.verdict == "no difference":
        return "pass", one.sentence
    if ci95 is None or (one.verdict == "inconclusive" and not ci95[0] <= 0 <= ci95[1]):
        return "inconclusive", one.sentence
    if ci95[0] > limit:
        return "fail", one.sentence
    if ci95[1] <= limit:
        return "pass", one.sentence
    return "inconclusive", f"{one.sentence} The interval holds the limit; more rows may tell."


# --- what is no metric ---------------------------------------------------------------------------


def _ceilings(rules: config.Gate, result: Summary) -> Iterator[Check]:
    for run in result.runs:
        if (limit := rules.max_cost_usd) is not None:
            text, cost = f"cost ≤ {limit:g} USD", run.cost_usd
            yield _line(run, "max_cost_usd", text, cost, limit, _cost(run, limit))
        if (limit := rules.max_latency_p95_s) is not None:
            text, took = f"latency p95 ≤ {limit:g} s", run.latency_s.p95
            found = _latency(run, limit, result)
            yield _line(run, "max_latency_p95_s", text, took, limit, found)


def _cost(run: RunSummary, limit: float) -> Judged:
    if run.cost_usd is None:
        return "inconclusive", "no cost is known: `prices:` lacks a model, or none was asked"
    verdict: Literal["pass", "fail"] = "pass" if run.cost_usd <= limit else "fail"
    return verdict, f"{_shown(run.cost_usd)} USD for {run.rows:,} rows"


def _latency(run: RunSummary, limit: float, result: Summary) -> Judged:
    """A flow that asks no model is as fast in a replay as otherwise."""
    llm, took = result.llm, run.latency_s.p95
    if took is None:
        return "inconclusive", "no latency is known: no row completed, or nobody measured it"
    if llm.mode == "replay" and (llm.calls or llm.cached):
        return "skipped", "answers were replayed, so this latency is not the model's"
    return "pass" if took <= limit else "fail", f"{_shown(took)} s"


def _unanswered(result: Summary, unrecorded: Mapping[str, int]) -> Iterator[Check]:
    """Rows that no recording answers, and evaluators that scored no row; often there are none."""
    runs: list[RunSummary | Evaluation] = [*result.runs, *result.evaluations]
    for run in runs:
        if count := unrecorded.get(run.outputs, 0):
            who = f"evaluator {run.evaluator}" if isinstance(run, Evaluation) else "the flow"
            why = f"{count:,} of {run.rows:,} rows have no recording; `make record` asks a model"
            yield _open(run, f"{who}: every row has a recording", run.rows - count, why)
    scored = {(s.variant, s.dataset, s.evaluator) for s in result.scores if s.scored}
    for one in result.evaluations:
        if (one.variant, one.dataset, one.evaluator) not in scored:
            why = f"none of {one.rows:,} rows was scored"
            yield _open(one, f"evaluator {one.evaluator}: rows are scored", 0, why)


def _unrecorded(result: Summary) -> dict[str, int]:
    """How many rows of a replay have no recording, by the file of the rows; each is read once."""
    runs: list[RunSummary | Evaluation] = [*result.runs, *result.evaluations]
    if result.llm.mode != "replay":
        return {}
    return {
        run.outputs: sum(
            (row.error or {}).get("code") == MISSING for row in read_rows(Path(run.outputs))
        )
        for run in runs
        if run.failed
    }


def _open(run: RunSummary | Evaluation, text: str, known: int, why: str) -> Check:
    return _line(run, "answered", text, known, run.rows, ("inconclusive", why))
