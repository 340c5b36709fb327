"""What `make doctor` says: what is there, what is missing, and whether each endpoint answers."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from llmops import connections
from llmops.config import DEFAULT_ENV, EXPERIMENT
from llmops.connections import Answer, Connection, Mode
from llmops.errors import OK, USER_ERROR, UserError

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 200_000_000
PACKAGES = (
    "promptflow-core",
    "promptflow-tools",
    "promptflow",
    "openai",
    "pydantic",
    "starlette",
    "uvicorn",
    "azure-ai-ml",
)
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


def report(
    entries: Sequence[Mapping[str, Any]], env: Mapping[str, str], folder: Path
) -> tuple[str, int]:
    """The text of `make doctor` and its exit code: 0 if a run would start, else 1.

    Asks each endpoint for its list of models where the mode is live or record, and nothing else.

    Args:
        entries: the block `connections` of experiment.yaml; empty if it cannot be read.
        env: the variables, see `connections.environment`.
        folder: the use case, where experiment.yaml is.
    """
    findings = [_python(), _packages(), _experiment(env, folder), _dotenv(folder)]
    found: dict[str, Connection] = {}
    mode: Mode | None = None
    try:
        found = connections.load(entries, env)
        mode = connections.choose_mode(found, env.get("LLM"))
        findings.append(Finding(True, "mode", f"{mode}: {_WHY[mode]}"))
    except UserError as error:
        findings.append(Finding(False, "mode", str(error)))
    states = _states(found, mode)
    findings += [
        Finding(False, name, "the connection does not work, see below")
        for name, (ok, _) in states.items()
        if not ok
    ]
    findings += [_recordings(folder, mode), _disk(folder)]
    findings += [_writable(folder / name) for name in ("runs", "reports")]
    rows = [[c.name, c.type, _sources(c, env, folder), states[c.name][1]] for c in found.values()]
    return _layout(findings, rows)


def _layout(findings: list[Finding], rows: list[list[str]]) -> tuple[str, int]:
    # Lines for a person and for a log alike: no colours, no box that a narrow terminal breaks.
    broken = [finding.subject for finding in findings if not finding.ok]
    table = [["ok" if f.ok else "FIX", f.subject, f.text] for f in findings]
    parts = [tabulate(table, tablefmt="plain", disable_numparse=True)]
    if rows:
        head = ["connection", "type", "read from", "state"]
        parts.append(tabulate(rows, headers=head, tablefmt="simple", disable_numparse=True))
    ready = f"A run cannot start. To fix: {', '.join(broken)}." if broken else "A run can start."
    return "\n\n".join([*parts, ready]) + "\n", USER_ERROR if broken else OK


def _python() -> Finding:
    wanted = ".".join(map(str, OLDEST_PYTHON))
    old = sys.version_info < OLDEST_PYTHON
    hint = f" (install Python {wanted} or newer)" if old else ""
    return Finding(not old, "Python", f"{platform.python_version()}{hint}")


def _packages() -> Finding:
    found = {name: _version(name) for name in PACKAGES}
    texts = [f"{name} {number}" for name, number in found.items() if number]
    return Finding(True, "packages", ", ".join(texts) or "none of the model libraries")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _experiment(env: Mapping[str, str], folder: Path) -> Finding:
    if not (folder / EXPERIMENT).is_file():
        text = f"not found in {folder.resolve()}. Run this in the folder of the use case."
        return Finding(False, EXPERIMENT, text)
    overlay = f"experiment.{env.get('ENV') or DEFAULT_ENV}.yaml"
    more = f", with {overlay} over it" if (folder / overlay).is_file() else ""
    return Finding(True, EXPERIMENT, f"found{more}")


def _dotenv(folder: Path) -> Finding:
    try:
        found = connections.dotenv(folder)
    except UserError as error:
        return Finding(False, ".env", str(error))
    if not (folder / ".env").is_file():
        return Finding(True, ".env", "none (for keys: cp .env.example .env, then fill it in)")
    return Finding(True, ".env", f"found, variables: {len(found)}")


def _states(found: Mapping[str, Connection], mode: Mode | None) -> dict[str, tuple[bool, str]]:
    """By connection: whether a run can start with it, and one sentence. Asks unless replaying."""
    asked = [c for c in found.values() if mode != "replay" and not connections.missing(c)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(connections.check, asked))
    by_name = {c.name: answer for c, answer in zip(asked, answers, strict=True)}
    return {name: _state(c, by_name.get(name)) for name, c in found.items()}


def _state(connection: Connection, answer: Answer | None) -> tuple[bool, str]:
    lacking = connections.missing(connection)
    text = f"lacks {', '.join(lacking)}" if lacking else "complete, not asked"
    if answer:
        text = f"{answer.sentence} ({answer.seconds:.2f} s)" if answer.seconds else answer.sentence
    if not connection.wanted:
        return True, f"{text}; not used by this experiment"
    return answer is None or answer.ok, text


def _sources(connection: Connection, env: Mapping[str, str], folder: Path) -> str:
    """Names of files and variables, and whether a variable comes from .env."""
    try:
        inside = connections.dotenv(folder)
    except UserError:
        inside = {}
    names = [
        f"{name} (.env)" if name in inside and inside[name] == env.get(name) else name
        for name in connection.sources
    ]
    return ", ".join(names)


def _recordings(folder: Path, mode: Mode | None) -> Finding:
    files = sorted((folder / "recordings").glob("*.jsonl"))
    count = sum(_lines(file) for file in files)
    text = f"{count} answers in {len(files)} files"
    if mode == "replay" and not count:
        advice = "a replay needs some: set a key, then `make record`"
        return Finding(False, "recordings", f"{text}; {advice}")
    return Finding(True, "recordings", text)


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError:
        return 0


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
