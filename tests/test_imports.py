"""What the local loop does not import: SDKs of Azure, which take seconds, and prompt flow."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from llmops import code
from usecase import LIBRARY, example

# Python imports this in each process, the tasks' workers too.
HOOK = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("azure.", "msal", "promptflow.azure")):
            with open(os.environ["IMPORTED"], "a") as file:
                file.write(name + "\\n")

sys.meta_path.insert(0, Watch())
open(os.environ["IMPORTED"] + "." + str(os.getpid()), "w").close()
"""


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """The variables with which a process notes what it imports of Azure."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join((str(hooks), str(LIBRARY)))
    return {"PYTHONPATH": path, "IMPORTED": str(hooks / "imported")}


def imported(watched: dict[str, str]) -> list[str]:
    note = Path(watched["IMPORTED"])
    return note.read_text().splitlines() if note.exists() else []


def test_the_local_loop_imports_no_sdk_of_azure(tmp_path: Path, watched: dict[str, str]) -> None:
    use = example(tmp_path)
    processes = set()
    for task in ("validate", "experiment", "evaluate", "report", "gate", "monitor"):
        outcome = use.run(task, TARGET="local", **watched)
        assert outcome.code == 0, outcome.text
        assert imported(watched) == [], task
        processes |= set(Path(watched["IMPORTED"]).parent.glob("imported.*"))
    assert len(processes) > 6  # a worker was watched, too


def test_the_watch_sees_an_import(watched: dict[str, str]) -> None:
    code = [sys.executable, "-c", "import azure.core"]
    subprocess.run(code, env=os.environ | watched, check=True)
    assert imported(watched)[0] == "azure.core"


# Prompt flow may be absent: who uses it imports it where a flow asks for it.
USERS = {
    *("running.promptflow_runner", "running.promptflow_scripts"),
    *("azure.promptflow_runs", "azure.parallel"),
}


def at_once(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def test_no_module_needs_promptflow_to_be_imported() -> None:
    users, early = set(), set()
    for path in (LIBRARY / "llmops").rglob("*.py"):
        name = ".".join(path.relative_to(LIBRARY / "llmops").with_suffix("").parts)
        tree = code.parse(path)
        assert tree
        if "promptflow" in code.imported([path]):
            users.add(name)
        now = ast.Module(
            [n for n in at_once(tree) if isinstance(n, ast.Import | ast.ImportFrom)], []
        )
        if any(module.partition(".")[0] == "promptflow" for module, _ in code.imports(now)):
            early.add(name)
    assert users == USERS and early == set()
