"""Deployments that really serve: the registered flow, run by the local engine, behind the keys.

An answer has prompt flow's form: the outputs by name, or {"error": {"code", "message"}}. Which
status the endpoint makes of it is in how-to-troubleshoot-online-endpoints: 401 without a valid key,
404 where no deployment takes traffic, 424 (Kubernetes: 502) where the container failed.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import collector, own_identity
from .errors import AzureError, Json, invalid
from .login import claims
from .machine_learning import ACCOUNT
from .rules import GUIDE
from .state import State, state_of

if TYPE_CHECKING:
    from llmops.running.engine import Job, Worker

TIMEOUT_S = 60.0
_PATHS = re.compile(r"azureml://(?:.*/)?datastores/([^/]+)/paths/(.+)")
_NUMBERS = itertools.count(1)


@dataclass
class Container:
    """A deployment's container: the worker that runs the flow, and what it needs of a row."""

    worker: Worker
    job: Job
    required: tuple[str, ...]
    timeout_s: float

    async def answer(self, inputs: Json) -> tuple[int, Json]:
        """The status and the body with which prompt flow's server answers."""
        missing = [name for name in self.required if name not in inputs]
        if missing:
            message = f"Required input fields {missing} are missing in request data."
            return 400, {"error": {"code": "UserError", "message": message}}
        result = await self.worker.run(self.job, next(_NUMBERS), inputs, self.timeout_s)
        if error := result.get("error"):
            status = 500 if error["type"] == "WorkerDied" else 400
            code = "UserError" if status == 400 else "SystemError"
            message = f"{error['type']}: {error['message']}"
            return status, {"error": {"code": code, "message": message}}
        return 200, result["outputs"]

    async def close(self) -> None:
        """Stop it."""
        await self.worker.close()


def model_of(properties: Json) -> str | None:
    """The id of the model that a deployment names."""
    model = properties.get("model")
    return model.get("assetId") if isinstance(model, dict) else model


async def start(state: State, deployment: Json) -> None:
    """Fetch the model, load its flow, and put it in the place of what served before.

    Raises:
        AzureError: the image or the container cannot be made; the log tells why.
    """
    identity = deployment["id"].lower()
    folder = _folder(state, identity)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "container.log").unlink(missing_ok=True)
    _check_image(state, deployment["properties"])
    try:
        container = await _load(state, deployment, folder)
    except AzureError:
        raise
    except Exception as error:  # whatever a flow does on import, its container has crashed
        _note(state, identity, f"Traceback: {type(error).__name__}: {error}")
        message = f"User container has crashed or terminated. {GUIDE}#error-resourcenotready"
        raise AzureError(400, "ResourceNotReady", message) from error
    _note(state, identity, "Ready: the flow is loaded.")
    if (before := state.containers.get(identity)) is not None:
        await before.close()
    state.containers[identity] = container


def _check_image(state: State, properties: Json) -> None:
    """An environment that is built needs its Dockerfile in the context."""
    environment = state.resources.get(str(properties.get("environmentId")))
    build = (environment or {"properties": {}})["properties"].get("build")
    if not build:
        return
    prefix, name = stored_at(state, build["contextUri"]).rstrip("/"), build.get("dockerfilePath")
    if f"{prefix}/{name or 'Dockerfile'}" not in set(state.blobs.names(prefix)):
        message = f"The Dockerfile is not in the build context. {GUIDE}#error-imagebuildfailure"
        raise AzureError(400, "ImageBuildFailure", message)


async def _load(state: State, deployment: Json, folder: Path) -> Container:
    """The container of a deployment, with the endpoint's identity."""
    properties = deployment["properties"]
    model = state.resources[model_of(properties) or ""]
    files = folder / f"model-{next(_NUMBERS)}"  # what served before still reads its own
    state.blobs.export(stored_at(state, model["properties"]["modelUri"]), files)
    environment = {k: str(v) for k, v in (properties.get("environmentVariables") or {}).items()}
    endpoint = state.resources[deployment["id"].rsplit("/", 2)[0]]
    identity = endpoint.get("identity") or {}
    environment |= own_identity.variables(state, identity, "MSI_ENDPOINT", "MSI_SECRET")
    return await load(files, environment, folder)


async def load(files: Path, environment: dict[str, str], folder: Path) -> Container:
    """The container, once it has loaded the flow; its log is in `folder`.

    Its connections come from its environment variables: AOAI_API_KEY and the like.
    """
    for name in ("config", "connections", "flows", "running.engine", "work"):
        await asyncio.to_thread(importlib.import_module, f"llmops.{name}")
    from llmops import config, connections, flows, work
    from llmops.running import engine

    flow = flows.describe(str(_flow(files)))
    names = dict.fromkeys(name for _, name in flow.connections())
    entries = [config.Connection.model_validate({"name": name}) for name in names]
    links = connections.load(entries, environment)
    if missing := [variable for link in links.values() for variable in link.missing]:
        raise LookupError(f"the connection's variable {missing[0]} is not set")
    for link in links.values():
        environment |= link.as_environment()
    worker = engine.Worker(flow.folder, environment, folder / "container.log")
    job = work.job("deployed", flow, flows.overlay(flow, {}, {}), links)
    try:
        await worker.load(job)
    except BaseException:
        await worker.close()
        raise
    required = tuple(name for name, needed in flow.inputs.items() if needed)
    return Container(worker, job, required, TIMEOUT_S)


