"""App Service: Linux plans, and sites that really serve the flow of their image.

Rules and their sources:
- a site's name has 2 to 60 letters, digits and hyphens, none of these at its ends, and is unique in
  all of Azure; a plan's name has 1 to 60: article "Naming rules and restrictions"; the wording of
  checknameavailability: its REST reference
- the plan must exist, `reserved` means Linux, settings are texts and replaced as a whole:
  REST reference, Web Apps - Create Or Update and Update Application Settings
- the names of sizes: article "App Service pricing", az appservice plan create --sku
- always on needs Basic or higher: article "Configure an App Service app"
- an image is pulled with the identity whose client id is acrUserManagedIdentityID and which has
  AcrPull: article "Configure a custom container"
- a reference that cannot be resolved is handed on as it stands; keyVaultReferenceIdentity reads:
  article "Use Key Vault references"
- the container must listen on WEBSITES_PORT; until a new one does, the old one answers; where it
  never does, 503: article "Configure a custom container"
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from . import authorization, own_identity, registry, serving, vault_secrets
from .arm import get_resource
from .errors import AzureError, Json
from .machine_learning import describe
from .state import State, state_of

SIZES = {
    "F1", "D1", "B1", "B2", "B3", "S1", "S2", "S3", "P1V2", "P2V2", "P3V2", "P0V3", "P1V3", "P2V3",
    "P3V3", "P1MV3", "P2MV3", "P3MV3", "P4MV3", "P5MV3", "I1V2", "I2V2", "I3V2",
}  # fmt: skip
SHARED = {"F1", "D1"}
PORT = "8080"
ROOT = "/"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])")
_BUILDS: dict[str, str] = {}
_PUTS: dict[str, int] = {}
_TASKS: set[asyncio.Task[None]] = set()


def _bad(message: str, status: int = 400) -> AzureError:
    return AzureError(status, "BadRequest" if status == 400 else "Conflict", message)


async def put_plan(request: Request) -> Response:
    """Make a plan, or change its size."""
    state, path = state_of(request), request.scope["path"]
    wanted: Json = await request.json()
    size = str(wanted.get("sku", {}).get("name", ""))
    if size.upper() not in SIZES:
        raise _bad(f"The parameter SKU.Name has an invalid value: '{size}'.")
    if not re.fullmatch(r"[\w-]{1,60}", path.rpartition("/")[2], re.ASCII):
        raise _bad("The name of the App Service plan is invalid.")
    if not wanted.get("location"):
        raise AzureError(400, "LocationRequired", "The location property is required.")
    properties = {"reserved": bool(wanted.get("properties", {}).get("reserved"))}
    more = {"location": wanted["location"], "sku": {"name": size}, "kind": wanted.get("kind")}
    state.resources[path] = describe(path, properties, **more)
    return JSONResponse(state.resources[path])


def _taken(state: State, name: str, own: str = "") -> bool:
    sites = (identity for identity, _ in state.resources.of_type("sites"))
    return any(i.endswith(f"/{name.lower()}") and i != own.lower() for i in sites)


async def check_name(request: Request) -> Response:
    """Whether a site can have a name."""
    name = str((await request.json())["name"])
    if not _NAME.fullmatch(name):
        return JSONResponse(
            {"nameAvailable": False, "reason": "Invalid", "message": f"'{name}' is not valid."}
        )
    if _taken(state_of(request), name):
        message = f"Hostname '{name}' already exists."
        return JSONResponse({"nameAvailable": False, "reason": "AlreadyExists", "message": message})
    return JSONResponse({"nameAvailable": True})


async def put_site(request: Request) -> Response:
    """Make a site or change it; a container with the new image and settings begins to start."""
    state, path = state_of(request), request.scope["path"]
    wanted: Json = await request.json()
    properties = wanted["properties"]
    config = dict(properties.pop("siteConfig", {}))
    name = path.rpartition("/")[2]
    _check_site(state, path, name, wanted, config)
    settings = {one["name"]: one["value"] for one in config.pop("appSettings", [])}
    properties |= {"defaultHostName": f"{name.lower()}.azurewebsites.net", "state": "Running"}
    more = {key: wanted.get(key) for key in ("location", "kind", "identity")}
    state.resources[path] = describe(path, properties, **more)
    for kind, content in (("web", config), ("appsettings", settings)):
        identity = f"{path}/config/{kind}"
        state.resources[identity] = describe(identity, content)
    _begin(state, path)
    return JSONResponse(state.resources[path])


def _check_site(state: State, path: str, name: str, wanted: Json, config: Json) -> None:
    properties = wanted["properties"]
    if not _NAME.fullmatch(name):
        raise _bad(f"The site name '{name}' is invalid.")
    if _taken(state, name, path):
        raise _bad(f"Website with given name {name} already exists.", 409)
    plan = state.resources.get(str(properties.get("serverFarmId", "")))
    if plan is None:
        raise _bad(f"Cannot find serverFarm with name {properties.get('serverFarmId')}.")
    if config.get("linuxFxVersion") and not plan["properties"]["reserved"]:
        raise _bad("The parameter LinuxFxVersion has an invalid value.")
    if config.get("alwaysOn") and plan["sku"]["name"].upper() in SHARED:
        raise _bad("AlwaysOn cannot be set for this site: its plan does not allow it.", 409)
    for one in config.get("appSettings", []):
        if not isinstance(one.get("value"), str):
            raise _bad(f"The value of the app setting '{one.get('name')}' must be a string.")
    for identity in (wanted.get("identity") or {}).get("userAssignedIdentities", {}):
        if state.resources.get(identity) is None:
            raise AzureError(400, "LinkedAuthorizationFailed", f"'{identity}' was not found.")


def _begin(state: State, path: str) -> None:
    number = _PUTS[path.lower()] = _PUTS.get(path.lower(), 0) + 1
    _TASKS.add(task := asyncio.create_task(_start(state, path, number)))
    task.add_done_callback(_TASKS.discard)


async def _start(state: State, path: str, number: int) -> None:
    """Put a container with the site's image and settings in the place of the one before."""
    await asyncio.sleep(state.settings.operation_s)
    key, container, build = path.lower(), None, ""
    try:
        folder, variables = _prepared(state, path)
        build = variables.get("BUILD_INFO", "")
        container = await serving.load(folder, variables, state.folder)
    except Exception as error:  # whatever keeps the container from starting
        _note(state, path, f"Container didn't start: {type(error).__name__}: {error}")
    if _PUTS[key] != number:  # a newer change is on its way
        if container:
            await container.close()
        return
    before = state.containers.pop(key, None)
    _BUILDS[key] = build
    if container:
        state.containers[key] = container
    if before:
        await before.close()


