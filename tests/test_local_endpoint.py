"""An endpoint on this machine, by its tasks: roll out, route, survive, roll back, end.

Each test's processes run in the folder of its use case; none may be left there at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
from llmops import summary
from llmops.deploying import deployment
from llmops.errors import UserError
from llmops.local.journal import Journal
from llmops.local.processes import Process, describe, end
from llmops.local.routing import pick
from llmops.verdict import approval
from test_imports import imported, watched
from usecase import Outcome, UseCase, wait_until

pytestmark = pytest.mark.slow

__all__ = ["watched"]  # a fixture

FLOW = """
import time

def run(text):
    if text.startswith("sleep "):
        time.sleep(float(text.split()[1]))
    return {{"answer": "{name} " + text}}
"""
FAILS = "def run(text):\n    raise ValueError('no answer today')\n"
# Passes so many tests, and none after.
FAILS_LATER = """
import os
from pathlib import Path

def run(text):
    with Path(os.environ["COUNT"]).open("a+") as file:
        file.write("x")
        file.seek(0)
        if len(file.read()) > 1:
            raise ValueError("not again")
    return {"answer": text}
"""
STREAMS = """
import time

def run(text):
    def pieces():
        for word in text.split():
            yield word
            time.sleep(0.3)
    return {"answer": pieces()}
"""


class Case(UseCase):
    """A use case whose entry of dev is not filled in, as in a new repo: but for its names."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.entry: dict[str, Any] = {
            "ENV_NAME": "dev",
            "ENDPOINT_NAME": "",
            "CURRENT_DEPLOYMENT_NAME": "blue",
            "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": 100,
        }
        self.name = "words"
        self.write("pyproject.toml", '[project]\nname = "Words"\n')
        self.write("sample-request.json", '{"text": "hello"}')
        self.set()
        self.flow("one")

    @property
    def place(self) -> Path:
        """The endpoint's folder."""
        return self.folder / "runs" / "endpoints" / self.name

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.place / "state.json").read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.state['port']}"

    @property
    def pids(self) -> dict[str, int]:
        """The processes by what they are: router, or the deployment's name."""
        return {
            p["what"]: p["pid"] for p in json.loads((self.place / "processes.json").read_text())
        }

    @property
    def running(self) -> list[psutil.Process]:
        """Every process that was started in the use case's folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == self.folder:
                    found.append(process)
        return found

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The router's lines with these values."""
        lines = (self.place / "requests.jsonl").read_text().splitlines()
        every = [json.loads(line) for line in lines]
        return [line for line in every if all(line[k] == v for k, v in wanted.items())]

    def set(self, **keys: Any) -> None:
        """Change keys of the entry."""
        self.entry |= keys
        document = {"azure_managed_endpoint": [self.entry]}
        self.write("configs/deployment_config.json", json.dumps(document))

    def flow(self, name: str, code: str = "") -> None:
        """The flow's code from now on; it says its name in each answer."""
        self.write("flows/standard/flow.py", code or FLOW.format(name=name))

    def task(self, name: str = "deploy", **variables: str) -> Outcome:
        """Run a task; the first deployment finds a free port by itself."""
        if not (self.place / "state.json").exists():
            variables = {"PORT": "0", **variables}
        outcome = self.run(name, KIND="local", **variables)
        assert "Traceback" not in outcome.text, outcome.text
        return outcome

    def must(self, code: int, *parts: str, task: str = "deploy", **variables: str) -> Outcome:
        """Run a task, and assert its code and that all these parts were said."""
        outcome = self.task(task, **variables)
        assert outcome.code == code, outcome.text
        for part in parts:
            assert part in outcome.text, f"{part!r} is not in: {outcome.text}"
        return outcome

    def grow(self, code: int = 0, *parts: str, share: int = 30, **keys: Any) -> Outcome:
        """Deploy `green` beside `blue` with a share of the traffic."""
        self.set(
            PRIOR_DEPLOYMENT_NAME="blue",
            PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION=str(100 - share),
            CURRENT_DEPLOYMENT_NAME="green",
            CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION=str(share),
            **keys,
        )
        return self.must(code, *parts)

    def ask(self, text: str = "hello", /, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"text": text}
        return httpx.post(f"{self.url}/score", json=body, headers=named, timeout=30)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.write(
        "configs/deployment_config.json", json.dumps({"azure_managed_endpoint": [case.entry]})
    )
    if case.place.exists():
        assert case.task(DOWN="1").code == 0
    assert case.running == []


