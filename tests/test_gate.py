"""The gate: pass, fail, or that it cannot tell, with the numbers that decided it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops import config, summary
from llmops.errors import UserError
from llmops.summary import (
    Base,
    Check,
    Comparison,
    Evaluation,
    Latency,
    Llm,
    RunSummary,
    Score,
    Summary,
    Tokens,
)
from llmops.verdict import gate
from llmops.verdict.comparison import Rules, compare
from simulated import evidence
from usecase import Outcome, UseCase

Json = dict[str, Any]
RANK = {"pass": 0, "inconclusive": 1, "fail": 2}
NUMBERS = st.floats(-2, 2)


SLOWLY = """
import time


def run(text):
    time.sleep(0.01)
    return {"answer": text.upper()}
"""


def check(**limits: Any) -> Json:
    return {"evaluator": "evaluation", "metric": "match", **limits}


# --- a run, judged by one limit after the other --------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """A flow that is right on 24 of 30 rows, and its experiment."""
    use = UseCase(tmp_path_factory.mktemp("ran"))
    use.write("flows/standard/flow.py", SLOWLY)
    use.rows([{"text": f"w{n}", "truth": f"W{n}" if n % 5 else ""} for n in range(30)])
    outcome = use.run()
    assert outcome.code == 0 and "gate: off" in outcome.out, outcome.text
    return use


@pytest.fixture
def use(ran: UseCase, tmp_path: Path) -> UseCase:
    """A copy of it."""
    use = UseCase(tmp_path)
    shutil.rmtree(use.folder)
    shutil.copytree(ran.folder, use.folder)
    return use


def judge(use: UseCase, *checks: Json, **more: Any) -> Outcome:
    """`make gate` by other rules."""
    use.configure(gate={"checks": list(checks), **more})
    return use.run("gate")


def test_a_limit_is_judged_by_value_and_interval(use: UseCase) -> None:
    failed = judge(use, check(min=0.9), check(max=0.9, coverage=1))
    assert failed.code == 2 and failed.out.endswith("gate: fail\n"), failed.text
    assert (
        "fail          default on words: evaluation.match ≥ 0.9: "
        "0.8, 95 % interval 0.6333 to 0.9333, 30 of 30 rows scored"
    ) in failed.out
    assert "inconclusive  default on words: evaluation.match ≤ 0.9" in failed.out
    assert "pass          default on words: coverage of evaluation.match ≥ 1: 1, 30" in failed.out

    open_ = judge(use, check(min=0.7))
    assert open_.code == 0, open_.text
    assert "holds the limit, 30 of 30 rows scored; more rows may tell" in open_.out
    assert "gate: inconclusive (on_inconclusive: warn, so it goes on)" in open_.out
    assert open_.summary and open_.summary["gate"]["checks"][0]["ci95"][0] < 0.7
    assert "⚠️ Gate inconclusive" in (use.folder / "reports/summary.md").read_text()
    page = re.sub(r"\s+", " ", (use.folder / "reports/index.html").read_text())
    assert "Inconclusive <span>0 of 1 check holds, 1 cannot tell</span>" in page

    strict = judge(use, check(min=0.7), on_inconclusive="fail")
    assert strict.code == 2 and "on_inconclusive: fail, so it ends here" in strict.out, strict.text
    assert judge(use, check(min=0.5, max=0.95, coverage=1)).code == 0
    assert use.summary and use.summary["gate"]["verdict"] == "pass"


def test_experiment_tells_what_did_not_pass(use: UseCase) -> None:
    use.configure(gate={"checks": [check(min=0.7), check(min=0.5), check(min=0.95)]})
    outcome = use.run()
    assert outcome.code == 2, outcome.text
    first, second, verdict, report = outcome.out.splitlines()[-4:]
    assert first.startswith("fail ") and second.startswith("inconclusive ")
    assert (verdict, report) == ("gate: fail", "report: reports/index.html")
    assert "evaluation.match ≥ 0.5" not in outcome.out


def test_what_no_evaluator_gives_is_named_with_the_choices(use: UseCase) -> None:
    judge(use, check() | {"metric": "mathc", "min": 1}).refused(
        "experiment.yaml: gate: evaluator 'evaluation' has no metric 'mathc'",
        "(expected one of match)",
    )
    judge(use, check(min=1, dataset="wrods")).refused("no dataset 'wrods' (expected one of words)")
    use.write("experiment.pr.yaml", json.dumps({"gate": {"checks": [check(min=1)]}}))
    assert use.run(ENV="pr").code == 2
    text = json.dumps({"gate": {"checks": [check(min=1) | {"metric": "f1"}]}})
    use.write("experiment.pr.yaml", text)
    use.run("gate").refused("experiment.pr.yaml: gate: evaluator 'evaluation' has no metric 'f1'")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"checks": [check()]}, "has no limit (expected one of 'coverage', 'max', 'max_drop', 'm"),
        ({"checks": [check(max_drop=-1)]}, "max_drop: expected 0 or more, found -1"),
        ({"max_cost_usd": 0}, "gate.max_cost_usd: expected more than 0, found 0"),
        ({"on_inconclusive": "maybe", "checks": []}, "expected 'warn' or 'fail', found \"maybe\""),
        ({"on_inconclusive": "fail"}, "gate: judges nothing (expected one of 'checks', 'max_cost"),
    ],
)
def test_rules_that_say_nothing(use: UseCase, rules: Json, message: str) -> None:
    use.configure(gate=rules)
    use.run("gate").refused(message)


def test_ceilings_of_a_flow_that_asks_no_model(use: UseCase) -> None:
    slow = judge(use, max_latency_p95_s=0.001, max_cost_usd=1)
    assert slow.code == 2 and "fail          default on words: latency p95 ≤ 0.001 s" in slow.out
    assert "inconclusive  default on words: cost ≤ 1 USD: no cost is known" in slow.out
    fast = judge(use, max_latency_p95_s=60)
    assert fast.code == 0 and "gate: pass" in fast.out, fast.text


def test_a_drop_without_a_base_is_skipped_and_does_not_count(use: UseCase) -> None:
    both = judge(use, check(min=0.5, max_drop=0.1))
    assert both.code == 0 and "gate: pass" in both.out, both.text
    assert "skipped       default on words: evaluation.match at most 0.1 worse than the base" in (
        both.out
    )
    assert "`make compare BASE=main` does" in both.out
    page = re.sub(r"\s+", " ", (use.folder / "reports/index.html").read_text())
    assert "1 of 1 check holds, 1 skipped" in page and '"verdict skipped">Skipped' in page
    assert "gate: inconclusive" in judge(use, check(max_drop=0.1)).out, "nothing was judged"


# --- values that are none ------------------------------------------------------------------------

ODD = """
def run(answer, truth):
    return {"match": 1.0}


