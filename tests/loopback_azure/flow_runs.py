"""The prompt flow service beside a workspace: runs submitted, followed, read and cancelled.

It answers what promptflow.azure's client asks, in the shapes that the client reads. A run's name is
the caller's and is taken once: the client does not retry a 500 "since it will cause 409 for run
creation". What failed in some or all rows is Completed all the same; only the rows tell. No public
document says what the service refuses beyond that, so little is refused here.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .arm import AUDIENCES
from .errors import AzureError, Json
from .login import claims
from .machine_learning import WORKSPACE
from .state import PROVIDER, State, state_of

if TYPE_CHECKING:
    from llmops.runs import Row

ENDED = ("Completed", "Failed", "Canceled")


@dataclass
class FlowRun:
    """A run: what was submitted (`request`) and how far it is; `rows` by line number, from 0."""

    name: str
    request: Json
    status: str = "NotStarted"
    created: str = field(default_factory=lambda: _now())
    started: str | None = None
    ended: str | None = None
    rows: dict[int, Row] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    error: Json | None = None
    log: list[str] = field(default_factory=list)
    hidden: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def evaluated(self) -> str | None:
        """The run to whose outputs this one refers."""
        name: str | None = self.request.get("variantRunId")
        return name

    @property
    def data(self) -> str | None:
        """Where its data are."""
        uri: str | None = (self.request.get("batchDataInput") or {}).get("dataUri")
        return uri

    def as_json(self) -> Json:
        """What a test may want to know of it."""
        return {"name": self.name, "status": self.status, "request": self.request}

    def enter(self, status: str) -> None:
        """Go on to the next state."""
        self.status = status
        self.log.append(f"{_now()} {status}")
        if status == "Running":
            self.started = _now()
        if status in ENDED:
            self.ended = _now()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


async def drive(state: State, run: FlowRun, compute: str = ".flow_engine") -> None:
    """Take a run through its states; what goes wrong is kept as its error.

    `compute` is the module that executes it, imported with the first run.
    """
    settings = state.settings
    waiting, preparing, running = settings.run_s
    try:
        await asyncio.sleep(waiting)
        run.enter("Preparing")
        engine = await asyncio.to_thread(importlib.import_module, compute, __package__)
        await asyncio.sleep(preparing)
        if settings.run_fails:
            raise RuntimeError(settings.run_fails)
        run.enter("Running")
        if settings.run_hangs:
            await asyncio.Event().wait()
        await asyncio.gather(engine.execute(state, run), asyncio.sleep(running))
    except asyncio.CancelledError:
        run.enter("Canceled")
    except Exception as error:  # whatever it is, the run has failed
        run.error = {"error": {"code": "UserError", "message": str(error)}}
        run.log.append(f"{_now()} {type(error).__name__}: {error}")
        run.enter("Failed")
    else:
        run.enter("Completed")


async def submit(request: Request) -> Response:
    """Accept a run; its name is the answer."""
    state, body = state_of(request), await request.json()
    if not request.headers.get("aml-user-token"):
        raise AzureError(401, "AuthenticationFailed", "The header 'aml-user-token' is missing.")
    name = str(body.get("runId"))
    if not re.fullmatch(r"[a-zA-Z0-9][\w-]{0,255}", name, re.ASCII):
        raise AzureError(400, "UserError", f"The run id '{name}' is not valid.")
    if name in state.flow_runs:
        raise AzureError(409, "UserError", f"Run {name} already exists.")
    run = state.flow_runs[name] = FlowRun(name, body)
    run.task = asyncio.create_task(drive(state, run))
    return JSONResponse(name)


async def cancel(request: Request) -> Response:
    """Stop a run that has not ended."""
    run = _run(request)
    if run.task and run.status not in ENDED:
        run.status = "CancelRequested"
        run.task.cancel()
    return JSONResponse(run.name)


async def info(request: Request) -> Response:
    """The service's own record of a run, with its page in the studio."""
    run, settings = _run(request), state_of(request).settings
    page = f"https://ml.azure.com/prompts/flow/bulkrun/run/{run.name}/details"
    page = f"{page}?wsid={settings.workspace_id}"
    return JSONResponse(
        {"flowRunId": run.name, "studioPortalEndpoint": page, "studioPortalTraceEndpoint": page}
    )


async def child_runs(request: Request) -> Response:
    """The rows from `startIndex` to `endIndex`, both included, without those not yet done."""
    run, query = _run(request), request.query_params
    start, end = int(query["startIndex"]), int(query["endIndex"])
    numbers = (number for number in sorted(run.rows) if start <= number <= end)
    return JSONResponse([child(run, number) for number in numbers])


def child(run: FlowRun, number: int) -> Json:
    """A row as a run of its own."""
    row = run.rows[number]
    error = row.error and {"code": "UserError", "message": row.error["message"]}
    prompt, completion = (sum(counts[at] for counts in row.usage.values()) for at in (1, 2))
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {
        "run_id": f"{run.name}_{number}",
        "parent_run_id": run.name,
        "root_run_id": run.name,
        "index": number,
        "status": "Failed" if row.failed else "Completed",
        "inputs": row.inputs,
        "output": row.outputs,
        "error": error,
        "system_metrics": {
            "duration": row.latency_s,
            **tokens,
            "total_tokens": prompt + completion,
        },
    }