Answers = list[tuple[int, dict[str, Any]]]


def many(case: Case, count: int, at_once: int = 32, during: Callable[[], None] = int) -> Answers:
    """So many answers to /score; `during` is called when a third of them is there."""

    async def ask() -> Answers:
        found: Answers = []
        left = iter(range(count))
        async with aiohttp.ClientSession() as client:

            async def some() -> None:
                for number in left:
                    body = {"text": str(number)}
                    async with client.post(f"{case.url}/score", json=body) as answer:
                        found.append((answer.status, await answer.json()))
                    if len(found) == count // 3:
                        await asyncio.to_thread(during)

            await asyncio.gather(*(some() for _ in range(at_once)))
        return found

    return asyncio.run(ask())


def names(answers: Answers) -> Counter[str]:
    """How often each deployment's flow answered."""
    return Counter(body["answer"].split()[0] for _, body in answers)


# --- rolling out


TONES = "def run(text, tone='plain'):\n    return {'answer': f'{tone} {text}'}\n"


def test_the_variant_that_was_chosen_answers(case: Case) -> None:
    case.flow("", TONES)
    case.configure(parameters={"tone": ["plain", "warm"]})
    case.must(1, "VARIANTS: unset: name one of default [tone=plain]")
    case.must(0, "Done", VARIANTS="default [tone=warm]")
    assert case.ask().json() == {"answer": "warm hello"}
    described = httpx.get(f"{case.url}/openapi.json").json()
    assert '"default": "warm"' in json.dumps(described)
    own = {"text": "hello", "tone": "cold"}
    assert httpx.post(f"{case.url}/score", json=own).json() == {"answer": "cold hello"}


def test_from_the_first_deployment_to_the_way_back(case: Case) -> None:
    plan = case.must(0, "blue 100%, if the test passes", "gate: unknown", PLAN="1")
    assert "Done" not in plan.text and not (case.folder / "runs" / "endpoints").exists()
    case.must(1, "does not exist", task="check_endpoint")
    case.must(0, "Done: endpoint 'words' has blue 100%.")
    assert case.ask().json() == {"answer": "one hello"}
    pids = case.pids
    case.must(0, "Nothing to do")
    assert case.pids == pids
    case.flow("two")
    case.must(1, "'blue' takes 100% of the traffic and would change untested")
    case.grow(0, "green 1 x process", "blue 70%, green 30%")
    assert case.pids["blue"] == pids["blue"]
    case.must(0, "green", "30%", "ok", task="check_endpoint")
    checked = json.loads((case.folder / "reports" / "endpoint.json").read_text())
    assert checked["verdict"] == "pass" and checked["kind"] == "local"
    count = 2000
    green = names(many(case, count))["two"]
    assert abs(green - 0.3 * count) < 4.5 * (count * 0.3 * 0.7) ** 0.5, green  # once in 100,000
    assert {case.ask(azureml_model_deployment="green").json()["answer"] for _ in range(5)} == {
        "two hello"
    }
    missing = case.ask(azureml_model_deployment="red")
    assert missing.status_code == 404 and "blue, green" in missing.json()["error"]["message"]
    assert {
        p.stat().st_mode & 0o777 for p in (case.place / "state.json", case.place / "control.sock")
    } == {0o600}
    case.must(0, "blue 70%, green 30%", "blue 100%", task="rollback", PLAN="1")
    case.must(0, "Done: endpoint 'words' has blue 100%.", task="rollback")
    case.must(0, "Nothing to do", task="rollback")
    assert set(names(many(case, 50))) == {"one"}
    status = case.must(0, "running at", "default", STATUS="1")
    assert [line.split()[:3] for line in status.out.splitlines()[3:]] == [
        ["blue", "ready", "100%"],
        ["green", "ready", "0%"],
    ]


