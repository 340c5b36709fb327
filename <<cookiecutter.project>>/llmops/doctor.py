"""What `make doctor` says: what is configured, what is missing, and which endpoint answers."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from llmops import config, connections, endpoints, flows, recordings
from llmops.config import Experiment
from llmops.connections import Connection, Mode
from llmops.errors import OK, USER_ERROR, UserError
from llmops.indexing import manifest
from llmops.settings import Settings

LEAST_FREE_BYTES = 200_000_000
PACKAGES = (
    *("promptflow-core", "promptflow-tools", "agent-framework-core"),
    *("openai", "pydantic", "azure-ai-ml"),
)
"""Those that are installed are shown: a repo whose flows are plain Python has no prompt flow."""
READY = "Nothing above stops a run. Whether flows and data fit, `make validate` says."
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
    """The text of `make doctor` and its exit code: 1 if something that it looks at stops a run.

    Flows and data are for `make validate`.
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
        findings += _search(experiment, folder)
    except UserError as error:
        findings.append(Finding(False, "settings", str(error)))
    findings += [_connection(connection, mode) for connection in found.values()]
    findings += [_recordings(folder, mode), _disk(folder)]
    findings += [_writable(folder / name) for name in ("runs", "reports")]
    # Lines for a person and for a log alike: no colours, no box that a narrow terminal breaks.
    table = [["ok" if f.ok else "FIX", f.subject, f.text] for f in findings]
    broken = ", ".join(f.subject for f in findings if not f.ok)
    end = f"A run cannot start. To fix: {broken}." if broken else READY
    text = tabulate(table, tablefmt="plain", disable_numparse=True)
    return f"{text}\n\n{end}\n", USER_ERROR if broken else OK


def _versions() -> Finding:
    texts = [f"{name} {number}" for name in PACKAGES if (number := _version(name))]
    return Finding(True, "versions", ", ".join([f"Python {platform.python_version()}", *texts]))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dotenv(folder: Path) -> Finding:
    if (folder / ".env").is_file():
        return Finding(True, ".env", "found")
    return Finding(True, ".env", "none (for keys: cp .env.example .env, then fill it in)")


def _connection(connection: Connection, mode: Mode | None) -> Finding:
    """Asks the endpoint, unless no run would ask it."""
    ok, text = True, "complete, not asked"
    if connection.missing:
        ok, text = mode == "replay", f"lacks {', '.join(connection.missing)}"
    elif connection.served and mode != "replay":
        answer = endpoints.check(connection)
        ok, text = answer.ok, f"{answer.sentence} ({answer.seconds:.2f} s)"
    return Finding(ok, f"connection {connection.name}", f"{connection.type}: {text}")


def _search(experiment: Experiment, folder: Path) -> Iterator[Finding]:
    """Asks the service that holds the index, if there is one, for the version that is built here.

    A version that is not there is no fault: the next run brings it there.
    """
    if experiment.index is None or (search := experiment.index.search) is None:
        return
    from llmops.azure import search_state

    variables = connections.environment(folder)
    try:
        address = search_state.endpoint(search.endpoint, variables)
        flow = flows.describe(experiment.flow or experiment.name, folder)
        place = manifest.place(experiment, flow, folder)
        made = manifest.read(place.folder) if place else None
        where = search_state.Target(address, search.index, made.version if made else "none")
        count = search_state.count(where)
    except UserError as error:
        yield Finding(False, "search", str(error))
        return
    text = "answers; no index is built yet"
    if made:
        found = "is not there" if count is None else f"has {count} of {made.chunks} chunks"
        text = f"{where.service}: '{where.name}', the version that is built here, {found}"
        text += "" if count == made.chunks else "; the next run brings it there"
    yield Finding(True, "search", text)


def _recordings(folder: Path, mode: Mode | None) -> Finding:
    try:
        count = len(recordings.Store(folder / "recordings").entries)
    except UserError as error:
        return Finding(False, "recordings", str(error))
    lacking = mode == "replay" and not count
    hint = "; a replay needs some: set a key, then `make record`" if lacking else ""
    return Finding(not lacking, "recordings", f"{count} answers{hint}")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    enough = free >= LEAST_FREE_BYTES
    hint = "" if enough else f"; free at least {LEAST_FREE_BYTES / 1e6:.0f} MB"
    return Finding(enough, "disk", f"{free / 1e9:.1f} GB free{hint}")


def _writable(path: Path) -> Finding:
    """Whether files can be made in a folder, or in the nearest one above that is there."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        # A file that has no name, or is gone at once: nothing is left behind.
        with tempfile.TemporaryFile(dir=there):
            return Finding(True, f"{path.name}/", "can be written to")
    except OSError as error:
        text = f"cannot be written to ({error.strerror}). Make {there} a folder you may write to."
        return Finding(False, f"{path.name}/", text)
