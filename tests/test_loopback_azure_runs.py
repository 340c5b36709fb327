"""The emulated prompt flow service, driven by the real client: promptflow.azure.PFClient.

One child process holds the client for all tests, because its import takes seconds; a second one is
there to be killed while its run is under way.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops import config, connections, flows, work
from llmops.data import Table, apply_mappings
from llmops.recordings import Server
from llmops.running.engine import Worker, run_row
from llmops.runs import Row, Run
from loopback_azure import LoopbackAzure

pytestmark = pytest.mark.slow

EXAMPLE = Path(llmops.__file__).parents[1] / "examples" / "named_entity_recognition"
STANDARD, EVALUATION = EXAMPLE / "flows" / "standard", EXAMPLE / "flows" / "evaluation"
DATA, TRUTH = EXAMPLE / "data" / "data.jsonl", EXAMPLE / "data" / "eval_data.jsonl"
INPUTS = {"text": "${data.text}", "entity_type": "${data.entity_type}"}
SCORED = {"ground_truth": "${data.results}", "entities": "${run.outputs.entities}"}
VARIANT = "${NER_LLM.variant_1}"
Json = dict[str, Any]

ECHO = """
def run(text: str):
    if text == "fail":
        raise ValueError("asked to fail")
    return {"answer": text}
"""
LENGTH = """
class Length:
    def __init__(self):  # the client cannot read a class without one
        pass

    def __call__(self, answer: str):
        return {"length": len(answer)}

    def __aggregate__(self, line_results: list):
        return {"longest": max(line["length"] for line in line_results)}
"""

OBEY = """
for line in sys.stdin:
    names["answer"], error = None, None
    try:
        exec(json.loads(line), names)
    except Exception as raised:
        traceback.print_exc()
        error = [type(raised).__name__, str(raised)]
    said = json.dumps({"answer": names["answer"], "error": error}, default=str)
    print(said, file=answers, flush=True)
"""
DRIVER = """
import io, json, os, sys, time, traceback
from contextlib import redirect_stdout
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from azure.identity import DefaultAzureCredential
from promptflow.azure import PFClient
given = json.loads(sys.stdin.readline())
pf = PFClient(DefaultAzureCredential(), given["subscription"], given["group"], given["workspace"])
names = globals()

def wait(name, *states):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        run = pf.runs.get(name)
        if run.status in (states or ("Completed", "Failed", "Canceled")):
            return run
        time.sleep(0.1)
    raise TimeoutError(run.status)

def details(name):
    return json.loads(pf.runs.get_details(name, all_results=True).to_json(orient="records"))

"""


class ClientError(Exception):
    """What the client raised in the child process: its type and its message."""


class Client:
    """A child process with a client; client(code) gives what the code leaves in `answer`."""

    def __init__(self, azure: LoopbackAzure, home: Path, driver: str = DRIVER + OBEY) -> None:
        settings = {"HOME": str(home), "PF_HOME_DIRECTORY": str(home)}
        # What the client would report to its makers, and ask them for.
        settings |= {"APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true"}
        (home / "pf.yaml").write_text("telemetry:\n  enabled: false\n")
        checked = dict.fromkeys(("last_check_time", "last_hint_time"), f"{datetime.now()}.0"[:26])
        (home / "pf_version_check.json").write_text(json.dumps(checked))
        self.child = subprocess.Popen(
            [sys.executable, "-c", driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "errors.txt").open("w"),
            text=True,
            env=os.environ | azure.environment | settings,
        )
        scope = {n: getattr(azure.settings, n) for n in ("subscription", "group", "workspace")}
        self._send(scope)

    def _send(self, what: object) -> None:
        assert self.child.stdin
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()

    def start(self, code: str) -> None:
        """Let it run code whose answer nobody awaits."""
        self._send(code)

    def __call__(self, code: str) -> Any:
        assert self.child.stdout
        self._send(code)
        said = json.loads(self.child.stdout.readline())
        if said["error"]:
            raise ClientError(": ".join(said["error"]))
        return said["answer"]

    def end(self) -> None:
        """Kill it."""
        self.child.kill()
        self.child.wait()


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
        yield azure


@pytest.fixture(scope="module")
def clients(
    azure: LoopbackAzure, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Client]]:
    """Both clients, started at once."""
    clients = [Client(azure, tmp_path_factory.mktemp("home")) for _ in range(2)]
    yield clients
    for client in clients:
        client.end()


@pytest.fixture(scope="module")
def pf(clients: list[Client]) -> Client:
    return clients[0]


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    yield
    azure.forget()
    azure.change(run_s=[0.05, 0.05, 0.05], run_fails="", run_hangs=False)


@pytest.fixture(scope="module")
def base(pf: Client) -> str:
    """A completed run of the example in its second variant, with a tag and a name for people."""
    made: str = pf(
        submit("base", variant=VARIANT, display_name="NER rules", tags={"commit": "abc"})
        + "wait(run.name); answer = run.name"
    )
    return made


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows, the second of which lets the flow `echo` fail."""
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", "fail", "two")))
    return path


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flex flow, which needs no model."""
    return _flex(tmp_path_factory.mktemp("flows") / "echo", "echo:run", ECHO)


@pytest.fixture(scope="module")
def length(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flex flow that measures, with metrics of its own."""
    return _flex(tmp_path_factory.mktemp("flows") / "length", "length:Length", LENGTH)


