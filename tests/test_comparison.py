"""Better, worse, no difference or cannot tell: two variants over the same rows.

Properties of a comparison are checked on rows made up by Hypothesis; the way from a flow to the
comparison in summary.json, on experiments run as a user would.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops import config, metrics
from llmops.running.runners import Aggregation, over
from llmops.runs import Draws, Row, Run
from llmops.summary import Comparison, Latency, Llm, RunSummary, Score, Summary, Tokens
from llmops.verdict import baseline
from llmops.verdict.comparison import Evidence, Measure, Rules, compare
from simulated import CASES, DIFFERENCES, evidence, held, held_difference, measured
from usecase import UseCase

Json = dict[str, Any]

VALUE = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(-1, 1))
PAIRS = st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=25)
PLAIN = Rules()
LOWER = Rules(frozenset({"f1"}))


def only(new: list[Any], old: list[Any], rules: Rules = PLAIN, **more: Any) -> Comparison:
    """The comparison of one metric."""
    (found,) = compare(evidence(new, **more), evidence(old, "default", **more), rules)
    return found


def columns(pairs: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [new for new, _ in pairs], [old for _, old in pairs]


# --- properties ----------------------------------------------------------------------------------


@given(rows=st.lists(VALUE, min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_a_variant_beside_itself_is_no_difference(rows: list[Any]) -> None:
    for found in compare(evidence(rows), evidence(rows, "default")):
        assert found.verdict == "no difference"
        assert (found.difference, found.ci95) in ((0.0, (0.0, 0.0)), (0.0, None))
        assert (found.wins, found.losses, found.flipped) == (0, 0, ())
        assert found.ties == sum(row is not None for row in rows)


@given(pairs=PAIRS)
@settings(max_examples=40, deadline=None)
def test_the_other_way_round_every_sign_changes(pairs: list[tuple[Any, Any]]) -> None:
    mirrored = {"better": "worse", "worse": "better"}
    one, other = evidence(columns(pairs)[0]), evidence(columns(pairs)[1], "default")
    there, back = compare(one, other), compare(other, one)
    assert len(there) == len(back)
    for a, b in zip(there, back, strict=True):
        assert (a.wins, a.losses, a.ties, a.flipped) == (b.losses, b.wins, b.ties, b.flipped)
        assert b.verdict == mirrored.get(a.verdict, a.verdict)
        if a.difference is not None:
            assert b.difference == pytest.approx(-a.difference)
        if a.ci95 is not None:
            assert b.ci95 == pytest.approx((-a.ci95[1], -a.ci95[0]), abs=1e-8)


@given(pairs=PAIRS)
@settings(max_examples=40, deadline=None)
def test_where_less_is_better_better_is_worse(pairs: list[tuple[Any, Any]]) -> None:
    one, other = evidence(columns(pairs)[0]), evidence(columns(pairs)[1], "default")
    for a, b in zip(compare(one, other), compare(one, other, LOWER), strict=True):
        assert (a.difference, a.ci95, a.ties) == (b.difference, b.ci95, b.ties)
        assert (a.wins, a.losses) == (b.losses, b.wins)
        assert {a.verdict, b.verdict} in ({"better", "worse"}, {a.verdict})


@given(pairs=PAIRS, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_does_not_matter(pairs: list[tuple[Any, Any]], seed: int) -> None:
    mixed = random.Random(seed).sample(pairs, len(pairs))
    one = compare(*map(evidence, columns(pairs)))
    other = compare(*map(evidence, columns(mixed)))
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.wins, a.losses, a.ties) == (b.wins, b.losses, b.ties)
        assert a.difference == pytest.approx(b.difference, abs=1e-9)
        if a.ci95 and b.ci95:  # other draws: the ends move a little, by chance
            for end, moved in zip(a.ci95, b.ci95, strict=True):
                assert abs(end - moved) <= 0.4 * (a.ci95[1] - a.ci95[0]) + 1e-6


@given(seed=st.integers(0, 9999), rows=st.integers(150, 250))
@settings(max_examples=15, deadline=None)
def test_of_many_rows_the_interval_holds_the_difference(seed: int, rows: int) -> None:
    dice = random.Random(seed)
    found = only([dice.random() for _ in range(rows)], [dice.random() for _ in range(rows)])
    assert found.ci95 is not None
    assert found.difference is not None
    assert found.ci95[0] < found.difference < found.ci95[1]


@given(pairs=PAIRS)
@settings(max_examples=40, deadline=None)
def test_the_numbers_and_the_words_agree(pairs: list[tuple[Any, Any]]) -> None:
    for found in compare(*map(evidence, columns(pairs))):
        if found.verdict in ("better", "worse"):
            assert found.ci95 is not None
            assert found.difference is not None
            assert not found.ci95[0] <= 0 <= found.ci95[1]
            assert found.sentence.startswith(f"f1 {'rose' if found.difference > 0 else 'fell'} by ")
        told = "cannot" if found.verdict == "inconclusive" else found.verdict
        assert told in found.sentence
        assert len(found.flipped) == (found.wins or 0) + (found.losses or 0)


# --- verdicts ------------------------------------------------------------------------------------


def test_a_sentence_says_what_moved_how_sure_that_is_and_which_rows() -> None:
    found = only([1.0] * 39 + [0.0] * 3, [0.0] * 9 + [1.0] * 33)
    assert (found.wins, found.losses, found.ties) == (9, 3, 30)
    assert found.flipped == (*range(9), 39, 40, 41)
    assert found.verdict == "inconclusive"
    assert found.sentence.startswith("f1 rose by 0.14 (95 % interval ")
    assert found.sentence.endswith(
        ": cannot tell, the interval holds 0. 9 rows better, 3 worse, 30 the same."
    )
    sure = only([1.0] * 42, [0.0] * 9 + [1.0] * 33)
    assert sure.verdict == "better"
    assert sure.sentence.endswith("): better. 9 rows better, 0 worse, 33 the same.")
    assert only([0.0] * 9 + [1.0] * 33, [1.0] * 42).sentence.startswith("f1 fell by 0.21 (")
    same = only([0.5] * 30, [0.5] * 30)
    assert same.sentence == "f1 did not change, the same on 30 rows: no difference."


@pytest.mark.parametrize(("changed", "verdict"), [(5, "inconclusive"), (6, "better")])
def test_fewer_than_six_changed_rows_may_be_chance(changed: int, verdict: str) -> None:
    found = only([1.0] * 8, [0.0] * changed + [1.0] * (8 - changed))
    assert found.ci95 is not None
    assert found.ci95[0] > 0
    assert found.verdict == verdict
    if verdict == "inconclusive":
        assert ": cannot tell, 5 rows changed, which may be chance." in found.sentence


@pytest.mark.parametrize(
    ("margin", "verdict"), [(0.0, "better"), (0.005, "better"), (0.03, "no difference")]
)
def test_a_margin_makes_a_small_certain_difference_none(margin: float, verdict: str) -> None:
    rules = Rules(margins={"f1": margin} if margin else {})
    found = only(
        [0.51 + at / 1000 for at in range(30)], [0.5 + at / 1000 for at in range(30)], rules
    )
    assert found.verdict == verdict
    assert ("within the margin of 0.03" in found.sentence) == (verdict == "no difference")


def test_rows_that_failed_in_one_variant_leave_the_others_in_pairs() -> None:
    dice = random.Random(3)
    old = [dice.random() for _ in range(40)]
    new: list[float | None] = [value + 0.01 for value in old]
    whole = only(new, list(old))
    new[5] = None
    holed = only(new, list(old))
    assert (whole.wins, holed.wins) == (40, 39)
    assert "1 row scored in only one of the two." in holed.sentence
    assert whole.ci95 is not None
    assert holed.ci95 is not None
    # Apart from the hole, the spread of the rows has no part in the difference.
    assert whole.ci95[1] - whole.ci95[0] < 0.001
    assert holed.ci95[1] - holed.ci95[0] < 0.1 < stdev(old)


def test_a_variant_is_not_better_because_it_failed_on_hard_rows() -> None:
    found = only([None] * 20 + [1.0] * 20, [0.0] * 20 + [1.0] * 20)
    assert found.ci95 is not None
    assert found.ci95[0] > 0
    assert (found.difference, found.verdict) == (0.5, "inconclusive")
    assert "cannot tell, only rows that one of the two did not score make the" in found.sentence
    assert found.sentence.endswith(" 20 rows scored in only one of the two.")


def test_a_metric_that_no_row_shows_by_itself_is_judged_by_all_of_them() -> None:
    def share_of_ones(rows: list[float]) -> float:
        return sum(rows) / len(rows) if len(rows) > 1 else 0.5

    found = only([1.0] * 30, [0.0, 1.0] * 15, statistic=share_of_ones)
    assert (found.wins, found.ties, found.verdict) == (0, 30, "better")
    assert "(95 % interval 0.3" in found.sentence


def test_at_most_fifty_changed_rows_are_named() -> None:
    found = only([1.0] * 60, [0.0] * 60)
    assert found.wins == 60
    assert found.flipped == tuple(range(50))


def test_a_metric_of_which_a_row_has_none_is_compared_as_a_whole() -> None:
    dice = random.Random(1)
    old = [dice.gauss(0, 1) for _ in range(60)]
    found = only([3 * value for value in old], old, statistic=stdev)
    assert (found.wins, found.losses, found.ties) == (None, None, None)
    assert found.verdict == "better"


@pytest.mark.parametrize(
    ("new", "old", "words"),
    [
        ([1.0], [0.0], "f1 rose by 1.00: cannot tell, no interval: one row. 1 row better"),
        ([None, None], [0.0, 1.0], "f1 cannot be compared: no value of it in new."),
        ([1.0, None], [None, 1.0], "cannot tell"),
    ],
)
def test_too_little_to_tell(new: list[Any], old: list[Any], words: str) -> None:
    found = only(new, old)
    assert found.verdict == "inconclusive"
    assert words in found.sentence


@pytest.mark.parametrize("value", [math.nan, math.inf, "high", None, [1], 10**400])
def test_a_metric_that_is_no_number_is_said_to_be_none(value: Any) -> None:
    found = metrics.measure(over(3, lambda _: {"f1": value}), [0, 1, 2], 3)
    assert found.metrics["f1"].value is None
    side = Evidence("new", "news", "match", {"f1": Measure(None, 3, note=found.metrics["f1"].note)})
    (compared,) = compare(side, side)
    assert compared.verdict == "inconclusive"
    assert "f1 cannot be compared: not a number: " in compared.sentence


def test_only_cells_over_the_same_rows_are_compared() -> None:
    with pytest.raises(ValueError, match="same dataset"):
        compare(Evidence("a", "news", "match", {}), Evidence("b", "mail", "match", {}))


# --- intervals -----------------------------------------------------------------------------------


def test_draws_depend_on_the_number_of_rows_alone() -> None:
    assert [*metrics.draws(30)] == [*metrics.draws(30)]
    assert len([*metrics.draws(30)]) == metrics.resamples(30) == 1000
    assert {row for draw in metrics.draws(30) for row in draw} == set(range(30))
    assert metrics.resamples(100_000) == 100


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    """A small version of `make intervals`; the seeds are fixed, so it says the same each time."""
    assert 0.91 <= held(CASES[0], 200) <= 0.98
    assert 0.91 <= held_difference(DIFFERENCES[1], 100) <= 0.99


def test_a_slow_aggregation_has_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BUDGET_S", 1.0)
    monkeypatch.setattr(metrics, "PATIENCE_S", 0.05)

    def slow(chosen: Any) -> Json:
        time.sleep(0.01)
        return {"f1": fmean(chosen)}

    start = time.perf_counter()
    found = metrics.measure(over(500, slow), range(500), 500)
    assert time.perf_counter() - start < 2
    assert found.metrics["f1"].ci95 is None
    assert found.metrics["f1"].note.startswith("no interval: one aggregation takes 0.0")
    assert (found.draws, found.alone) == ({}, {})
    assert found.why_alone.startswith("one aggregation takes 0.0")


def test_an_aggregation_that_cannot_take_a_row_alone_has_no_value_of_it() -> None:
    found = measured([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], stdev)
    assert found.alone == {"f1": [None] * 6}
    assert found.metrics["f1"].ci95 is not None


def test_a_model_is_not_asked_for_draws() -> None:
    asked: list[Any] = []
    again = Aggregation({"f1": 0.5}, lambda chosen: asked.append(chosen) or {})
    found = metrics.measure(again, [0, 1, 2], 3, "the aggregation asks a model")
    assert found.metrics["f1"].note == "no interval: the aggregation asks a model"
    assert asked == []


# --- in an experiment ----------------------------------------------------------------------------

MOODS = """
def run(text, mood):
    if mood == "picky" and text == "bee":
        raise ValueError("no bees")
    return {"answer": text.upper() if mood != "lazy" or text < "d" else text}
