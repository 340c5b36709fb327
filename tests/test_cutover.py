"""`make cutover`: traffic goes over by steps, each allowed by what was answered since the last.

Its steps are tested by themselves; the slow tests do it with an endpoint on this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmops.deploying import cutover_steps, deployment, rollout
from llmops.deploying.cutover_steps import Next, following, missing, worse
from llmops.deploying.rollout import Deployment, Found
from llmops.errors import UserError
from llmops.monitoring.online_figures import ERRORS, LATENCY
from llmops.parity.document import Parity, Side
from llmops.parity.document import Verdict as Sameness
from llmops.settings import STEPS
from llmops.settings import read as settings_of
from llmops.summary import Comparison, Llm, Verdict
from test_local_endpoint import FLOW, Case, case, many, names
from usecase import Outcome, wait_until

__all__ = ["case"]  # a fixture

slow = pytest.mark.slow

# Answers the sample request, and nothing else.
FRAIL = """
def run(text):
    if text != "hello":
        raise ValueError("not today")
    return {"answer": "frail " + text}
"""
# Answers until somebody puts a file there.
UNTIL = """
from pathlib import Path

def run(text):
    if Path(PATH).exists():
        raise ValueError("not any more")
    return {"answer": "until " + text}
"""
RIGHT = """
def run(text, answer):
    return {"right": float(answer == "one " + text or answer == "two " + text)}