def _flow(folder: Path) -> Path:
    """The folder of the flow: the model's own, or the only one in it."""
    inner = [path for path in folder.iterdir() if path.is_dir()]
    files = [path for path in folder.iterdir() if path.is_file()]
    return inner[0] if len(inner) == 1 and not files else folder


def stored_at(state: State, uri: str) -> str:
    """The blobs that a path of a data store, or an address of the storage, stands for."""
    if found := _PATHS.fullmatch(uri):
        store = state.resources[f"{state.settings.workspace_id}/datastores/{found[1]}"]
        place = (store["properties"]["accountName"], store["properties"]["containerName"])
        return "/".join((*place, found[2]))
    if found := re.fullmatch(r"https://(\w+)\.blob\.core\.windows\.net/(.+)", uri):
        return f"{found[1]}/{found[2]}"
    raise invalid("Uri", f"'{uri}' is not a path that {ACCOUNT} holds.")


def _folder(state: State, identity: str) -> Path:
    endpoint, deployment = identity.split("/")[-3::2]
    return state.folder / "deployments" / endpoint / deployment


def _note(state: State, identity: str, text: str) -> None:
    path = _folder(state, identity.lower()) / "container.log"
    with path.open("a") as file:
        file.write(f"{datetime.datetime.now():%H:%M:%S} {text}\n")


def log(state: State, identity: str) -> list[str]:
    """The lines that a deployment's container has written."""
    path = _folder(state, identity.lower()) / "container.log"
    return path.read_text("utf-8", "replace").splitlines() if path.exists() else []


async def score(request: Request) -> Response:
    """Answer a request with the deployment that it names, or that traffic decides."""
    state = state_of(request)
    endpoint = _endpoint(request, state)
    _check_key(request, state, endpoint)
    named = request.headers.get("azureml-model-deployment")
    chosen = named or _choose(state, endpoint["properties"].get("traffic") or {})
    container = state.containers.get(f"{endpoint['id']}/deployments/{chosen}".lower())
    if container is None:
        raise AzureError(404, "NotFound", "No deployment with a positive weight serves this.")
    inputs = await request.json()
    if not named:
        _mirror(state, endpoint, inputs)
    status, body = await container.answer(inputs)
    _note(state, f"{endpoint['id']}/deployments/{chosen}", f"POST /score {status}")
    deployment = state.resources[f"{endpoint['id']}/deployments/{chosen}"]
    root = stored_at(state, collector.ROOT)
    collector.collect(state, root, deployment, inputs, body, request.headers.get("x-request-id"))
    headers = {"azureml-model-deployment": str(chosen)}
    if status == 200:
        return JSONResponse(body, headers=headers)
    headers["ms-azureml-model-error-statuscode"] = str(status)
    return JSONResponse(body, 424 if endpoint["kind"] == "Managed" else 502, headers)


def _endpoint(request: Request, state: State) -> Json:
    name = request.path_params.get("endpoint") or request.headers["host"].split(".")[0]
    for identity, endpoint in state.resources.of_type("onlineEndpoints"):
        if identity.endswith(f"/{name.lower()}"):
            return endpoint
    raise AzureError(404, "NotFound", f"The endpoint '{name}' was not found.")


def _check_key(request: Request, state: State, endpoint: Json) -> None:
    if endpoint["properties"]["authMode"] != "Key":
        claims(request, "https://ml.azure.com")
        return
    known = state.keys[endpoint["id"].lower()].values()
    if request.headers.get("authorization", "").removeprefix("Bearer ") not in known:
        raise AzureError(401, "key_auth_access_denied", "Access denied: the key is not valid.")


def _choose(state: State, traffic: dict[str, int]) -> str | None:
    shares = {name: share for name, share in traffic.items() if share}
    return state.random.choices(list(shares), list(shares.values()))[0] if shares else None


def _mirror(state: State, endpoint: Json, inputs: Json) -> None:
    """Show a share of the live requests to the shadow deployment; nobody sees its answers."""
    for name, share in (endpoint["properties"].get("mirrorTraffic") or {}).items():
        identity = f"{endpoint['id']}/deployments/{name}".lower()
        if state.random.random() * 100 < share and identity in state.containers:
            _TASKS.add(task := asyncio.create_task(_shadow(state, identity, inputs)))
            task.add_done_callback(_TASKS.discard)


_TASKS: set[asyncio.Task[None]] = set()


async def _shadow(state: State, identity: str, inputs: Json) -> None:
    status, body = await state.containers[identity].answer(inputs)
    _note(state, identity, f"POST /score {status} (mirrored) {json.dumps(body)[:200]}")


ROUTES = [
    Route("/score", score, methods=["POST"]),
    Route("/api/v1/endpoint/{endpoint}/score", score, methods=["POST"]),
]
