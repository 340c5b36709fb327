"""Experiments in MLflow: a real server on loopback, read back by its REST API and in Chromium."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import HOUSE
from llmops import summary, tracking, validate
from usecase import Outcome, UseCase

Json = dict[str, Any]

pytestmark = pytest.mark.slow

USER, PASSWORD = "ada", "loopback-password-7"
SECRET = "sk-0123456789-never-logged"
NER = HOUSE / "examples" / "named_entity_recognition"


@dataclass(frozen=True)
class Server:
    """An MLflow server with one user; its store lies in `folder`."""

    uri: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """What a task needs to log there."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }

    def get(self, place: str, **query: str) -> httpx.Response:
        answer = httpx.get(f"{self.uri}/{place}", params=query, auth=(USER, PASSWORD), timeout=30)
        assert answer.status_code == 200, answer.text
        return answer

    def runs(self, name: str) -> list[Json]:
        """All runs of an experiment, parameters, metrics and tags as dictionaries."""
        found = self.get("api/2.0/mlflow/experiments/get-by-name", experiment_name=name).json()
        query = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
        url = f"{self.uri}/api/2.0/mlflow/runs/search"
        answer = httpx.post(url, json=query, auth=(USER, PASSWORD), timeout=30).json()
        return [_plain(run) for run in answer.get("runs", [])]

    def files(self, run: str, folder: str = "") -> dict[str, str]:
        """The artefacts of a run by their path."""
        query = {"run_id": run, **({"path": folder} if folder else {})}
        found: dict[str, str] = {}
        for one in self.get("api/2.0/mlflow/artifacts/list", **query).json().get("files", []):
            if one["is_dir"]:
                found |= self.files(run, one["path"])
            else:
                found[one["path"]] = self.get("get-artifact", run_id=run, path=one["path"]).text
        return found


