"""A judge's agreement with people: the figures by hand, and what a task makes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops import metrics, registration, summary
from llmops.verdict import agreement
from llmops.verdict.agreement import kappa, measure
from llmops.verdict.approval import run_of
from standin import StandIn
from test_compare import commit, git
from test_report import Opened
from usecase import AOAI, ASK, Outcome, UseCase

Json = dict[str, Any]
Pairs = list[tuple[Any, Any]]
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>"
NUMBERS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=30)
LABELS = st.lists(st.tuples(*[st.sampled_from("abcd")] * 2), min_size=2, max_size=30)


def rows_of(table: Sequence[Sequence[int]], values: Sequence[Any]) -> Pairs:
    """The pairs that a confusion table counts."""
    return [
        (wanted, said)
        for wanted, line in zip(values, table, strict=True)
        for said, count in zip(values, line, strict=True)
        for _ in range(count)
    ]


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "by_hand"),
    [
        # 140 of 200 rows equal; by chance .5 * .6 + .3 * .3 + .2 * .1 = .41
        (rows_of([[88, 10, 2], [14, 40, 6], [18, 10, 12]], "abc"), (0.70 - 0.41) / (1 - 0.41)),
        # 35 of 50 equal; by chance .5 * .6 + .5 * .4 = .5
        (rows_of([[20, 5], [10, 15]], ["no", "yes"]), 0.4),
        (rows_of([[20, 5], [10, 15]], [False, True]), 0.4),
        (rows_of([[20, 5], [10, 15]], [0, 1]), 0.4),
        # one row is 1 apart; over the 16 pairs the squares add up to 48, so 12 in four by chance
        ([(1, 1), (2, 2), (3, 4), (4, 4)], 1 - 1 / 12),
        # the other way round: squares 9 + 1 + 1 + 9 = 20, by chance (20 + 20) / 4 = 10
        ([(1, 4), (2, 3), (3, 2), (4, 1)], -1),
        ([("a", "b"), ("b", "a")], -1),
        ([(1, 1), (2, 2)], 1),
        ([("a", "a"), ("a", "b"), ("a", "a")], 0),
        ([(3, 1), (3, 5), (3, 3)], 0),
        ([(0.5, 0.5), (1.5, 1.5)], 1),
    ],
)
def test_kappa_by_hand(pairs: Pairs, by_hand: float) -> None:
    assert kappa(pairs) == pytest.approx(by_hand)


@pytest.mark.parametrize("pairs", [[], [(1, 1)], [("a", "b")], [(3, 3)] * 9, [("a", "a")] * 9])
def test_where_there_is_no_kappa(pairs: Pairs) -> None:
    assert kappa(pairs) is None


def directly(pairs: Pairs) -> float | None:
    """1 less the mean distance within rows over that of every pair of scores, one after another."""
    within = fmean(agreement.distance(pair) for pair in pairs)
    across = fmean(agreement.distance((a, b)) for a, _ in pairs for _, b in pairs)
    return 1 - within / across if across else None


@given(NUMBERS | LABELS)
def test_kappa_is_that_of_a_direct_computation(pairs: Pairs) -> None:
    found = kappa(pairs)
    assert found == pytest.approx(directly(pairs))
    if found is None:
        return
    assert -1 - 1e-9 <= found <= 1
    assert kappa([(b, a) for a, b in pairs]) == pytest.approx(found), "it is symmetric"
    equal = all(a == b for a, b in pairs)
    assert (found == 1) == equal


@given(LABELS, st.permutations("abcd"))
def test_what_labels_are_called_does_not_matter(pairs: Pairs, names: list[str]) -> None:
    called = dict(zip("abcd", names, strict=True))
    assert kappa([(called[a], called[b]) for a, b in pairs]) == kappa(pairs)


@given(NUMBERS, st.integers(-(10**9), 10**9), st.integers(1, 100))
def test_a_scale_may_begin_anywhere(pairs: Pairs, start: int, step: int) -> None:
    moved = [(start + step * a, start + step * b) for a, b in pairs]
    assert kappa(moved) == pytest.approx(kappa(pairs))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.none() | st.integers(1, 5)), max_size=15))
def test_every_row_is_counted(pairs: Pairs) -> None:
    found = measure([a for a, _ in pairs], [b for _, b in pairs])
    known = [pair for pair in pairs if pair[1] is not None]
    assert (found.rows, found.scored) == (len(pairs), len(known))
    assert sum(map(sum, found.confusion)) == len(known)
    different = {row for row, (a, b) in enumerate(pairs) if a != b}
    assert set(found.differ) == different and len(found.differ) == len(different)
    if found.ci95 is not None:
        assert -1 <= found.ci95[0] <= found.ci95[1] <= 1


def test_the_figures_beside_kappa() -> None:
    people, judge = [1, 2, 3, 4, 5, 1], [1, 4, 3, 5, None, 5]
    found = measure(people, judge)
    assert found.equal == 2 / 5
    assert found.bias == (0 + 2 + 0 + 1 + 4) / 5
    assert found.differ == (5, 1, 3, 4), "furthest apart first, without a score last"
    assert found.values == (1, 2, 3, 4, 5)
    assert found.confusion[0] == (1, 0, 0, 0, 1) and found.confusion[4] == (0,) * 5
    drawn = [
        kappa([(people[at], judge[at]) for at in draw if judge[at] is not None])
        for draw in metrics.draws(6)
    ]
    assert found.ci95 == metrics.interval(drawn, 5), "drawn as the rows of a metric are"
    assert found.note == "the judge gave 1 of 6 rows no score"


@pytest.mark.parametrize(
    ("people", "judge", "note"),
    [
        ([1, 2], [None, None], "the judge gave 2 of 2 rows no score; no kappa: it takes two rows"),
        ([4], [4], "no kappa: it takes two rows"),
        (["yes"] * 8, ["yes"] * 8, "no kappa: every score is 'yes', so chance alone"),
        ([True, False], [True, False], "no interval: undefined on too many resamples"),
    ],
)
def test_what_is_missing_is_told(people: list[Any], judge: list[Any], note: str) -> None:
    found = measure(people, judge)
    assert found.note.startswith(note)
    assert found.ci95 is None


def test_labels_have_no_bias_and_many_values_no_table() -> None:
    assert measure(["a", "b"], ["b", "b"]).bias is None
    many = measure(range(11), range(11))
    assert (many.kappa, many.values, many.confusion) == (1, (), ())


@pytest.mark.parametrize(
    ("value", "wanted", "found"),
    [
        (1, "boolean", True),
        (0.0, "boolean", False),
        (2, "boolean", None),
        (True, "number", None),
        ("4", "number", None),
        (float("nan"), "number", None),
        (4.5, "number", 4.5),
        (" yes\n", "label", "yes"),
        ("  ", "label", None),
        (["yes"], "label", None),
        (None, "label", None),
    ],
)
def test_what_counts_as_a_score(value: Any, wanted: Any, found: Any) -> None:
    assert agreement.alike(value, wanted) == found


# --- a task --------------------------------------------------------------------------------------

JUDGE = '''
"""Gives the score that stands behind the colon."""


def run(answer):
    said = answer.partition(":")[2]
    if said == "broken":
        raise ValueError("no score comes to mind")
    return {"grounded": int(said) if said else 5, "reason": f"read {answer!r}", "extra": 1.0}
'''
RUBRIC = f"5: all of it is in the passages.\n1: nothing is. {HOSTILE}\n"
GOOD = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 2), (5, 4), (3, 3), (2, 2), (4, 5)] * 2
BAD = [(1, 5), (2, 5), (3, 3), (4, 2), (5, 5), (1, 1), (5, 5), (3, 5), (2, 2)] * 2
CHECKS = [
    {"evaluator": "judge", "metric": "grounded", "min": 4, "coverage": 1},
    {"evaluator": "evaluation", "metric": "match", "min": 0.9},
]


def labelled(use: UseCase, pairs: Sequence[tuple[Any, Any]], **block: Any) -> None:
    """Put a judge into the use case, with rows of what people and it say."""
    use.write("flows/judge/flow.py", JUDGE)
    use.write("flows/judge/rubric.md", RUBRIC)
    use.rows([{"text": f"row {n}:{b}", "people": a} for n, (a, b) in enumerate(pairs)], "l.jsonl")
    judge = {
        "rubric": "flows/judge/rubric.md",
        "labels": "l.jsonl",
        "mappings": {"answer": "${data.text}"},
        "scores": {"grounded": "${data.people}"},
    }
    mappings = {"answer": "${run.outputs.answer}"}
    entry = {
        "name": "judge",
        "flow": "flows/judge",
        "datasets": [{"name": "words", "mappings": mappings}],
        "judge": judge | block,
    }
    use.configure(evaluators=[use.blocks["evaluators"][0], entry])


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    use = UseCase(tmp_path)
    use.configure(gate={"checks": CHECKS})
    return use


def judged(outcome: Outcome) -> Json:
    """The one judge of a summary."""
    assert outcome.summary, outcome.text
    (found,) = outcome.summary["judges"]
    return found  # type: ignore[no-any-return]


def page(use: UseCase) -> str:
    return re.sub(r"\s+", " ", (use.folder / "reports/index.html").read_text())


def test_a_judge_that_agrees_lets_the_gate_decide(use: UseCase) -> None:
    labelled(use, GOOD)
    outcome = use.run()
    assert outcome.code == 0 and "gate: pass" in outcome.out, outcome.text
    found = judged(outcome)
    assert found["agreement"] == pytest.approx(kappa(GOOD))
    assert (found["flagged"], found["unsure"], found["weights"]) == (False, False, "quadratic")
    assert (found["scored"], found["rows"], found["min_agreement"]) == (20, 20, 0.6)
    assert found["equal"] == 0.7 and found["bias"] == pytest.approx((1 - 1 + 1) * 2 / 20)
    assert len(found["rubric_sha256"]) == len(found["labels_sha256"]) == 64
    assert [one["row"] for one in found["differ"]] == [5, 6, 9, 15, 16, 19]
    assert found["differ"][0] == {"row": 5, "people": 1, "judge": 2}
    assert found["confusion"][0] == [2, 2, 0, 0, 0]
    assert "judge.grounded:" not in outcome.out, "nothing to tell"
    markdown = (use.folder / "reports/summary.md").read_text()
    assert "Not to be relied on" not in markdown
    assert (
        "- ✅ `judge.grounded`: the judge agrees with people: kappa 0.92, wanted 0.60" in markdown
    )


def test_a_judge_that_disagrees_decides_nothing(use: UseCase) -> None:
    labelled(use, BAD)
    outcome = use.run()
    told = "the judge disagrees with people: kappa 0.29, wanted 0.60, on 18 labelled rows"
    assert outcome.code == 0, outcome.text
    assert "gate: inconclusive (on_inconclusive: warn, so it goes on)" in outcome.out
    assert f"judge.grounded ≥ 4: {told}" in outcome.out
    assert "; look at the report. Its value: 5, " in outcome.out
    assert f"judge.grounded: {told}" in outcome.out.splitlines()[4]
    assert judged(outcome)["flagged"] is True
    verdicts = [c["verdict"] for c in outcome.summary["gate"]["checks"]]  # type: ignore[index]
    assert verdicts == ["inconclusive", "pass", "pass"], "neither coverage nor another evaluator"
    top, details = (use.folder / "reports/summary.md").read_text().split("<details>", 1)
    assert f"- ⚠️ **Not to be relied on:** `judge.grounded`: {told}" in top
    assert "held against `l.jsonl`" in details and "Equal on 56 % of rows; +0.78" in details
    use.configure(gate={"checks": CHECKS, "on_inconclusive": "fail"})
    assert use.run("gate").code == 2
    use.configure(gate={"checks": [{**CHECKS[0], "min": 5.5, "coverage": None}]})
    failing = use.run("gate")
    assert "gate: inconclusive" in failing.out, "what it says breaks no limit either"


def test_make_gate_takes_the_limit_of_now(use: UseCase) -> None:
    labelled(use, BAD)
    use.run()
    labelled(use, BAD, min_agreement=0.2)
    outcome = use.run("gate")
    assert "gate: pass" in outcome.out, outcome.text
    found = judged(outcome)
    assert (found["min_agreement"], found["flagged"], found["unsure"]) == (0.2, False, True)
    markdown = (use.folder / "reports/summary.md").read_text()
    assert "the judge may disagree with people: kappa 0.29, wanted 0.20" in markdown
    assert "more labelled rows may tell)" in markdown
    del use.blocks["evaluators"][1]["judge"]
    use.configure()
    again = use.run("gate")
    assert again.summary and again.summary["judges"] == [] and "gate: pass" in again.out
    labelled(use, BAD)
    unknown = use.run("gate")
    assert "nobody knows whether the judge agrees with people: this run did not" in unknown.out


def test_rows_without_a_score_are_counted(use: UseCase) -> None:
    labelled(use, [*GOOD, (1, "broken"), (5, "broken")])
    outcome = use.run()
    assert outcome.code == 2, "rows failed"
    assert "labels of judge: 2 rows failed: ValueError: no score comes to mind" in outcome.out
    found = judged(outcome)
    assert (found["scored"], found["rows"]) == (20, 22)
    assert found["note"] == "the judge gave 2 of 22 rows no score"
    assert found["differ"][-1] == {"row": 21, "people": 5, "judge": None}
    assert "2 without a score" in page(use) and "ValueError: no score comes to mind" in page(use)


def test_scores_of_one_value_leave_the_judge_unknown(use: UseCase) -> None:
    labelled(use, [(5, 5)] * 6)
    outcome = use.run()
    assert judged(outcome)["agreement"] is None and judged(outcome)["flagged"] is True
    assert "nobody knows whether the judge agrees with people: no kappa: every score is 5" in (
        outcome.out
    )
    assert "gate: inconclusive" in outcome.out
    assert ">Not known</span>" in page(use)


def test_the_rows_are_judged_once(use: UseCase) -> None:
    use.write("flows/standard/flow.py", "def run(text):\n    return {'answer': text.upper()}\n")
    labelled(use, [(1, 1), (2, 2), (1, 2)])
    use.write(
        "flows/judge/flow.py",
        ASK.replace('"answer":', '"grounded": 1 if "a" in text else 2, "said":'),
    )
    block = use.blocks["evaluators"][1]
    block["datasets"][0]["mappings"] = {"text": "${run.outputs.answer}"}
    block["judge"]["mappings"] = {}
    use.configure(connections=[AOAI])
    with StandIn() as model:
        keys = {"AOAI_API_BASE": model.url, "AOAI_API_KEY": "sk-0123456789-never-written"}
        recorded = use.run("record", **keys)
        assert recorded.summary and recorded.summary["llm"]["calls"] == 6 + 3, recorded.text
        again = use.run(LLM="record", **keys)
        assert again.summary and again.summary["llm"] == {
            **recorded.summary["llm"], "calls": 0, "cached": 9
        }  # fmt: skip
        assert model.requests == 9
    replayed = use.run()
    assert replayed.summary and replayed.summary["llm"]["mode"] == "replay", replayed.text
    assert replayed.summary["llm"]["calls"] == 9 and judged(replayed) == {
        **judged(recorded), "outputs": judged(replayed)["outputs"]
    }  # fmt: skip
    scored = use.run("evaluate")
    assert scored.summary and scored.summary["llm"]["calls"] == 0
    assert judged(scored) == judged(replayed)
    use.rows([{"text": "new", "people": 1}, {"text": "b", "people": 2}], "l.jsonl")
    missing = use.run()
    assert missing.code == 2 and "rows have no recording" in missing.text
    assert judged(missing)["scored"] == 0 and judged(missing)["flagged"]


def test_compare_measures_the_judge_of_now(use: UseCase) -> None:
    labelled(use, GOOD)
    use.write(".gitignore", "runs/\nreports/\n")
    git(use, "init", "--quiet", "--initial-branch=main")
    commit(use)
    drop = {"evaluator": "judge", "metric": "grounded", "max_drop": 0.5}
    use.configure(gate={"checks": [drop]})
    assert "gate: pass" in use.run("compare", BASE="main").out
    assert len(use.finished("labels-of-judge-*")) == len(GOOD), "and not that of the base"
    labelled(use, BAD)
    outcome = use.run("compare", BASE="main")
    assert "gate: inconclusive" in outcome.out and "the judge disagrees" in outcome.out


def test_several_scores_of_several_judges(use: UseCase) -> None:
    labelled(use, GOOD, scores={"grounded": "${data.people}", "extra": "${data.people}"})
    other = {**use.blocks["evaluators"][1], "name": "other"}
    checks = [
        {"evaluator": "judge", "metric": metric, "min": 0.5} for metric in ("grounded", "extra")
    ]
    use.configure(evaluators=[*use.blocks["evaluators"], other], gate={"checks": checks})
    outcome = use.run()
    assert outcome.summary
    found = [(one["evaluator"], one["score"], one["flagged"]) for one in outcome.summary["judges"]]
    assert found == [
        ("judge", "grounded", False),
        ("judge", "extra", True),
        ("other", "grounded", False),
        ("other", "extra", True),
    ]
    verdicts = [check["verdict"] for check in outcome.summary["gate"]["checks"]]
    assert verdicts == ["pass", "inconclusive"], "a metric is as good as the score of its name"
    assert "… and 1 more below" in (use.folder / "reports/summary.md").read_text()


def test_what_is_registered_and_approved_says_so(
    use: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled(use, BAD)
    use.run()
    monkeypatch.chdir(use.folder)
    from llmops.settings import Settings

    found = registration.candidate(Settings())
    (line,) = found.judges
    assert line.startswith("judge.grounded: the judge disagrees with people: kappa 0.29")
    assert registration.tags(found, "hash", {})["judges"] == line
    last = summary.load()
    trusted = tuple(one.held_against(0.1) for one in last.judges)
    assert run_of(last) != run_of(last.model_copy(update={"judges": trusted}))
    use.rows([{"text": "a:1", "people": 1}, {"text": "b:2", "people": 2}], "l.jsonl")
    with pytest.raises(Exception, match=r"are not those of the files .* l\.jsonl"):
        registration.candidate(Settings())


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"rubric": "flows/judge/rubrik.md"}, "judge.rubric: 'flows/judge/rubrik.md' is not there "
         "(files: flows/judge/flow.py, flows/judge/rubric.md)."),
        ({"rubric": "empty.md"}, "judge.rubric: 'empty.md' is empty. Write down"),
        ({"rubric": "flows"}, "judge.rubric: 'flows' cannot be read"),
        ({"labels": "labels.jsonl"}, "judge.labels: 'labels.jsonl' is not there (files: l.jsonl"),
        ({"labels": "none.jsonl"}, "none.jsonl: has no rows. Add one JSON object a line."),
        ({"labels": "azureml:x:1"}, "judge.labels: 'azureml:x:1' is a data asset"),
        ({"scores": {"grounded": "${data.peopel}"}}, "judge.scores.grounded: '${data.peopel}': "
         "l.jsonl: line 1 has no such column (columns: people, text)."),
        ({"scores": {"grounded": "people"}}, "judge.scores.grounded: 'people' is no column of the "
         "labelled rows (expected ${data.<column>})."),
        ({"scores": {}}, "evaluators[judge].judge.scores: empty. List at least one."),
        ({"min_agreement": 1.2}, "judge.min_agreement: expected 1 or less, found 1.2."),
        ({"min_agreement": -0.1}, "judge.min_agreement: expected 0 or more, found -0.1."),
        ({"min_agreement": "0.5"}, "judge.min_agreement: "),
        ({"agreement": 1}, "evaluators[judge].judge: unknown key 'agreement' (expected one of "),
        ({"mappings": {}}, "judge.mappings: nothing maps the input 'answer' of flows/judge"),
        ({"mappings": {"answer": "${run.outputs.answer}"}}, "'${run.outputs.answer}' refers to "
         "nothing (expected one of ${data.<column>})."),
        ({"mappings": {"answer": "${data.txt}"}}, "judge.mappings.answer: '${data.txt}': l.jsonl: "
         "line 1 has no such column"),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be(use: UseCase, block: Json, message: str) -> None:
    labelled(use, GOOD, **block)
    use.write("empty.md", " \n")
    use.write("none.jsonl", "")
    use.run("validate").refused(message)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([1, 2, "three"], 'l.jsonl: line 3: "three" is a label, those above are numbers. Scores '),
        ([True, 1], "l.jsonl: line 2: 1 is a number, those above are booleans. Scores of one"),
        ([1, None], "l.jsonl: line 2: null is no score (expected a number, a label, true or "),
        ([[1]], "l.jsonl: line 1: [1] is no score"),
        (["", "a"], 'l.jsonl: line 1: "" is no score'),
    ],
)
def test_scores_of_people_that_are_none(use: UseCase, people: list[Any], message: str) -> None:
    labelled(use, [(one, 1) for one in people])
    use.run("validate").refused("judge.scores.grounded: '${data.people}': ", message)


def test_a_score_that_the_flow_does_not_give(use: UseCase) -> None:
    labelled(use, GOOD, scores={"groundd": "${data.people}"})
    use.run().refused(
        "experiment.yaml: evaluators[judge].judge.scores: 'groundd' is no output of "
        "flows/judge/flow.py (expected one of 'extra', 'grounded', 'reason')."
    )
    outputs = "outputs: {grounded: {type: int}}\nentry: flow:run\n"
    use.write("flows/judge/flow.flex.yaml", outputs)
    use.run("validate").refused(
        "judge.scores.groundd: 'groundd' is no output of flows/judge/flow.flex.yaml "
        "(expected one of 'grounded')."
    )


# --- the report ----------------------------------------------------------------------------------


def test_the_rubric_and_the_rows_are_shown_as_text(use: UseCase) -> None:
    labelled(use, BAD)
    rows = [{"text": f"{HOSTILE}:{b}", "people": a} for a, b in BAD]
    use.rows(rows, "l.jsonl")
    use.run()
    shown = page(use)
    assert 'href="#judges"' in shown and "5: all of it is in the passages." in shown
    assert "<script>window.hacked" not in shown and "<img src=x" not in shown
    assert "people 1, judge 5" in shown and "read &#34;&lt;/script&gt;" in shown
    use.write("flows/judge/rubric.md", "Another one.")
    use.run("report")
    assert "The file has changed since this run." in page(use)
    (use.folder / "flows/judge/rubric.md").unlink()
    use.run("report")
    assert "The file is gone since this run." in page(use)


def test_without_a_judge_there_is_no_section(use: UseCase) -> None:
    use.configure(gate=None)
    use.run()
    assert 'id="judges"' not in page(use) and use.summary and use.summary["judges"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_section_in_a_browser(
    use: UseCase, browser: Any, monkeypatch: pytest.MonkeyPatch, scheme: str, width: int
) -> None:
    labelled(use, BAD)
    use.run()
    monkeypatch.chdir(use.folder)
    size = {"width": width, "height": 900}
    with Opened(browser, color_scheme=scheme, viewport=size) as page:
        section = page.locator("#judges")
        assert section.get_by_text("Disagrees", exact=True).is_visible()
        page.get_by_text("What judge goes by").click()
        assert section.get_by_text("5: all of it is in the passages.").is_visible()
        assert section.locator(".failures > li").count() == 8
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= width