def _note(state: State, path: str, text: str) -> None:
    with (state.folder / f"{path.rpartition('/')[2]}.log").open("a") as file:
        file.write(f"{text}\n")


def _prepared(state: State, path: str) -> tuple[Path, dict[str, str]]:
    """The flow's folder in the pulled image, and the container's variables."""
    site, config = state.resources[path], state.resources[f"{path}/config/web"]["properties"]
    image = str(config["linuxFxVersion"]).removeprefix("DOCKER|")
    found = registry.find(state, image)
    if found is None:
        raise LookupError(f"ImagePullFailure: {image}")
    scope, folder = found
    puller = _puller(state, site, config)
    if puller is None or not authorization.has(state, scope, puller, "AcrPull"):
        raise PermissionError(f"ImagePullUnauthorizedFailure: {image}")
    settings = state.resources[f"{path}/config/appsettings"]["properties"]
    variables = {name: _resolved(state, site, text) for name, text in settings.items()}
    if variables.get("WEBSITES_PORT") != PORT:
        raise TimeoutError(f"didn't respond to HTTP pings on {variables.get('WEBSITES_PORT')}")
    assigned = (site.get("identity") or {}).get("userAssignedIdentities", {})
    known = {name: state.resources[name]["properties"] for name in assigned}
    variables |= own_identity.variables(
        state, {"userAssignedIdentities": known}, "IDENTITY_ENDPOINT", "IDENTITY_HEADER"
    )
    place = folder / variables["AZUREML_MODEL_DIR"].removeprefix(ROOT)
    (model,) = place.iterdir()
    return model, variables


