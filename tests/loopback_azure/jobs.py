"""Pipeline jobs of one step that is a flow as a parallel component, and what run history says.

Rules and their sources:
- a job's name, `[a-zA-Z0-9][a-zA-Z0-9-_]{0,254}`: REST API specification of the provider
- a job is not changed by another of its name, only described anew: azure-docs issue 122250
- a flow needs `.promptflow/flow.tools.json`, and `$schema` in its file: prompt flow's article on
  flows in pipelines; the settings' ranges: prompt flow's tutorial run-flow-with-pipeline
- an output's default place, azureml/<run>/<output>/: azure-ai-ml, JobOperations.download
No public document says how a job with a compute or data that is not there is refused: by 404 here.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .arm import get_resource, list_resources
from .errors import AzureError, Json, not_found
from .flow_runs import ENDED, HISTORY, FlowRun, authorized, drive
from .flow_runs import run_data as flow_run_data
from .machine_learning import ACCOUNT, WORKSPACE, describe
from .serving import stored_at
from .state import State, state_of

NAME = re.compile(r"[a-zA-Z0-9][\w-]{0,254}", re.ASCII)
STORE = "workspaceblobstore"
OUTPUTS = ("flow_outputs", "debug_info")
KEPT = ("settings", "inputs", "outputs", "jobs")
"""What of a job stays as it was made."""


@dataclass
class JobRun(FlowRun):
    """A job: `resource` as Resource Manager shows it; its step is a run of its own, `child`.

    `request` is the step, with the job's inputs in the place of references; `submitted` is all.
    """

    resource: Json = field(default_factory=dict)
    submitted: Json = field(default_factory=dict)
    child: str = field(default_factory=lambda: str(uuid.uuid4()))

    def enter(self, status: str) -> None:
        """Go on to the next state."""
        super().enter(status)
        self.resource["properties"]["status"] = status

    @property
    def folder(self) -> str:
        """The path in the data store below which the step's outputs stand."""
        return f"azureml/{self.child}"


async def put_component(request: Request) -> Response:
    """Make a component of a flow; the answer describes the parallel component that it became."""
    state, path = state_of(request), request.scope["path"]
    properties = (await request.json())["properties"]
    spec = properties["componentSpec"]
    if spec.get("type") != "promptflow_parallel":
        raise AzureError(501, "LoopbackAzure", "Only components made of flows are emulated.")
    if not NAME.fullmatch(request.path_params["name"]):
        raise AzureError(400, "UserError", "The name is not valid for a component.")
    existing = state.resources.get(path)
    if existing is not None and existing["flow"] != spec["flow_definition_uri"]:
        raise AzureError(400, "UserError", "A component version cannot be changed.")
    _check_flow(state, spec["flow_definition_uri"])
    properties["componentSpec"] = _parallel(spec)
    resource = describe(path, properties, flow=spec["flow_definition_uri"])
    state.resources[path] = resource
    return JSONResponse(resource, 200 if existing else 201)


def _check_flow(state: State, uri: str) -> None:
    place = stored_at(state, uri)
    tools = f"{place.rpartition('/')[0]}/.promptflow/flow.tools.json"
    for file in (place, tools):
        if file not in set(state.blobs.names(file)):
            raise AzureError(400, "UserError", f"The flow has no '{file.rpartition('/')[2]}'.")
    if not place.endswith("/flow.dag.yaml"):  # its executor opens the file of this name
        raise AzureError(400, "UserError", "The flow is not a flow.dag.yaml.")


def _parallel(spec: Json) -> Json:
    kept = {key: spec[key] for key in ("name", "version", "is_deterministic") if key in spec}
    return {
        **kept,
        "type": "parallel",
        "inputs": {"data": {"type": "uri_folder", "optional": False}},
        "outputs": {name: {"type": "uri_folder"} for name in OUTPUTS},
        "task": {
            "type": "run_function",
            "code": f"azureml:{spec['code']}",
            "entry_script": "prompt_flow_entry.py",
            "environment": "azureml://registries/azureml/environments/promptflow-runtime/versions/1",
        },
    }


