"""Sends what `llmops.tracking` gathered in a folder to an MLflow server.

The only module that imports MLflow; it runs as a process of its own, whose environment says where
the server is and who asks. It leaves its answer in the folder, never a word on the terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

RECORD, ANSWER = "record.json", "answer.json"
LONGEST_TEXT, LONGEST_NAME, LONGEST_ANSWER = 500, 200, 200
"""Characters of a parameter and of a name, which every server takes, and of its own words."""
INSTALL = "needs the package {name}: .venv/bin/uv pip install {name}"
PACKAGES = {"mlflow": "mlflow-skinny", "azureml-mlflow": "azureml-mlflow"}
"""By the module that is missing; a store on this machine needs the whole of MLflow."""
CREDENTIALS = (
    "refuses access ({status}): check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN"
)


@dataclass
class Entry:
    """One run in MLflow: the experiment's or a cell's; the folder so named holds its artefacts."""

    name: str
    folder: str
    failed: int
    tags: dict[str, str]
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def main(folder: Path) -> None:
    """Send the record in a folder and write the answer: `experiment` and `run`, or `problem`."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    entries = [Entry(**entry) for entry in record["entries"]]
    try:
        answer = _send(record["experiment"], entries, folder)
    except Exception as error:  # whatever MLflow, its plugins and its server come up with
        answer = {"problem": _problem(error)}
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def _send(name: str, entries: list[Entry], folder: Path) -> dict[str, str]:
    if os.environ["MLFLOW_TRACKING_URI"].startswith("azureml:"):
        _find_azure_plugin()
    from mlflow import MlflowClient

    client = MlflowClient()
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    begun: list[str] = []
    try:
        for entry in entries:
            _send_one(client, experiment, entry, folder / entry.folder, begun)
        for entry, run in zip(reversed(entries), reversed(begun), strict=True):
            client.set_terminated(run, "FAILED" if entry.failed else "FINISHED")
    except BaseException:
        with suppress(Exception):  # or they would be shown as running for ever
            for run in begun:
                client.set_terminated(run, "KILLED")
        raise
    return {"experiment": experiment, "run": begun[0]}


def _send_one(client: Any, experiment: str, entry: Entry, folder: Path, begun: list[str]) -> None:
    """Make a run, below the first one if there is any, with all that belongs to it."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    tags = {**entry.tags, **({"mlflow.parentRunId": begun[0]} if begun else {})}
    run = client.create_run(experiment, now, tags, entry.name).info.run_id
    begun.append(run)
    metrics = [Metric(_name(key), value, now, 0) for key, value in entry.metrics.items()]
    params = [Param(_name(key), _text(value)) for key, value in entry.params.items()]
    client.log_batch(run, metrics, params)
    if folder.exists():
        client.log_artifacts(run, str(folder))


def _name(text: str) -> str:
    """A name that MLflow takes; one that had to change ends in a piece of its hash."""
    known = re.sub(r"[^\w. -]", "_", text)[:LONGEST_NAME]
    return known if known == text else f"{known}-{sha256(text.encode()).hexdigest()[:4]}"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _find_azure_plugin() -> None:
    try:
        found = find_spec("azureml.mlflow")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ModuleNotFoundError(name="azureml-mlflow")


def _problem(error: Exception) -> str:
    """One sentence without its full stop, and without an address: that may hold a password."""
    if isinstance(error, ModuleNotFoundError):
        return INSTALL.format(name=PACKAGES.get(str(error.name), "mlflow"))
    text = " ".join(part for cause in _causes(error) for part in str(cause).split())
    kinds = {type(cause).__name__ for cause in _causes(error)}
    status = getattr(error, "get_http_status_code", lambda: 0)()
    if "timed out" in text.lower():
        return "did not answer in time (is it up, and is the address right?)"
    if "SSLError" in kinds:
        return "has no secure connection (TLS): check https:// in the address, and certificates"
    if kinds & {"ConnectionError", "ProxyError"}:
        return "cannot be reached (is it running, and is the address right?)"
    if status in (401, 403):
        return CREDENTIALS.format(status=status)
    if kinds & {"ClientAuthenticationError", "CredentialUnavailableError"}:
        return "could not sign in to Azure: `az login`, or a federated identity"
    if "RetryError" in kinds:
        return "has a fault of its own, or limits requests just now: try again later"
    return f"says: {_hidden(text, os.environ)[:LONGEST_ANSWER].rstrip('.')}"


def _hidden(text: str, env: Mapping[str, str]) -> str:
    """The text without anything that the environment's names call a secret of MLflow's."""
    uri = env["MLFLOW_TRACKING_URI"]
    password = found[1] if (found := re.search(r"//[^/@]*:([^/@]*)@", uri)) else ""
    secrets = {uri, password, unquote(password)}
    secrets |= {env.get(f"MLFLOW_TRACKING_{word}", "") for word in ("PASSWORD", "TOKEN")}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main(Path(sys.argv[1]))
