"""The emulated pipeline jobs, driven by `llmops.azure.parallel` and the real client of Azure ML.

One child process holds the client for all tests, because its import takes seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops.data import Table, apply_mappings
from llmops.recordings import Server
from loopback_azure import LoopbackAzure
from test_loopback_azure_runs import (
    DATA,
    EXAMPLE,
    INPUTS,
    OBEY,
    STANDARD,
    Client,
    ClientError,
    locally,
)

CLUSTER = "cpu-cluster"
Json = dict[str, Any]

ECHO = """
from promptflow.core import tool

SEEN = []

@tool
def echo(text: str, times: int):
    if text.startswith("fail"):
        raise ValueError("asked to fail")
    if text == "shy" and not SEEN:
        SEEN.append(text)
        raise ValueError("not at once")
    return text * times
"""
DAG = """
inputs:
  text: {type: string}
  times: {type: int, default: 1}
outputs:
  answer: {type: string, reference: "${echo.output}"}
nodes:
- name: echo
  type: python
  source: {type: code, path: echo.py}
  inputs: {text: "${inputs.text}", times: "${inputs.times}"}
"""

DRIVER = """
import io, json, os, sys, time, traceback
from dataclasses import asdict
from pathlib import Path
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
given = json.loads(sys.stdin.readline())
from azure.ai.ml.entities import Data
from llmops import config, flows, package, plan
from llmops.azure import parallel, workspace
from llmops.azure.parallel import ParallelJobs
from llmops.azure.service import Submission
client = workspace.client(
    workspace.Place(given["subscription"], given["group"], given["workspace"])
)
azure = {"compute": "cpu-cluster", "instance_count": 2}
experiment = config.Experiment.model_validate({"name": "tests", "azure": azure})

def on(retries=3, **changes):
    limits = config.Limits(retries=retries)
    azure = experiment.azure.model_copy(update=changes)
    changed = experiment.model_copy(update={"azure": azure, "limits": limits})
    return ParallelJobs(client, changed)

jobs = on()
names = globals()

def wait(name, *states):
    until = time.monotonic() + 30
    while (state := jobs.find(name)) not in (states or ("Completed", "Failed", "Canceled")):
        if time.monotonic() > until:
            raise TimeoutError(state)
        time.sleep(0.1)
    return state

def rows(jobs, name):
    return [asdict(row) for row in jobs.rows(name)]

def register(name, path):
    client.data.create_or_update(Data(name=name, version="1", path=path, type="uri_file"))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = Server("replay", EXAMPLE / "recordings")
    server.start()
    yield server.url("aoai")
    server.stop()


@pytest.fixture(scope="module")
def azure(address: str) -> Iterator[LoopbackAzure]:
    connection = {"name": "aoai", "type": "AzureOpenAIConnection"}
    with LoopbackAzure(
        connections=[connection | {"api_base": address, "api_key": "replayed"}]
    ) as azure:
        size = {"vmSize": "STANDARD_DS3_V2", "scaleSettings": {"maxNodeCount": 4}}
        cluster = {"computeType": "AmlCompute", "properties": size}
        azure.place(azure.id(f"computes/{CLUSTER}"), cluster)
        yield azure


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the client lives; its standard error is in errors.txt."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(azure: LoopbackAzure, home: Path) -> Iterator[Client]:
    """The client, with the data `few` and `ner` registered as version 1."""
    few = home / "few.jsonl"
    texts = ("one", "two", "fail", "3", "shy")
    few.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(llmops.__file__).parents[1]))
        client = Client(azure, home, DRIVER + OBEY)
    client(f"register('few', {str(few)!r}); register('ner', {str(DATA)!r})")
    yield client
    client.end()


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    yield
    azure.forget()
    azure.change(run_s=[0.05, 0.05, 0.05], run_fails="", run_hangs=False)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAG that needs no model, and fails where it is told to: always or at first."""
    return dag(tmp_path_factory.mktemp("flows") / "echo", ECHO)


def dag(folder: Path, code: str) -> Path:
    """A DAG of one tool."""
    folder.mkdir()
    (folder / "flow.dag.yaml").write_text(DAG)
    (folder / "echo.py").write_text(code)
    return folder


def submit(name: str, flow: Path, data: str = "azureml:few:1", **spread: object) -> str:
    """The code that submits a job."""
    mappings = INPUTS if flow.name == "ner" else {"text": "${data.text}", "times": 2}
    given = [data, mappings, f"Job {name}", {"commit": "abc"}]
    return (
        f"jobs = on(**{spread!r})\n"
        f"flow = flows.describe({str(flow)!r})\n"
        f"jobs.submit({name!r}, Submission(flow, *{given!r}))\n"
    )


def run(name: str, flow: Path, data: str = "azureml:few:1", **spread: object) -> str:
    """The code that submits a job and waits: its end, and the rows' numbers with their answers."""
    found = "[[row['row'], row['outputs']['answer']] for row in rows(jobs, name)]"
    code = submit(name, flow, data, **spread)
    return code + f"name = {name!r}\nanswer = [wait(name), {found}]"


