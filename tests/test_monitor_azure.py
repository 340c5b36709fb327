"""`make monitor` over what an endpoint's data collector put into the emulated Azure's storage.

One child process fetches for most tests, because importing azure-ai-ml takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest
from llmops.errors import UserError
from llmops.monitoring.collected import Requests, place
from llmops.settings import read as settings_of
from loopback_azure import LoopbackAzure
from loopback_azure.machine_learning import ACCOUNT, CONTAINER
from test_monitor import LOG, open_gate, passed, read, result
from test_register import variables
from usecase import UseCase, example

pytestmark = pytest.mark.slow

ROOT = "modelDataCollector/ner/blue"
ADDRESS = f"azureml://datastores/workspaceblobstore/paths/{ROOT}"
Json = dict[str, Any]

CHILD = """
import contextlib, io, json, os, sys
import azure.ai.ml, azure.identity, azure.ai.ml.entities
from llmops.azure import collected
from llmops.errors import UserError
from llmops.settings import read
for line in sys.stdin:
    job = json.loads(line)
    os.chdir(job["folder"])
    os.environ.update(job["env"])
    answer, said = {}, io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            period = read({"SINCE": job["since"]}).since
            path = collected.fetch(job["address"], period)
        answer = {"path": str(path), "said": said.getvalue()}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""

Fetch = Callable[..., Json]


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    yield
    azure.forget()


@pytest.fixture(scope="module")
def child(azure: LoopbackAzure) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | variables(azure),
    ) as child:
        yield child
        assert child.stdin
        child.stdin.close()


@pytest.fixture
def fetch(child: subprocess.Popen[str], tmp_path: Path) -> Fetch:
    """fetch(address, since): the rows of the log, or the error."""

    def fetch(address: str = ADDRESS, since: str = "", **env: str) -> Json:
        assert child.stdin and child.stdout
        job = {"folder": str(tmp_path), "address": address, "since": since, "env": env}
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
        answer: Json = json.loads(child.stdout.readline())
        left = [path for path in (tmp_path / "runs").rglob("*") if path.name.startswith(".")]
        assert left == []
        if "path" in answer:
            lines = (tmp_path / answer["path"]).read_text().splitlines()
            answer["rows"] = [json.loads(line) for line in lines]
        return answer

    return fetch


def record(correlation: str, data: Any, time: str = "2026-11-20T08:00:00Z", **more: Any) -> Json:
    return {"time": time, "data": data, "correlationid": correlation, **more}


def put(azure: LoopbackAzure, name: str, *records: Json | str) -> None:
    """Put a file of records into the workspace's storage."""
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    url = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{name}?sig=a"
    content = "".join(line + "\n" for line in lines).encode()
    azure.open(Request(url, content, {"x-ms-blob-type": "BlockBlob"}, method="PUT")).close()


def clear(azure: LoopbackAzure, *names: str) -> None:
    for name in names:
        url = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{name}?sig=a"
        azure.open(Request(url, method="DELETE")).close()


def collect(azure: LoopbackAzure, use: UseCase, days: int = 2) -> int:
    """Put the example's own log there as payload logging has it, so many rows an hour."""
    rows = read(use, LOG)
    for number, row in enumerate(rows):
        day = 1 + number * days // len(rows)
        time, key = f"2026-11-{day:02}T08:00:{number:02}Z", str(number)
        request = {name: row[name] for name in ("text", "entity_type")}
        response = {name: row[name] for name in ("entities", "feedback")}
        for name, data in (("request", request), ("response", response)):
            put(azure, f"{ROOT}/{name}/2026/11/{day:02}/08/{number}.jsonl", record(key, data, time))
    return len(rows)


@pytest.fixture
def use(tmp_path: Path) -> UseCase:
    """A copy of the named-entity example."""
    return example(tmp_path)


# --- the task