def test_a_deployment_that_fails_its_test_gets_no_traffic(case: Case) -> None:
    case.must(0)
    case.flow("", FAILS)
    case.grow(
        2, "deployment 'green' did not pass its test", "no answer today", "Traffic is where it"
    )
    assert case.state["traffic"] == {"blue": 100} and set(names(many(case, 30))) == {"one"}
    case.flow("", "import nothing_of_this_name\n" + FAILS)
    case.grow(1, "deployment 'green'", "nothing_of_this_name")
    assert case.state["traffic"] == {"blue": 100} and "green" not in case.pids
    case.must(0, "failed", STATUS="1")
    case.flow("", FAILS_LATER)
    count = {"COUNT": str(case.folder / "count")}
    case.grow(2, "fails since the traffic was shifted", "blue 100%", ENVIRONMENT_VARIABLES=count)
    assert case.state["traffic"] == {"blue": 100}
    case.flow("two")
    case.grow(0, "Done", ENVIRONMENT_VARIABLES={})
    assert case.state["traffic"] == {"blue": 70, "green": 30}


def test_mirrored_traffic_and_a_sticky_key(case: Case) -> None:
    case.must(0)
    case.flow("two")
    case.grow(0, "green 50% mirrored", MIRRORED_TRAFFIC_ALLOCATION="50")
    before = len(case.lines())
    assert set(names(many(case, 200))) == {"one"}
    wait_until(lambda: len(case.lines()) > before + 250)
    lines = case.lines()[before:]
    copies = [line for line in lines if line["mirrored"]]
    assert {line["deployment"] for line in copies} == {"green"} and 60 < len(copies) < 140
    assert {line["request_id"] for line in copies} < {
        line["request_id"] for line in lines if not line["mirrored"]
    }
    case.grow(
        0, "STICKY_KEY: none to text", share=50, MIRRORED_TRAFFIC_ALLOCATION="", STICKY_KEY="text"
    )
    once, again = (
        {body["answer"].split()[1]: body["answer"].split()[0] for _, body in many(case, 60)}
        for _ in range(2)
    )
    assert once == again and set(once.values()) == {"one", "two"}
    by_header = {case.ask(str(n), text="a user").json()["answer"].split()[0] for n in range(8)}
    assert len(by_header) == 1


def test_what_is_kept_of_requests(case: Case) -> None:
    case.must(0)
    case.flow("two")
    case.grow(0, share=100, DATA_COLLECTION="true")
    answer = case.ask("kept?", x_request_id="mine-1")
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["azureml-model-deployment"] == "green"
    (line,) = case.lines(request_id="mine-1")
    assert (line["inputs"], line["outputs"]) == ({"text": "kept?"}, {"answer": "two kept?"})
    assert (line["deployment"], line["status"], line["mirrored"]) == ("green", 200, False)
    case.ask("not kept", azureml_model_deployment="blue", x_request_id="mine-2")
    assert "inputs" not in case.lines(request_id="mine-2")[0]
    said = {"request_id": "mine-1", "score": 1, "comment": "good"}
    assert httpx.post(f"{case.url}/feedback", json=said).status_code == 200
    kept = [json.loads(line) for line in (case.place / "feedback.jsonl").read_text().splitlines()]
    assert [{k: one[k] for k in said} for one in kept] == [said]
    assert httpx.post(f"{case.url}/feedback", json={"score": "x"}).status_code == 400


# --- requests that are not easy


