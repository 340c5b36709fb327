"""What `make notebook` does, and what its notebook needs of the tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmops import results, summary, validate, work
from llmops.errors import OK, UserError
from llmops.experiment import only_one
from llmops.files import write_atomically
from llmops.running.execution import Local
from llmops.settings import Settings
from llmops.summary import Summary
from llmops.task import main

NOTEBOOK = Path("notebooks/evaluate.ipynb")
EXECUTED = Path("reports/evaluate.ipynb")
RESCORED = Path("runs/rescored.json")


def run(settings: Settings) -> int:
    """Execute the notebook on the last experiment; the copy with outputs lies beside the report.

    Raises:
        UserError: there is no experiment, no notebook, or a cell of it failed.
    """
    summary.load()
    import nbformat

    try:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
    except (OSError, ValueError) as error:
        raise UserError(f"{NOTEBOOK}: cannot be read as a notebook ({error}).") from error
    with tempfile.TemporaryDirectory(prefix="kernel-") as made:
        os.environ |= {"JUPYTER_RUNTIME_DIR": made, "IPYTHONDIR": made}  # and not the home folder
        _execute(notebook)
    with write_atomically(EXECUTED) as file:
        nbformat.write(notebook, file)
    print(
        f"notebook: {EXECUTED}. To change it, open {NOTEBOOK} in an editor with the kernel .venv."
    )
    return OK


def _execute(notebook: Any) -> None:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    closed = Config(KernelManager={"transport_encryption": "auto"})  # to others on this machine
    try:
        NotebookClient(notebook, timeout=None, resources=folder, config=closed).execute()
    except CellExecutionError as error:
        raise UserError(f"{NOTEBOOK}: {error.ename}: {error.evalue}") from error


def rescore() -> Summary:
    """Score the last experiment's outputs by the evaluation flows as they are now.

    The standard flow is not called and reports/ stays as it is. The tasks' code wants a process of
    its own: a notebook has an event loop and signal handlers already.

    Raises:
        UserError: what `make evaluate` would say.
    """
    command = (sys.executable, "-m", "llmops.notebook")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != OK:
        raise UserError(done.stderr.strip() or done.stdout.strip())
    return summary.load(RESCORED)


def _rescore(settings: Settings) -> int:
    """Write the last experiment's summary with new scores to RESCORED."""
    last = summary.load()
    experiment, checked = validate.load(last.env)
    executor = Local(experiment, settings.llm)
    runs = work.stored(checked, last.runs, ())
    evaluations = work.evaluations(checked, experiment, executor.target, runs)
    with only_one():
        work.find_finished([*runs, *evaluations])
        executor.execute(runs, evaluations)
    again = {
        "evaluations": tuple(results.evaluation(item) for item in evaluations),
        "scores": tuple(score for item in evaluations for score in results.scores(item)),
        "gate": summary.Gate(),
    }
    summary.save(last.model_copy(update=again), RESCORED)
    return OK


if __name__ == "__main__":
    main(_rescore)