async def put_job(request: Request) -> Response:
    """Start a job, or describe an existing one anew."""
    state, path = state_of(request), request.scope["path"]
    name, properties = request.path_params["job"], (await request.json())["properties"]
    if not NAME.fullmatch(name):
        raise AzureError(400, "UserError", f"The name '{name}' is not valid for a job.")
    if (existing := state.jobs.get(name)) is not None:
        return JSONResponse(_describe_anew(existing, properties))
    step = _step(properties)
    _check(state, properties, step)
    page = f"https://ml.azure.com/runs/{name}?wsid={state.settings.workspace_id}"
    services = {"Studio": {"jobServiceType": "Studio", "endpoint": page}}
    more = {"status": "NotStarted", "services": services}
    resource = state.resources[path] = describe(path, {**properties, **more})
    run = state.jobs[name] = JobRun(name, step, resource=resource, submitted=properties)
    run.task = asyncio.create_task(drive(state, run, ".job_engine"))
    return JSONResponse(resource, 201)


def _describe_anew(run: JobRun, wanted: Json) -> Json:
    changed = [key for key in KEPT if run.submitted.get(key) != wanted.get(key)]
    if changed:
        what = ",  ".join(key.capitalize() for key in changed)
        message = (
            "A job with this name already exists. If you are trying to create a new job, use a "
            "different name. If you are trying to update an existing job, the existing job's "
            f"{what} cannot be changed. Only description, tags, displayName, properties, and "
            "isArchived can be updated."
        )
        raise AzureError(400, "UserError", message)
    now = run.resource["properties"]
    for key in ("tags", "properties"):
        now[key] = {**(now.get(key) or {}), **(wanted.get(key) or {})}
    for key in ("description", "displayName", "isArchived"):
        now[key] = wanted.get(key)
    return run.resource


def _step(properties: Json) -> Json:
    """The only step, its inputs as values: {"data": {"uri"}, "text": "${data.text}"}."""
    steps = list((properties.get("jobs") or {}).values())
    if properties.get("jobType") != "Pipeline" or [s.get("type") for s in steps] != ["parallel"]:
        raise AzureError(501, "LoopbackAzure", "Only a pipeline of one parallel step is emulated.")
    given, inputs = properties.get("inputs") or {}, {}
    for name, entry in (steps[0].get("inputs") or {}).items():
        value = entry.get("value", entry)
        found = re.fullmatch(r"\$\{\{parent\.inputs\.(\w+)\}\}", str(value))
        inputs[name] = given[found[1]] if found else value
    return {**steps[0], "inputs": inputs}


def _check(state: State, properties: Json, step: Json) -> None:
    _require(state, step["componentId"])
    default = (properties.get("settings") or {}).get("default_compute") or ""
    compute = str(step.get("computeId") or default)
    if not compute:
        raise AzureError(400, "UserError", "The step has no compute.")
    if compute.rpartition("/")[2] != "serverless":
        _require(state, compute)
    _check_data(state, step["inputs"].get("data"))
    at_least: list[tuple[str, Any, int]] = [
        ("instance_count", (step.get("resources") or {}).get("instance_count", 1), 1),
        ("max_concurrency_per_instance", step.get("max_concurrency_per_instance", 1), 1),
        ("mini_batch_size", step.get("mini_batch_size", 1), 1),
        ("max_retries", (step.get("retry_settings") or {}).get("max_retries", 3), 0),
        ("timeout", (step.get("retry_settings") or {}).get("timeout", 600), 1),
        ("error_threshold", step.get("error_threshold", -1), -1),
        ("mini_batch_error_threshold", step.get("mini_batch_error_threshold", -1), -1),
    ]
    for name, value, least in at_least:
        if int(value) < least:
            raise AzureError(400, "UserError", f"{name} is {value}, but must be {least} or more.")


def _check_data(state: State, data: Any) -> None:
    """The data are a registered version."""
    uri = str((data or {}).get("uri"))
    found = re.fullmatch(r"azureml:([\w-]+):([\w.-]+)", uri)
    place = f"{state.settings.workspace_id}/data/{found[1]}/versions/{found[2]}" if found else uri
    _require(state, place.removeprefix("azureml:"))