"""
LENGTH = """
def run(answer, truth):
    return {"match": float(answer == truth), "wrong": float(answer != truth)}


def aggregate(rows):
    print(len(rows))
    names = ("match", "wrong")
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}
"""


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """Three moods of one flow over 24 rows: plain, lazy (half of them wrong) and picky."""
    made = UseCase(tmp_path)
    made.write("flows/standard/flow.py", MOODS)
    made.write("flows/evaluation/flow.py", LENGTH)
    words = ("ant", "bee", "cat", "dog", "eel", "fox") * 4
    made.rows([{"text": word, "truth": word.upper()} for word in words])
    made.configure(parameters={"mood": ["plain", "lazy", "picky"]})
    return made


def by_metric(summary: Json | None, candidate: str) -> dict[str, Json]:
    assert summary is not None
    found = {c["metric"]: c for c in summary["comparison"] if candidate in c["candidate"]}
    assert {c["baseline"] for c in found.values()} == {"default [mood=plain]"}
    return found


def test_every_variant_is_compared_with_the_baseline(use: UseCase) -> None:
    use.configure(gate={"checks": [{"evaluator": "evaluation", "metric": "wrong", "max": 1}]})
    outcome = use.run()
    assert outcome.code == 2, outcome.text
    lazy = by_metric(outcome.summary, "lazy")
    assert list(lazy) == ["match", "wrong", "latency p50 (s)", "failed rows"]
    assert (lazy["match"]["verdict"], lazy["wrong"]["verdict"]) == ("worse", "worse")
    assert lazy["wrong"]["lower_is_better"], "the gate sets a maximum only"
    assert lazy["match"]["flipped"] == [n for n in range(24) if n % 6 > 2]
    picky = by_metric(outcome.summary, "picky")
    assert picky["match"]["verdict"] == "no difference"
    assert (picky["match"]["wins"], picky["match"]["ties"]) == (0, 20)
    assert (picky["failed rows"]["difference"], picky["failed rows"]["losses"]) == (4, 4)
    assert picky["failed rows"]["verdict"] == "inconclusive", "four rows may be chance"
    lines = [line for line in outcome.out.splitlines() if " against " in line]
    assert len(lines) == 4
    assert lines[0] == (
        "default [mood=picky] against default [mood=plain] on words: match did not change, the "
        "same on 20 rows: no difference. 4 rows scored in only one of the two."
    )
    assert lines[2].startswith("default [mood=lazy] against default [mood=plain] on words: match")


def kept(use: UseCase, candidate: str) -> Run:
    """The run of the evaluation of a variant."""
    (folder,) = use.folder.glob(f"runs/*{candidate}*evaluation*")
    return Run(folder)


def test_what_a_comparison_needs_is_kept_beside_the_metrics(use: UseCase) -> None:
    use.run()
    run = kept(use, "picky")
    found = run.draws()
    assert found is not None
    assert found.rows == 24
    assert [n for n, value in enumerate(found.alone["match"]) if value is None] == [1, 7, 13, 19]
    assert len(found.draws["match"]) == 1000
    before = (use.folder / "reports/summary.json").read_bytes()
    assert use.run("gate").code == 0, "also without a gate"
    assert json.loads(before)["comparison"] == use.summary["comparison"]  # type: ignore[index]
    # Rows that change take with them what was made of them.
    run.append(next(iter(run.rows())))
    assert run.draws() is None
    assert run.metrics() is None
    run.close()


def test_metrics_of_an_older_version_are_measured_again(use: UseCase) -> None:
    use.run()
    first = use.summary
    for path in use.folder.glob("runs/*/draws.json"):
        path.unlink()
    use.run()
    assert use.summary is not None
    assert first is not None
    assert use.summary["comparison"] == first["comparison"]


def test_gate_compares_again_by_the_rules_of_now(use: UseCase) -> None:
    use.run()
    assert by_metric(use.summary, "lazy")["wrong"]["verdict"] == "better", "more is better"
    (evaluator,) = use.blocks["evaluators"]
    use.configure(evaluators=[evaluator | {"lower_is_better": ["wrong"], "margin": {"match": 0.9}}])
    assert use.run("gate").code == 0
    lazy = by_metric(use.summary, "lazy")
    assert lazy["wrong"]["verdict"] == "worse"
    assert lazy["match"]["verdict"] == "no difference"
    assert "failed rows" in lazy
    assert "within the margin of 0.9" in (use.folder / "reports/summary.md").read_text()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"lower_is_better": ["rong"]}, ".lower_is_better: 'rong'"),
        ({"margin": {"f2": 0.1}}, ".margin: 'f2'"),
    ],
)
def test_a_metric_that_no_evaluator_produces_is_refused(
    rules: Json, words: str, use: UseCase
) -> None:
    (evaluator,) = use.blocks["evaluators"]
    use.configure(evaluators=[evaluator | rules])
    use.run().refused(words, "is no metric of it (expected one of 'match', 'wrong').")


def test_a_judge_that_nobody_could_read_leaves_its_metrics_out() -> None:
    judge = {"rubric": "r", "labels": "l.jsonl", "scores": {"groundedness": "${data.g}"}}
    block = {"name": "judge", "datasets": [{"name": "d", "reference": "d"}], "judge": judge}
    evaluator = config.Evaluator.model_validate(block | {"margin": {"groundedness": 0.1}})
    experiment = config.Experiment.model_validate({"name": "x"})
    of_run = {"variant": "default", "dataset": "d", "evaluator": "judge", "rows": 3}
    score = Score(metric="unreadable_marks", value=3.0, scored=3, **of_run)
    assert baseline.rules_of(evaluator, experiment, [score]).margins == {"groundedness": 0.1}


@pytest.mark.parametrize("margin", [0, -1, "0.1", True])
def test_a_margin_is_more_than_nothing(margin: Any, use: UseCase) -> None:
    (evaluator,) = use.blocks["evaluators"]
    use.configure(evaluators=[evaluator | {"margin": {"match": margin}}])
    use.run("validate").refused("evaluators[evaluation].margin.match: expected")


DAG = """
inputs:
  answer: {type: string}
