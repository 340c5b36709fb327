"""`make cutover` of endpoints in the emulated Azure: what is collected decides on each step."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request

import pytest
from test_deploy import Case, Said, azure, case, forks, models

pytestmark = pytest.mark.slow

__all__ = ["azure", "case", "forks", "models"]  # fixtures


def begin(case: Case, version: int, collected: Any = "true") -> None:
    """`blue` with all the traffic and `green`, of another version, beside it."""
    case.configure(connections=[])
    mappings = {"answer": "${data.answer}", "text": "${data.text}"}
    log = {"name": "log", "source": "data/none.jsonl", "mappings": mappings}
    evaluator = {"name": "post", "flow": "flows/post", "datasets": [log]}
    blocks = {"datasets": [], "evaluators": [evaluator]}
    case.write("experiment.postprod.yaml", json.dumps(blocks))
    right = "def run(answer, text):\n    return {'right': float(answer == 'one ' + text)}\n"
    case.write("flows/post/flow.py", right)
    case.deploy(1, DATA_COLLECTION=collected).must(0)
    case.grow(version, 0).must(0, "blue 100%")


def cut(case: Case, code: int, *parts: str, **variables: str) -> Said:
    variables = {"REQUESTS": "12", "WAIT": "0", **variables}
    return case.task("cutover", **variables).must(code, *parts)


def key(case: Case) -> str:
    """The endpoint's key, as the test itself gets it."""
    settings, azure = case.azure.settings, case.azure
    given = {"client_id": settings.client_id, "client_secret": settings.client_secret}
    given |= {"grant_type": "client_credentials", "scope": "https://management.azure.com/.default"}
    sign_in = f"https://login.microsoftonline.com/{settings.tenant}/oauth2/v2.0/token"
    with azure.open(Request(sign_in, urlencode(given).encode())) as answer:
        headers = {"Authorization": f"Bearer {json.load(answer)['access_token']}"}
    place = azure.id(f"onlineEndpoints/{case.endpoint}/listKeys")
    url = f"https://management.azure.com{place}?api-version=2024-04-01"
    with azure.open(Request(url, b"", headers, method="POST")) as answer:
        return str(json.load(answer)["primaryKey"])


def ask(case: Case, deployment: str, count: int, name: str = "text") -> None:
    """Live requests that one deployment answers; a name that is no input gets an error."""
    assert case.state
    headers = {"Authorization": f"Bearer {key(case)}", "azureml-model-deployment": deployment}
    time.sleep(1)  # what is collected has its time in whole seconds
    for number in range(count):
        body = json.dumps({name: f"hello {number}"}).encode()
        try:
            case.azure.open(Request(case.state["scoringUri"], body, headers, method="POST")).close()
        except HTTPError as error:
            error.close()


def test_the_whole_way(case: Case) -> None:
    begin(case, 1)
    case.azure.forget()
    plan = cut(case, 0, "blue 99%, green 1%", "Steps: 1%, 10%, 50%, 100%", PLAN="1")
    assert "Done" not in plan.text and case.changes() == []
    cut(case, 0, f"endpoint '{case.endpoint}' has blue 99%, green 1%")
    found = case.azure.get(f"onlineEndpoints/{case.endpoint}")
    assert found and found["tags"]["traffic_since"].endswith(" blue=99,green=1")
    cut(case, 2, "'green' has 0 of 12 kept answers, 12 are missing (about 1,200 requests")
    assert case.traffic == {"blue": 99, "green": 1}
    for now, then in (
        (10, "blue 90%, green 10%"),
        (50, "blue 50%, green 50%"),
        (100, "green 100%"),
    ):
        ask(case, "blue", 12)
        ask(case, "green", 12)
        cut(case, 0, f"Done: endpoint '{case.endpoint}' has {then}", "right did not change")
        assert case.traffic["green"] == now
    cut(case, 0, "'green' has all the traffic. 'blue' is still there")
    case.task("rollback").must(0, "blue 100%")


def test_one_that_answers_worse_is_led_back(case: Case) -> None:
    begin(case, 2)
    cut(case, 0, STEPS="50,100")
    ask(case, "blue", 12)
    ask(case, "green", 12)
    cut(case, 2, "'green' is worse", "right fell by 1", "blue 100%", STEPS="50,100")
    assert case.traffic == {"blue": 100}


def test_errors_lead_back(case: Case) -> None:
    begin(case, 1)
    cut(case, 0, STEPS="50,100")
    ask(case, "blue", 40)
    ask(case, "green", 12, "nothing")
    cut(case, 2, "error share rose", "blue 100%", REQUESTS="9999", STEPS="50,100")
    assert case.traffic == {"blue": 100}


def test_without_collected_data_traffic_stays(case: Case) -> None:
    begin(case, 1, collected="")
    cut(case, 0, "blue 99%, green 1%")
    cut(case, 2, "keeps nothing of what 'blue' and 'green' answer", "set DATA_COLLECTION")
    assert case.traffic == {"blue": 99, "green": 1}


def test_a_split_of_somebody_else_counts_from_now_on(case: Case) -> None:
    begin(case, 1)
    cut(case, 0)
    ask(case, "blue", 12)
    ask(case, "green", 12)
    assert case.state
    place = case.azure.id(f"onlineEndpoints/{case.endpoint}")
    case.azure.place(place, {"traffic": {"blue": 80, "green": 20}})
    plan = cut(case, 0, "20% is none of the steps", "as from 10%", "since now", PLAN="1")
    assert "Done" not in plan.text
    cut(case, 2, "answers count from now on", "'green' has 0 of 12")
    assert case.traffic == {"blue": 80, "green": 20}
    ask(case, "blue", 12)
    ask(case, "green", 12)
    cut(case, 0, "blue 50%, green 50%")


def test_two_at_once_take_one_step(case: Case) -> None:
    begin(case, 1)
    case.azure.change(operation_s=0.5)
    ends = [case.wait(one) for one in [case.begin("cutover", WAIT="20") for _ in range(2)]]
    assert 0 in [end.code for end in ends], [end.text for end in ends]
    for end in ends:
        assert end.code == 0 or "somebody else" in end.text or "Too few" in end.text, end.text
    assert case.traffic == {"blue": 99, "green": 1}
