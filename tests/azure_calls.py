"""The REST calls of docs/azure.md: each stage against the emulated Azure, and what its log says.

    python tests/azure_calls.py > calls.md

Each task is the unmodified script in a process of its own. Calls of one kind in a row are one line
with their number. Names are replaced; {workspace} is the workspace's whole ARM id.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
(HOUSE,) = HERE.parent.glob("*cookiecutter.project*")
sys.path.insert(0, str(HOUSE))
os.environ["PYTHONPATH"] = str(HOUSE)

import test_cloud  # noqa: E402
import test_deploy  # noqa: E402  (the library must be on the path first)
import test_monitor_azure  # noqa: E402
import test_register  # noqa: E402
import test_search_deploy  # noqa: E402
import test_webapp  # noqa: E402
import usecase  # noqa: E402
from forks import Forks  # noqa: E402
from loopback_azure import LoopbackAzure  # noqa: E402
from usecase import UseCase  # noqa: E402

Json = dict[str, Any]

WORKSPACE = re.compile(
    r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/workspaces/[^/]+"
)
# What comes after these words of a path is a name.
NAMED = re.compile(
    r"(?i)/(subscriptions|resourceGroups|vaults|registries|storageAccounts|datastores|data(?!/v1)|models|"
    r"environments|codes|versions|onlineEndpoints|deployments|roleAssignments|locations|"
    r"sites|serverfarms|userAssignedIdentities|runs|secrets|v2|manifests|"
    r"BulkRuns(?=/(?!submit))|runs|jobs|components|computes|indexes|"
    r"\w*Operations\w*|\w*OperationResults)/[^/]+"
)
OTHER = re.compile(
    r"^[^.]+(?=\.(azurecr\.io|vault\.azure\.net|azurewebsites\.net|search\.windows\.net)$)"
)
QUOTED = re.compile(r"\('[^']+'\)")
BLOB = re.compile(r"^/[^/]+/(\w+)/.*")


@dataclass(frozen=True)
class Call:
    """A request, with names replaced by their kind."""

    method: str
    host: str
    path: str
    version: str


def main() -> None:
    """Run every stage and print its table."""
    with tempfile.TemporaryDirectory() as folder, LoopbackAzure() as azure:
        for title, log in stages(Path(folder), azure):
            print(f"### {title}\n\n{table(log)}\n")
        if azure.refused:
            sys.exit(f"refused: {azure.refused}")


def stages(place: Path, azure: LoopbackAzure) -> Iterator[tuple[str, list[Json]]]:
    """Each stage's title and the log of its calls."""
    (place / "register").mkdir()
    use = example(place / "register")
    variables = test_register.variables(azure)
    for title in ("register: for the first time", "register: nothing changed"):
        azure.forget()
        outcome = use.run("register", **variables)
        assert outcome.code == 0, outcome.text
        yield title, azure.log
    (place / "models").mkdir()
    test_deploy.register(place / "models", azure)
    (place / "words").mkdir()
    case = test_deploy.Case(place / "words", azure, Forks(()))
    shares = {
        "PRIOR_DEPLOYMENT_NAME": "blue",
        "PRIOR_DEPLOYMENT_TRAFFIC_ALLOCATION": 90,
        "CURRENT_DEPLOYMENT_NAME": "green",
        "CURRENT_DEPLOYMENT_TRAFFIC_ALLOCATION": 10,
    }
    yield "deploy: for the first time", calls_of(case, "deploy")
    yield "deploy: nothing changed", calls_of(case, "deploy")
    case.set(2, **shares)
    yield "deploy: a second deployment with 10 % of the traffic", calls_of(case, "deploy")
    yield "check-endpoint: two deployments", calls_of(case, "check_endpoint")
    yield "rollback", calls_of(case, "rollback")
    (place / "collected").mkdir()
    yield "monitor: over an hour that was collected", monitored(place / "collected", azure)
    yield from web_app(place / "web", azure)
    yield from search(place / "search", azure)
    yield from runs(place / "runs", azure)


