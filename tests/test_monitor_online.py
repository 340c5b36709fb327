"""`make monitor KIND=local`: what a router wrote down, by deployment, and how they compare."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from llmops.monitoring import intervals, monitor, online_figures
from llmops.summary import Comparison
from test_monitor import EXAMPLE, LOG, read, registered
from usecase import Outcome, UseCase

PLACE = "runs/endpoints/words"
RIGHT = """
def run(text, answer):
    return {"right": float(answer == text.upper())}
"""
RATED = """
def run(text, answer, feedback):
    return {"right": float(answer == text.upper())}


def aggregate(rows):
    return {"wrong": sum(1 - row["right"] for row in rows)}
"""
Json = dict[str, Any]


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """A use case whose postprod overlay scores the columns `text` and `answer`."""
    use = UseCase(tmp_path)
    overlay(use)
    use.write("flows/post/flow.py", RIGHT)
    use.rows([{"text": "a", "answer": "A"}], "data/log.jsonl")
    return use


def overlay(use: UseCase, gate: Json | None = None, **evaluator: Any) -> None:
    dataset = {"name": "log", "source": "data/log.jsonl"}
    dataset |= {"mappings": {"text": "${data.text}", "answer": "${data.answer}"}}
    one = {"name": "post", "flow": "flows/post", "datasets": [dataset], **evaluator}
    blocks = {"datasets": [], "evaluators": [one], "gate": gate}
    use.write("experiment.postprod.yaml", json.dumps(blocks))


def request(number: int, deployment: str, **values: Any) -> Json:
    """A line of requests.jsonl."""
    return {
        "time": f"2026-11-{1 + number % 20:02}T09:00:00.000+00:00",
        "request_id": f"{deployment}-{number}",
        "deployment": deployment,
        "mirrored": False,
        "status": 200,
        "seconds": 0.5,
    } | values


def answered(number: int, deployment: str, right: bool, **values: Any) -> Json:
    """The same with what went in and out."""
    answer = f"TEXT {number}" if right else "?"
    content = {"inputs": {"text": f"text {number}"}, "outputs": {"answer": answer}}
    return request(number, deployment, **content, **values)


def requests(use: UseCase, *lines: Iterable[Json], part: str = "requests.jsonl") -> None:
    use.rows([line for group in lines for line in group], f"{PLACE}/{part}")


def share(deployment: str, rows: int, right: int) -> list[Json]:
    """So many rows of which so many are right, in no order."""
    marks = [number < right for number in range(rows)]
    random.Random(deployment).shuffle(marks)
    return [answered(number, deployment, mark) for number, mark in enumerate(marks)]


def result(use: UseCase, code: int = 0, **variables: str) -> tuple[monitor.Monitor, Outcome]:
    outcome = use.run("monitor", KIND="local", **variables)
    assert outcome.code == code and not outcome.err.strip(), outcome.text
    text = (use.folder / monitor.MONITOR).read_text()
    return monitor.Monitor.model_validate_json(text), outcome


def figures(found: monitor.Monitor) -> online_figures.Online:
    assert found.online
    return found.online


def compared(found: monitor.Monitor, metric: str, what: str) -> Comparison:
    (one,) = [c for c in figures(found).comparison if (c.metric, c.dataset) == (metric, what)]
    return one


# --- scores


@pytest.mark.parametrize(
    ("blue", "green", "margin", "verdict", "words"),
    [
        ((120, 105), (80, 45), {}, "worse", ": worse."),
        ((120, 60), (80, 70), {}, "better", ": better."),
        ((60, 45), (40, 29), {}, "inconclusive", ": cannot tell, the interval holds 0."),
        ((300, 285), (200, 191), {"right": 0.1}, "no difference", "within the margin of 0.1: no"),
        ((40, 40), (40, 40), {}, "inconclusive", "cannot tell"),
        ((40, 20), (5, 5), {}, "inconclusive", "5 rows changed, which may be chance"),
    ],
)
def test_a_known_difference_between_deployments_that_answered_different_requests(
    use: UseCase,
    blue: tuple[int, int],
    green: tuple[int, int],
    margin: Json,
    verdict: str,
    words: str,
) -> None:
    overlay(use, margin=margin)
    requests(use, share("blue", *blue), share("green", *green))
    found, outcome = result(use)
    assert (figures(found).prior, figures(found).current) == ("blue", "green")
    scores = {score.dataset: score for score in figures(found).scores}
    assert scores["blue"].value == pytest.approx(blue[1] / blue[0]) and scores["blue"].ci95
    assert scores["green"].value == pytest.approx(green[1] / green[0])
    one = compared(found, "right", online_figures.LIVE)
    assert one.verdict == verdict and one.wins is None, one.sentence
    assert (one.baseline, one.candidate) == ("blue", "green")
    assert one.difference == pytest.approx(green[1] / green[0] - blue[1] / blue[0])
    assert words in one.sentence and one.sentence in outcome.out
    assert [(log.dataset, log.rows) for log in found.logs] == [
        ("blue", blue[0]),
        ("green", green[0]),
    ]


def test_feedback_is_compared_and_the_tests_of_tasks_do_not_count(use: UseCase) -> None:
    tests = [request(number, "green", request_id=f"probe-{number}") for number in range(9)]
    requests(use, share("blue", 40, 40), tests, share("green", 40, 40))
    said = [
        {"time": "2026-11-20", "request_id": f"{name}-{number}", "score": number % part == 0}
        for name, part in (("blue", 1), ("green", 2))
        for number in range(30)
    ]
    use.rows([{**one, "score": float(one["score"])} for one in said], f"{PLACE}/feedback.jsonl")
    found, _ = result(use)
    assert [one.requests for one in figures(found).traffic] == [40, 40]
    one = compared(found, online_figures.FEEDBACK, online_figures.LIVE)
    assert one.verdict == "worse" and one.difference == pytest.approx(-0.5), one.sentence


def test_mirrored_requests_are_compared_in_pairs(use: UseCase) -> None:
    live = share("blue", 40, 20)
    copies = [{**line, "deployment": "green", "mirrored": True, "seconds": 0.6} for line in live]
    for copy in [line for line in copies if line["outputs"]["answer"] == "?"][:8]:
        copy["outputs"] = {"answer": copy["inputs"]["text"].upper()}
    alone = [answered(number, "green", False, mirrored=True) for number in range(100, 110)]
    twice = [answered(200, "blue", True, request_id="same") for _ in range(2)]
    requests(use, live, twice, reversed(copies), alone)
    found, _ = result(use)
    paired = compared(found, "right", online_figures.MIRRORED)
    assert (paired.wins, paired.losses, paired.ties) == (8, 0, 32)
    assert paired.verdict == "better" and paired.difference == pytest.approx(8 / 40)
    slower = compared(found, online_figures.LATENCY, online_figures.MIRRORED)
    assert slower.verdict == "worse" and slower.difference == pytest.approx(0.1)
    errors = compared(found, online_figures.ERRORS, online_figures.MIRRORED)
    assert errors.verdict == "no difference" and errors.ties == 40
    assert {one.dataset for one in figures(found).comparison} == {online_figures.MIRRORED}
    rows = {log.dataset: log.rows for log in found.logs}
    assert rows == {"blue": 42, "blue on the same requests": 40, "green mirrored": 40}
    page = (use.folder / monitor.PAGE).read_text()
    assert "green (mirrored)" in page and "### `green` compared with `blue`" in page


def test_a_sample_of_pairs_is_still_one_of_pairs(use: UseCase) -> None:
    live = share("blue", 60, 30)
    copies = [{**line, "deployment": "green", "mirrored": True} for line in live]
    requests(use, live, copies)
    found, _ = result(use, SAMPLE="20")
    same = compared(found, "right", online_figures.MIRRORED)
    assert same.verdict == "no difference" and same.ties == 20
    assert {(log.rows, log.of) for log in found.logs} == {(20, 60)}


def test_the_gate_judges_what_people_got(use: UseCase) -> None:
    overlay(use, {"checks": [{"evaluator": "post", "metric": "right", "min": 0.5}]})
    live = share("blue", 40, 38)
    wrong = {"outputs": {"answer": "?"}, "deployment": "green", "mirrored": True}
    requests(use, live, [{**line, **wrong} for line in live])
    found, _ = result(use)
    assert found.gate == "pass"
    assert compared(found, "right", online_figures.MIRRORED).verdict == "worse"
    requests(use, live, share("green", 40, 3))
    found, _ = result(use, code=2)
    assert found.gate == "fail"
    assert "- fail: `green`: post.right" in (use.folder / monitor.PAGE).read_text()


def test_the_flow_s_own_aggregation_is_what_is_compared(use: UseCase) -> None:
    use.write("flows/post/flow.py", RATED)
    overlay(use, lower_is_better=["wrong"])
    requests(use, share("blue", 30, 25), share("green", 30, 5))
    one = compared(result(use)[0], "wrong", online_figures.LIVE)
    assert one.verdict == "worse" and one.difference == 20 and one.lower_is_better


def test_the_shipped_example_and_its_drift_since_registration(use: UseCase) -> None:
    shutil.rmtree(use.folder)
    shutil.copytree(EXAMPLE, use.folder)
    registered(use, grounded_share=0.99)
    logged = read(use, LOG)
    for name, rows in (("blue", logged[:20]), ("green", logged[20:])):
        lines = [
            request(
                number,
                name,
                inputs={key: row[key] for key in ("text", "entity_type")},
                outputs={"entities": row["entities"]},
            )
            for number, row in enumerate(rows)
        ]
        path = use.folder / PLACE / "requests.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    use.rows([{"request_id": "blue-3", "score": 4}], f"{PLACE}/feedback.jsonl")
    outcome = use.run("monitor", KIND="local")
    found = monitor.Monitor.model_validate_json((use.folder / monitor.MONITOR).read_text())
    assert {one.name for one in found.drift} >= {"post_production.grounded_share", "text"}
    assert len({one.name for one in found.drift}) == len(found.drift)
    assert any(note.startswith("drift is that of blue,") for note in found.notes), outcome.text
    scores = {(s.dataset, s.metric): s for s in figures(found).scores}
    assert scores["blue", "feedback_mean"].value == 4
    assert ("green", "feedback_mean") not in scores
    assert "feedback_mean cannot be compared" in outcome.out
    assert compared(found, "empty_share", online_figures.LIVE).verdict == "inconclusive"


# --- traffic


def test_without_inputs_there_is_traffic_alone_and_how_to_collect(use: UseCase) -> None:
    blue = [request(n, "blue", seconds=n / 100, status=500 if n < 3 else 200) for n in range(100)]
    green = [
        request(n, "green", seconds=1 + n / 100, status=504 if n < 30 else 200) for n in range(100)
    ]
    refused = [request(n, "green", status=status) for n, status in enumerate((400, 422, 499))]
    lost = [request(n, "", status=503) for n in range(2)]
    requests(use, blue, green, refused, lost)
    found, outcome = result(use)
    by_name = {one.deployment: one for one in figures(found).traffic}
    one, other = by_name["blue"], by_name["green"]
    assert (one.requests, one.errors, one.error_share, one.refused) == (100, 3, 0.03, 0)
    assert one.error_ci95 == pytest.approx((0.0103, 0.0845), abs=1e-4)
    assert one.latency_s.p50 == pytest.approx(0.51) and one.latency_s.p95 == pytest.approx(0.942)
    assert (other.requests, other.errors, other.refused) == (103, 30, 3)
    assert compared(found, online_figures.ERRORS, online_figures.LIVE).verdict == "worse"
    slower = compared(found, online_figures.LATENCY, online_figures.LIVE)
    assert slower.verdict == "worse" and slower.ci95 and slower.ci95[0] > 0.5
    assert found.gate == "off" and not found.logs and not figures(found).scores
    assert any("DATA_COLLECTION" in note for note in found.notes)
    assert any("2 requests reached no deployment (status 503: 2)" in note for note in found.notes)
    assert "DATA_COLLECTION" in outcome.out and "3 (3.0%)" in outcome.out
    assert "## Endpoint `words`" in (use.folder / monitor.PAGE).read_text()
    assert not use.leftovers()


def test_all_parts_of_the_log_are_read_and_a_torn_line_is_counted(use: UseCase) -> None:
    parts = ("requests.2.jsonl", "requests.1.jsonl", "requests.jsonl")
    for start, part in enumerate(parts):
        rows = range(start * 20, start * 20 + 20)
        requests(use, (answered(n, "blue", True) for n in rows), part=part)
    with (use.folder / PLACE / "requests.jsonl").open("a") as file:
        file.write('["no request"]\n{"time": "2026-11-02T09:00:00", "request_id": "b')
    found, outcome = result(use)
    (one,) = figures(found).traffic
    assert one.requests == one.collected == 60 and figures(found).unread == 2
    assert figures(found).first.startswith("2026-11-01")
    assert "2 lines of the log cannot be read" in outcome.out
    assert "blue is the only deployment" in outcome.out and not figures(found).comparison
    rows = [row["inputs"]["text"] for row in use.finished("logged-*")]
    assert rows == [f"text {number}" for number in range(60)]


def test_days_choose_among_the_requests(use: UseCase) -> None:
    requests(use, share("blue", 40, 30))
    found, _ = result(use, SINCE="2026-11-03..2026-11-04")
    assert figures(found).traffic[0].requests == 4
    assert figures(found).first[:10] == "2026-11-03"
    use.run("monitor", KIND="local", SINCE="2027-01-01").refused("no request of 2027-01-01")


def test_feedback_is_told_by_deployment_and_reaches_the_evaluator(use: UseCase) -> None:
    use.write(
        "flows/post/flow.py",
        "def run(answer, mark):\n    return {} if mark is None else {'mark': mark}\n",
    )
    blocks = json.loads((use.folder / "experiment.postprod.yaml").read_text())
    mappings = {"answer": "${data.answer}", "mark": "${data.feedback}"}
    blocks["evaluators"][0]["datasets"][0]["mappings"] = mappings
    use.write("experiment.postprod.yaml", json.dumps(blocks))
    copy = {**answered(1, "blue", True), "deployment": "green", "mirrored": True}
    requests(use, share("blue", 10, 10), share("green", 10, 10), [copy])
    said = [("blue-1", 1), ("blue-2", 4), ("blue-1", 2), ("green-1", 5), ("gone", 1)]
    lines = [{"time": "…", "request_id": r, "score": s, "comment": "secret"} for r, s in said]
    use.rows([*lines, {"score": "good"}], f"{PLACE}/feedback.jsonl")
    found, outcome = result(use)
    marks = {(t.deployment, t.mirrored): t for t in figures(found).traffic}
    assert (marks["blue", False].feedback, marks["blue", False].feedback_mean) == (2, 3)
    assert (marks["green", False].feedback, marks["green", False].feedback_mean) == (1, 5)
    assert marks["green", True].feedback == 0
    assert "1 requests with feedback are not in the log" in outcome.out
    scores = {s.dataset: s.value for s in figures(found).scores if s.metric == "mark"}
    assert scores["blue"] == 3 and scores["green"] == 5
    assert "secret" not in outcome.out + (use.folder / monitor.MONITOR).read_text()


# --- which endpoint, which deployments


def test_the_configuration_says_which_deployment_is_the_current_one(use: UseCase) -> None:
    entry = {
        "ENV_NAME": "dev",
        "ENDPOINT_NAME": "words",
        "PRIOR_DEPLOYMENT_NAME": "green",
        "PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION": 50,
        "CURRENT_DEPLOYMENT_NAME": "blue",
        "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": 50,
    }
    config = {"azure_managed_endpoint": [entry]}
    use.write("configs/deployment_config.json", json.dumps(config))
    state = {"deployments": {"blue": {"llm": "replay"}, "green": {"llm": "live"}}}
    use.write(f"{PLACE}/state.json", json.dumps(state))
    requests(use, [request(n, name) for n in range(9) for name in ("blue", "green")])
    found, _ = result(use)
    assert {one.metric for one in figures(found).comparison} == {online_figures.ERRORS}
    assert (figures(found).prior, figures(found).current) == ("green", "blue")
    replayed = [note for note in found.notes if "replays" in note]
    assert len(replayed) == 1 and replayed[0].startswith("blue ")


def test_an_endpoint_must_be_there_and_be_clear(use: UseCase) -> None:
    use.run("monitor", KIND="local").refused("make deploy KIND=local")
    use.write(f"{PLACE}/requests.jsonl", "")
    use.run("monitor", KIND="local").refused(f"{PLACE}/requests.jsonl: no request")
    use.rows([request(1, "red")], "runs/endpoints/other/requests.jsonl")
    use.run("monitor", KIND="local").refused("2 endpoints", "runs/endpoints/other")
    found, _ = result(use, LOG="runs/endpoints/other")
    assert figures(found).endpoint == "other"
    use.run("monitor", KIND="local", LOG="data/log.jsonl").refused("LOG: 'data/log.jsonl'")


def test_without_an_overlay_or_with_two_logs(use: UseCase) -> None:
    requests(use, share("blue", 10, 10))
    blocks = json.loads((use.folder / "experiment.postprod.yaml").read_text())
    (dataset,) = blocks["evaluators"][0]["datasets"]
    blocks["evaluators"][0]["datasets"] += [{**dataset, "name": "second"}]
    use.write("experiment.postprod.yaml", json.dumps(blocks))
    use.run("monitor", KIND="local").refused("evaluators[post].datasets", "2 logs")
    (use.folder / "experiment.postprod.yaml").unlink()
    found, _ = result(use)
    assert found.notes[0].startswith("no answer is scored: there is no experiment.postprod.yaml")
    assert found.experiment == "words" and figures(found).traffic[0].collected == 10


# --- figures known from the literature


def test_intervals_of_shares_and_their_difference() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table II: 56/70 - 48/80, method 10.
    one, other = intervals.wilson(56, 70), intervals.wilson(48, 80)
    between = intervals.apart(56 / 70, one, 48 / 80, other)
    assert between == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert intervals.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert intervals.wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)


def test_the_interval_of_a_median_holds_it_95_times_of_100() -> None:
    chance = random.Random(3)
    for size in (6, 7, 15, 101):
        held = 0
        for _ in range(1500):
            found = intervals.median_interval([chance.random() for _ in range(size)])
            assert found
            held += found[0] <= 0.5 <= found[1]
        assert held / 1500 > 0.935, size
    assert intervals.median_interval([1, 2, 3, 4, 5]) is None
