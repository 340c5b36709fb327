"""The compute behind the prompt flow service: the local engine runs what was submitted.

Imported with the first run, because it brings the library along. Rows of the data and of an
evaluated run meet by line number; a row that one of them lacks is left out, as prompt flow does.
The outputs go where prompt flow's own uploader puts them: promptflow/PromptFlowArtifacts/<run>/.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops import config, connections, flows, work
from llmops.connections import LISTED
from llmops.data import Table, apply_mappings, complete_mappings
from llmops.flows import Flow
from llmops.running.engine import Job, Worker, run_row
from llmops.runs import Run

from .errors import Json
from .flow_runs import FlowRun, child
from .machine_learning import ACCOUNT, CONTAINER
from .serving import stored_at
from .state import State

PAGE = 25
LIMITS = config.Limits.model_validate({"retries": 1, "timeout_s": 60})


@dataclass
class Loaded:
    """A flow as it was submitted, ready for a worker."""

    flow: Flow
    job: Job
    environment: dict[str, str]


async def execute(state: State, run: FlowRun) -> None:
    """Run every row, then the aggregation, and put the outputs into the storage.

    Raises:
        Exception: what keeps the run from starting, in the words of the local engine.
    """
    folder = state.folder / "runs" / run.name
    loaded = await asyncio.to_thread(_load, state, run, folder)
    lines = await asyncio.to_thread(_lines, state, run, loaded.flow, folder)
    worker = Worker(loaded.flow.folder, loaded.environment, folder / "worker.log")
    try:
        await worker.load(loaded.job)
        store = await _rows(run, worker, loaded.job, lines, folder)
        if _aggregates(loaded.flow):
            found = await worker.aggregate(loaded.job, store.path)
            run.metrics = {name: metric["value"] for name, metric in found.items()}
    finally:
        await worker.close()
    _publish(state, run)


async def _rows(run: FlowRun, worker: Worker, job: Job, lines: dict[int, Json], at: Path) -> Run:
    store, turns = Run(at / "rows"), asyncio.Semaphore(LIMITS.concurrency)

    async def one(number: int, inputs: Json) -> None:
        async with turns:
            row = await run_row(worker, job, number, inputs, LIMITS)
        run.rows[number] = row
        store.append(row)
        run.log.append(f"line {number}: {row.error['message'] if row.error else 'completed'}")

    async with asyncio.TaskGroup() as tasks:  # a cancelled run leaves no row under way
        for number, inputs in lines.items():
            tasks.create_task(one(number, inputs))
    store.close()
    return store


def _load(state: State, run: FlowRun, folder: Path) -> Loaded:
    store, path = (run.request[f"flowDefinition{part}"] for part in ("DataStoreName", "BlobPath"))
    place = stored_at(state, f"azureml://datastores/{store}/paths/{path}")
    return load(state, run.request, place, folder)


def load(state: State, request: Json, place: str, folder: Path) -> Loaded:
    """The flow whose definition is the blob at `place`, changed as the request says."""
    parent, _, file = place.rpartition("/")
    snapshot = folder / "snapshot"
    state.blobs.export(f"{parent}/", snapshot)
    flow = flows.describe(str(snapshot / file))
    definition = _override(flows.overlay(flow, _variant(flow, request), {}), request)
    used = {str(node["connection"]) for node in definition.get("nodes", []) if "connection" in node}
    links = _links(state.settings.connections, used)
    environment = dict(request.get("environmentVariables") or {})
    for link in links.values():
        environment |= link.as_environment()
    return Loaded(flow, work.job(folder.name, flow, definition, links), environment)


def _variant(flow: Flow, request: Json) -> dict[str, str]:
    """The node and its variant in `${node.variant}`."""
    if not (given := request.get("nodeVariant")):
        return {}
    node, _, variant = given.removeprefix("${").removesuffix("}").partition(".")
    if variant not in flow.variants.get(node, ()):
        raise LookupError(f"Variant '{variant}' of node '{node}' is not in the flow.")
    return {node: variant}


def _override(definition: Json, request: Json) -> Json:
    """The flow with the connections and deployments that the run gives its nodes."""
    given = request.get("connections") or {}
    for node in definition.get("nodes", []):
        own = dict(given.get(node["name"], {}))
        if "connection" in own:
            node["connection"] = own.pop("connection")
        node["inputs"] = {**(node.get("inputs") or {}), **own}
    return definition


def _links(known: list[Json], used: set[str]) -> dict[str, connections.Connection]:
    """The workspace's connections; those that the flow's nodes name must be among them."""
    names = [item["name"] for item in known]
    if missing := sorted(used.difference(names)):
        raise LookupError(f"Connection '{missing[0]}' is not in the workspace.")
    entries = [config.Connection.model_validate({"name": name}) for name in names]
    return connections.load(entries, {LISTED: json.dumps(known)})


def _lines(state: State, run: FlowRun, flow: Flow, folder: Path) -> dict[int, Json]:
    """The flow's inputs by line number."""
    sources = _sources(state, run, folder)
    numbers = set.intersection(*(set(rows) for rows in sources.values()))
    if not numbers:
        raise LookupError("Could not find one complete line on the provided input.")
    mappings = complete_mappings(run.request.get("inputsMapping") or {}, flow.inputs)
    lines = {}
    for number in sorted(numbers):
        here = {source: rows[number] for source, rows in sources.items()}
        try:
            lines[number] = apply_mappings(mappings, here)
        except KeyError as error:
            message = f"Couldn't find these mapping relations: {error.args[0]}."
            raise LookupError(f"The input for batch run is incorrect. {message}") from error
    return lines