def test_the_script_scores_what_was_collected(azure: LoopbackAzure, use: UseCase) -> None:
    count = collect(azure, use)
    local = passed(use.run("monitor"))
    outcome = passed(use.run("monitor", LOG=ADDRESS, **variables(azure)))
    assert f"log: {count} requests from {ADDRESS}" in outcome.out
    (log,) = result(use).logs
    assert (log.path, log.rows, log.of) == (ADDRESS, count, count)
    assert outcome.summary and local.summary
    values = [[score["value"] for score in o.summary["scores"]] for o in (local, outcome)]
    assert values[0] == values[1] and len(values[0]) > 1
    open_gate(use)
    some = passed(
        use.run("monitor", LOG=ADDRESS, SINCE="2026-11-02", SAMPLE="5", **variables(azure))
    )
    assert "2026-11-02 to now" in some.out
    assert [(log.rows, log.of) for log in result(use).logs] == [(5, count // 2)]
    hosts = {entry["host"] for entry in azure.log}
    assert hosts == {
        "login.microsoftonline.com",
        "management.azure.com",
        f"{ACCOUNT}.blob.core.windows.net",
    }
    assert not any("/2026/11/01/" in e["path"] for e in azure.log[-count:] if e["method"] == "GET")
    assert not use.leftovers()


def test_the_overlay_may_name_it(azure: LoopbackAzure, use: UseCase) -> None:
    collect(azure, use)
    overlay = (use.folder / "experiment.postprod.yaml").read_text()
    use.write("experiment.postprod.yaml", overlay.replace(LOG, ADDRESS))
    passed(use.run("monitor", **variables(azure)))
    assert result(use).logs[0].path == ADDRESS


def test_no_sdk_is_imported_for_a_file(use: UseCase) -> None:
    outcome = use.run("monitor", PYTHONPROFILEIMPORTTIME="1")
    assert outcome.code == 0 and "llmops.monitoring.monitor" in outcome.err
    assert " azure" not in outcome.err


# --- what is read


def test_both_sides_of_a_request_become_a_row(azure: LoopbackAzure, fetch: Fetch) -> None:
    root = "collector/sides"
    batch, time = [{"text": "b"}, {"text": "c"}], "2026-11-20T08:00:02Z"
    put(azure, f"{root}/blue/model_inputs/2026/11/20/08/a.jsonl",
        record("2", batch, time), record("1", [{"text": "a"}]))  # fmt: skip
    answers = [{"answer": 2}, {"answer": 3}]
    put(azure, f"{root}/blue/model_outputs/2026/11/20/09/z.jsonl", "",
        record("1", [{"answer": 1}]), record("2", answers, time))  # fmt: skip
    put(azure, f"{root}/blue/model_inputs/2026/11/20/08/raw", "a picture")
    put(azure, f"{root}/blue2/model_inputs/2026/11/20/08/a.jsonl", record("1", [{"text": "d"}]))
    answer = fetch(f"azureml://datastores/workspaceblobstore/paths/{root}/blue/")
    told = {"deployment": "blue", "time": "2026-11-20T08:00:00Z", "correlationid": "1"}
    later = told | {"time": time, "correlationid": "2"}
    assert answer["rows"] == [
        told | {"text": "a", "answer": 1},
        later | {"text": "b", "answer": 2},
        later | {"text": "c", "answer": 3},
    ]
    both = fetch(f"azureml://datastores/workspaceblobstore/paths/{root}")
    assert [row["text"] for row in both["rows"]] == ["a", "d", "b", "c"]
    assert [row["deployment"] for row in both["rows"]] == ["blue", "blue2", "blue", "blue"]


def test_the_forms_of_an_address(azure: LoopbackAzure, fetch: Fetch) -> None:
    put(azure, "collector/forms/request/2026/11/20/a.jsonl", record("1", {"text": "a"}))
    short = "datastores/workspaceblobstore/paths/collector/forms"
    settings = azure.settings
    where = f"subscriptions/{settings.subscription}/resourcegroups/{settings.group}"
    long = f"azureml://{where}/workspaces/{settings.workspace}/{short}"
    asset = {"dataUri": long + "/request", "dataType": "uri_folder"}
    azure.place(azure.id("data/ner-blue-request/versions/1"), asset)
    file = f"azureml://{short}/request/2026/11/20/a.jsonl"
    for address in (f"azureml://{short}", long, "azureml:ner-blue-request:1", file):
        answer = fetch(address)
        assert [row["text"] for row in answer["rows"]] == ["a"], answer
    other = fetch(long.replace(settings.workspace, "mlw-other"))
    assert "mlw-other: not found" in other["error"]


def test_a_period_chooses_folders(azure: LoopbackAzure, fetch: Fetch) -> None:
    for day in ("2025/12/31/23", "2026/01/01/00", "2026/01/07/09", "2026/02/01/00"):
        name = f"collector/period/request/{day}/a.jsonl"
        put(azure, name, record(day, {"day": day}))
    put(azure, "collector/period/request/a.jsonl", record("0", {"day": "none"}))
    address = "azureml://datastores/workspaceblobstore/paths/collector/period"

    def days(since: str) -> list[str]:
        return sorted(row["day"] for row in fetch(address, since)["rows"])

    assert len(days("")) == 5
    assert days("2026-01-01..2026-01-07") == ["2026/01/01/00", "2026/01/07/09"]
    assert days("2026-01-07") == ["2026/01/07/09", "2026/02/01/00"]
    assert "no collected data of 2027-01-01 to now" in fetch(address, "2027-01-01")["error"]


@pytest.mark.parametrize(
    ("folder", "touched"),
    [("2026", True), ("2025", False), ("2026/01", True), ("2026/02", False),
     ("2026/01/03", True), ("2026/01/03/23/59", True), ("2026/01/04/00", False)],
)  # fmt: skip
def test_a_folder_of_any_rolling_rate_is_known(folder: str, touched: bool) -> None:
    period = settings_of({"SINCE": "2026-01-02..2026-01-03"}).since
    assert period and period.touches(folder) == touched
    stored, time = place(f"a/ner/blue/request/{folder}/x.jsonl")
    assert (stored.deployment, stored.collection, time) == ("a/ner/blue", "request", folder)


def test_what_is_incomplete_is_left_out_and_told(azure: LoopbackAzure, fetch: Fetch) -> None:
    root = "collector/part"
    put(azure, f"{root}/request/2026/11/20/a.jsonl", record("1", {"text": "a"}),
        record("2", {"text": "b"}), record("3", "https://a/b", datainblob="true"))  # fmt: skip
    put(azure, f"{root}/response/2026/11/20/a.jsonl", record("1", {"answer": 1}))
    answer = fetch(f"azureml://datastores/workspaceblobstore/paths/{root}")
    assert [row["text"] for row in answer["rows"]] == ["a"]
    assert "left out: 1 rows with one side only, 1 records whose data is too la" in answer["said"]
    clear(azure, f"{root}/response/2026/11/20/a.jsonl")
    put(azure, f"{root}/response/2026/11/20/a.jsonl", record("9", {"answer": 1}))
    error = fetch(f"azureml://datastores/workspaceblobstore/paths/{root}")["error"]
    assert "no request that is complete; left out: 3 rows" in error


def test_one_request_may_have_several_records(tmp_path: Path) -> None:
    """A client may send the same id each time; its records then meet in their order."""
    with Requests(tmp_path) as requests:
        for collection, column in (("request", "text"), ("response", "answer")):
            stored, _ = place(f"ner/blue/{collection}/2026/11/20/08/a.jsonl")
            for number in range(3):
                text = json.dumps(record("same", {column: number}))
                requests.add(stored, number, text.encode())
        rows = list(requests.rows())
    assert [(row["text"], row["answer"]) for row in rows] == [(0, 0), (1, 1), (2, 2)]


def test_data_that_is_no_object_is_a_column(tmp_path: Path) -> None:
    with Requests(tmp_path) as requests:
        stored, _ = place("ner/blue/response/2026/a.jsonl")
        for number, data in enumerate(([1, 2], "text", [])):
            requests.add(stored, number, json.dumps({"data": data, "id": str(number)}).encode())
        assert [row["response"] for row in requests.rows()] == [[1, 2], "text", []]


# --- faults


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (("{", "{}"), ("a.jsonl: line 1: not JSON",)),
        ((json.dumps(record("1", {})), "", "[1]"), ("a.jsonl: line 3: no record",)),
        (('{"text": "a"}',), ("a.jsonl: line 1: no record", "`data`")),
        (("[" * 100_000,), ("a.jsonl: line 1: not JSON (too deep)",)),
    ],
)
def test_a_broken_record(
    azure: LoopbackAzure, fetch: Fetch, lines: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    name = "collector/broken/request/2026/11/20/a.jsonl"
    put(azure, name, *lines)
    error = fetch("azureml://datastores/workspaceblobstore/paths/collector/broken")["error"]
    clear(azure, name)
    for part in parts:
        assert part in error, error


def test_nothing_there(azure: LoopbackAzure, fetch: Fetch) -> None:
    assert "DATA_COLLECTION" in fetch(ADDRESS.replace("blue", "none"))["error"]
    assert "no data store 'none'" in fetch("azureml://datastores/none/paths/a")["error"]
    assert "no such version of a data asset" in fetch("azureml:none:1")["error"]
    azure.place(azure.id("data/web/versions/1"), {"dataUri": "https://a/b", "dataType": "uri_file"})
    assert "no path in a data store" in fetch("azureml:web:1")["error"]
    for address in ("azureml:none", "azureml://jobs/a/outputs/b/paths/c"):
        assert f"LOG: '{address}' (expected azureml://datastores" in fetch(address)["error"]


def test_a_refusal_of_the_storage(azure: LoopbackAzure, fetch: Fetch) -> None:
    put(azure, f"{ROOT}/request/2026/11/20/a.jsonl", record("1", {"text": "a"}))
    blob = r"blob\.core"
    azure.fail(403, code="AuthorizationPermissionMismatch", path=blob)
    error = fetch()["error"]
    assert "403 AuthorizationPermissionMismatch" in error and "Storage Blob Data Reader" in error
    azure.fail(404, code="ContainerNotFound", path=blob)
    assert "404 ContainerNotFound" in fetch()["error"]
    azure.fail(403, path="/datastores/", method="POST")
    assert "AzureML Data Scientist" in fetch()["error"]


def test_a_passing_fault_is_tried_again(azure: LoopbackAzure, fetch: Fetch) -> None:
    name = f"{ROOT}-again/request/2026/11/20/a.jsonl"
    put(azure, name, record("1", {"text": "a"}))
    azure.fail(503, code="ServerBusy", path=r"blob\.core")
    azure.fail(429, retry_after=0.1, path="/datastores/workspaceblobstore$")
    azure.drop(path=r"jsonl$")
    assert len(fetch(f"{ADDRESS}-again")["rows"]) == 1
    assert [entry["status"] for entry in azure.log].count(503) == 1


def test_a_store_without_a_key_and_one_of_another_type(azure: LoopbackAzure, fetch: Fetch) -> None:
    put(azure, f"{ROOT}/request/2026/11/20/a.jsonl", record("1", {"text": "a"}))
    store = azure.id("datastores/workspaceblobstore")
    azure.place(store, {"credentials": {"credentialsType": "None"}})
    assert fetch()["rows"]
    assert not any("listSecrets" in entry["path"] for entry in azure.log)
    azure.place(store, {"credentials": {"credentialsType": "Sas"}})
    share = {"datastoreType": "AzureFile", "accountName": "a", "fileShareName": "b"}
    share |= {"credentials": {"credentialsType": "None"}, "endpoint": "core.windows.net"}
    azure.place(azure.id("datastores/share"), share)
    assert "is a AzureFileDatastore" in fetch("azureml://datastores/share/paths/a")["error"]


def test_a_file_in_the_way(azure: LoopbackAzure, child: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    job = {"folder": str(tmp_path), "address": ADDRESS, "since": "", "env": {}}
    child.stdin.write(json.dumps(job) + "\n")
    child.stdin.flush()
    error = json.loads(child.stdout.readline())["error"]
    assert "cannot be written" in error and not azure.log


def test_periods_are_days() -> None:
    for text in ("2026-13-01", "2026-11-01..", "..2026-11-01", "2026-11-01...2026-11-02", "1..2"):
        if text != "2026-11-01..":
            with pytest.raises(UserError, match="SINCE"):
                settings_of({"SINCE": text})
    assert str(settings_of({"SINCE": "2026-11-01.."}).since) == "2026-11-01 to now"
