"""A flow that searches documents, from `make index` to a deployment that answers.

The unmodified scripts against the emulated Azure: with the index in a search service, which the
endpoint's identity must be allowed to read, and with the index among the flow's files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llmops
import pytest
import test_deploy
import test_webapp
from forks import Forks
from llmops.indexing import chunks, reading
from loopback_azure import LoopbackAzure
from test_deploy import Said

pytestmark = pytest.mark.slow

SEARCH = Path(llmops.__file__).parents[1] / "examples/question_answering/flows/standard"
SERVICE = "https://srch-llmops.search.windows.net"
READER = "1407120a-92aa-4202-b7e9-c0e197c71c8f"
TASK = {"LLM": "replay"}
DOCUMENTS = {
    "leave.md": "# Leave\n\nA day of leave is asked for two weeks before it begins.\n",
    "tram.md": "# Tram\n\nThe tram from the station runs every ten minutes.\n",
}
FLOW = """
import search

def run(text):
    (found,) = search.search(text, None, mode="keyword", top_k=1)
    return {"answer": found["source"] + ": " + found["text"]}
"""
GRADE = """
def run(answer, truth):
    return {"match": float(answer.startswith(truth))}
"""


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


forks = test_deploy.forks


class Searching:
    """What a use case with an index has besides; mixed into one with an endpoint or a web app."""

    def furnish(self: Any, *, service: bool) -> None:
        """Documents, their embeddings as recordings, the flow, and the block `index`."""
        block = {"documents": "data/documents", "connection": "aoai", "model": "embeds"}
        if service:
            block["search"] = {
                "endpoint": "${endpoint}",
                "index": f"hand-{self.endpoint.lower()[:60]}",
            }
        self.configure(index=block)
        for name in ("search.py", "azure_search.py"):
            shutil.copy(SEARCH / name, self.folder / "flows" / "standard" / name)
        self.write("flows/standard/flow.py", FLOW)
        self.write("flows/evaluation/flow.py", GRADE)
        self.write("sample-request.json", '{"text": "When does the tram run?"}')
        rows = [("How often does the tram run?", "tram.md"), ("When to ask for leave?", "leave.md")]
        self.rows([{"text": text, "truth": truth} for text, truth in rows])
        self.documents()

    def documents(self: Any, **more: str) -> None:
        """Write the documents and a recording of each passage's embedding."""
        lines = []
        for name, text in {**DOCUMENTS, **more}.items():
            path = self.write(f"data/documents/{name}", text)
            for chunk in chunks.cut(name, reading.read(path), 120, 20):
                vector = [float(chunk.embedded.count(letter)) for letter in "aeiost"]
                data = [{"object": "embedding", "index": 0, "embedding": vector}]
                answer = {"object": "list", "model": "embeds", "data": data, "usage": {}}
                request = {"model": "embeds", "input": chunk.embedded}
                line = {"path": "/embeddings", "repeat": 0, "request": request}
                lines.append(json.dumps({**line, "response": answer, "source": "test"}))
        self.write("recordings/embeddings.jsonl", "\n".join(lines) + "\n")

    def prepare(self: Any) -> None:
        """From the documents to the registered model."""
        for task in ("index", "experiment", "register"):
            self.task(task, **TASK).must(0)

    @property
    def manifest(self: Any) -> Any:
        """index.json."""
        return json.loads((self.folder / "flows/standard/index/index.json").read_text())

    @property
    def search_index(self: Any) -> str:
        """What the search index is called."""
        return f"{self.manifest['search']['index']}-{self.manifest['version'][:12]}"

    def readers(self: Any) -> set[str]:
        """Who was given the role to read the service's indexes."""
        found = (r["properties"] for i, r in self.azure.state.items() if "/roleAssignments/" in i)
        return {p["principalId"] for p in found if p["roleDefinitionId"].endswith(READER)}


class Case(Searching, test_deploy.Case):
    """A use case with an index and one managed endpoint."""

    def set(self, version: int = 1, **keys: Any) -> None:
        """Change keys of the entry; what is registered is what `make register` registered."""
        self.entry |= keys
        self.write("configs/deployment_config.json", json.dumps({self.section: [self.entry]}))

    @property
    def environment(self) -> dict[str, str]:
        """What a task gets."""
        return {**super().environment, "SEARCH_ENDPOINT": SERVICE}

    def properties(self, name: str = "blue") -> Any:
        """A deployment's properties."""
        found = self.azure.get(f"onlineEndpoints/{self.endpoint}/deployments/{name}")
        assert found
        return found["properties"]

    def model(self) -> Any:
        """The registered model."""
        return next(
            r for i, r in self.azure.state.items()
            if "/models/" in i and r["properties"].get("tags", {}).get("index_version")
            == self.manifest["version"]
        )["properties"]  # fmt: skip

    def answer(self) -> str:
        """What the endpoint answers to the sample request."""
        self.task("check_endpoint").must(0, "ok")
        request = "When does the tram run?"
        (found,) = test_deploy.answers(self, 1, request)
        return found