def test_streams_large_bodies_and_clients_that_leave(case: Case) -> None:
    case.must(0)
    assert case.ask("x" * (2 << 20)).json()["error"]["code"] == "too_large"
    assert case.ask("x" * 200_000).status_code == 200
    bad = httpx.post(
        f"{case.url}/score", content=b"{", headers={"content-type": "application/json"}
    )
    assert bad.status_code == 400 and bad.json()["error"]["code"] == "invalid_json"
    assert httpx.get(f"{case.url}/score").status_code == 405
    assert httpx.get(f"{case.url}/openapi.json").json()["openapi"]
    assert httpx.get(f"{case.url}/ready").json() == {"status": "Ready"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{case.url}/score", json={"text": "sleep 5"}, timeout=0.5)
    wait_until(lambda: len(case.lines(status=499)) == 1, 3)
    case.flow("", STREAMS)
    case.grow(0, share=100)
    with httpx.stream(
        "POST",
        f"{case.url}/score",
        json={"text": "they come one after the other"},
        headers={"accept": "text/event-stream"},
    ) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        times = [time.monotonic() for _ in stream.iter_raw()]
    assert len(times) > 2 and times[-1] - times[0] > 0.5


def test_a_request_under_way_is_finished_at_the_end(case: Case) -> None:
    case.must(0)
    body = "json={'text': 'sleep 3'}, timeout=20"
    asks = f"import httpx, sys; print(httpx.post(sys.argv[1], {body}).text)"
    command = [sys.executable, "-c", asks, f"{case.url}/score"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    case.must(0, "ended, 2 processes", DOWN="1")
    assert child.communicate(timeout=20)[0].strip() == '{"answer": "one sleep 3"}'
    assert case.running == []


# --- what ends without being asked


def test_a_deployment_that_is_killed_is_routed_around_and_started_again(case: Case) -> None:
    case.must(0)
    case.flow("two")
    case.grow(share=50)
    before = case.pids["green"]
    lost: list[httpx.Response] = []

    def kill() -> None:
        os.kill(before, signal.SIGKILL)
        lost.append(case.ask(azureml_model_deployment="green"))

    answers = many(case, 1500, during=kill)
    assert len(answers) == 1500
    codes = Counter(status for status, _ in answers)
    assert set(codes) <= {200, 503} and codes[503] <= 32, codes  # those that were under way there
    assert {b["error"]["code"] for s, b in answers if s == 503} <= {"deployment_lost"}
    assert lost[0].status_code == 503
    assert lost[0].json()["error"]["code"] in ("unavailable", "deployment_lost")
    wait_until(lambda: case.ask(azureml_model_deployment="green").status_code == 200, 30)
    assert case.pids["green"] != before
    assert names(many(case, 100))["two"] > 20
    assert "1" in case.must(0, STATUS="1").out.splitlines()[4].split()[7]


def test_a_router_that_is_killed_comes_back_as_it_was(case: Case) -> None:
    case.must(0)
    case.flow("two")
    case.grow()
    orphans = dict(case.pids)
    os.kill(orphans["router"], signal.SIGKILL)
    wait_until(
        lambda: not psutil.pid_exists(orphans["router"]) or describe_ended(orphans["router"])
    )
    case.must(0, "not running", STATUS="1")
    case.must(1, "is not running", task="check_endpoint")
    said = case.must(0, "not running", "with blue 70%, green 30%", "Done")
    assert "create" not in said.text
    assert not set(orphans.values()) & {p.pid for p in case.running}  # they were ended
    assert set(names(many(case, 60))) == {"one", "two"}
    case.must(0, "ended, 3 processes", DOWN="1")
    assert case.running == []
    case.must(0, "is not running", DOWN="1")
    restarted = subprocess.Popen(
        [sys.executable, "-m", "llmops.local", f"runs/endpoints/{case.name}"],
        cwd=case.folder,
        env=case.clean(),
    )
    wait_until(lambda: answers(case), 30)
    assert case.state["traffic"] == {"blue": 70, "green": 30}
    case.must(0, DOWN="1")
    assert restarted.wait(timeout=20) == 0


def describe_ended(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def answers(case: Case) -> bool:
    with suppress(httpx.TransportError):
        return case.ask().status_code == 200
    return False


# --- what is in the way


def test_a_port_that_is_taken(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        case.must(1, f"PORT: {port}: another program listens there", "PORT=", PORT=str(port))
    assert case.running == [] and not case.place.exists()
    case.must(1, "PORT: 'x'", PORT="x")
    case.must(0)
    case.must(1, f"runs on {case.state['port']}", "DOWN=1", PORT="1")


def test_files_that_are_broken_and_processes_of_others(case: Case) -> None:
    case.must(0)
    case.must(0, DOWN="1")
    good = (case.place / "state.json").read_text()
    (case.place / "state.json").write_text('{"endpoint": 1}')
    for variables in ({}, {"STATUS": "1"}, {"PLAN": "1"}):
        case.must(1, "state.json: broken", "Restore the file", **variables)
    (case.place / "state.json").write_text(good)
    with subprocess.Popen(["sleep", "60"], cwd="/", start_new_session=True) as other:
        found = describe("blue", other.pid)
        assert found
        (case.place / "processes.json").write_text(json.dumps([vars(found)]))
        case.must(0, "is not running", DOWN="1")
        assert other.poll() is None
        ours = [sys.executable, "-c", "import time; time.sleep(60)", "llmops.serving"]
        with subprocess.Popen(ours, cwd="/", start_new_session=True) as later:
            assert end([Process("blue", later.pid, time.time() - 1000)], 1) == []
            assert later.poll() is None
            later.kill()
        other.kill()
    (case.place / "processes.json").write_text("{")
    case.must(0, "Done")


def test_two_tasks_at_once(case: Case) -> None:
    children = [case.start("deploy", KIND="local", PORT="0") for _ in range(2)]
    ends = [case.end(child) for child in children]
    assert [one.code for one in ends] == [0, 0], [one.text for one in ends]
    texts = sorted(one.text for one in ends)
    assert sum("Nothing to do" in text for text in texts) == 1
    assert len(case.running) >= 2 and set(case.pids) == {"router", "blue"}


# --- what must not go further


def test_the_gate_and_an_approval(case: Case) -> None:
    case.rows([{"text": "a", "truth": "no"}])
    checks = [{"evaluator": "evaluation", "metric": "match", "min": 0.9}]
    case.configure(gate={"checks": checks})
    assert case.run().code == 2
    case.must(1, "gate: fail", "not deployed", "FORCE=")
    case.must(0, "would be refused", PLAN="1")
    case.must(1, "is no reason", FORCE="1")
    case.must(0, "gate: fail, forced: a rehearsal", FORCE="a rehearsal")
    case.configure(gate=None, approval="required")
    assert case.run().code == 0
    case.must(1, "reports/approval.json: not found", "make approve")
    document = {"experiment": "words", "env": "dev", "run": "x" * 64, "who": "Ada", "when": "now"}
    case.write("reports/approval.json", json.dumps(document | {"how": "terminal"}))
    case.must(1, "Ada approved run xxxxxxxxxxxx", "make approve")
    run = approval.run_of(summary.load(case.folder / "reports" / "summary.json"))
    case.write("reports/approval.json", json.dumps(document | {"how": "terminal", "run": run}))
    case.must(0, "approval: Ada approved run")
    case.flow("two")
    case.must(1, "approval: required", "changed since")


def test_no_part_of_azure_is_imported(case: Case, watched: dict[str, str]) -> None:
    outcome = case.must(0, **watched)
    assert imported(watched) == [], outcome.text
    case.must(0, task="check_endpoint", **watched)
    assert imported(watched) == []


# --- the entry


def entries(folder: Path, **sections: list[dict[str, Any]]) -> None:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "deployment_config.json").write_text(json.dumps(sections))


def test_what_is_wrong_with_an_entry_is_said_in_words(tmp_path: Path) -> None:
    wrong = {"CURENT_DEPLOYMENT_NAME": "blue", "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": "130"}
    wrong |= {"DEPLOYMENT_INSTANCE_COUNT": "two", "ENVIRONMENT_VARIABLES": "qZ7-mark"}
    entries(tmp_path, azure_managed_endpoint=[{"ENV_NAME": "dev"} | wrong])
    with pytest.raises(UserError) as caught:
        deployment.choose("dev", "local", tmp_path)
    where = "configs/deployment_config.json: azure_managed_endpoint[0]"
    for said in (
        '.CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION: expected 100 or less, found "130".',
        '.DEPLOYMENT_INSTANCE_COUNT: expected a whole number, found "two".',
        ".ENVIRONMENT_VARIABLES: expected keys and values.",
        ": unknown key 'CURENT_DEPLOYMENT_NAME' (expected one of 'COMPUTE_NAME', ",
    ):
        assert f"{where}{said}" in str(caught.value)
    assert "qZ7-mark" not in str(caught.value)


def test_which_entry_is_taken(tmp_path: Path) -> None:
    empty = {"ENV_NAME": "dev", "CURRENT_DEPLOYMENT_NAME": "blue"}
    filled = empty | {"ENDPOINT_NAME": "given"}
    entries(tmp_path, azure_managed_endpoint=[empty])
    kind, entry = deployment.choose("dev", "local", tmp_path)
    assert (kind, entry.name) == ("local", tmp_path.name.lower())
    with pytest.raises(UserError, match="KIND=local"):
        deployment.choose("dev", None, tmp_path)
    entries(tmp_path, azure_managed_endpoint=[empty], kubernetes_endpoint=[filled])
    assert deployment.choose("dev", "local", tmp_path)[1].name == "given"
    assert deployment.choose("dev", None, tmp_path)[0] == "kubernetes"
    entries(tmp_path, azure_managed_endpoint=[empty | {"CURRENT_DEPLOYMENT_NAME": ""}])
    with pytest.raises(UserError, match="CURRENT_DEPLOYMENT_NAME: empty"):
        deployment.choose("dev", "local", tmp_path)
    entries(tmp_path, webapp_endpoint=[{"ENV_NAME": "dev"}])
    with pytest.raises(UserError, match="no entry of azure_managed_endpoint"):
        deployment.choose("dev", "local", tmp_path)


def test_names_that_are_no_folders(case: Case) -> None:
    case.set(ENDPOINT_NAME="../x")
    case.must(1, "ENDPOINT_NAME: '../x'")
    case.set(ENDPOINT_NAME="", CURRENT_DEPLOYMENT_NAME="a/b")
    case.must(1, "CURRENT_DEPLOYMENT_NAME: 'a/b'")
    case.set(CURRENT_DEPLOYMENT_NAME="blue")


# --- the parts


def test_a_share_that_grows_keeps_whom_it_had() -> None:
    able = {"blue", "green"}
    users = [str(number) for number in range(2000)]
    few = {u for u in users if pick({"blue": 90, "green": 10}, able, u) == "green"}
    more = {u for u in users if pick({"blue": 60, "green": 40}, able, u) == "green"}
    assert few < more and 150 < len(few) < 250 and 720 < len(more) < 880
    assert {pick({"blue": 90, "green": 10}, {"green"}, u) for u in users[:50]} == {"green"}
    assert pick({"blue": 100}, {"green"}, None) is None
    random.seed(7)
    drawn = Counter(pick({"blue": 75, "green": 25}, able, None) for _ in range(4000))
    assert 900 < drawn["green"] < 1100


def test_a_log_does_not_grow_without_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "requests.jsonl", most_bytes=1000)
    for number in range(200):
        journal.add(number=number)
    journal.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["requests.1.jsonl", "requests.2.jsonl", "requests.3.jsonl", "requests.jsonl"]
    kept = [
        json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()
    ]
    assert max(line["number"] for line in kept) == 199
