"""An experiment in MLflow, where MLFLOW_TRACKING_URI names a server: a run each, a child a cell.

What is logged is gathered in a folder here, and `llmops.mlflow_sender` sends it from a process of
its own: so MLflow is loaded only then, a slow server is waited for no longer than DEADLINE_S, and
whatever goes wrong there leaves the experiment as it is. Every invocation is a run of its own, also
where no row ran again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmops import connections, origin, work
from llmops.config import Experiment
from llmops.errors import UserError
from llmops.files import slug
from llmops.mlflow_sender import ANSWER, RECORD, Entry
from llmops.package import package
from llmops.plan import Variant
from llmops.report import ranking
from llmops.summary import SUMMARY, Summary
from llmops.validate import Checked
from llmops.work import Work

URI = "MLFLOW_TRACKING_URI"
DEADLINE_S = 120.0
# MLflow's own patience is minutes for each request; what the user sets counts.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REPORT = ("index.html", "summary.json", "summary.md", "metrics.csv")


def log(summary: Summary, experiment: Experiment, checked: Checked, target: str) -> None:
    """Log an experiment whose report is written, or say in one sentence why that did not work.

    `target` is what decided the models' answers. Nothing is done where MLFLOW_TRACKING_URI is not
    set. Never raises for what MLflow or its server do.
    """
    env = connections.environment()
    uri = env.get(URI, "").strip()
    if not uri:
        return
    shown = _without_secrets(uri)
    sys.stdout.flush()  # the result is to be seen before the wait
    try:
        with tempfile.TemporaryDirectory(prefix="tracking-") as made:
            entries = list(_entries(summary, _works(experiment, checked, target), Path(made)))
            name = env.get("MLFLOW_EXPERIMENT_NAME", "").strip() or summary.experiment
            answer = _ask(Path(made), name, entries, {**PATIENCE, **env, URI: uri})
    except (OSError, UserError) as error:
        answer = {"problem": f"nothing could be prepared for it ({error})"}
    if problem := answer.get("problem"):
        print(
            f"{URI}: {shown}: {problem}. The result in {SUMMARY.parent}/ is complete, but not (or "
            "not wholly) logged there; `make evaluate` logs it again and asks no model twice.",
            file=sys.stderr,
        )
    else:
        place = (
            "/#/experiments/{experiment}/runs/{run}" if uri.startswith("http") else ": run {run}"
        )
        print(f"tracking: {shown.rstrip('/')}{place.format(**answer)}")


def _ask(made: Path, name: str, entries: list[Entry], env: Mapping[str, str]) -> dict[str, str]:
    """Have the entries sent; the answer names MLflow's experiment and run, or the problem."""
    record = {"experiment": name, "entries": [asdict(entry) for entry in entries]}
    (made / RECORD).write_text(json.dumps(record, default=str), encoding="utf-8")
    command = (sys.executable, "-m", "llmops.mlflow_sender", str(made))
    none = subprocess.DEVNULL
    try:
        subprocess.run(
            command, env=env, stdin=none, stdout=none, stderr=none, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"did not take everything within {DEADLINE_S:g} s"}
    try:
        answer: dict[str, str] = json.loads((made / ANSWER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"problem": "MLflow's client ended without an answer"}
    return answer


def _works(experiment: Experiment, checked: Checked, target: str) -> dict[str, Work]:
    """What the files as they are now would run, by its place in the store."""
    cells = work.cells(checked, target)
    every = [*cells, *work.evaluations(checked, experiment, target, cells)]
    return {str(item.run.path): item for item in every}


def _entries(summary: Summary, works: Mapping[str, Work], made: Path) -> Iterator[Entry]:
    """The experiment, then each of its cells; their artefacts are put below `made`."""
    source = origin.tags(summary.experiment, origin.commit(), os.environ)
    tags = {**source, "env": summary.env, "target": summary.target, "llm": summary.llm.mode}
    cells = ranking.cells(summary)
    for name in REPORT:
        _copy(SUMMARY.parent / name, made / "experiment" / name)
    for one in summary.evaluations:
        if one.outputs in works:
            _pack(works[one.outputs], made / "experiment" / "evaluators" / slug(one.evaluator))
    yield Entry(
        f"{summary.experiment} {summary.env}",
        "experiment",
        sum(cell.failed for cell in cells),
        {**tags, "gate": summary.gate.verdict, "started_at": summary.started_at},
        metrics={"seconds": summary.seconds, "llm.calls": summary.llm.calls,
                 "llm.cached": summary.llm.cached, "rows": sum(cell.rows for cell in cells),
                 "failed_rows": sum(cell.failed for cell in cells), **_agreement(summary)},
    )  # fmt: skip
    for number, cell in enumerate(cells):
        yield _cell(cell, works, made / str(number), tags)


def _agreement(summary: Summary) -> dict[str, float]:
    """How far the judges agree with people."""
    known = ((f"judge.{one.evaluator}.{one.score}", one.agreement) for one in summary.judges)
    return {f"{name}.kappa": value for name, value in known if value is not None}


def _cell(
    cell: ranking.Cell, works: Mapping[str, Work], folder: Path, tags: dict[str, str]
) -> Entry:
    source = cell.run or cell.evaluations[0]
    folder_name = Path(source.outputs).parent.name  # of the rows, ends in their content address
    params: dict[str, Any] = {"variant": cell.variant, "dataset": cell.dataset, "run": folder_name}
    if item := works.get(source.outputs):
        params |= {"flow": str(item.flow.path), "dataset_hash": item.table.digest}
        params |= _settings(item)
        if cell.run:
            _pack(item, folder / "flow")
    else:  # `make evaluate` scored what an earlier flow or other data gave
        tags = {**tags, "flow": "changed since these rows ran, so its files are not logged"}
    params |= cell.run.parameters if cell.run else {}
    name = f"{cell.variant} / {cell.dataset}"
    return Entry(name, folder.name, cell.failed, tags, params, _metrics(cell))


def _settings(item: Work) -> dict[str, Any]:
    """What the flow's LLM nodes are called with, but for references to other nodes and inputs."""
    nodes = [node for node in item.definition.get("nodes", []) if node.get("type") == "llm"]
    return {
        f"{node['name']}.{key}": value
        for node in nodes
        for key, value in (node.get("inputs") or {}).items()
        if not str(value).startswith("${")
    }


def _metrics(cell: ranking.Cell) -> dict[str, float]:
    found: dict[str, float | None] = {"rows": cell.rows, "failed_rows": cell.failed}
    if run := cell.run:
        found |= {f"tokens.{key}": count for key, count in run.tokens.model_dump().items()}
        found |= {"latency_s.p50": run.latency_s.p50, "latency_s.p95": run.latency_s.p95}
        found["cost_usd"] = run.cost_usd
    for key, score in cell.scores.items():
        low, high = score.ci95 or (None, None)
        name = ".".join(key)
        found |= {name: score.value, f"{name}.ci_low": low, f"{name}.ci_high": high}
        found |= {f"{name}.scored": score.scored, f"{name}.repeat_sd": score.repeat_sd}
    return {name: float(value) for name, value in found.items() if value is not None}


def _pack(item: Work, folder: Path) -> None:
    """Put a flow in its variant into a folder, as it is served: without .env and caches."""
    if not folder.exists():
        package(item.flow, Variant(item.variant, {}, {}, item.definition), folder)


def _without_secrets(uri: str) -> str:
    """The address without user, password and query."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "not an address"
    if not parts.netloc:
        return uri.partition("?")[0]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