"""

# --- steps

RISING = st.sets(st.integers(1, 99)).map(lambda some: (*sorted(some), 100))


@given(RISING, st.integers(0, 99))
def test_the_next_step_is_the_least_above_what_is_there(steps: tuple[int, ...], now: int) -> None:
    found = following(steps, now)
    assert found and found.then in steps and found.last <= now < found.then
    assert found.last in (0, *steps)
    assert not [step for step in steps if found.last < step < found.then]


@given(RISING, st.integers(0, 100))
def test_from_any_split_the_steps_lead_to_all_the_traffic(steps: tuple[int, ...], now: int) -> None:
    taken = []
    while (step := following(steps, now)) is not None:
        assert step.then > now
        now = step.then
        taken.append(now)
    assert now == 100 and taken == [step for step in steps if step in taken]
    assert len(taken) <= len(steps)


def test_the_usual_steps_and_a_split_that_is_none() -> None:
    assert [following(STEPS, now) for now in (0, 1, 25, 50, 100)] == [
        Next(0, 1, 0),
        Next(1, 10, 1),
        Next(25, 50, 10),
        Next(50, 100, 50),
        None,
    ]


@pytest.mark.parametrize(
    "text", ["1,10", "10,1,100", "1,1,100", "0,100", "1,200,100", "one", "-1,100"]
)
def test_steps_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="rise and end with 100"):
        settings_of({"STEPS": text})
    with pytest.raises(UserError, match="REQUESTS: 'none'"):
        settings_of({"REQUESTS": "none"})


def test_steps_as_a_person_writes_them() -> None:
    assert settings_of({"STEPS": "5, 100"}).steps == (5, 100)
    assert (settings_of({}).steps, settings_of({}).requests) == (STEPS, 30)


@given(st.dictionaries(st.sampled_from(["blue", "green"]), st.integers(0, 99)), st.integers(1, 99))
def test_what_is_missing_and_what_is_there_make_what_is_needed(
    answers: dict[str, int], needed: int
) -> None:
    found = missing(answers, needed)
    assert all(answers[name] + count == needed for name, count in found.items())
    assert all(count >= needed for name, count in answers.items() if name not in found)


def compared(
    metric: str, verdict: Verdict, ci95: tuple[float, float], old: float = 1
) -> Comparison:
    return Comparison(
        dataset="live requests", evaluator="", metric=metric, baseline="blue", candidate="green",
        baseline_value=old, candidate_value=old, difference=0, ci95=ci95, lower_is_better=True,
        wins=None, losses=None, ties=None, flipped=(), verdict=verdict, sentence=metric,
    )  # fmt: skip


def test_only_what_is_certainly_worse_counts_and_latency_only_where_it_matters() -> None:
    little = compared(LATENCY, "worse", (0.01, 0.2))
    much = compared(LATENCY, "worse", (0.11, 0.2))
    errors = compared(ERRORS, "worse", (0.01, 0.2))
    unsure = compared(ERRORS, "inconclusive", (-0.1, 0.9))
    assert worse([little, unsure]) == []
    assert worse([little, much, errors, unsure]) == [LATENCY, ERRORS]
    assert cutover_steps.failing([much, errors]) == [ERRORS]


ENTRY = deployment.Endpoint(
    ENV_NAME="dev", ENDPOINT_NAME="words", PRIOR_DEPLOYMENT_NAME="blue",
    PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION=100, CURRENT_DEPLOYMENT_NAME="green",
    CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION=0,
)  # fmt: skip


def endpoint(traffic: dict[str, int], **states: str) -> Found:
    there = {n: Deployment(n, "words:1", "e:1", state=s) for n, s in states.items()}
    return Found("words", traffic=traffic, deployments=there)


@given(st.integers(0, 99), st.integers(1, 100))
def test_a_shift_moves_traffic_between_the_two_and_tests_first(now: int, then: int) -> None:
    split = {name: part for name, part in (("blue", 100 - now), ("green", now)) if part}
    found = endpoint(split, blue="Succeeded", green="Succeeded")
    assert rollout.share(ENTRY, found) == now
    plan = rollout.shift(ENTRY, found, then)
    assert [(step.what, step.name) for step in plan.steps] == [
        ("test", "green"),
        ("traffic", "words"),
    ]
    assert sum(plan.traffic.values()) == 100 and plan.traffic["green"] == then
    assert plan.mirror == {} and all(plan.traffic.values())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "'words' does not exist"),
        (endpoint({"blue": 100}, blue="Succeeded"), "has no deployment 'green'"),
        (endpoint({"green": 50, "red": 50}, green="Succeeded"), "has no deployment 'blue'"),
        (endpoint({"blue": 100}, blue="Failed", green="Succeeded"), "'blue' is not healthy"),
        (endpoint({}, blue="Succeeded", green="Succeeded"), "has no traffic; a cut-over is"),
        (
            endpoint({"blue": 80, "red": 20}, blue="Succeeded", green="Succeeded", red="Succeeded"),
            "blue 80%, red 20%; a cut-over is between 'blue' and 'green' alone",
        ),
    ],
)  # fmt: skip
def test_endpoints_that_cannot_cut_over(found: Found | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rollout.share(ENTRY, found)


def test_without_a_prior_deployment_and_at_the_end() -> None:
    alone = ENTRY.model_copy(update={"PRIOR_DEPLOYMENT_NAME": ""})
    found = endpoint({"green": 100}, green="Succeeded", blue="Failed")
    with pytest.raises(UserError, match="PRIOR_DEPLOYMENT_NAME: empty"):
        rollout.share(alone, found)
    assert rollout.share(ENTRY, found) == 100


# --- an endpoint on this machine


def begin(case: Case, code: str = "", score: bool = False, **keys: Any) -> None:
    """`blue` with all the traffic and `green` beside it, whose flow is `code`."""
    if score:
        mappings = {"text": "${data.text}", "answer": "${data.answer}"}
        log = {"name": "log", "source": "data/log.jsonl", "mappings": mappings}
        evaluator = {"name": "post", "flow": "flows/post", "datasets": [log]}
        blocks = {"datasets": [], "evaluators": [evaluator]}
        case.write("experiment.postprod.yaml", json.dumps(blocks))
        case.write("flows/post/flow.py", RIGHT)
        case.set(DATA_COLLECTION=100)
    case.must(0)
    case.flow("two", code)
    case.grow(0, "blue 100%", share=0, **keys)


def cut(case: Case, code: int, *parts: str, wait: int = 0, **variables: str) -> Outcome:
    variables = {"REQUESTS": "20", **variables}
    return case.must(code, *parts, task="cutover", WAIT=str(wait), **variables)


def report(case: Case) -> dict[str, Any]:
    return json.loads((case.folder / "reports" / "cutover.json").read_text())


def ask(case: Case, deployment: str, count: int) -> None:
    """Live requests that one deployment answers."""
    for number in range(count):
        case.ask(f"text {number}", azureml_model_deployment=deployment)


@slow
def test_the_whole_way(case: Case) -> None:
    begin(case, score=True)
    plan = cut(case, 0, "blue 100%", "blue 99%, green 1%", "Steps: 1%, 10%, 50%, 100%", PLAN="1")
    assert "Done" not in plan.text and case.state["traffic"] == {"blue": 100}
    cut(case, 0, "Done: endpoint 'words' has blue 99%, green 1%", "takes the next step")
    few = cut(case, 2, "'green' has 0 of 20 kept answers, 20 are missing (about 2,000 requests")
    assert "'blue' has 0 of 20" in few.text and "right" not in few.text
    assert case.state["traffic"] == {"blue": 99, "green": 1}
    assert (report(case)["outcome"], report(case)["share"]) == ("waiting", 1)
    ask(case, "blue", 20)
    ask(case, "green", 19)
    cut(case, 2, "'green' has 19 of 20", "1 are missing")
    ask(case, "green", 1)
    plan = cut(case, 0, "Before 10%: 20 answers of each since ", PLAN="1")
    assert "Done" not in plan.text
    cut(case, 0, "right did not change", "has blue 90%, green 10%")
    cut(case, 2, "'green' has 0 of 20")  # what was answered before the shift does not count
    assert names(many(case, 400))["two"] > 10
    cut(case, 0, "has blue 50%, green 50%")
    many(case, 100)
    cut(case, 0, "has green 100%", "'blue' is still there: `make rollback`")
    assert report(case)["outcome"] == "done" and set(names(many(case, 20))) == {"two"}
    cut(case, 0, "'green' has all the traffic")
    case.must(0, "has blue 100%", task="rollback")
    assert case.state["traffic"] == {"blue": 100}


@slow
def test_one_that_answers_worse_is_led_back(case: Case) -> None:
    begin(case, FLOW.format(name="wrong"), score=True)
    cut(case, 0, STEPS="50,100")
    many(case, 120)
    said = cut(case, 2, "'green' is worse", "right fell by 1", "has blue 100%", STEPS="50,100")
    assert "All traffic goes back to 'blue'" in said.text
    assert case.state["traffic"] == {"blue": 100} and set(names(many(case, 20))) == {"one"}
    assert report(case)["outcome"] == "rolled back" and "right fell" in report(case)["why"]


@slow
def test_errors_are_not_waited_for_and_a_test_that_fails_leads_back(
    case: Case, tmp_path: Path
) -> None:
    begin(case, FRAIL)
    cut(case, 0, STEPS="50,100")
    many(case, 60)
    cut(case, 2, "error share rose", "has blue 100%", wait=60, REQUESTS="9999", STEPS="50,100")
    assert case.state["traffic"] == {"blue": 100}
    case.flow("", UNTIL.replace("PATH", repr(str(tmp_path / "stop"))))
    case.must(0)
    cut(case, 0, "blue 99%, green 1%")
    (tmp_path / "stop").touch()
    cut(case, 2, "'green' fails the sample request", "not any more", "has blue 100%")
    assert case.state["traffic"] == {"blue": 100}
    cut(case, 2, "did not pass its test", "kept without traffic")
    assert (report(case)["outcome"], case.state["traffic"]) == ("failed", {"blue": 100})


@slow
def test_waits_for_answers_and_goes_on_from_any_split(case: Case) -> None:
    begin(case)
    case.grow(share=25)
    said = cut(case, 0, "25% is none of the steps", "as from 10%", "not scored", PLAN="1")
    assert "blue 50%, green 50%" in said.text
    command = [sys.executable, "-m", "scripts.cutover"]
    variables = case.clean(KIND="local", WAIT="60", REQUESTS="20")
    with subprocess.Popen(
        command, cwd=case.folder, env=variables, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout
        wait_until(lambda: "waiting for answers, 60 s" in waiting.stdout.readline())
        many(case, 200)
        out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and "has blue 50%, green 50%" in out


@slow
def test_two_at_once_take_one_step(case: Case) -> None:
    begin(case)
    command = [sys.executable, "-m", "scripts.cutover"]
    variables = case.clean(KIND="local", WAIT="0", REQUESTS="20")
    both = [
        subprocess.Popen(command, cwd=case.folder, env=variables, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate(timeout=60)[1] for one in both]
    assert case.state["traffic"] == {"blue": 99, "green": 1}
    assert sorted(one.returncode for one in both)[0] == 0
    for one, text in zip(both, told, strict=True):
        assert one.returncode in (0, 2) or "somebody else" in text, text


def parity(case: Case, verdict: Sameness, a: Side, b: Side) -> None:
    """Write what `make parity` would have found."""
    found = Parity(
        experiment="words",
        env="dev",
        a=a,
        b=b,
        verdict=verdict,
        level=2,
        sentence="",
        llm=Llm(mode="replay"),
        started_at="2026-11-20T12:00:00+00:00",
        seconds=1,
        cells=(),
    )
    case.write("reports/parity.json", found.model_dump_json())


@slow
def test_what_forbids_it(case: Case) -> None:
    cut(case, 1, "'words' does not exist")
    case.must(0)
    cut(case, 1, "PRIOR_DEPLOYMENT_NAME: empty")
    case.flow("two")
    case.grow(share=0)
    old = Side(flow="flows/standard", kind="dag", hashes={})
    new = Side(flow="flows/standard_python/flow.py", kind="python", hashes={})
    parity(case, "different", old, new)
    cut(case, 1, "flows/standard and flows/standard_python/flow.py answer differently")
    cut(case, 0, "going on all the same: checked by hand", FORCE="checked by hand", PLAN="1")
    other = Side(flow="flows/other", kind="dag", hashes={})
    parity(case, "different", other, other)
    cut(case, 0, "blue 99%, green 1%", PLAN="1")
    parity(case, "equivalent", old, new)
    cut(case, 0, "blue 99%, green 1%")
    web = case.run("cutover", KIND="webapp")
    assert web.code == 1 and "webapp" in web.text
    state = case.state
    assert case.task(DOWN="1").code == 0
    cut(case, 1, "is not running", "llmops.local runs/endpoints/words")
    assert case.state == state