def _sources(state: State, run: FlowRun, folder: Path) -> dict[str, dict[int, Mapping[str, Any]]]:
    sources: dict[str, dict[int, Mapping[str, Any]]] = {}
    if run.data:
        sources["data"] = dict(enumerate(table(state, run.data, folder / "data")))
    if run.evaluated:
        before = state.flow_runs.get(run.evaluated)
        if before is None or before.status != "Completed":
            raise LookupError(f"Run '{run.evaluated}' is not there or not completed.")
        done = {number: row for number, row in before.rows.items() if not row.failed}
        sources["run.inputs"] = {number: row.inputs for number, row in done.items()}
        sources["run.outputs"] = {number: row.outputs or {} for number, row in done.items()}
    return sources


def table(state: State, uri: str, folder: Path) -> Table:
    """The rows of a data asset, a path of a data store, or an address in the storage."""
    if found := re.fullmatch(r"azureml:(?!/)([\w-]+)[:@](.+)", uri):
        versions = state.resources.children(
            f"{state.settings.workspace_id}/data/{found[1]}/versions"
        )
        chosen = [v for v in versions if found[2] in ("latest", v["name"])]
        if not chosen:
            raise LookupError(f"The data asset '{uri}' is not in the workspace.")
        uri = chosen[-1]["properties"]["dataUri"]
    elif uri.startswith("azureml:/subscriptions/"):
        uri = state.resources[uri.removeprefix("azureml:")]["properties"]["dataUri"]
    state.blobs.export(stored_at(state, uri), folder)
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise LookupError(f"There is no data at '{uri}'.")
    return Table(files[0])


def _aggregates(flow: Flow) -> bool:
    """Whether the flow has metrics of its own making."""
    if flow.kind == "dag":
        return any(node.get("aggregation") for node in flow.nodes.values())
    return any("__aggregate__" in path.read_text() for path in flow.folder.rglob("*.py"))


def _publish(state: State, run: FlowRun) -> None:
    """Write the outputs, and every row in pages of 25."""
    prefix = f"promptflow/PromptFlowArtifacts/{run.name}"
    numbers = sorted(run.rows)
    rows = [run.rows[number] for number in numbers]
    outputs = [{"line_number": row.row, **(row.outputs or {})} for row in rows if not row.failed]
    files: dict[str, Iterable[Json]] = {
        "flow_outputs/output.jsonl": outputs,
        "instance_results.jsonl": [
            {"line_number": row.row, **row.inputs, **(row.outputs or {})} for row in rows
        ],
        "meta.json": [{"batch_size": PAGE}],
    }
    for start in range(0, (numbers[-1] if numbers else 0) + 1, PAGE):
        page = [child(run, number) for number in numbers if start <= number < start + PAGE]
        name = f"flow_artifacts/{start:09d}_{start + PAGE - 1:09d}.jsonl"
        files[name] = [{"line_number": row["index"], "run_info": row} for row in page]
    for name, records in files.items():
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path = f"{ACCOUNT}/{CONTAINER}/{prefix}/{name}"
        state.blobs.write(path, text.encode(), "application/octet-stream", {})
