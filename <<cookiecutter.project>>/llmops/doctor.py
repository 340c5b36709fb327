"""What `make doctor` says: what is configured, what is missing, and whether each endpoint answers."""

from __future__ import annotations

import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from llmops import config, connections, endpoints, recordings
from llmops.connections import Connection, Mode
from llmops.errors import OK, USER_ERROR, UserError
from llmops.settings import Settings

LEAST_FREE_BYTES = 200_000_000
PACKAGES = ("promptflow-core", "promptflow-tools", "openai", "pydantic", "azure-ai-ml")
_WHY = {
    "live": "the models are asked",
    "replay": "answers come from recordings/, no model is asked",
    "record": "the models are asked, and their answers kept in recordings/",
}


class Finding(NamedTuple):
    """One line of the report: whether a run can start with this, what it is about, and what is."""

    ok: bool
    subject: str
    text: str


def report(settings: Settings, folder: Path) -> tuple[str, int]:
    """The text of `make doctor` and its exit code: 0 if a run would start, else 1.

    Asks each endpoint for its list of models where the mode is live or record, and nothing else.
    `folder` is the use case, where experiment.yaml and .env are.
    """
    findings = [_versions(), _dotenv(folder)]
    found: dict[str, Connection] = {}
    mode: Mode | None = None
    try:
        experiment = config.load(settings.env, folder)
        findings.append(Finding(True, config.EXPERIMENT, f"valid for ENV={settings.env}"))
        found = connections.load(experiment.connections, connections.environment(folder))
        mode = connections.choose_mode(found, settings.llm)
        findings.append(Finding(True, "mode", f"{mode}: {_WHY[mode]}"))
    except UserError as error:
        findings.append(Finding(False, "settings", str(error)))
    findings += [_connection(connection, mode) for connection in found.values()]
    findings += [_recordings(folder, mode), _disk(folder)]
    findings += [_writable(folder / name) for name in ("runs", "reports")]
    # Lines for a person and for a log alike: no colours, no box that a narrow terminal breaks.
    table = [["ok" if f.ok else "FIX", f.subject, f.text] for f in findings]
    broken = ", ".join(f.subject for f in findings if not f.ok)
    end = f"A run cannot start. To fix: {broken}." if broken else "A run can start."
    text = tabulate(table, tablefmt="plain", disable_numparse=True)
    return f"{text}\n\n{end}\n", USER_ERROR if broken else OK
