"""Container registry: builds that end in images, and the registry's own door.

Rules and their sources:
- listBuildSourceUploadUrl, scheduleRun, runs, listLogSasUrl and a run's states: REST API
  specification of Microsoft.ContainerRegistry, 2019-06-01-preview
- an Entra token is exchanged for a refresh token, that for an access token of a scope: the
  registry's document "AAD-OAuth" and the article "Azure Container Registry authentication"
- 401 without a token, 404 MANIFEST_UNKNOWN: OCI distribution specification
- a name of 5 to 50 letters and digits: article "Naming rules and restrictions"
A build unpacks the context, wants the Dockerfile, and keeps the files as the image; to make one
fail: `fail_operation("runs")`.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path
from urllib.parse import parse_qs

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .arm import get_resource
from .errors import AzureError, Json
from .login import issue
from .machine_learning import describe
from .state import Resources, Settings, State, state_of

NAME = "crllmops"
STORE = "crllmopsbuilds"
AUDIENCE = "https://containerregistry.azure.net"
STATES = {"Creating": "Running", "Succeeded": "Succeeded", "Failed": "Failed"}
_NUMBERS = itertools.count(1)


def furnish(resources: Resources, settings: Settings) -> None:
    """The workspace's registry, with what its door is called."""
    identity = f"{settings.group_id}/providers/Microsoft.ContainerRegistry/registries/{NAME}"
    properties = {"loginServer": f"{NAME}.azurecr.io", "provisioningState": "Succeeded"}
    more: Json = {"location": settings.region, "sku": {"name": "Basic"}}
    resources[identity] = describe(identity, properties, **more)


def _parent(request: Request, levels: int = 1) -> str:
    """The id of the resource on which an action was called."""
    identity = "/".join(request.scope["path"].split("/")[:-levels])
    state_of(request).resources.require(identity)
    return identity


async def upload_url(request: Request) -> Response:
    """Where the build context may be put, and what a build calls it."""
    _parent(request)
    path = f"source/{next(_NUMBERS):08d}.tar.gz"
    url = f"https://{STORE}.blob.core.windows.net/{path}?sv=2024-11-04&sig=loopback"
    return JSONResponse({"uploadUrl": url, "relativePath": path})


async def schedule(request: Request) -> Response:
    """Begin a build."""
    state, registry = state_of(request), _parent(request)
    wanted: Json = await request.json()
    if wanted.get("type") != "DockerBuildRequest" or wanted.get("platform", {}).get("os") is None:
        raise AzureError(400, "InvalidRequest", "type and platform.os are required.")
    name = f"ca{next(_NUMBERS)}"
    properties = {"runId": name, "provisioningState": "Creating", "runType": "QuickBuild"}
    run = describe(f"{registry}/runs/{name}", properties)
    state.resources[run["id"]] = run

    async def work() -> None:
        _build(state, registry, wanted, state.folder / "images" / name)

    properties["operation"] = state.operations.start(run, work).name
    return JSONResponse(_shown(run))


def _shown(run: Json) -> Json:
    properties = run["properties"]
    status = STATES[properties["provisioningState"]]
    return {**run, "properties": {**properties, "status": status}}


def _build(state: State, registry: str, wanted: Json, folder: Path) -> None:
    content = state.blobs[f"{STORE}/{wanted['sourceLocation']}"].path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        archive.extractall(folder, filter="data")
    if not (folder / wanted["dockerFilePath"]).is_file():
        raise AzureError(400, "BuildFailed", "unable to find the Dockerfile in the context")
    for image in wanted["imageNames"]:
        repository, _, tag = image.partition(":")
        identity = f"{registry}/repositories/{repository}/tags/{tag}"
        state.resources[identity] = describe(identity, {"folder": str(folder)})


async def get_run(request: Request) -> Response:
    """How far a build is."""
    return JSONResponse(_shown(state_of(request).resources[request.scope["path"]]))


async def log_link(request: Request) -> Response:
    """Where the log of a build is."""
    state, run = state_of(request), _parent(request)
    operation = state.operations[state.resources[run]["properties"]["operation"]]
    text = f"Step 1/1\n{operation.error['message']}\n" if operation.error else "Step 1/1\ndone\n"
    place = f"logs/{run.rpartition('/')[2]}/rawtext.log"
    state.blobs.write(f"{STORE}/{place}", text.encode(), "text/plain", {})
    link = f"https://{STORE}.blob.core.windows.net/{place}?sv=2024-11-04&sig=loopback"
    return JSONResponse({"logLink": link})


async def exchange(request: Request) -> Response:
    """A refresh token for an Entra token."""
    state, form = state_of(request), await _form(request)
    known = (AUDIENCE, f"{AUDIENCE}/", "https://management.azure.com")
    try:
        jwt.decode(str(form["access_token"]), state.signing_key, ["HS256"], audience=known)
    except (KeyError, jwt.PyJWTError) as error:
        raise AzureError(401, "UNAUTHORIZED", "authentication required") from error
    if form.get("grant_type") != "access_token" or form.get("service") != _host(request):
        raise AzureError(400, "UNSUPPORTED", "grant_type and service are required")
    return JSONResponse({"refresh_token": issue(state, f"refresh {_host(request)}")})


async def _form(request: Request) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}


async def token(request: Request) -> Response:
    """An access token for a scope."""
    state, form = state_of(request), await _form(request)
    _decode(state, str(form.get("refresh_token")), f"refresh {_host(request)}")
    return JSONResponse({"access_token": issue(state, f"{_host(request)} {form['scope']}")})


async def manifest(request: Request) -> Response:
    """An image's manifest, of which nobody here wants more than that it is there."""
    state, names = state_of(request), request.path_params
    shown = request.headers.get("authorization", "").removeprefix("Bearer ")
    _decode(state, shown, f"{_host(request)} repository:{names['repository']}:pull")
    if find(state, f"{_host(request)}/{names['repository']}:{names['tag']}") is None:
        return JSONResponse({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, 404)
    return PlainTextResponse("")


def _host(request: Request) -> str:
    return request.headers["host"].split(":")[0]


def _decode(state: State, text: str, audience: str) -> None:
    try:
        jwt.decode(text, state.signing_key, ["HS256"], audience=audience)
    except jwt.PyJWTError as error:
        raise AzureError(401, "UNAUTHORIZED", "authentication required") from error


def find(state: State, image: str) -> tuple[str, Path] | None:
    """The id of an image's registry, and the folder with its files; null if there is none."""
    server, _, rest = image.partition("/")
    repository, _, tag = rest.partition(":")
    for identity, registry in list(state.resources.of_type("registries")):
        if registry["properties"].get("loginServer") == server:
            found = state.resources.get(f"{identity}/repositories/{repository}/tags/{tag}")
            return (identity, Path(found["properties"]["folder"])) if found else None
    return None


REGISTRIES = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.ContainerRegistry/registries"
)
REGISTRY = f"{REGISTRIES}/{{registry}}"
ROUTES = [
    Route(REGISTRY, get_resource),
    Route(f"{REGISTRY}/listBuildSourceUploadUrl", upload_url, methods=["POST"]),
    Route(f"{REGISTRY}/scheduleRun", schedule, methods=["POST"]),
    Route(f"{REGISTRY}/runs/{{run}}", get_run),
    Route(f"{REGISTRY}/runs/{{run}}/listLogSasUrl", log_link, methods=["POST"]),
]
DOOR = [
    Route("/oauth2/exchange", exchange, methods=["POST"]),
    Route("/oauth2/token", token, methods=["POST"]),
    Route("/v2/{repository:path}/manifests/{tag}", manifest, methods=["GET", "HEAD"]),
]
