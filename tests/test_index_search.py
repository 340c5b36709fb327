"""`make index` with `search:`: Azure AI Search, emulated, holds passages and vectors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from loopback_azure import LoopbackAzure
from standin import StandIn
from test_index import FLOW, INDEX, LEAVE, SEARCH, folder, manifest
from usecase import AOAI, UseCase

pytestmark = pytest.mark.slow
SERVICE = "https://srch-llmops.search.windows.net"


def test_the_service_holds_the_index(tmp_path: Path) -> None:
    use = UseCase(tmp_path)
    use.write("data/documents/leave.md", LEAVE)
    search = {"endpoint": "${endpoint}", "index": "handbook"}
    use.configure(connections=[AOAI], index={**INDEX, "search": search})
    for source in (SEARCH, SEARCH.with_name("azure_search.py")):
        shutil.copy(source, use.folder / "flows/standard")
    use.write("flows/standard/flow.py", FLOW)
    use.rows([{"text": "parents", "truth": "leave.md#2"}, {"text": "leave", "truth": "x"}])
    with StandIn() as model, LoopbackAzure() as azure:
        given = {"AOAI_API_KEY": "k", "AOAI_API_BASE": model.url, "NO_PROXY": "127.0.0.1"}
        given = {**azure.environment, **given}
        use.run("index", **given).refused("SEARCH_ENDPOINT: unset")
        assert model.requests == 0, "before anything is paid"
        given["SEARCH_ENDPOINT"] = SERVICE
        assert "(2 embedded by vectors-small) in search index" in use.run("index", **given).out
        assert [path.name for path in folder(use).iterdir()] == ["index.json"]
        assert manifest(use)["search"] == {"endpoint": SERVICE, "index": "handbook"}
        assert "(2 unchanged)" in use.run("index", **given).out
        use.write("data/documents/leave.md", LEAVE.replace("Thirty", "Forty"))
        done = use.run("experiment", **given)
        assert done.code == 0, done.text
        assert "(1 embedded by vectors-small, 1 unchanged)" in done.out
        assert done.summary and done.summary["index"]["search"] == "handbook"
        assert done.summary["scores"][0]["value"] == 0.5
        for path in (folder(use), use.folder / "runs"):
            shutil.rmtree(path)
        assert "(2 unchanged)" in use.run("index", **given).out, "as on a fresh checkout"
        assert model.requests == 2