outputs:
  f1: {type: double, reference: "${score.output}"}
nodes:
- name: score
  type: python
  source: {type: code, path: score.py}
  inputs: {answer: "${inputs.answer}"}
"""


def test_without_an_aggregation_it_is_refused_before_anything_runs(use: UseCase) -> None:
    (use.folder / "flows/evaluation/flow.py").unlink()
    use.write("flows/evaluation/flow.dag.yaml", DAG)
    use.write("flows/evaluation/score.py", "")
    (evaluator,) = use.blocks["evaluators"]
    use.configure(evaluators=[evaluator | {"lower_is_better": ["error"]}])
    use.run("validate").refused(
        "evaluators[evaluation].lower_is_better: 'error' is no output of flows/evaluation",
        "(expected one of f1).",
    )


ODD = """
def run(answer, truth):
    return {"match": 1.0}


def aggregate(rows):
    return {"score": float("nan"), "grade": "high", "match": len(rows) / 24}
"""


def test_odd_metrics_and_a_single_row_end_in_plain_notes(use: UseCase) -> None:
    use.write("flows/evaluation/flow.py", ODD)
    use.rows([{"text": "ant", "truth": "ANT"}])
    outcome = use.run()
    assert outcome.code == 0, outcome.text
    found = by_metric(outcome.summary, "lazy")
    assert found["score"]["sentence"] == "score cannot be compared: not a number: nan."
    assert found["grade"]["sentence"] == "grade cannot be compared: not a number: 'high'."
    assert found["match"]["sentence"] == "match did not change, the same on 1 row: no difference."


def test_a_variant_without_any_scored_row_is_said_to_have_no_value(use: UseCase) -> None:
    use.write("flows/evaluation/flow.py", LENGTH.replace("def run(answer, truth):", (
        "def run(answer, truth):\n    if answer != truth:\n        raise ValueError('no score')"
    )))  # fmt: skip
    use.rows([{"text": word, "truth": word.upper()} for word in ("dog", "eel", "fox")])
    outcome = use.run()
    assert outcome.code == 2, outcome.text
    found = by_metric(outcome.summary, "lazy")
    words = "match cannot be compared: no value of it in default [mood=lazy]."
    assert found["match"]["sentence"] == words


def stored(variant: str, seconds: float, tokens: int, folder: Path) -> RunSummary:
    run = Run(folder / variant)
    for number in range(40):
        took = seconds + number % 5 / 10
        usage = {"small": [1, tokens, 10]}
        run.append(Row(number, {}, {"answer": "x"}, latency_s=took, usage=usage))
    run.close()
    return RunSummary(
        variant=variant,
        parameters={},
        dataset="news",
        rows=40,
        failed=0,
        tokens=Tokens(),
        latency_s=Latency(p50=seconds + 0.2),
        cost_usd=40 * (tokens + 10) / 1e6,
        outputs=str(run.path),
    )


@pytest.mark.parametrize("mode", ["live", "replay"])
def test_runs_are_compared_by_latency_cost_and_failed_rows(mode: Any, tmp_path: Path) -> None:
    runs = [stored("terse", 0.2, 50, tmp_path), stored("default", 1.0, 500, tmp_path)]
    summary = Summary(
        experiment="x",
        env="dev",
        llm=Llm(mode=mode),
        started_at="",
        seconds=1,
        runs=tuple(runs),
    )
    rules = config.Experiment.model_validate(
        {"name": "x", "prices": {"small": {"prompt": 1, "completion": 1}}}
    )
    found = {one.metric: one for one in baseline.compared(summary, rules).comparison}
    assert {one.baseline for one in found.values()} == {"default"}, "though it ran second"
    assert ("latency p50 (s)" in found) == (mode == "live")
    assert found["cost (USD)"].verdict == "better"
    assert found["cost (USD)"].difference == pytest.approx(-40 * 450 / 1e6)
    assert found["failed rows"].verdict == "no difference"
    if mode == "live":
        latency = found["latency p50 (s)"]
        assert latency.verdict == "better"
        assert latency.difference == pytest.approx(-0.8)
        assert latency.sentence.startswith("latency p50 (s) fell by 0.8 (95 % interval -0.8 to")
        assert (latency.wins, latency.losses) == (40, 0)


def test_metrics_without_draws_are_compared_by_their_values_alone(use: UseCase) -> None:
    use.run()
    run = kept(use, "lazy")
    run.save_draws(Draws(23, {"match": [0.0] * 1000}, {"match": [0.0] * 23}))
    assert use.run("gate").code == 0
    found = by_metric(use.summary, "lazy")["match"]
    assert (found["difference"], found["ci95"], found["wins"]) == (-0.5, None, None)
    assert found["sentence"] == (
        "match fell by 0.5: cannot tell, there is no interval of the difference."
    )
    fresh = Run(use.folder / "runs/measured-elsewhere")
    fresh.save_metrics({"match": {"value": 1.0}})
    assert fresh.metrics() == {"match": {"value": 1.0}}
    assert fresh.draws() == Draws(0)
