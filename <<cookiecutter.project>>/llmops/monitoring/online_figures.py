"""What `make monitor KIND=local` says: traffic by deployment, and the current one beside the prior.

Two deployments are compared

- over the requests that were mirrored, where there are some: both answered the same ones, so they
  are compared row by row, as variants are (`llmops.verdict.comparison`);
- over the live requests. Each answered others, so nothing may be paired. A score's interval is that
  of the two-sample bootstrap: the rows of each are drawn by themselves, and the flow's own
  aggregation is run on each draw (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
  8.3), with the percentiles moved outwards as for the smaller of the two (`metrics.interval`). That
  of errors and latency is made of the two intervals (MOVER: Zou and Donner, Statistics in Medicine
  27, 2008; for shares Newcombe, Statistics in Medicine 17, 1998, method 10).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from llmops import metrics
from llmops.config import Experiment
from llmops.monitoring.intervals import Interval, apart, median_interval
from llmops.monitoring.streams import Seen, Stream, Traffic
from llmops.report.inert import code, text
from llmops.report.words import NONE, moment, number, seconds, written
from llmops.summary import Comparison, Model, Score, Summary
from llmops.verdict import baseline
from llmops.verdict.comparison import Evidence, Measure, Rules, compare, compare_apart

LIVE, MIRRORED = "live requests", "mirrored requests"
ERRORS, LATENCY, FEEDBACK = "error share", "latency p50 (s)", "feedback"
RULES = Rules(frozenset({ERRORS, LATENCY}))
PAIRS = 1000
"""The last mirrored requests, of which errors and latency are compared in pairs."""
COLUMNS = ("deployment", "requests", "errors", "95 %", "refused", "p50", "p95", "feedback")
COLLECT = (
    "no inputs and outputs are kept, so no answer is scored. Set DATA_COLLECTION (percent of the "
    "requests) in configs/deployment_config.json and run `make deploy KIND=local` again."
)


class Online(Model):
    """An endpoint on this machine, by deployment: from the `first` to the `last` request's time.

    `scores` are those of the rows that were kept; a score's `dataset` is the deployment and what
    of its requests it is about. `comparison` is of the current deployment with the prior one; its
    `dataset` says whether over live requests, which differ, or over mirrored ones, the same for
    both. `unread` lines of the log could not be read.
    """

    endpoint: str
    first: str
    last: str
    prior: str
    current: str
    traffic: tuple[Traffic, ...]
    scores: tuple[Score, ...]
    comparison: tuple[Comparison, ...]
    unread: int


def figures(seen: Seen, last: Summary | None, experiment: Experiment | None) -> Online:
    """All of it; `last` has the scores of the experiment over what was kept, if anything was."""
    found = [*_of_traffic(seen)]
    if last and experiment:
        found += _of_scores(seen, last, experiment)
    return Online(
        endpoint=seen.endpoint,
        first=seen.first,
        last=seen.last,
        prior=seen.prior,
        current=seen.current,
        traffic=tuple(stream.traffic() for stream in seen.streams.values()),
        scores=last.scores if last else (),
        comparison=tuple(found),
        unread=seen.unread,
    )


def notes(seen: Seen) -> Iterator[str]:
    """What a reader must know of the figures, a sentence each."""
    if not seen.tables:
        yield COLLECT
    if not seen.prior:
        yield f"nothing is compared: {seen.current} is the only deployment with requests."
    if seen.unread:
        yield f"{seen.unread} lines of the log cannot be read and are passed over."
    if lost := seen.unrouted:
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(lost.items()))
        yield f"{lost.total()} requests reached no deployment (status {statuses})."
    if seen.unmatched:
        yield f"{seen.unmatched} requests with feedback are not in the log."
    for name in seen.replayed:
        yield f"{name} replays recorded answers: its latency is not the model's."


def page(online: Online) -> Iterator[str]:
    """The Markdown."""
    yield from ("", f"## Endpoint {code(online.endpoint)}", "")
    yield f"{text(_period(online))}. Intervals are 95 %."
    yield from ("", "|" + "|".join(COLUMNS) + "|", "|" + "---|" * len(COLUMNS))
    for line in lines(online):
        yield "|" + "|".join(text(part).replace("|", "\\|") for part in line) + "|"
    if online.scores:
        yield ""
    for score in online.scores:
        yield f"- {code(score.dataset)}: {_score(score)}"
    if online.comparison:
        yield from ("", f"### {code(online.current)} compared with {code(online.prior)}", "")
        yield from (f"- {one.dataset}: {text(one.sentence, 400)}" for one in online.comparison)


def shown(online: Online) -> Iterator[str]:
    """The same for a terminal."""
    from tabulate import tabulate

    yield f"endpoint {online.endpoint}, {_period(online)}:"
    yield tabulate(lines(online), headers=COLUMNS, disable_numparse=True)
    yield from (f"{score.dataset}: {_score(score)}" for score in online.scores)
    if online.comparison:
        yield f"{online.current} compared with {online.prior}:"
    yield from (f"  {one.dataset}: {one.sentence}" for one in online.comparison)


def lines(online: Online) -> list[tuple[str, ...]]:
    """The table of the traffic, in the order of COLUMNS."""
    return [
        (
            f"{one.deployment}{' (mirrored)' if one.mirrored else ''}",
            f"{one.requests:,}",
            f"{one.errors:,} ({one.error_share:.1%})",
            f"{one.error_ci95[0]:.1%} to {one.error_ci95[1]:.1%}",
            f"{one.refused:,}",
            seconds(one.latency_s.p50),
            seconds(one.latency_s.p95),
            f"{one.feedback:,} (mean {number(one.feedback_mean)})" if one.feedback else NONE,
        )
        for one in online.traffic
    ]


def _period(online: Online) -> str:
    return f"{moment(online.first)} to {moment(online.last)}"


def _score(score: Score) -> str:
    return f"{score.evaluator}.{score.metric} {written(score)}, {score.rows:,} rows"


# --- scores --------------------------------------------------------------------------------------


def _of_scores(seen: Seen, last: Summary, experiment: Experiment) -> Iterator[Comparison]:
    for evaluator in experiment.evaluators:
        scores = [score for score in last.scores if score.evaluator == evaluator.name]
        rules = baseline.rules_of(evaluator, experiment, scores)
        own = [one for one in last.evaluations if one.evaluator == evaluator.name]
        sides = {one.dataset: baseline.evidence(one, scores) for one in own}
        names = seen.prior, seen.current
        if all(name in sides for name in names):
            old, new = (replace(sides[n], variant=n, dataset=LIVE) for n in names)
            yield from _unpaired(new, old, rules)
        if seen.pairs:
            old, new = (
                replace(sides[pair], variant=name, dataset=MIRRORED)
                for pair, name in zip(seen.pairs, names, strict=True)
            )
            yield from compare(new, old, rules)


def _unpaired(new: Evidence, old: Evidence, rules: Rules) -> Iterator[Comparison]:
    """Each metric that either has, by the two-sample bootstrap."""
    for name in dict.fromkeys([*old.metrics, *new.metrics]):
        sides = [side.metrics.get(name) for side in (new, old)]
        known = [side for side in sides if side is not None]
        ci95 = _drawn_apart(*known) if len(known) == 2 else None
        yield compare_apart(name, _plain(new, name), _plain(old, name), ci95, rules)


def _drawn_apart(new: Measure, old: Measure) -> Interval | None:
    """The interval of the difference over draws that have nothing to do with one another.

    Both sides were drawn with the same seed, so the draws of one are put in another order.
    """
    mixed = list(new.draws)
    random.Random(metrics.SEED).shuffle(mixed)
    pairs = zip(mixed, old.draws, strict=False)  # a long log has fewer draws
    drawn = [None if one is None or other is None else one - other for one, other in pairs]
    return metrics.interval(drawn, min(new.scored, old.scored))


def _plain(side: Evidence, name: str) -> Evidence:
    """One metric of it, without draws and values of rows."""
    found = {n: replace(m, draws=(), alone=()) for n, m in side.metrics.items() if n == name}
    return replace(side, metrics=found)


# --- errors and latency --------------------------------------------------------------------------


def _of_traffic(seen: Seen) -> Iterator[Comparison]:
    """Errors and latency; a replayed answer has no latency of the model's."""
    old = seen.streams.get((seen.prior, False))
    new = seen.streams.get((seen.current, False))
    copies = seen.streams.get((seen.current, True))
    found = [*(_live(new, old) if old and new else ())]
    found += _mirrored(copies, old) if old and copies else ()
    replayed = {seen.prior, seen.current} & {*seen.replayed}
    known = (one for one in found if one.metric != LATENCY or _timed(one))
    yield from (one for one in known if one.metric != LATENCY or not replayed)


