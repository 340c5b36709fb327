"""What the local loop does not import: importing an SDK of Azure takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
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
