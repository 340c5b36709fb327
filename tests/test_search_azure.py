"""An index in Azure AI Search: built by the real client, asked by the flow's own requests.

The service is the emulated one. Each call is a child process of its own, forked from one that has
imported the SDK; a flow's question runs in a fresh process, to see that it needs nothing more.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops.azure.search_state import Target, endpoint, target
from llmops.errors import UserError
from loopback_azure import LoopbackAzure
from usecase import COMPILED, LIBRARY

FLOW = Path(llmops.__file__).parents[1] / "examples/question_answering/flows/standard"
SERVICE = "https://srch-llmops.search.windows.net"
ONE, TWO = "a1b2c3d4e5f6" + "0" * 52, "0f9e8d7c6b5a" + "0" * 52
READER, WRITER, MAKER = (
    "1407120a-92aa-4202-b7e9-c0e197c71c8f",
    "8ebe5a00-799e-43f5-93ac-243d3dce84a7",
    "7ca78c08-252a-4471-8644-bb5ff32d4ba0",
)
TEXTS = (
    "A day of leave is asked for two weeks before.",
    "The tram from the station runs every ten minutes.",
    "Lunch vouchers are paid out in the first week of a month.",
    "Who falls ill tells the office before nine o'clock.",
)
Json = dict[str, Any]

# Forks a child for each line: {"env", "code", …}; a line with [answer, error] comes back.
FORKER = """
import json, os, sys, traceback
from dataclasses import dataclass
sys.path.insert(0, sys.argv[1])
import azure.identity, azure.search.documents.indexes, httpx
import azure_search
from llmops.azure import search, search_state
from llmops.errors import UserError

@dataclass(frozen=True)
class Chunk:
    id: str
    source: str
    page: int | None
    heading: str
    text: str

def ask(manifest, questions):
    return [azure_search.search(manifest, *q[:2], mode=q[2], top_k=q[3]) for q in questions]

def answer(given):
    search.PAUSES_S, search.SETTLE_S = (0.1, 0.1, 0.1), given.get("settle_s", 5)
    azure_search.PAUSES_S = search_state.PAUSES_S = (0.05, 0.05, 0.05)
    where = search_state.Target(*given.get("target", ("", "", "")))
    chunks = [Chunk(*one) for one in given.get("chunks", ())]
    try:
        return [eval(given["code"]), ""]
    except (UserError, azure_search.SearchServiceError) as error:
        return [None, str(error)]
    except BaseException:
        return [None, traceback.format_exc()]

print("ready", flush=True)
for line in sys.stdin:
    given = json.loads(line)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    os.environ.clear()
    os.environ.update(given["env"])
    os.chdir(given["env"]["HOME"])
    print(json.dumps(locals()["answer"](given)), flush=True)
    os._exit(0)
"""

ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import azure_search
manifest, questions = json.loads(sys.argv[2])
found = [azure_search.search(manifest, *q[:2], mode=q[2], top_k=q[3]) for q in questions]
assert not any(name.startswith(("llmops", "azure.search")) for name in sys.modules)
print(json.dumps(found))
"""