def _timed(one: Comparison) -> bool:
    """Whether either side has a latency: what Azure ML collects has none."""
    return one.baseline_value is not None or one.candidate_value is not None


def _live(new: Stream, old: Stream) -> Iterator[Comparison]:
    now, then = new.traffic(), old.traffic()
    ci95 = apart(now.error_share, now.error_ci95, then.error_share, then.error_ci95)
    shares = (_one(side, ERRORS, side.error_share) for side in (now, then))
    yield compare_apart(ERRORS, next(shares), next(shares), ci95, RULES)
    each = median_interval(new.seconds), median_interval(old.seconds)
    values = now.latency_s.p50, then.latency_s.p50
    between = None
    if each[0] and each[1] and values[0] is not None and values[1] is not None:
        between = apart(values[0], each[0], values[1], each[1])
    medians = (_one(side, LATENCY, side.latency_s.p50) for side in (now, then))
    yield compare_apart(LATENCY, next(medians), next(medians), between, RULES)
    if new.said and old.said:
        said = _said(new.said), _said(old.said)
        means = (
            _plain(Evidence(stream.deployment, LIVE, "", {FEEDBACK: measure}), FEEDBACK)
            for stream, measure in zip((new, old), said, strict=True)
        )
        yield compare_apart(FEEDBACK, next(means), next(means), _drawn_apart(*said), RULES)