@pytest.fixture
def make(
    azure: LoopbackAzure, forks: Forks, request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[bool], Case]:
    azure.forget()
    azure.change(operation_s=0.1, cores=1000, propagation_s=0, denied=[])

    def make(service: bool) -> Case:
        place = tmp_path / f"{request.node.name[5:19]}{tmp_path.name[-3:]}"
        place.mkdir()
        case = Case(place, azure, forks)
        case.furnish(service=service)
        return case

    return make


def test_the_index_in_a_service(make: Callable[[bool], Case], azure: LoopbackAzure) -> None:
    case = make(True)
    case.task("index", **TASK).must(0, "2 documents, 2 chunks")
    assert [p.name for p in (case.folder / "flows/standard/index").iterdir()] == ["index.json"]
    case.task("index", **TASK).must(0, "unchanged")
    case.task("experiment", **TASK).must(0)
    assert case.summary and case.summary["index"]["version"] == case.manifest["version"]
    assert case.summary["scores"][0]["value"] == 1.0
    case.task("register", **TASK).must(0)
    tags = case.model()["tags"]
    assert tags["index_version"] == case.manifest["version"]
    assert (tags["index_chunks"], tags["embedding_model"]) == ("2", "embeds")
    before = case.readers()
    said = case.task("deploy", PLAN="1").must(0, "SEARCH_ENDPOINT")
    assert "SEARCH_API_KEY" not in said.text and case.readers() == before
    azure.change(propagation_s=15)
    said = case.task("deploy").must(0, "granted: role 'Search Index Data Reader' on searchServices")
    assert "a role does not act yet" in said.text and "blue 100%" in said.text
    assert len(case.readers() - before) == 1
    variables = case.properties()["environmentVariables"]
    assert variables["SEARCH_ENDPOINT"] == SERVICE and "AZURE_CLIENT_ID" not in variables
    azure.change(propagation_s=0)
    assert case.answer().startswith("tram.md: The tram from the station")
    case.task("deploy").must(0, "Nothing to do")


def test_what_doctor_says_of_the_service(make: Callable[[bool], Case]) -> None:
    case = make(True)
    case.task("doctor", **TASK).must(0, "answers; no index is built yet")
    case.task("index", **TASK).must(0)
    said = case.task("doctor", **TASK).must(0, f"'{case.search_index}'", "has 2 of 2 chunks")
    drop(case)
    said = case.task("doctor", **TASK).must(0, "is not there; the next run brings it there")
    case.azure.drop(path="search.windows.net", times=9)
    said = case.task("doctor", **TASK).must(1, "FIX", "search", "srch-llmops does not answer")
    assert "To fix: search." in said.text
    case.azure.forget()
    case.task("doctor", **TASK, SEARCH_ENDPOINT="").must(1, "SEARCH_ENDPOINT: unset")


def test_a_user_assigned_identity(make: Callable[[bool], Case], azure: LoopbackAzure) -> None:
    """With the keys of a team's own deployment_config.json."""
    case = make(True)
    name = f"id-{case.endpoint}"
    identity = f"{azure.settings.group_id}/providers/Microsoft.ManagedIdentity"
    identity = f"{identity}/userAssignedIdentities/{name}"
    principal, client = (
        "77777777-7777-7777-7777-777777777777",
        "88888888-8888-8888-8888-888888888888",
    )
    azure.place(identity, {"principalId": principal, "clientId": client})
    case.prepare()
    case.set(USER_MANAGED_ID=name)
    case.task("deploy", PLAN="1").must(0, "role 'Search Index Data Reader' on searchServices/srch")
    case.task("deploy").must(0, "blue 100%")
    assert principal in case.readers()
    assert case.properties()["environmentVariables"]["AZURE_CLIENT_ID"] == client
    assert case.answer().startswith("tram.md: ")


def test_a_kubernetes_endpoint(make: Callable[[bool], Case]) -> None:
    case = make(True)
    case.prepare()
    case.section = "kubernetes_endpoint"
    size = {"CPU_ALLOCATION": 1, "MEMORY_ALLOCATION": "2Gi", "DEPLOYMENT_VM_SIZE": ""}
    case.set(COMPUTE_NAME="aks-llmops", **size)
    case.task("deploy").must(0, "granted: role 'Search Index Data Reader'", "blue 100%")
    assert case.answer().startswith("tram.md: ")


def test_the_index_among_the_files(make: Callable[[bool], Case]) -> None:
    case = make(False)
    case.prepare()
    assert case.manifest["search"] is None and case.model()["tags"]["index_chunks"] == "2"
    said = case.task("deploy").must(0, "blue 100%")
    assert "Search Index" not in said.text
    assert "SEARCH_ENDPOINT" not in case.properties()["environmentVariables"]
    assert case.answer().startswith("tram.md: The tram from the station")
    assert not [e for e in case.azure.log if "search.windows.net" in e["host"]]


def test_a_fresh_checkout_embeds_nothing_again(make: Callable[[bool], Case]) -> None:
    case = make(True)
    case.task("index", **TASK).must(0, "2 embedded by embeds")
    shutil.rmtree(case.folder / "flows/standard/index")
    shutil.rmtree(case.folder / "runs")
    case.documents(**{"more.md": "# More\n\nThe canteen opens at noon.\n"})
    case.task("index", **TASK).must(0, "3 chunks (1 embedded by embeds, 2 unchanged)")
    case.task("experiment", **TASK).must(0)


