"""Which groups of packages a repo's tasks install: those that its flows need."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from llmops import config, flows, image
from usecase import LIBRARY, UseCase

PLAIN = '"""No promptflow here."""\nimport os\n\n\ndef run(text):\n    return {"answer": text}\n'


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    """The generated repo's noxfile."""
    spec = importlib.util.spec_from_file_location("tasks", LIBRARY / "noxfile.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"flows/a/flow.py": PLAIN}, ()),
        ({"flows/a/flow.py": PLAIN, "flows/b/flow.dag.yaml": "nodes: []"}, ("promptflow",)),
        ({"flows/a/flow.flex.yaml": "entry: a:b"}, ("promptflow",)),
        ({"flows/a/deep/title.prompty": "---\n---\n"}, ("promptflow",)),
        ({"flows/a/flow.py": "def run():\n    import promptflow.core\n"}, ("promptflow",)),
        ({"flows/a/flow.py": "from promptflow.core import tool\n"}, ("promptflow",)),
        ({"flows/a/flow.py": "from agent_framework import Message\n"}, ("agent-framework",)),
        ({"flows/a/flow.py": "import not python\n"}, ()),
        ({"flows/a/requirements.txt": "promptflow\n", "tests/x.py": "import promptflow\n"}, ()),
        ({"own/b/c.dag.yaml": "x", "experiment.yaml": "flow: own/b\n"}, ("promptflow",)),
        ({"own/c.prompty": "x", "experiment.pr.yaml": "[{flow: own/c.prompty}]"}, ("promptflow",)),
        ({"own/b/c.dag.yaml": "x", "experiment.yaml": "name: own\n"}, ()),
    ],
)
def test_what_flows_need(
    tmp_path: Path, tasks: ModuleType, files: dict[str, str], wanted: tuple[str, ...]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert tasks.flows_need(tmp_path) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"), [("azure-pipeline", True), ("azrue", False), ("", False), (None, False)]
)
def test_only_a_target_in_azure_installs_its_packages(
    value: str | None, wanted: bool, tasks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TARGET", raising=False)
    if value is not None:
        monkeypatch.setenv("TARGET", value)
    assert ("azure" in tasks.target()) == wanted


def test_what_is_brought_in_counts_without_its_packages(tmp_path: Path, tasks: ModuleType) -> None:
    repo, theirs = tmp_path / "repo", tmp_path / "theirs"
    for name in ("venv/lib/a.py", ".git/b.py", "c.py"):
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text("import promptflow\n" if name != "c.py" else PLAIN)
    (theirs / "venv/pyvenv.cfg").write_text("")
    assert tasks.flows_need(repo, theirs) == ()
    (theirs / "c.prompty").write_text("")
    assert tasks.flows_need(repo, theirs) == ("promptflow",)


def test_a_base_may_need_more(
    tmp_path: Path, tasks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    (repo / "flows/a").mkdir(parents=True)
    (repo / "experiment.yaml").write_text("flow: flows/a\n")
    (repo / "flows/a/flow.dag.yaml").write_text("nodes: []")
    mine = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q", "-b", "main"), ("add", "."), (*mine, "commit", "-qm", "x")):
        subprocess.run(("git", *words), cwd=repo, check=True)
    (repo / "flows/a/flow.dag.yaml").unlink()
    (repo / "flows/a/flow.py").write_text(PLAIN)
    monkeypatch.setattr(tasks, "ROOT", repo)
    assert tasks.flows_need(repo) == ()
    for base, wanted in (("main", ("promptflow",)), ("absent", ()), ("", ()), ("--output=x", ())):
        monkeypatch.setenv("BASE", base)
        assert tasks.flows_of_base() == wanted
    assert not (repo / "x").exists()


@pytest.mark.parametrize(
    ("code", "name", "wanted"),
    [
        (PLAIN, "flow.py", set()),
        ("from promptflow.core import tool\n" + PLAIN, "flow.py", {"promptflow"}),
        ("import agent_framework\n" + PLAIN, "flow.py", {"agent-framework"}),
        ("entry: flow:run\n", "flow.flex.yaml", {"promptflow"}),
    ],
)
def test_the_image_has_what_its_flow_needs(
    tmp_path: Path, code: str, name: str, wanted: set[str]
) -> None:
    use = UseCase(tmp_path)
    use.write(f"flows/standard/{name}", code)
    found = image.locks(config.load("dev", use.folder), flows.describe("standard", use.folder))
    assert found == {f"{g}-requirements.txt": Path(f"requirements/{g}.txt") for g in wanted}


def test_packages_fit_together_but_for_what_pyproject_says() -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    check = (uv, "pip", "check", f"--python={sys.executable}")
    told = subprocess.run(check, capture_output=True, text=True, check=False).stderr
    said = (LIBRARY / "pyproject.toml").read_text()
    known = re.findall(r'dependency-metadata\]\]\nname = "([^"]+)"', said)
    assert set(re.findall(r"The package `([^`]+)`", told)) <= set(known) == {"agent-framework-core"}