def _plain(run: Json) -> Json:
    data = run["data"]
    plain = {key: {i["key"]: i["value"] for i in data.get(key, [])}
             for key in ("params", "metrics", "tags")}  # fmt: skip
    return {**plain, **run["info"], "parent": plain["tags"].get("mlflow.parentRunId")}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`mlflow server` with a SQLite store and a password, a process group ended by its id."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "users.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
    )
    own = {"MLFLOW_AUTH_CONFIG_PATH": f"{folder}/users.ini", "HOME": str(folder)}
    own |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = (sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}",
               f"--backend-store-uri=sqlite:///{folder}/runs.db", "--workers=1",
               f"--artifacts-destination={folder}/files", "--app-name=basic-auth")  # fmt: skip
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=log,
                                 start_new_session=True)  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", child, folder / "log")
        yield Server(f"http://127.0.0.1:{port}", folder)
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait_for(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and child.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(f"the server does not answer: {log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Logged:
    """An experiment that was logged: the example's pull-request data, recordings, two variants."""

    case: UseCase
    outcome: Outcome
    parent: Json
    children: dict[str, Json]


@pytest.fixture(scope="module")
def logged(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    case = UseCase(tmp_path_factory.mktemp("logged"))
    shutil.rmtree(case.folder / "flows")
    shutil.copytree(NER, case.folder, dirs_exist_ok=True)
    settings = {**server.variables, "AOAI_API_KEY": SECRET}
    case.write(".env", "".join(f"{name}={value}\n" for name, value in settings.items()))
    case.write("flows/standard/.env", f"AOAI_API_KEY={SECRET}\n")
    case.write("flows/standard/__pycache__/old.pyc", b"compiled")
    # A build, as a pipeline names it.
    outcome = case.run("experiment", ENV="pr", LLM="replay", GITHUB_RUN_ID="4711")
    runs = server.runs("named_entity_recognition")
    (parent,) = (run for run in runs if not run["parent"])
    children = {run["params"]["variant"]: run for run in runs if run["parent"]}
    assert {run["parent"] for run in children.values()} == {parent["run_id"]}
    return Logged(case, outcome, parent, children)


def test_an_experiment_is_a_run_and_each_cell_a_child(logged: Logged) -> None:
    told, made = logged.outcome, logged.outcome.summary
    assert told.code == 0, told.text
    assert told.err == ""
    assert made is not None
    parent, children = logged.parent, logged.children
    assert told.out.splitlines()[-1].endswith(f"/runs/{parent['run_id']}")
    assert parent["status"] == "FINISHED"
    expected = {"experiment": made["experiment"], "env": "pr", "target": "local", "llm": "replay",
                "gate": "pass", "build": "4711"}  # fmt: skip
    assert expected.items() <= parent["tags"].items()
    assert set(children) == {run["variant"] for run in made["runs"]}
    for run in made["runs"]:
        child = children[run["variant"]]
        assert child["run_name"] == f"{run['variant']} / {run['dataset']}"
        params = child["params"]
        assert (params["dataset"], params["NER_LLM.temperature"]) == (run["dataset"], "0")
        assert params["flow"] == "flows/standard/flow.dag.yaml"
        assert params["run"] == Path(run["outputs"]).parent.name
        table = validate.Table(logged.case.folder / "data" / "pr_data.jsonl")
        assert params["dataset_hash"] == table.digest


def test_metrics_are_those_of_the_summary_with_their_intervals(logged: Logged) -> None:
    made = logged.outcome.summary
    assert made is not None
    expected: dict[str, dict[str, float]] = {name: {} for name in logged.children}
    for run in made["runs"]:
        own = {"rows": run["rows"], "failed_rows": run["failed"], "cost_usd": run["cost_usd"]}
        own |= {f"tokens.{name}": count for name, count in run["tokens"].items()}
        own |= {f"latency_s.{name}": value for name, value in run["latency_s"].items()}
        expected[run["variant"]] |= own
    for score in made["scores"]:
        name, (low, high) = f"{score['evaluator']}.{score['metric']}", score["ci95"]
        expected[score["variant"]] |= {
            name: score["value"],
            f"{name}.ci_low": low,
            f"{name}.ci_high": high,
            f"{name}.scored": score["scored"],
        }
    for variant, metrics in expected.items():
        assert logged.children[variant]["metrics"] == pytest.approx(metrics)


def test_report_and_prompts_are_artefacts(logged: Logged, server: Server) -> None:
    files = server.files(logged.parent["run_id"])
    for name in tracking.REPORT:
        assert files.pop(name) == (logged.case.folder / "reports" / name).read_bytes().decode()
    assert {"evaluators/evaluation/match.py", "evaluators/evaluation/summarise.py"} < set(files)
    for variant, prompt in (("default", "ner_terse"), ("NER_LLM.variant_1", "ner_rules")):
        own = server.files(logged.children[variant]["run_id"])
        assert set(own) == {f"flow/{name}" for name in (
            "flow.dag.yaml", "cleansing.py", f"{prompt}.jinja2")}  # fmt: skip
        original = logged.case.folder / "flows" / "standard" / f"{prompt}.jinja2"
        assert own[f"flow/{prompt}.jinja2"] == original.read_text()


def test_no_secret_reaches_the_server(logged: Logged, server: Server) -> None:
    # The server's own file of users names the password.
    stored = [p for p in server.folder.rglob("*") if p.is_file() and "users" not in p.name]
    assert len(stored) > 8
    for path in stored:
        assert not any(one.encode() in path.read_bytes() for one in (SECRET, PASSWORD)), path
    assert SECRET not in logged.outcome.text
    assert PASSWORD not in logged.outcome.text
    assert logged.case.leftovers() == [logged.case.folder / ".env",
                                       logged.case.folder / "flows/standard/.env"]  # fmt: skip


def test_the_servers_page_shows_the_runs(logged: Logged, server: Server, browser: Any) -> None:
    login = {"username": USER, "password": PASSWORD}
    context = browser.new_context(http_credentials=login, viewport={"width": 1600, "height": 900})
    context.route(re.compile(f"^(?!{re.escape(server.uri)})"), lambda route: route.abort())
    page = context.new_page()
    try:
        page.goto(logged.outcome.out.splitlines()[-1].removeprefix("tracking: "))
        page.get_by_text("named_entity_recognition pr").first.wait_for(timeout=60_000)
        page.get_by_text("index.html").or_(page.get_by_text("Child runs")).first.wait_for()
        experiment = logged.parent["experiment_id"]
        page.goto(f"{server.uri}/#/experiments/{experiment}/runs")
        page.get_by_role("link", name="named_entity_recognition pr").first.wait_for(timeout=60_000)
        page.get_by_text("matching runs").wait_for()
        child = logged.children["NER_LLM.variant_1"]
        page.goto(f"{server.uri}/#/experiments/{experiment}/runs/{child['run_id']}")
        page.get_by_text("evaluation.f1.ci_low").first.wait_for(timeout=60_000)
        value = f"{child['metrics']['evaluation.f1']:.4f}"[:5]
        assert value in page.locator("body").inner_text()
    finally:
        context.close()


def test_evaluate_logs_a_run_of_its_own(logged: Logged, server: Server) -> None:
    prompt = logged.case.folder / "flows/standard/ner_terse.jinja2"
    text = prompt.read_text()
    prompt.write_text(f"{text}\nBe brief.\n")
    told = logged.case.run("evaluate", ENV="pr", LLM="replay")
    prompt.write_text(text)
    assert told.code == 0, told.text
    runs = server.runs("named_entity_recognition")
    (parent,) = (r for r in runs if not r["parent"] and r["run_id"] != logged.parent["run_id"])
    assert told.out.splitlines()[-1].endswith(parent["run_id"])
    own = {r["params"]["variant"]: r for r in runs if r["parent"] == parent["run_id"]}
    first = logged.children
    assert own["default"]["metrics"] == first["default"]["metrics"]
    assert own["default"]["params"]["run"] == first["default"]["params"]["run"]
    # The prompt is no longer the one that gave these answers, so it is not logged as if it were.
    assert "changed since" in own["default"]["tags"]["flow"]
    assert server.files(own["default"]["run_id"]) == {}
    assert "flow" not in own["NER_LLM.variant_1"]["tags"]
    assert "flow/ner_rules.jinja2" in server.files(own["NER_LLM.variant_1"]["run_id"])


@pytest.fixture
def words(tmp_path: Path) -> UseCase:
    """Six rows through plain Python in two modes; in one of them a row fails."""
    case = UseCase(tmp_path)
    case.configure(parameters={"mode": ["plain", "strict"]})
    case.write(
        "flows/standard/flow.py",
        "def run(text, mode):\n"
        "    assert mode == 'plain' or text != 'dog', 'no dogs'\n"
        "    return {'answer': text.upper()}\n",
    )
    case.write(
        "flows/evaluation/flow.py",
        "def run(answer, truth):\n"
        "    return {'match': float(answer == truth)}\n\n\n"
        "def aggregate(rows):\n"
        "    names = ('share of 100 %', 'share of 100 $', '../up/x')\n"
        "    return {name: len(rows) + at for at, name in enumerate(names)} | {'best': 'ant'}\n",
    )
    return case


def test_failed_rows_odd_names_and_another_experiment(words: UseCase, server: Server) -> None:
    told = words.run("experiment", **server.variables, MLFLOW_EXPERIMENT_NAME="of the team")
    assert told.code == 2, told.text
    assert "MLFLOW" not in told.err
    runs = server.runs("of the team")
    (parent,) = (run for run in runs if not run["parent"])
    assert (parent["status"], parent["metrics"]["failed_rows"]) == ("FAILED", 1)
    children = {run["params"]["mode"]: run for run in runs if run["parent"]}
    assert {mode: run["status"] for mode, run in children.items()} == {
        "plain": "FINISHED",
        "strict": "FAILED",
    }
    metrics = children["strict"]["metrics"]
    named = {name: value for name, value in metrics.items() if "share" in name or "up" in name}
    values = [value for name, value in named.items() if re.search(r"-[0-9a-f]{4}$", name)]
    assert {5.0, 6.0, 7.0} <= set(values), "names that become alike stay apart"
    assert not any("best" in name and not name.endswith(".scored") for name in metrics), "a text"
    assert metrics["evaluation.best.scored"] == 5


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that does the same whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()


def broken(request: BaseHTTPRequestHandler) -> None:
    request.send_response(500)
    request.end_headers()


def silent(request: BaseHTTPRequestHandler) -> None:
    time.sleep(60)


def dripping(request: BaseHTTPRequestHandler) -> None:
    """Never so slow that a single read times out."""
    request.send_response(200)
    request.end_headers()
    for _ in range(120):
        request.wfile.write(b" ")
        time.sleep(0.5)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """An experiment that is finished without its server; a gate that fails judged it."""
    case = UseCase(tmp_path_factory.mktemp("judged"))
    check = {"evaluator": "evaluation", "metric": "match", "min": 2}
    case.configure(gate={"checks": [check]})
    told = case.run("experiment", MLFLOW_TRACKING_URI=f"http://ada:{SECRET}@127.0.0.1:9")
    assert told.code == 2, "as without a server"
    assert "cannot be reached" in told.err
    assert told.out.splitlines()[-1] == "report: reports/index.html"
    check_warning(told.err)
    return case


@pytest.fixture
def done(judged: UseCase, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """The same in the current folder."""
    monkeypatch.chdir(judged.folder)
    return judged


def check_warning(text: str) -> None:
    """One line that says the result is there, and nothing that opens a door."""
    assert len(text.splitlines()) == 1, text
    assert "The result in reports/ is complete" in text
    assert SECRET not in text


def test_the_result_is_not_lost_whatever_the_server_does(
    done: UseCase,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = server.uri.removeprefix("http://")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with answering(broken) as faulty, answering(silent) as slow:
        for uri, words in {
            f"http://ada:{SECRET}@{faulty}/base?token={SECRET}": "has a fault of its own",
            f"http://ada:{SECRET}@{slow}": "did not answer in time",
            f"http://ada:{SECRET}@{place}": "refuses access (401): check MLFLOW_TRACKING_USERNAME",
            f"azureml://{SECRET}@eastus.example/x": "needs the package azureml-mlflow: .venv/bin/",
            f"nonsense://ada:{SECRET}@x": "says: ",
            f"http://[{SECRET}": "not an address",
        }.items():
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            tracking.log(summary.load(), *validate.load(), "any")
            told = capsys.readouterr()
            assert told.out == ""
            assert words in told.err, uri
            check_warning(told.err)


def test_a_server_that_drips_is_not_waited_for(
    done: UseCase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "DEADLINE_S", 5)
    with answering(dripping) as place:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{place}")
        start = time.monotonic()
        tracking.log(summary.load(), *validate.load(), "any")
        assert time.monotonic() - start < 9
    told = capsys.readouterr().err
    assert "did not take everything within 5 s" in told
    check_warning(told)


def test_without_the_variable_mlflow_is_not_even_imported(tmp_path: Path) -> None:
    told = UseCase(tmp_path).run("experiment", MLFLOW_TRACKING_URI=" ")
    assert (told.code, told.err) == (0, "")
    assert "tracking" not in told.out
    code = "import sys, llmops.experiment; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.filterwarnings("ignore:The session:FutureWarning")
@pytest.mark.parametrize(
    ("file", "variable", "wanted"),
    [
        (None, None, False),
        (None, "http://here", True),
        ("MLFLOW_TRACKING_URI=http://here\n", None, True),
        ("A=1\nexport MLFLOW_TRACKING_URI = 'http://here'\n", None, True),
        ("\ufeffMLFLOW_TRACKING_URI=http://here", None, True),
        ("MLFLOW_TRACKING_URI=http://here\n", "", False),
        ("# MLFLOW_TRACKING_URI=http://here\n", None, False),
        ("MLFLOW_TRACKING_URI=\nB=1\n", None, False),
        ("MLFLOW_TRACKING_URI='' # none\n", None, False),
    ],
)
def test_the_packages_come_only_with_the_variable(
    file: str | None,
    variable: str | None,
    wanted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if file is not None:
        (tmp_path / ".env").write_text(file, encoding="utf-8")
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    noxfile = shutil.copy(HOUSE / "noxfile.py", tmp_path)
    assert runpy.run_path(noxfile)["tracking"]() == (("tracking",) if wanted else ())