async def log_content(request: Request) -> Response:
    """The run's log as one text."""
    return JSONResponse("".join(f"{line}\n" for line in _run(request).log))


async def run_data(request: Request) -> Response:
    """A run as the run history holds it."""
    state, wanted = state_of(request), (await request.json())["runId"]
    return JSONResponse({"runMetadata": _metadata(state, _find(state, wanted))})


def _metadata(state: State, run: FlowRun) -> Json:
    request = run.request
    properties = {
        "azureml.promptflow.runtime_name": request.get("runtimeName"),
        "azureml.promptflow.vm_size": request.get("vmSize"),
        "azureml.promptflow.node_variant": request.get("nodeVariant"),
        "azureml.promptflow.inputs_mapping": json.dumps(request.get("inputsMapping") or {}),
        "azureml.promptflow.input_data": run.data,
        "azureml.promptflow.input_run_id": run.evaluated,
        "azureml.promptflow.snapshot_id": request.get("flowDefinitionBlobPath"),
    }
    asset = f"azureml://locations/{state.settings.region}/workspaces/{state.settings.workspace}"
    asset = f"{asset}/data/azureml_{run.name}_output_data_flow_outputs/versions/1"
    done = {"flow_outputs": {"assetId": asset, "type": "UriFolder"}}
    return {
        "runId": run.name,
        "runType": "azureml.promptflow.FlowRun",
        "status": run.status,
        "createdUtc": run.created,
        "startTimeUtc": run.started,
        "endTimeUtc": run.ended,
        "displayName": request.get("runDisplayName"),
        "description": request.get("description"),
        "tags": request.get("tags") or {},
        "properties": {key: value for key, value in properties.items() if value is not None},
        "hidden": run.hidden,
        "error": run.error,
        "createdBy": {"userObjectId": state.settings.object_id},
        "outputs": done if run.status == "Completed" else {},
    }


async def modify(request: Request) -> Response:
    """Change what people call a run, its tags, or hide it."""
    run, body = _run(request), await request.json()
    run.hidden = body.get("hidden", run.hidden)
    for given, kept in (("displayName", "runDisplayName"), ("description", "description")):
        if given in body:
            run.request[kept] = body[given]
    run.request["tags"] = {**(run.request.get("tags") or {}), **(body.get("tags") or {})}
    return JSONResponse({"runId": run.name})


async def last_values(request: Request) -> Response:
    """The metrics of a run; those of the service itself have a dotted name."""
    run = _run(request)
    failed = sum(row.failed for row in run.rows.values())
    own = {"__pf__.lines.completed": len(run.rows) - failed, "__pf__.lines.failed": failed}
    values = [{"name": k, "value": [{"data": {k: v}}]} for k, v in {**run.metrics, **own}.items()]
    return JSONResponse({"value": values})


async def traces(request: Request) -> Response:
    """Where traces are kept: nowhere."""
    return JSONResponse({"traceCosmosConfiguration": "Disabled", "traceCosmosStatus": "NotExists"})


def _run(request: Request) -> FlowRun:
    return _find(state_of(request), request.path_params["run"])


def _find(state: State, name: str) -> FlowRun:
    if name not in state.flow_runs:
        raise AzureError(404, "UserError", f"Run {name} was not found.")
    return state.flow_runs[name]


def authorized(handler: Callable[[Request], Awaitable[Response]]) -> Any:
    """The handler, for callers with a token of Resource Manager and a workspace that exists."""

    async def checked(request: Request) -> Response:
        claims(request, *AUDIENCES, *(f"{audience}/" for audience in AUDIENCES))
        part = request.path_params
        place = f"/subscriptions/{part['subscription']}/resourceGroups/{part['group']}"
        resources = state_of(request).resources
        resources.require(f"{place}/providers/{PROVIDER}/workspaces/{part['workspace']}")
        return await handler(request)

    return checked


FLOW, HISTORY, METRIC = f"/flow/api{WORKSPACE}", f"/history/v1.0{WORKSPACE}", "/metric/v2.0"
RUN = f"{FLOW}/BulkRuns/{{run}}"
CALLS: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
    ("GET", f"{FLOW}/TraceSessions", traces),
    ("POST", f"{FLOW}/BulkRuns/submit", submit),
    ("GET", RUN, info),
    ("POST", f"{RUN}/cancel", cancel),
    ("GET", f"{RUN}/childRuns", child_runs),
    ("GET", f"{RUN}/logContent", log_content),
    ("POST", f"{HISTORY}/rundata", run_data),
    ("PATCH", f"{HISTORY}/runs/{{run}}/modify", modify),
    ("POST", f"{METRIC}{WORKSPACE}/runs/{{run}}/lastvalues", last_values),
]
ROUTES = [Route(path, authorized(handler), methods=[method]) for method, path, handler in CALLS]