@pytest.fixture(scope="module")
def done(client: Client, echo: Path) -> Any:
    """The job `few`, whose third row fails and whose fifth succeeds when it is tried again."""
    return client(run("few", echo))


def test_a_variant_answers_as_the_local_engine_does(
    client: Client, address: str, tmp_path: Path
) -> None:
    folder, chosen = tmp_path / "ner", {"NER_LLM": "variant_1"}
    end, rows = client(
        f"flow = flows.describe({str(STANDARD)!r})\n"
        f"chosen = plan.Variant('v', {chosen!r}, {{}}, flows.overlay(flow, {chosen!r}, {{}}))\n"
        f"package.package(flow, chosen, Path({str(folder)!r}))\n"
        + submit("ner", folder, "azureml:ner:1", mini_batch_size=10)
        + "answer = [wait('ner'), rows(jobs, 'ner')]"
    )
    lines = [apply_mappings(INPUTS, {"data": record}) for record in Table(DATA)]
    expected, _ = locally(STANDARD, lines, address, tmp_path)
    kept = [(row["row"], row["inputs"], row["outputs"]) for row in rows]
    assert end == "Completed"
    assert kept == [(row.row, row.inputs, row.outputs) for row in expected]
    files = {path.name for path in folder.iterdir()}
    assert ".promptflow" not in files, "the caller's folder is left as it is"


def test_a_row_that_fails_has_no_outputs(done: Any) -> None:
    assert done == ["Completed", [[0, "oneone"], [1, "twotwo"], [3, "33"], [4, "shyshy"]]]


def test_a_row_that_fails_takes_its_mini_batch_along(client: Client, echo: Path) -> None:
    found = client(run("batches", echo, mini_batch_size=2, retries=0))
    assert found == ["Completed", [[0, "oneone"], [1, "twotwo"]]], "nor was the last tried again"


def test_what_is_known_of_a_job(azure: LoopbackAzure, client: Client, done: Any) -> None:
    job = azure.get("jobs/few")
    assert job is not None
    assert job["properties"]["tags"] == {"commit": "abc"}
    assert job["properties"]["displayName"] == "Job few"
    (step,) = job["properties"]["jobs"].values()
    assert step["inputs"]["times"]["value"] == "2", "parameters of a component are texts"
    assert step["resources"] == {"instance_count": 2}
    found = client("answer = [[job.name for job in client.jobs.list()], jobs.url('few')]")
    assert "few" in found[0]
    assert found[1].startswith("https://ml.azure.com/runs/few?wsid=/subscriptions/")


def test_a_changed_flow_is_another_component(client: Client, tmp_path: Path, done: Any) -> None:
    """The name that azure-ai-ml gives an unnamed component leaves out the flow's files."""
    changed = dag(tmp_path / "echo", ECHO.replace("text * times", "text.upper()"))
    assert client(run("upper", changed))[1][0] == [0, "ONE"]