def _flex(folder: Path, entry: str, code: str) -> Path:
    folder.mkdir()
    (folder / "flow.flex.yaml").write_text(f"entry: {entry}\n")
    (folder / f"{folder.name}.py").write_text(code)
    return folder


def submit(name: str, flow: Path = STANDARD, **more: object) -> str:
    """The code that submits a run."""
    mapping = INPUTS if flow == STANDARD else {"text": "${data.text}"}
    arguments = {"flow": str(flow), "data": str(DATA), "column_mapping": mapping, "name": name}
    return f"run = pf.run(**{arguments | more!r})\n"


def locally(
    flow_folder: Path, lines: list[Json], address: str, folder: Path
) -> tuple[list[Row], dict[str, float]]:
    """The same rows, and their metrics, by the local engine."""
    flow = flows.describe(str(flow_folder))
    variant = {"NER_LLM": "variant_1"} if flow.variants else {}
    entries = [config.Connection.model_validate({"name": "aoai"})]
    variables = {"AOAI_API_BASE": address, "AOAI_API_KEY": "replayed"}
    links = connections.load(entries, variables)
    job = work.job("local", flow, flows.overlay(flow, variant, {}), links)
    store, limits = Run(folder / "rows"), config.Limits.model_validate({})

    async def run() -> tuple[list[Row], dict[str, float]]:
        worker = Worker(flow.folder, variables, folder / "worker.log")
        try:
            tasks = [run_row(worker, job, n, line, limits) for n, line in enumerate(lines)]
            rows = list(await asyncio.gather(*tasks))
            for row in rows:
                store.append(row)
            store.close()
            found = await worker.aggregate(job, store.path)
            return rows, {name: metric["value"] for name, metric in found.items()}
        finally:
            await worker.close()

    return asyncio.run(run())


def test_a_variant_answers_as_the_local_engine_does(
    pf: Client, base: str, address: str, tmp_path: Path
) -> None:
    found = pf(f"answer = details({base!r})")
    lines = [apply_mappings(INPUTS, {"data": record}) for record in Table(DATA)]
    rows, _ = locally(STANDARD, lines, address, tmp_path)
    assert len(found) == len(rows) == 42  # more than a page of 25
    expected = [
        {f"inputs.{k}": v for k, v in row.inputs.items()}
        | {f"outputs.{k}": v for k, v in (row.outputs or {}).items()}
        for row in rows
    ]
    without = [{k: v for k, v in r.items() if "line_number" not in k} for r in found]
    assert without == expected