def web_app(place: Path, azure: LoopbackAzure) -> Iterator[tuple[str, list[Json]]]:
    """The same for a web app, whose image the registry builds."""
    place.mkdir()
    case = test_webapp.Case(place, azure, Forks(()), "web-words")
    for title in ("deploy: for the first time", "deploy: nothing changed", "check-endpoint"):
        task = title.partition(":")[0].replace("-", "_")
        yield f"KIND=webapp, {title}", calls_of(case, task)


def search(place: Path, azure: LoopbackAzure) -> Iterator[tuple[str, list[Json]]]:
    """An index in a search service: built, built again, asked by the flow, and looked at."""
    place.mkdir()
    case = test_search_deploy.Case(place, azure, lambda **_: 0)
    case.furnish(service=True)
    os.environ["LLM"] = "replay"
    yield "index: into a search service", calls_of(case, "index")
    case.documents(**{"tram.md": "# Tram\n\nThe tram runs every twelve minutes.\n"})
    yield "index: a document changed", calls_of(case, "index")
    yield (
        "experiment: two rows, each a question to the search service",
        calls_of(case, "experiment"),
    )
    yield "doctor, with a search service", calls_of(case, "doctor")
    del os.environ["LLM"]


def runs(place: Path, azure: LoopbackAzure) -> Iterator[tuple[str, list[Json]]]:
    """An experiment of one variant and one evaluator in the cloud, then spread over machines."""
    place.mkdir()
    use = UseCase(place)
    test_cloud.as_dag(use)
    for target in ("azure", "azure-pipeline"):
        azure.forget()
        outcome = use.run("experiment", **test_register.variables(azure, TARGET=target))
        assert outcome.code == 0, outcome.text
        yield f"experiment: TARGET={target}", azure.log


def example(place: Path) -> UseCase:
    """The named-entity example after its experiment."""
    use = usecase.example(place)
    outcome = use.run("experiment")
    assert outcome.code == 0, outcome.text
    return use


def monitored(place: Path, azure: LoopbackAzure) -> list[Json]:
    """Score what the data collector of an endpoint has put into the storage."""
    use = usecase.example(place)
    test_monitor_azure.collect(azure, use, days=1)
    azure.forget()
    variables = test_register.variables(azure, LOG=test_monitor_azure.ADDRESS)
    outcome = use.run("monitor", **variables)
    assert outcome.code == 0, outcome.text
    return azure.log


def calls_of(case: test_deploy.Case, task: str) -> list[Json]:
    """Run a task; the log of its calls."""
    case.azure.forget()
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.{task}"],
        cwd=case.folder,
        env=case.environment | {n: os.environ[n] for n in ("LLM",) if n in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return case.azure.log


def table(log: list[Json]) -> str:
    """A table in Markdown; what is repeated at once is one row."""
    rows = ["| # | method | host | path | api-version |", "|--:|---|---|---|---|"]
    groups = itertools.groupby(plain(entry) for entry in log)
    for number, (call, same) in enumerate(groups, 1):
        count = len(list(same))
        times = f" \N{MULTIPLICATION SIGN} {count}" if count > 1 else ""
        cells = (str(number), call.method + times, call.host, f"`{call.path}`", call.version)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def plain(entry: Json) -> Call:
    """The call of a line of the log."""
    host, path = entry["host"], entry["path"]
    if host.endswith(".blob.core.windows.net"):
        host, path = "{account}.blob.core.windows.net", BLOB.sub(r"/{container}/\1/{path}", path)
        path = re.sub(r"^/[^/{]+$", "/{container}", path)
    elif host.endswith(".inference.ml.azure.com"):
        host = "{endpoint}.{region}.inference.ml.azure.com"
    elif host.endswith(".api.azureml.ms"):
        host = "{region}.api.azureml.ms"
        path = NAMED.sub(r"/\1/{name}", WORKSPACE.sub("{workspace}", path))
    elif host == "login.microsoftonline.com":
        path = re.sub(r"^/[^/]+", "/{tenant}", path)
    else:
        host = OTHER.sub("{name}", host)
        path = NAMED.sub(r"/\1/{name}", WORKSPACE.sub("{workspace}", path))
        path = QUOTED.sub("('{name}')", path)
    if entry.get("comp"):
        path += f"?comp={entry['comp']}"
    return Call(entry["method"], host, path, entry.get("api_version") or "")


if __name__ == "__main__":
    main()