def _require(state: State, identity: str) -> None:
    if state.resources.get(identity) is None:
        raise not_found(identity)


async def cancel(request: Request) -> Response:
    """Stop a job that has not ended."""
    run = _find(state_of(request), request.path_params["job"])
    if run.task and run.status not in ENDED:
        run.status = run.resource["properties"]["status"] = "CancelRequested"
        run.task.cancel()
    return Response(status_code=200)


def _find(state: State, name: str) -> JobRun:
    for run in state.jobs.values():
        if name in (run.name, run.child):
            return run
    raise AzureError(404, "UserError", f"Run {name} was not found.")


async def run_data(request: Request) -> Response:
    """A run as the run history holds it, of a job or of a flow."""
    state, wanted = state_of(request), (await request.json())["runId"]
    if wanted in state.flow_runs:
        return await flow_run_data(request)
    return JSONResponse({"runMetadata": _metadata(_find(state, wanted), wanted)})


async def children(request: Request) -> Response:
    """The runs of a job's steps: one, once it has begun."""
    run = _find(state_of(request), request.path_params["run"])
    begun = run.started and request.path_params["run"] == run.name
    return JSONResponse({"value": [_metadata(run, run.child)] if begun else []})


def _metadata(run: JobRun, name: str) -> Json:
    properties, outputs = run.resource["properties"], {}
    step = next(iter(properties["jobs"]))
    if run.status == "Completed":
        outputs = {key: {"assetId": f"{run.child}/{key}", "type": "UriFolder"} for key in OUTPUTS}
    error = run.error
    if error and name == run.name and run.started:
        message = f"Pipeline has failed child jobs. Failed nodes: /{step}."
        error = {"error": {"code": "UserError", "message": message}}
    return {
        "runId": name,
        "parentRunId": run.name if name == run.child else None,
        "rootRunId": run.name,
        "runType": "azureml.PipelineRun" if name == run.name else "azureml.StepRun",
        "experimentId": properties.get("experimentName"),
        "displayName": properties.get("displayName") if name == run.name else step,
        "status": run.status,
        "createdUtc": run.created,
        "startTimeUtc": run.started,
        "endTimeUtc": run.ended,
        "tags": properties.get("tags") or {},
        "properties": {},
        "error": error,
        "outputs": outputs,
    }


async def resolve(request: Request) -> Response:
    """Where outputs are, by their assets' ids."""
    state = state_of(request)
    ids = (await request.json())["values"]
    names = state.settings
    place = f"azureml://subscriptions/{names.subscription}/resourcegroups/{names.group}"
    place = f"{place}/workspaces/{names.workspace}/datastores/{STORE}/paths/azureml"
    uris = {one: {"uri": f"{place}/{one}/", "type": "UriFolder"} for one in ids}
    return JSONResponse({"values": uris})


async def discovery(request: Request) -> Response:
    """The hosts of a workspace's services."""
    return JSONResponse({"api": f"https://{request.headers['host']}", "account": ACCOUNT})


COMPONENT = f"{WORKSPACE}/components/{{name}}/versions/{{version}}"
JOB = f"{WORKSPACE}/jobs/{{job}}"
ROUTES = [
    Route(COMPONENT, put_component, methods=["PUT"]),
    Route(COMPONENT, get_resource),
    Route(f"{WORKSPACE}/jobs", list_resources),
    Route(JOB, put_job, methods=["PUT"]),
    Route(JOB, get_resource),
    Route(f"{JOB}/cancel", cancel, methods=["POST"]),
]
HISTORY_ROUTES = [
    Route("/discovery", discovery),
    Route(f"{HISTORY}/rundata", authorized(run_data), methods=["POST"]),
    Route(f"{HISTORY}/runs/{{run}}/children", authorized(children)),
    Route(
        f"/data/v1.0{WORKSPACE}/dataversion/batchGetResolvedUris",
        authorized(resolve),
        methods=["POST"],
    ),
]