def test_an_evaluation_over_another_run(
    azure: LoopbackAzure, pf: Client, base: str, address: str, tmp_path: Path
) -> None:
    metrics = pf(
        submit("scores", EVALUATION, data=str(TRUTH), run=base, column_mapping=SCORED)
        + "wait('scores'); answer = pf.runs.get_metrics('scores')"
    )
    outputs = pf(f"answer = details({base!r})")
    lines = [
        {"ground_truth": record["results"], "entities": row["outputs.entities"]}
        for record, row in zip(Table(TRUTH), outputs, strict=True)
    ]
    _, expected = locally(EVALUATION, lines, address, tmp_path)
    assert metrics == pytest.approx(expected)
    assert pf("answer = pf.runs.get('scores')._to_dict()['run']") == base


def test_what_is_known_of_a_run(pf: Client, base: str) -> None:
    run = pf(f"answer = pf.runs.get({base!r})._to_dict()")
    assert run["status"] == "Completed" and run["display_name"] == "NER rules"
    assert run["tags"] == {"commit": "abc"} and run["data"].startswith("azureml://datastores/")
    said = pf(
        "said = io.StringIO()\nwith redirect_stdout(said): run = pf.runs.stream('base')\n"
        "answer = said.getvalue()"
    )
    assert "line 41: completed" in said and "Run Summary" in said
    pf("pf.runs.archive('base')")
    assert pf("answer = pf.runs._get_run_from_run_history('base', original_form=True)")[
        "runMetadata"
    ]["hidden"]


def test_the_outputs_are_in_the_storage(pf: Client, base: str) -> None:
    code = """
from azure.storage.blob import ContainerClient
store = pf.ml_client.datastores.get_default(include_secrets=True)
place = f"https://{store.account_name}.blob.core.windows.net/{store.container_name}"
blobs = ContainerClient.from_container_url(place, store.credentials.sas_token)
prefix = "promptflow/PromptFlowArtifacts/base/"
answer = [blob.name.removeprefix(prefix) for blob in blobs.list_blobs(prefix)]
lines = blobs.download_blob(prefix + "flow_outputs/output.jsonl").readall().decode()
answer += [len(lines.splitlines())]
"""
    assert pf(code) == [
        "flow_artifacts/000000000_000000024.jsonl",
        "flow_artifacts/000000025_000000049.jsonl",
        "flow_outputs/output.jsonl",
        "instance_results.jsonl",
        "meta.json",
        42,
    ]


def test_data_that_is_registered(pf: Client, echo: Path, few: Path) -> None:
    status = pf(
        "from azure.ai.ml.entities import Data\n"
        f"pf.ml_client.data.create_or_update(Data("
        f"name='few', version='3', path={str(few)!r}, type='uri_file'))\n"
        + submit("registered", echo, data="azureml:few:3")
        + "answer = [wait('registered').status, len(details('registered'))]"
    )
    assert status == ["Completed", 3]


def test_rows_that_fail(pf: Client, echo: Path, length: Path, few: Path) -> None:
    status, rows = pf(
        submit("partly", echo, data=str(few))
        + "wait('partly'); answer = [pf.runs.get('partly').status, details('partly')]"
    )
    assert status == "Completed", "neither the status nor the metrics tell of failed rows"
    assert [row["outputs.answer"] for row in rows] == ["one", None, "two"]
    mapping = {"answer": "${run.outputs.answer}"}
    scored, metrics = pf(
        submit("measured", length, data=None, run="partly", column_mapping=mapping)
        + "wait('measured'); answer = [details('measured'), pf.runs.get_metrics('measured')]"
    )
    assert len(scored) == 2, "a failed row has no line among the outputs"
    assert metrics == {"longest": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "${NER_LLM.variant_9}"}, "Variant 'variant_9' of node 'NER_LLM'"),
        ({"column_mapping": {"text": "${data.nothing}"}}, "mapping relations"),
        ({"data": None, "run": "absent"}, "Run 'absent' is not there"),
        ({"connections": {"NER_LLM": {"connection": "other"}}}, "Connection 'other' is not in"),
    ],
)
def test_a_run_that_cannot_work(pf: Client, change: Json, message: str) -> None:
    name = f"wrong_{message.split()[0]}_{len(message)}"
    pf(submit(name, **change) + "wait(run.name)")
    with pytest.raises(ClientError, match=f"InvalidRunStatusError.*{message}"):
        pf(f"pf.runs.stream({name!r})")


