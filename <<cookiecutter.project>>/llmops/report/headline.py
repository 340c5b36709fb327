"""What a reviewer must know first: what to do, what changed, what failed, who answered."""

from __future__ import annotations

from collections.abc import Sequence

from llmops.report import comparisons, judges
from llmops.report.inert import code, text
from llmops.report.words import source
from llmops.summary import Comparison, Summary

PLACES, NAMED = 3, 6
VERDICTS = {
    "pass": "✅ Gate passed",
    "fail": "❌ Gate failed",
    "inconclusive": "⚠️ Gate inconclusive",
    "off": "Gate off",
}
MARKS = {"better": "✅", "worse": "❌", "no difference": "⚪", "inconclusive": "❔"}
WORDS = {"inconclusive": "cannot tell"}


def headline(summary: Summary) -> list[str]:
    """Lines of Markdown, at most PLACES + 8."""
    return [
        f"## {VERDICTS[summary.gate.verdict]}: {text(summary.experiment)}",
        "",
        f"**{_advice(summary)}**",
        "",
        *_against(summary),
        *judges.headline(summary),
        _rows(summary),
        f"- **{source(summary).title}** {text(source(summary).text, 1000)}",
    ]


def against(summary: Summary) -> list[Comparison]:
    """The comparisons of metrics that a reviewer asks for: with the base, else with a variant."""
    return comparisons.of_metrics(summary, summary.base.name if summary.base else "")


def title(summary: Summary) -> str:
    """What `against` compares with, as Markdown."""
    names = [summary.base.name] if summary.base else comparisons.baselines(summary)
    return ", ".join(map(code, names))


def _advice(summary: Summary) -> str:
    verdicts = [str(check.verdict) for check in summary.gate.checks]
    failed, open_ = verdicts.count("fail"), verdicts.count("inconclusive")
    every = failed + open_ + verdicts.count("pass")
    match summary.gate.verdict:
        case "fail":
            checks = f"{failed} of {every} checks {'fails' if failed == 1 else 'fail'}"
            return f"Do not merge it like this: {checks}."
        case "inconclusive" if summary.gate.stops:
            return f"Do not merge it like this: {open_} of {every} checks cannot tell."
        case "inconclusive" if open_:
            return f"Decide yourself: {open_} of {every} checks cannot tell. Below it says why."
        case "inconclusive":
            return "Decide yourself: too little was scored to judge. The rows below say why."
        case "off":
            return "Decide yourself: experiment.yaml sets no gate."
    return f"{'The check holds' if every == 1 else f'All {every} checks hold'}{_but(summary)}"


def _but(summary: Summary) -> str:
    """What the gate lets through and a reviewer should see all the same."""
    if sum(one.failed for one in summary.runs) + sum(one.failed for one in summary.evaluations):
        return ", but rows failed: see below why."
    if summary.base is None:
        return "."
    if summary.base.not_comparable:
        return ", but there is no comparison with the base."
    found = against(summary)
    if worse := [one.metric for one in found if one.verdict == "worse"]:
        return f", but {_listed(worse)} got worse: look before you merge."
    if open_ := [one.metric for one in found if one.verdict == "inconclusive"]:
        return f", but of {_listed(open_)} the data cannot tell whether it changed."
    return ", and no metric got worse." if found else "."


def _against(summary: Summary) -> list[str]:
    """A line a variant and dataset: which metric is better, worse, the same, or not to tell."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons.by_verdict(against(summary)):
        groups.setdefault((one.candidate, one.dataset), []).append(one)
    name = f"**Against {title(summary)}**"
    reasons = summary.base.not_comparable if summary.base else ()
    lines = [f"- {name}: not comparable. {text(' '.join(reasons), 400)}"] if reasons else []
    if summary.base and not groups and not reasons:
        lines = [f"- {name}: nothing was compared."]
    lines += [
        f"- {name}, {code(variant)} on {code(dataset)}: {_in_words(found)}"
        for (variant, dataset), found in groups.items()
    ]
    left = len(lines) - PLACES
    return [*lines[:PLACES], *([f"- … and {left} more below"] if left > 0 else [])]


def _in_words(found: Sequence[Comparison]) -> str:
    """`❌ worse: f1, recall · ✅ better: precision`."""
    groups: dict[str, list[str]] = {}
    for one in found:
        groups.setdefault(one.verdict, []).append(one.metric)
    return " · ".join(
        f"{MARKS[verdict]} **{WORDS.get(verdict, verdict)}**: {_listed(names)}"
        for verdict, names in groups.items()
    )


def _listed(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    left = len(different) - NAMED
    more = f" and {left} more" if left > 0 else ""
    return ", ".join(text(name, 40) for name in different[:NAMED]) + more


def _rows(summary: Summary) -> str:
    rows, failed = (
        sum(getattr(one, name) for one in (summary.runs or summary.evaluations))
        for name in ("rows", "failed")
    )
    unscored = sum(one.failed for one in summary.evaluations) if summary.runs else 0
    also = f" {unscored:,} could not be scored." if unscored else ""
    if failed:
        return f"- ❌ **{failed:,} of {rows:,} rows failed.** No metric counts them.{also}"
    mark = "❌ " if unscored else ""
    return f"- {mark}**{rows:,} {'row' if rows == 1 else 'rows'}, none failed.**{also}"