def aggregate(rows):
    return {"match": 1.0, "nan": float("nan"), "word": "high", "flag": None}
"""


@pytest.mark.parametrize(
    ("metric", "word"), [("nan", "nan"), ("word", "'high'"), ("flag", "not a number: None")]
)
def test_a_metric_that_is_no_number_fails_its_limit(tmp_path: Path, metric: str, word: str) -> None:
    use = UseCase(tmp_path)
    use.write("flows/evaluation/flow.py", ODD)
    use.configure(gate={"checks": [check(min=0) | {"metric": metric}]})
    outcome = use.run()
    assert outcome.code == 2 and "gate: fail" in outcome.out, outcome.text
    assert "no value: not a number" in outcome.out and word in outcome.out
    assert "no value: not a number" in (use.folder / "reports/summary.md").read_text()


def test_one_row_is_judged_by_its_value(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.rows([{"text": "ant", "truth": "ANT"}])
    use.configure(gate={"checks": [check(min=0.9, coverage=1)]})
    outcome = use.run()
    assert outcome.code == 0 and "gate: pass" in outcome.out, outcome.text
    told = use.run("gate").out
    assert "1, judged by the value alone (no interval: one row), 1 of 1 rows scored" in told


def test_no_scored_row(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.write("flows/evaluation/flow.py", "def run(answer, truth):\n    return {'match': 1 / 0}\n")
    use.configure(gate={"checks": [check(min=0)]})
    outcome = use.run()
    assert outcome.code == 2, outcome.text
    assert "evaluation.match ≥ 0: no value: no row of 6 was scored" in outcome.out
    assert "evaluator evaluation: rows are scored: none of 6 rows was scored" in outcome.out
    assert outcome.summary and outcome.summary["gate"]["verdict"] == "fail"
    use.configure(gate={"checks": [check(coverage=0)]})
    judged = use.run("gate")
    assert (judged.code, "gate: inconclusive" in judged.out) == (0, True), judged.text


def test_rows_without_a_recording_leave_the_verdict_open(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.ask_a_model()
    lines = []
    for number, word in enumerate(("ant", "bee", "cat", "dog", "eel")):
        body = {
            "id": f"answer-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": "standin-small",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": word.upper()},
                }
            ],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
        }
        asked = {"model": "standin-small", "messages": [{"role": "user", "content": word}]}
        line = {"path": "/chat/completions", "repeat": 0, "request": asked, "response": body}
        lines.append(json.dumps({**line, "source": "written for this test"}) + "\n")
    use.write("recordings/answers.jsonl", "".join(lines))
    use.configure(
        gate={"checks": [check(min=0.5)], "max_cost_usd": 1e-6, "max_latency_p95_s": 1e-9},
        prices={"standin-small": {"prompt": 1, "completion": 1}},
    )
    outcome = use.run(LLM="replay")
    assert outcome.code == 2, outcome.text
    assert "fail          default on words: cost ≤ 1e-06 USD: 3e-05 USD for 6 rows" in outcome.out
    assert "the flow: every row has a recording: 1 of 6 rows have no recording" in outcome.out
    told = judge(use, check(min=0.5), max_cost_usd=1, max_latency_p95_s=1e-9)
    assert told.code == 0 and "gate: inconclusive" in told.out, told.text
    assert "skipped       default on words: latency p95 ≤ 1e-09 s: answers were replayed" in (
        told.out
    )
    assert "pass          default on words: evaluation.match ≥ 0.5" in told.out


# --- against a base ------------------------------------------------------------------------------


def experiment(**gate_block: Any) -> config.Experiment:
    return config.Experiment.model_validate({"name": "words", "gate": gate_block})


def result(
    *comparison: Comparison,
    value: float | None = 0.8,
    ci95: tuple[float, float] | None = (0.7, 0.9),
    base: Base | None = None,
    variant: str = "default",
) -> Summary:
    """One cell with one metric."""
    place = {"variant": variant, "dataset": "words", "rows": 30}
    ran = RunSummary(
        **place, parameters={}, failed=0, tokens=Tokens(), latency_s=Latency(), outputs="none"
    )
    own = Evaluation(**place, evaluator="evaluation", failed=0, outputs="none")
    score = Score(
        **place, evaluator="evaluation", metric="match", value=value, ci95=ci95, scored=30
    )
    return Summary(
        experiment="words",
        env="dev",
        llm=Llm(mode="live"),
        started_at="",
        seconds=1,
        runs=(ran,),
        evaluations=(own,),
        scores=(score,),
        comparison=comparison,
        base=base,
    )


def one(made: Summary, **limits: Any) -> Check:
    (line,) = gate.judged(made, experiment(checks=[check(**limits)])).gate.checks
    return line


def dropped(new: list[float], old: list[float], drop: float, lower: bool = False) -> Check:
    """The check of a drop from the rows of the base."""
    rules = Rules(frozenset({"f1"})) if lower else Rules()
    (found,) = compare(evidence(new), evidence(old), rules)
    place = {"dataset": "words", "evaluator": "evaluation", "metric": "match"}
    named = {"candidate": "default", "base": "main (abc1234)"}
    against = found.model_copy(update={**place, **named})
    return one(result(against, base=Base(ref="main", commit="abc1234def")), max_drop=drop)


BASE_ROWS = [1.0, 0.5] * 20
WORSE = [0.5, 0.0] * 20
SLIGHTLY = [1.0, 0.5] * 16 + [0.5, 0.0] * 4


@pytest.mark.parametrize(
    ("new", "drop", "lower", "verdict"),
    [
        (WORSE, 0.1, False, "fail"),
        (WORSE, 0.5, False, "pass"),
        (WORSE, 0.0, True, "pass"),
        (SLIGHTLY, 0.1, False, "inconclusive"),
        (SLIGHTLY, 0.3, False, "pass"),
        (SLIGHTLY, 0.0, False, "fail"),
        (BASE_ROWS, 0.0, False, "pass"),
        ([2.0, 1.5] * 20, 0.1, True, "fail"),
        ([0.0, *BASE_ROWS[1:]], 0.0, False, "inconclusive"),
    ],
    ids=["fail", "within", "less is better", "holds", "small", "none allowed", "same", "rise", "1"],
)
def test_a_drop_is_judged_by_its_interval(
    new: list[float], drop: float, lower: bool, verdict: str
) -> None:
    line = dropped(new, BASE_ROWS, drop, lower)
    assert line.verdict == verdict, line
    assert line.check == f"evaluation.match at most {drop:g} worse than main (abc1234)"
    if line.value:
        assert line.ci95 and line.ci95[0] <= line.value <= line.ci95[1]
    assert line.message, "the comparison's sentence tells the numbers"


def test_few_rows_that_all_changed_are_no_proof() -> None:
    assert dropped([0.0] * 4, [1.0] * 4, 0.1).verdict == "inconclusive"
    assert "may be chance" in dropped([0.0] * 4, [1.0] * 4, 0.1).message
    assert dropped([0.0], [1.0], 0.1).verdict == "inconclusive"


def test_what_cannot_be_compared_is_inconclusive_and_says_why() -> None:
    base = Base(ref="main", commit="abc1234def", not_comparable=("The data differ.",))
    line = one(result(base=base), max_drop=0.1)
    assert (line.verdict, line.value) == ("inconclusive", None)
    assert line.message == "not comparable with main (abc1234): The data differ."
    new = one(result(base=Base(ref="main", commit="abc1234def")), max_drop=0.1)
    assert new.verdict == "inconclusive" and "it has no such cell" in new.message


def test_the_gate_of_one_variant() -> None:
    lines = tuple(
        one(result(variant=name), min=limit) for name, limit in (("a", 0.5), ("b", 0.75), ("c", 1))
    )
    whole = summary.Gate(verdict="fail", checks=lines, on_inconclusive="fail")
    assert [whole.of(name).verdict for name in "abcd"] == ["pass", "inconclusive", "fail", "off"]
    assert [whole.of(name).stops for name in "abcd"] == [False, True, True, False]


# --- laws ----------------------------------------------------------------------------------------


@st.composite
def measured(draw: st.DrawFn) -> Summary:
    value = draw(st.none() | NUMBERS)
    ends = draw(st.none() | st.tuples(NUMBERS, NUMBERS))
    return result(value=value, ci95=None if ends is None else (min(ends), max(ends)))


@given(made=measured(), limits=st.tuples(NUMBERS, NUMBERS))
@settings(max_examples=200, deadline=None)
def test_a_stricter_limit_never_makes_a_verdict_better(
    made: Summary, limits: tuple[float, float]
) -> None:
    low, high = (one(made, min=limit).verdict for limit in sorted(limits))
    assert RANK[low] <= RANK[high]
    low, high = (one(made, max=limit).verdict for limit in sorted(limits))
    assert RANK[low] >= RANK[high]


@given(made=measured(), limit=NUMBERS)
@settings(max_examples=200, deadline=None)
def test_minimum_and_maximum_mirror_each_other(made: Summary, limit: float) -> None:
    (score,) = made.scores
    ends = score.ci95 and (-score.ci95[1], -score.ci95[0])
    mirrored = result(value=None if score.value is None else -score.value, ci95=ends)
    assert one(made, min=limit).verdict == one(mirrored, max=-limit).verdict


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=20,
    ),
    drops=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    lower=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_larger_drop_allowed_never_makes_a_verdict_worse(
    pairs: list[tuple[float, float]], drops: tuple[float, float], lower: bool
) -> None:
    new, old = [a for a, _ in pairs], [b for _, b in pairs]
    less, more = (dropped(new, old, drop, lower).verdict for drop in sorted(drops))
    assert RANK[less] >= RANK[more]
    if new == old:
        assert less == "pass"


@given(verdicts=st.lists(st.sampled_from(["pass", "fail", "inconclusive", "skipped"])))
def test_the_whole_is_as_its_worst_part_and_skipped_ones_do_not_count(verdicts: list[str]) -> None:
    line = one(result(), min=0.5)
    checks = [line.model_copy(update={"verdict": verdict}) for verdict in verdicts]
    counted = [verdict for verdict in verdicts if verdict != "skipped"]
    worst = max(counted, key=RANK.__getitem__, default="inconclusive")
    assert summary.overall(checks) == worst


def test_a_check_without_any_score_says_so() -> None:
    made = result().model_copy(update={"scores": ()})
    with pytest.raises(UserError, match=r"no metric 'match' \(expected one of none"):
        one(made, min=0)