def test_an_instance_type_needs_a_run_object(
    azure: LoopbackAzure, pf: Client, echo: Path, few: Path
) -> None:
    """PFClient.run takes `resources` and passes it over; it goes by way of a Run."""
    azure.change(run_fails="not wanted")
    sizes = pf(
        "from promptflow.entities import Run\n"
        f"given = dict(flow={str(echo)!r}, data={str(few)!r}, column_mapping={{}})\n"
        "size = {'instance_type': 'Standard_DS3_v2'}\n"
        "pf.run(name='size_lost', resources=size, **given)\n"
        "pf.runs.create_or_update(Run(name='size_kept', resources=size, **given))\n"
        "answer = [pf.runs.get(n).properties.get('azureml.promptflow.vm_size')\n"
        "          for n in ('size_lost', 'size_kept')]"
    )
    assert sizes == [None, "Standard_DS3_v2"]


def test_a_run_that_does_not_start(azure: LoopbackAzure, pf: Client, echo: Path, few: Path) -> None:
    azure.change(run_fails="The session could not be created: no quota.")
    pf(submit("unstarted", echo, data=str(few)) + "wait('unstarted')")
    with pytest.raises(ClientError, match="no quota"):
        pf("pf.runs.stream('unstarted')")
    with pytest.raises(ClientError, match="not completed, the status is 'Failed'"):
        pf("pf.runs.get_metrics('unstarted')")


def test_a_run_that_hangs_is_cancelled(
    azure: LoopbackAzure, pf: Client, echo: Path, few: Path
) -> None:
    azure.change(run_hangs=True, run_s=[0.5, 0.2, 0.0])
    status = pf(
        submit("hanging", echo, data=str(few))
        + "answer = [run.status, wait('hanging', 'Running').status]\n"
        "pf.runs.cancel('hanging'); answer += [wait('hanging').status]"
    )
    assert status == ["NotStarted", "Running", "Canceled"]


def test_too_many_polls(azure: LoopbackAzure, pf: Client, base: str) -> None:
    azure.fail(429, path="rundata", retry_after=0.1)
    with pytest.raises(ClientError, match=r"RunRequestException.*429"):
        pf(f"pf.runs.get({base!r})")
    azure.fail(429, path="childRuns", retry_after=0.1)
    assert len(pf(f"answer = details({base!r})")) == 42, "of the service's own calls it tries again"


def test_the_connection_drops_before_the_run_is_accepted(
    azure: LoopbackAzure, pf: Client, echo: Path, few: Path
) -> None:
    azure.drop(path="BulkRuns/submit")
    assert pf(submit("again", echo, data=str(few)) + "answer = wait('again').status") == "Completed"
    assert _statuses(azure, "submit") == [0, 200]


def test_the_connection_drops_after_the_run_was_accepted(
    azure: LoopbackAzure, pf: Client, echo: Path, few: Path
) -> None:
    azure.drop(path="BulkRuns/submit", after=True)
    with pytest.raises(ClientError, match="Run unheard already exists"):
        pf(submit("unheard", echo, data=str(few)))
    assert _statuses(azure, "submit") == [0, 409]
    assert pf("answer = wait('unheard').status") == "Completed"


def _statuses(azure: LoopbackAzure, call: str) -> list[int]:
    return [entry["status"] for entry in azure.log if entry["path"].endswith(call)]


def test_a_run_is_found_again_after_its_client_was_killed(
    azure: LoopbackAzure, clients: list[Client], echo: Path, few: Path
) -> None:
    first, second = clients[1], clients[0]
    azure.change(run_s=[0.05, 0.05, 2.0])
    first.start(submit("survivor", echo, data=str(few)) + "pf.runs.stream('survivor')")
    until = time.monotonic() + 30
    while not _statuses(azure, "logContent") and time.monotonic() < until:
        time.sleep(0.05)
    first.end()
    assert second("answer = pf.runs.get('survivor').status") in ("Preparing", "Running")
    assert second("wait('survivor'); answer = len(details('survivor'))") == 3
    with pytest.raises(ClientError, match="RunNotFoundError"):
        second("pf.runs.get('nobody')")


def test_no_call_left_the_machine(azure: LoopbackAzure) -> None:
    assert azure.refused == []