def test_numbers_that_the_data_bring_along(client: Client, echo: Path, home: Path) -> None:
    path = home / "numbered.jsonl"
    lines = [{"text": text, "line_number": 9 - at} for at, text in enumerate(("a", "b", "c"))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = f"register('numbered', {str(path)!r})\n" + run("own", echo, "azureml:numbered:1")
    assert client(code)[1] == [[0, "aa"], [1, "bb"], [2, "cc"]]


def test_serverless_compute(azure: LoopbackAzure, client: Client, echo: Path) -> None:
    size = "Standard_DS3_v2"
    spread = {"compute": None, "instance_type": size, "mini_batch_size": 5}
    assert client(run("serverless", echo, **spread)) == ["Completed", []], "no batch without fail"
    job = azure.get("jobs/serverless")
    assert job is not None
    (step,) = job["properties"]["jobs"].values()
    assert step["resources"] == {"instance_count": 2, "instance_type": size}
    assert job["properties"]["settings"]["default_compute"].endswith("/serverless")


def test_too_many_mini_batches_fail(client: Client, echo: Path) -> None:
    client("parallel.ANY = 0\n" + submit("strict", echo) + "parallel.ANY = -1")
    found = client("answer = [wait('strict'), jobs.error('strict')]")
    assert found[0] == "Failed"
    assert "row 2: " in found[1] and "asked to fail" in found[1] and "\n" not in found[1]


def test_a_job_that_does_not_start(azure: LoopbackAzure, client: Client, echo: Path) -> None:
    azure.change(run_fails="The nodes could not be allocated:\n no quota.")
    code = submit("unstarted", echo)
    found = client(code + "answer = [wait('unstarted'), jobs.error('unstarted')]")
    assert found == ["Failed", "The nodes could not be allocated: no quota."]


def test_a_connection_that_the_workspace_has_not(
    azure: LoopbackAzure, client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "ner"
    shutil.copytree(STANDARD, folder)
    dag_file = folder / "flow.dag.yaml"
    dag_file.write_text(dag_file.read_text().replace("connection: aoai", "connection: other"))
    code = submit("unconnected", folder, "azureml:ner:1")
    found = client(code + "answer = [wait('unconnected'), jobs.error('unconnected')]")
    assert found == ["Failed", "Connection 'other' is not in the workspace."]


def test_a_name_that_is_taken(client: Client, echo: Path, done: Any) -> None:
    for data in ("azureml:ner:1", "azureml:few:1"):
        client(submit("few", echo, data))
        assert client("answer = jobs.find('few')") == "Completed", "it is left as it is"


def test_a_job_is_cancelled(azure: LoopbackAzure, client: Client, echo: Path) -> None:
    azure.change(run_hangs=True, run_s=[0.3, 0.1, 0.0])
    code = submit("hanging", echo) + "answer = [jobs.find('nobody'), jobs.find('hanging')]\n"
    found = client(code + "jobs.cancel('hanging'); answer += [wait('hanging')]")
    assert found == [None, "Running", "Canceled"]


@pytest.mark.parametrize(
    ("spread", "data", "message"),
    [
        ({"compute": "nothing"}, "azureml:few:1", r"ResourceNotFoundError.*computes/nothing"),
        ({}, "azureml:few:9", r"ResourceNotFoundError.*data/few/versions/9"),
        ({"instance_count": 0}, "azureml:few:1", r"instance_count is 0, but must be 1 or more"),
    ],
)
def test_a_job_that_is_refused(
    client: Client, echo: Path, spread: Json, data: str, message: str
) -> None:
    with pytest.raises(ClientError, match=message):
        client(submit("refused", echo, data, **spread))
    assert client("answer = jobs.find('refused')") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flow.flex.yaml", "entry: echo:echo\n", "a flex flow, but .* flow.dag.yaml only"),
        ("flow.dag.yaml", DAG.replace("text:", "data:"), "'data' is a name of the parallel"),
    ],
)
def test_a_flow_that_is_no_component(
    azure: LoopbackAzure, client: Client, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "echo.py").write_text(ECHO)
    with pytest.raises(ClientError, match=f"UserError.*{message}"):
        client(submit("unfit", tmp_path))
    assert azure.log == []


def test_the_connection_drops_after_the_job_was_accepted(
    azure: LoopbackAzure, client: Client, echo: Path
) -> None:
    azure.drop(path="/jobs/unheard", after=True)
    assert client(submit("unheard", echo) + "answer = jobs.find('unheard')")
    puts = [e for e in azure.log if e["method"] == "PUT" and e["path"].endswith("/jobs/unheard")]
    assert [entry["status"] for entry in puts] == [0, 200]


def test_no_call_left_the_machine(azure: LoopbackAzure) -> None:
    assert azure.refused == []