class Service:
    """The emulated service, with what builds an index in it and what asks it."""

    def __init__(self, azure: LoopbackAzure, forker: subprocess.Popen[str], place: Path) -> None:
        self.azure, self._forker, self.place = azure, forker, place
        self.variables: dict[str, str] = {}

    def build(
        self, code: str, version: str = ONE, chunks: list[Any] | None = None, **more: Any
    ) -> tuple[Any, str]:
        """What an expression over `search`, `where`, `chunks` and `given` gives, and its error."""
        settle_s, index = more.pop("settle_s", 5.0), more.pop("index", "handbook")
        given = {
            "code": code,
            "target": [SERVICE, index, version],
            "chunks": CHUNKS if chunks is None else chunks,
            "settle_s": settle_s,
            **more,
        }
        return self._run(given)

    def upload(self, **more: Any) -> str:
        """Upload chunks; the error, or nothing."""
        more.setdefault("vectors", [vector(one[-1]) for one in more.get("chunks") or CHUNKS])
        return self.build("search.upload(where, chunks, given['vectors'])", **more)[1]

    def ask(self, *questions: Any, version: str = ONE) -> tuple[Any, str]:
        """What the flow finds for each (question, vector, mode, top_k), and its error."""
        code = "ask(given['manifest'], given['questions'])"
        return self._run({"code": code, "manifest": manifest(version), "questions": questions})

    def _run(self, given: Json) -> tuple[Any, str]:
        assert self._forker.stdin and self._forker.stdout
        self._forker.stdin.write(json.dumps({**given, "env": self.environment}) + "\n")
        self._forker.stdin.flush()
        answer, error = json.loads(self._forker.stdout.readline())
        assert "Traceback" not in error, error
        return answer, error

    @property
    def environment(self) -> dict[str, str]:
        """What a child gets."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.place), "PYTHONPATH": str(LIBRARY)}
        plain["PYTHONPYCACHEPREFIX"] = COMPILED.name
        return plain | self.azure.environment | self.variables

    def names(self) -> list[str]:
        """The search indexes that stand in the service."""
        return self.build("search.versions(where.endpoint, where.index)")[0]

    def calls(self) -> list[tuple[str, str, int]]:
        """What the service was asked: method, path, status."""
        return [
            (e["method"], e["path"], e["status"])
            for e in self.azure.log
            if e["host"].endswith(".search.windows.net")
        ]

    def revoke(self, role: str) -> Callable[[], None]:
        """Take a role on the service from who calls; returns what gives it back."""
        settings = self.azure.settings
        for identity, found in self.azure.state.items():
            properties = found["properties"]
            if "/roleAssignments/" in identity and (
                properties["principalId"] == settings.object_id
                and properties["roleDefinitionId"].endswith(role)
            ):
                self.azure.place(identity, None)
                return lambda: self.azure.place(identity, properties)
        raise AssertionError(role)


def vector(text: str) -> list[float]:
    """A vector for a text: how often some letters stand in it, of length 1."""
    counts = [text.lower().count(letter) + 0.1 for letter in "aehiklmorstuvwy"]
    length = math.hypot(*counts)
    return [count / length for count in counts]


def manifest(version: str) -> Json:
    """An index.json with a search service."""
    search = {"endpoint": SERVICE, "index": "handbook"}
    return {"version": version, "chunks": len(TEXTS), "search": search}


CHUNKS: list[Any] = [
    [f"guide {n}.md#1", f"guide {n}.md", None if n else 4, "Rules", text]
    for n, text in enumerate(TEXTS)
]


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    command, pipe = [sys.executable, "-c", FORKER, str(FLOW)], subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        text=True,
        env=os.environ | {"PYTHONPATH": str(LIBRARY), "PYTHONPYCACHEPREFIX": COMPILED.name},
    ) as forker:
        assert forker.stdout and forker.stdout.readline() == "ready\n"
        yield forker


@pytest.fixture
def service(
    azure: LoopbackAzure, forker: subprocess.Popen[str], tmp_path: Path
) -> Iterator[Service]:
    service = Service(azure, forker, tmp_path)
    azure.forget()
    yield service
    azure.forget()
    azure.change(search_lag_s=0.0)
    service.variables = {}
    service.build("search.prune(where.endpoint, where.index, ())")


# --- what is built, and what is found


def test_an_index_is_built_and_answers(service: Service) -> None:
    assert service.upload() == ""
    assert service.names() == ["handbook-a1b2c3d4e5f6"]
    wanted = TEXTS[1]
    (near, words, both, few), error = service.ask(
        ["", vector(wanted), "vector", 4],
        ["When does the tram run?", None, "keyword", 4],
        ["the tram - from (the station", vector(TEXTS[3]), "hybrid", 2],
        ["?!", None, "keyword", 3],
    )
    assert not error
    assert [len(near), len(both), few] == [4, 2, []]
    assert near[0] == {
        "id": "guide 1.md#1", "source": "guide 1.md", "page": None, "heading": "Rules",
        "text": wanted, "score": 1.0,
    }  # fmt: skip
    assert [p["score"] for p in near] == sorted((p["score"] for p in near), reverse=True)
    assert near[1]["score"] == pytest.approx(
        max(
            sum(a * b for a, b in zip(vector(wanted), vector(text), strict=True))
            for text in TEXTS
            if text != wanted
        ),
        abs=1e-4,
    )
    assert words[0]["text"] == wanted and words[0]["score"] > 0
    assert {p["text"] for p in both} == {TEXTS[1], TEXTS[3]}
    assert both[0]["score"] < 2 / 61 + 1e-5
    pages = {p["source"]: p["page"] for p in near}
    assert pages["guide 0.md"] == 4
    assert service.calls()[-3:] == [("POST", "/indexes/handbook-a1b2c3d4e5f6/docs/search", 200)] * 3


def test_a_flow_asks_with_nothing_but_what_it_has(service: Service) -> None:
    """Neither the library nor the client that builds; signed in once for several questions."""
    assert service.upload() == ""
    service.azure.forget()
    questions = [["tram", None, "keyword", 1], ["leave", vector(TEXTS[0]), "hybrid", 1]]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(FLOW), json.dumps([manifest(ONE), questions])],
        env=service.environment | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [p["text"] for (p,) in json.loads(done.stdout)] == [TEXTS[1], TEXTS[0]]
    assert [e["path"] for e in service.azure.log].count(
        f"/{service.azure.settings.tenant}/oauth2/v2.0/token"
    ) == 1


def test_a_new_version_leaves_the_old_one_as_it_was(service: Service) -> None:
    assert service.upload() == ""
    changed = [*CHUNKS[:3], ["new.md#1", "new.md", None, "", "The canteen opens at noon."]]
    assert service.upload(version=TWO, chunks=changed) == ""
    question = ["canteen noon", None, "keyword", 4]
    assert service.ask(question)[0] == [[]]
    ((found,),), _ = service.ask(question, version=TWO)
    assert found["source"] == "new.md"
    assert len(service.names()) == 2
    gone, _ = service.build("search.prune(where.endpoint, where.index, [where.version])")
    assert gone == ["handbook-0f9e8d7c6b5a"] and service.names() == ["handbook-a1b2c3d4e5f6"]


def test_what_was_embedded_comes_back(service: Service) -> None:
    many = [[f"many.md#{n}", "many.md", None, "", f"Number {n} of them."] for n in range(450)]
    names = [f"name-{n}" for n in range(450)]
    code = "search.upload(where, chunks, given['vectors'], given['names'])"
    vectors = [vector(one[-1]) for one in many]
    first, second = slice(0, 300), slice(250, 450)
    for version, part in ((ONE, first), (TWO, second)):
        more = {"vectors": vectors[part], "names": names[part]}
        assert service.build(code, version=version, chunks=many[part], **more)[1] == ""
    code = "search.known(where.endpoint, where.index, given['names'])"
    found, _ = service.build(code, names=[*names, "another"])
    assert sorted(found) == sorted(names)
    assert all(found[n] == pytest.approx(v) for n, v in zip(names, vectors, strict=True))
    assert service.build(code, names=names, index="nothing") == ({}, "")


def test_a_key_instead_of_a_role(service: Service) -> None:
    again = [service.revoke(WRITER), service.revoke(MAKER)]
    service.variables = {"SEARCH_API_KEY": "admin-key-of-the-loopback-search"}
    assert service.upload() == ""
    service.variables = {"SEARCH_API_KEY": "query-key-of-the-loopback-search"}
    assert len(service.ask(["tram", None, "keyword", 2])[0][0]) == 1
    assert "refused SEARCH_API_KEY (403)" in service.upload(version=TWO)
    service.variables = {"SEARCH_API_KEY": "a-wrong-key"}
    error = service.ask(["tram", None, "keyword", 2])[1]
    assert "refused SEARCH_API_KEY (403)" in error and "a-wrong-key" not in error
    for give in again:
        give()
    service.variables = {"SEARCH_API_KEY": "$(SEARCH_API_KEY)"}  # one that is unset in a pipeline
    assert service.ask(["tram", None, "keyword", 2])[1] == ""


# --- bad input


def test_no_role(service: Service) -> None:
    assert service.upload() == ""
    give = service.revoke(MAKER)
    error = service.upload(version=TWO)
    assert "refused access (403)" in error and "'Search Service Contributor'" in error
    assert "Role-based access control" in error
    give()
    give = service.revoke(WRITER)
    error = service.upload(version=TWO)
    assert "'Search Index Data Contributor'" in error
    error = service.ask(["tram", None, "keyword", 2])[1]
    assert "refused access (403)" in error and "'Search Index Data Reader'" in error
    give()
    assert service.ask(["tram", None, "keyword", 2])[1] == ""


def test_nobody_is_signed_in(service: Service) -> None:
    service.variables = {"AZURE_CLIENT_SECRET": "wrong"}
    assert "sign-in to Azure was refused" in service.upload()
    assert "wants a sign-in to Azure" in service.ask(["tram", None, "keyword", 2])[1]


def test_the_service_is_down(service: Service) -> None:
    service.azure.drop(path="search.windows.net", times=50)
    error = service.upload()
    assert "srch-llmops does not answer. Check SEARCH_ENDPOINT" in error
    service.azure.forget()
    assert service.upload() == ""
    service.azure.drop(path="search.windows.net", times=4)
    began = time.monotonic()
    error = service.ask(["tram", None, "keyword", 2])[1]
    assert "does not answer" in error and "after 4 tries" in error
    assert time.monotonic() - began < 20
    service.azure.forget()
    service.azure.fail(503, path="/docs/search", times=9)
    assert "is busy or fails (503), after 4 tries" in service.ask(["x", None, "keyword", 2])[1]


def test_a_busy_service_is_asked_again(service: Service) -> None:
    service.azure.fail(429, path="/indexes", retry_after=0.1)
    service.azure.fail(503, path="/docs/search.index", skip=1, code="ServiceUnavailable")
    service.azure.fail(503, path="/docs/search.index")
    assert service.upload() == ""
    service.azure.fail(429, path="/docs/search", retry_after=0.2)
    service.azure.drop(path="/docs/search", skip=1)
    began = time.monotonic()
    found, error = service.ask(["tram", None, "keyword", 2])
    assert not error and len(found[0]) == 1 and time.monotonic() - began > 0.2


def test_an_upload_that_breaks_off_is_seen_by_nobody_and_goes_on(service: Service) -> None:
    assert service.upload() == ""
    many = [[f"many.md#{n}", "many.md", None, "", f"Number {n} of them."] for n in range(2000)]
    service.azure.drop(path="/docs/search.index", skip=1, times=50)
    assert "does not answer" in service.upload(version=TWO, chunks=many)
    service.azure.forget()
    says = "search_state.problem(where, len(chunks))"
    problem, _ = service.build(says, version=TWO, chunks=many)
    assert "of 2000 chunks. Run `make index`." in problem and " 0 of" not in problem
    assert len(service.ask(["tram", None, "keyword", 2])[0][0]) == 1
    assert service.upload(version=TWO, chunks=many) == ""
    assert service.build(says, version=TWO, chunks=many) == ("", "")


def test_a_service_that_settles_late(service: Service) -> None:
    service.azure.change(search_lag_s=1.5)
    began = time.monotonic()
    assert service.upload() == ""
    assert time.monotonic() - began > 1.5
    service.azure.change(search_lag_s=600.0)
    error = service.upload(version=TWO, settle_s=0.2)
    assert "counts 0 of 4 chunks" in error and "again" in error


def test_another_dimension(service: Service) -> None:
    assert service.upload() == ""
    error = service.ask(["", [0.5] * 8, "vector", 2])[1]
    assert "refused the query to 'handbook-a1b2c3d4e5f6' (400)" in error
    assert "expects a length of '15'" in error and "a length of '8'" in error
    error = service.upload(vectors=[[0.5] * 8] * 4)  # the same version: no builder does that
    assert "cannot be changed" in error
    mixed = [vector("a")] * 3 + [[0.5] * 3]
    assert "mismatch in vector dimensions" in service.upload(version=TWO, vectors=mixed)
    error = service.upload(version=TWO, vectors=[[0.5] * 5000] * 4)
    assert "'dimensions'" in error


def test_an_index_that_is_gone(service: Service) -> None:
    error = service.ask(["tram", None, "keyword", 2])[1]
    assert "has no index 'handbook-a1b2c3d4e5f6'. Run `make index`." in error
    problem, _ = service.build("search_state.problem(where, 4)")
    assert "has no index 'handbook-a1b2c3d4e5f6'" in problem


def test_what_whoever_asks_the_state_is_told(service: Service) -> None:
    says = "search_state.problem(where, 4)"
    assert service.upload() == ""
    assert service.build(says) == ("", "")
    give = service.revoke(WRITER)
    assert "needs 'Search Index Data Reader'" in service.build(says)[0]
    give()
    service.azure.fail(503, path="count", times=9)
    assert "fails (503)" in service.build(says)[0]
    service.azure.forget()
    service.azure.drop(path="count", times=9)
    assert "does not answer" in service.build(says)[0]


def test_a_service_that_takes_keys_alone(service: Service, azure: LoopbackAzure) -> None:
    identity = next(i for i in azure.state if i.endswith("/srch-llmops"))
    before = azure.state[identity]["properties"]["authOptions"]
    azure.place(identity, {"authOptions": {"apiKeyOnly": {}}})
    error = service.upload()
    azure.place(identity, {"authOptions": before})
    assert "the service must accept roles" in error


@pytest.mark.parametrize("name", ["Handbook", "hand--book", "h", "-hand", "x" * 116])
def test_a_name_that_no_index_can_have(service: Service, name: str) -> None:
    assert f"index: '{name}'" in service.upload(index=name)
    assert service.calls() == []


def test_the_address(service: Service) -> None:
    assert endpoint("${endpoint}", {"SEARCH_ENDPOINT": f"{SERVICE}/"}) == SERVICE
    for text, variables, part in (
        ("${endpoint}", {}, "SEARCH_ENDPOINT: unset"),
        ("${endpoint}", {"SEARCH_ENDPOINT": "srch"}, "SEARCH_ENDPOINT: 'srch'"),
        ("http://srch.search.windows.net", {}, "experiment.yaml: index: search: endpoint"),
        ("https://example.org", {}, "expected https://<name>.search.windows.net"),
    ):
        with pytest.raises(UserError, match=part.replace("$", r"\$")):
            endpoint(text, variables)
    other = "https://srch-prod.search.windows.net"
    assert target(manifest(ONE), {}) == Target(SERVICE, "handbook", ONE)
    found = target(manifest(ONE), {"SEARCH_ENDPOINT": other})
    assert found and found.endpoint == other and found.name == "handbook-a1b2c3d4e5f6"
    assert target({**manifest(ONE), "search": None}, {}) is None