def _said(scores: Sequence[float]) -> Measure:
    """The mean of what people gave, and that of each draw."""
    drawn = [fmean(scores[at] for at in draw) for draw in metrics.draws(len(scores))]
    return Measure(fmean(scores), len(scores), drawn)


def _one(side: Traffic, name: str, value: float | None) -> Evidence:
    return Evidence(side.deployment, LIVE, "", {name: Measure(value, side.requests)})


def _mirrored(new: Stream, old: Stream) -> Iterator[Comparison]:
    """Errors and latency over the last requests that both answered, by the same draws of them."""
    sides = [{request: one for request, *one in stream.recent} for stream in (new, old)]
    both = [request for request in sides[1] if request in sides[0]][-PAIRS:]
    if not both:
        return
    draws = list(metrics.draws(len(both)))
    taken = [_measures([side[request] for request in both], draws) for side in sides]
    candidate = Evidence(new.deployment, MIRRORED, "", taken[0])
    yield from compare(candidate, Evidence(old.deployment, MIRRORED, "", taken[1]), RULES)


def _measures(pairs: Sequence[Sequence[float]], draws: Sequence[list[int]]) -> dict[str, Measure]:
    """Errors and latency of requests as (status, seconds); one that failed has no latency."""
    failed = [float(status >= 500) for status, _ in pairs]
    took = [taken if status < 400 else None for status, taken in pairs]

    def median(chosen: Iterable[float | None]) -> float | None:
        values = [value for value in chosen if value is not None]
        return metrics.percentile(values, 0.5) if values else None

    shares = [fmean(failed[at] for at in draw) for draw in draws]
    medians = [median(took[at] for at in draw) for draw in draws]
    scored = sum(value is not None for value in took)
    return {
        ERRORS: Measure(fmean(failed), len(failed), shares, failed),
        LATENCY: Measure(median(took), scored, medians, took),
    }