def _principal(state: State, identity: str) -> str:
    return str(state.resources[identity]["properties"]["principalId"])


def _puller(state: State, site: Json, config: Json) -> str | None:
    """The principal of the site's identity that is to pull."""
    if not config.get("acrUseManagedIdentityCreds"):
        return None
    for identity in (site.get("identity") or {}).get("userAssignedIdentities", {}):
        properties = state.resources[identity]["properties"]
        if properties["clientId"] == config.get("acrUserManagedIdentityID"):
            return str(properties["principalId"])
    return None


def _resolved(state: State, site: Json, text: str) -> str:
    """The value that a reference stands for; where it may not be read, the reference."""
    try:
        found = vault_secrets.resolve(text)
    except LookupError:
        return text
    if found is None:
        return text
    vault, value = found
    reader = _principal(state, site["properties"]["keyVaultReferenceIdentity"])
    return value if _may_read(state, vault, reader) else text


def _may_read(state: State, name: str, principal: str) -> bool:
    for identity, vault in state.resources.of_type("vaults"):
        if not identity.endswith(f"/{name.lower()}"):
            continue
        if vault["properties"].get("enableRbacAuthorization"):
            return authorization.has(state, identity, principal, "Key Vault Secrets User")
        policies = vault["properties"]["accessPolicies"]
        own = [p for p in policies if p["objectId"].lower() == principal.lower()]
        return any({"get", "all"} & set(p["permissions"].get("secrets", ())) for p in own)
    return False


async def list_settings(request: Request) -> Response:
    """The site's settings with their values."""
    path = request.scope["path"].removesuffix("/list")
    return JSONResponse(state_of(request).resources[path])


def _key(request: Request) -> str:
    """The site at the host that was asked."""
    name = request.headers["host"].split(".")[0].lower()
    sites = state_of(request).resources.of_type("sites")
    found = next((i for i, _ in sites if i.endswith(f"/{name}")), None)
    if found is None:
        raise AzureError(404, "NotFound", "404 Web Site not found.")
    if found not in state_of(request).containers:
        raise AzureError(503, "ServiceUnavailable", "Application Error")
    return found


async def health(request: Request) -> Response:
    """What prompt flow's server says of itself."""
    _key(request)
    return JSONResponse({"status": "Healthy", "version": "1.18.5"})


async def version(request: Request) -> Response:
    """The build that stands in BUILD_INFO, as prompt flow's server shows it."""
    info = _BUILDS[_key(request)]
    try:
        number = json.loads(info)["build_number"]
    except (ValueError, KeyError, TypeError):
        number = "1.18.5"
    return JSONResponse({"status": "Healthy", "build_info": info, "version": number})


async def score(request: Request) -> Response:
    """The flow's answer."""
    container = state_of(request).containers[_key(request)]
    try:
        inputs = await request.json()
    except ValueError:
        return PlainTextResponse("not JSON", 400)
    status, body = await container.answer(inputs)
    return JSONResponse(body, status)


GROUP = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Web"
PLAN = f"{GROUP}/serverfarms/{{plan}}"
SITE = f"{GROUP}/sites/{{site}}"
NAMES = "/subscriptions/{subscription}/providers/Microsoft.Web/checknameavailability"
ROUTES = [
    Route(NAMES, check_name, methods=["POST"]),
    Route(PLAN, get_resource),
    Route(PLAN, put_plan, methods=["PUT"]),
    Route(SITE, get_resource),
    Route(SITE, put_site, methods=["PUT"]),
    Route(f"{SITE}/config/web", get_resource),
    Route(f"{SITE}/config/appsettings/list", list_settings, methods=["POST"]),
]
DOOR = [
    Route("/health", health),
    Route("/ready", health),
    Route("/version", version),
    Route("/score", score, methods=["POST"]),
]