def test_a_name_that_no_search_index_can_have(make: Callable[[bool], Case]) -> None:
    case = make(True)
    block = {**case.blocks["index"], "search": {"endpoint": "${endpoint}", "index": "Hand Book"}}
    case.configure(index=block)
    case.task("index", **TASK).must(1, "index: search: index: 'Hand Book'")
    assert not [e for e in case.azure.log if "search.windows.net" in e["host"]]


def test_a_new_version_beside_the_one_that_answers(make: Callable[[bool], Case]) -> None:
    case = make(True)
    case.prepare()
    case.task("deploy").must(0)
    first = case.search_index
    case.documents(**{"tram.md": "# Tram\n\nThe tram runs every twelve minutes.\n"})
    case.task("index", **TASK).must(0, "2 documents, 2 chunks (1 embedded by embeds, 1 unchanged)")
    assert case.search_index != first and "ten minutes" in case.answer()
    case.task("experiment", **TASK).must(0)
    case.task("register", **TASK).must(0)
    case.set(
        PRIOR_DEPLOYMENT_NAME="blue", PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION=0,
        CURRENT_DEPLOYMENT_NAME="green", CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION=100,
    )  # fmt: skip
    case.task("deploy").must(0, "green 100%")
    assert "twelve minutes" in case.answer()
    case.task("rollback").must(0)
    assert "ten minutes" in case.answer()


def test_an_index_that_is_gone_gets_no_traffic(make: Callable[[bool], Case]) -> None:
    case = make(True)
    case.prepare()
    drop(case)
    said = case.task("deploy").must(1, f"has no index '{case.search_index}'. Run `make index`.")
    assert "answers from the search index" in said.text
    assert case.changes() == [] and case.state is None
    case.task("register", **TASK).must(1, "Run `make index`.")
    case.task("index", **TASK).must(0)
    case.task("deploy").must(0, "blue 100%")
    case.task("deploy", SEARCH_ENDPOINT="https://srch-none.search.windows.net").must(1, "srch-none")
    case.task("deploy", SEARCH_ENDPOINT="").must(1, "SEARCH_ENDPOINT: unset")


def test_old_versions_are_listed_and_then_removed(make: Callable[[bool], Case]) -> None:
    case = make(True)
    case.prepare()
    registered, names = case.search_index, []
    for text in ("The tram runs twice an hour.", "The tram does not run."):
        case.documents(**{"tram.md": text})
        case.task("index", **TASK).must(0)
        names.append(case.search_index)
    said = case.task("index", PRUNE="1", **TASK).must(0, f"old: {names[0]}\n1 old: of no version")
    assert names[1] not in said.text and registered not in said.text and "YES=1" in said.text
    case.task("index", PRUNE="1", YES="1", **TASK).must(0, f"removed: {names[0]}")
    case.task("index", PRUNE="1", **TASK).must(0, "0 old")
    case.task("deploy").must(0, "blue 100%")


def drop(case: Case) -> None:
    """Remove the search index as somebody may do it in the portal."""
    code = "from llmops.azure import search; search.prune(*__import__('sys').argv[1:], ())"
    subprocess.run(
        [sys.executable, "-c", code, SERVICE, case.manifest["search"]["index"]],
        env=os.environ | case.environment,
        check=True,
    )
    case.azure.forget()


def test_who_may_not_give_the_role(make: Callable[[bool], Case], azure: LoopbackAzure) -> None:
    case = make(True)
    case.prepare()
    azure.change(denied=["Microsoft.Authorization/roleAssignments/write"])
    said = case.task("deploy").must(1, "'Search Index Data Reader' on searchServices/srch-llmops")
    assert f"az role assignment create --role {READER}" in said.text


class WebCase(Searching, test_webapp.Case):
    """A use case with an index and one web app."""

    def flow(self, word: str, more: str = "", first: str = "") -> None:
        """The flow is the one that searches; `make register` registers it."""

    @property
    def environment(self) -> dict[str, str]:
        """What a task gets."""
        return {**super().environment, "SEARCH_ENDPOINT": SERVICE}

    def set(self, version: int = 1, **keys: Any) -> None:
        """What is registered is what `make register` registered."""

    def ask(self) -> Said:
        """Send the sample request."""
        return self.task("check_endpoint")


@pytest.mark.parametrize("service", [True, False])
def test_a_web_app(azure: LoopbackAzure, forks: Forks, tmp_path: Path, service: bool) -> None:
    azure.forget()
    azure.change(denied=[], propagation_s=0)
    case = WebCase(tmp_path, azure, forks, f"web-search-{service}".lower())
    case.furnish(service=service)
    case.prepare()
    before = case.readers()
    said = case.must(0, "granted: role 'AcrPull'")
    assert len(case.readers() - before) == service
    assert ("SEARCH_ENDPOINT" in case.settings) is service
    assert ("Search Index Data Reader" in said.text) is service
    case.ask().must(0, "ok")
