"""Online endpoints and their deployments: create, update, delete, traffic, keys and logs.

A system-assigned identity gets its roles by itself (article concept-endpoints-online-auth); one
that is assigned by the user must have them before its first managed deployment, or that fails
(articles how-to-deploy-for-real-time-inference and how-to-troubleshoot-online-endpoints).
"""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import authorization, rules, serving
from .arm import Work, get_resource, list_resources
from .errors import AzureError, Json, invalid, not_found
from .machine_learning import WORKSPACE, describe
from .state import State, state_of

BUSY = ("Creating", "Updating", "Deleting")
METRICS = "AzureML Metrics Writer (preview)"


async def put_endpoint(request: Request) -> Response:
    """Create an endpoint, or replace what may change of it: traffic that is left out is gone."""
    state, path = state_of(request), request.scope["path"]
    wanted: Json = await request.json()
    # Clients do not say the kind: an endpoint with a compute is one on Kubernetes.
    wanted["kind"] = "K8S" if wanted["properties"].get("compute") else "Managed"
    existing = state.resources.get(path)
    if existing is None:
        return _create_endpoint(state, path, wanted)
    _check_idle(existing)
    _check_recoverable(state, existing)
    rules.check_same(existing, wanted)
    _check_split(state, path, wanted)

    async def work() -> None:
        # Only now: an update that fails leaves the traffic where it was.
        existing["tags"] = wanted.get("tags")
        for key in ("traffic", "mirrorTraffic"):
            existing["properties"][key] = wanted["properties"].get(key) or {}
        existing["properties"]["description"] = wanted["properties"].get("description")

    return _begin(state, existing, "Updating", work)


def _create_endpoint(state: State, path: str, wanted: Json) -> Response:
    name = path.rpartition("/")[2]
    rules.check_name("Endpoint", name)
    others = [identity for identity, _ in state.resources.of_type("onlineEndpoints")]
    if any(identity.endswith(f"/{name.lower()}") for identity in others):
        # rollout; wording as in azureml-examples issue 1931
        raise invalid("", "There is already an endpoint with this name in the region.")
    if len(others) >= state.settings.endpoints:
        raise invalid("", f"The limit of {len(others)} endpoints is reached. {rules.GUIDE}")
    _check_split(state, path, wanted)
    if wanted["kind"] != "Managed":
        _cluster(state, wanted)
    identity = _identity(state, wanted)
    properties = {"traffic": {}, "mirrorTraffic": {}, **wanted.pop("properties")}
    properties["authMode"] = properties.get("authMode") or "Key"
    properties["scoringUri"] = _scoring_uri(state, name, properties)
    properties["swaggerUri"] = properties["scoringUri"].replace("/score", "/swagger.json")
    endpoint = describe(path, properties, **{**wanted, "identity": identity})
    state.resources[path] = endpoint
    if principal := identity.get("principalId"):
        for scope, role in (*_needed(state, path), (path.rsplit("/", 2)[0], METRICS)):
            authorization.give(state, scope, principal, role)
    state.keys[path.lower()] = {name: uuid.uuid4().hex for name in ("primaryKey", "secondaryKey")}
    return _begin(state, endpoint, "Creating", _nothing_more)


def _needed(state: State, path: str) -> list[tuple[str, str]]:
    """The roles without which a deployment's container cannot start, by scope."""
    workspace = state.resources[path.partition("/onlineEndpoints/")[0]]["properties"]
    needs = (("containerRegistry", "AcrPull"), ("storageAccount", "Storage Blob Data Reader"))
    return [(workspace[key], role) for key, role in needs if workspace.get(key)]


def _check_roles(state: State, endpoint: Json) -> None:
    assigned = (endpoint.get("identity") or {}).get("userAssignedIdentities") or {}
    for identity in assigned.values() if endpoint["kind"] == "Managed" else ():
        for scope, role in _needed(state, endpoint["id"]):
            if not authorization.has(state, scope, str(identity["principalId"]), role):
                message = f"Authorization error: the endpoint's identity needs '{role}' on {scope}."
                raise AzureError(400, "BadArgument", f"{message} {rules.GUIDE}")


def _scoring_uri(state: State, name: str, properties: Json) -> str:
    region = state.settings.region
    if compute := properties.get("compute"):
        cluster = str(compute).rpartition("/")[2]
        return f"https://{cluster}.{region}.cloudapp.azure.com/api/v1/endpoint/{name}/score"
    return f"https://{name}.{region}.inference.ml.azure.com/score"


def _cluster(state: State, endpoint: Json) -> Json:
    """The attached compute of a Kubernetes endpoint (endpoint: `compute` is of type kubernetes)."""
    identity = str(endpoint["properties"].get("compute") or "")
    compute = state.resources.get(identity)
    if compute is None or compute["properties"]["computeType"] != "Kubernetes":
        message = f"'{identity}' is not an attached Kubernetes compute of this workspace."
        raise invalid("Compute", message)
    return compute


def _identity(state: State, wanted: Json) -> Json:
    """The endpoint's identity; one that is assigned by the user must exist."""
    block = wanted.get("identity") or {"type": "SystemAssigned"}
    if str(block["type"]).lower() == "systemassigned":
        tenant = state.settings.tenant
        return {"type": "SystemAssigned", "principalId": str(uuid.uuid4()), "tenantId": tenant}
    assigned = {}
    for identity in block.get("userAssignedIdentities") or {}:
        if (found := state.resources.get(identity)) is None:
            message = f"The user-assigned identity '{identity}' was not found."
            raise AzureError(400, "FailedIdentityOperation", message)
        keys = ("principalId", "clientId")
        assigned[identity] = {key: found["properties"].get(key) for key in keys}
    return {"type": "UserAssigned", "userAssignedIdentities": assigned}


def _check_split(state: State, path: str, wanted: Json) -> None:
    deployments = {d["name"] for d in state.resources.children(f"{path}/deployments")}
    properties = wanted["properties"]
    traffic = properties.get("traffic") or {}
    rules.check_traffic(traffic, deployments)
    mirror = properties.get("mirrorTraffic") or {}
    rules.check_mirror(mirror, traffic, deployments, wanted["kind"])


def _check_idle(resource: Json) -> None:
    """One operation at a time (trouble: 409)."""
    if (now := resource["properties"].get("provisioningState")) in BUSY:
        message = f"Cannot change '{resource['name']}' because it is in {now} provisioning state."
        raise AzureError(409, "Conflict", message)


def _check_recoverable(state: State, resource: Json) -> None:
    """What failed when it was made can only be deleted (as reported in public guides)."""
    if resource["id"].lower() in state.operations.unrecoverable:
        message = f"[{resource['name']}] failed during initial provisioning and is in an"
        raise invalid("", f"Specified {message} unrecoverable state. Delete and re-create.")


def _begin(state: State, resource: Json, now: str, work: Work) -> Response:
    resource["properties"]["provisioningState"] = now
    operation = state.operations.start(resource, work)
    status = 201 if now == "Creating" else 200
    return JSONResponse(resource, status, state.operations.headers(operation))


async def _nothing_more() -> None:
    return None


async def delete_endpoint(request: Request) -> Response:
    """Remove an endpoint with all its deployments (rollout)."""
    state, path = state_of(request), request.scope["path"]
    if state.resources.get(path) is None:
        return Response(status_code=204)
    endpoint = state.resources[path]
    _check_idle(endpoint)
    return _delete(state, endpoint)


def _delete(state: State, resource: Json) -> Response:
    resource["properties"]["provisioningState"] = "Deleting"
    identity = resource["id"].lower()

    async def work() -> None:
        gone = [i for i in state.containers if i == identity or i.startswith(f"{identity}/")]
        for name in gone:
            await state.containers.pop(name).close()
        state.resources.remove(identity)
        state.operations.unrecoverable.discard(identity)

    operation = state.operations.start(resource, work)
    return Response(status_code=202, headers=state.operations.headers(operation))


async def keys(request: Request) -> Response:
    """The two keys of an endpoint."""
    path = request.scope["path"].rpartition("/")[0]
    state_of(request).resources.require(path)
    return JSONResponse(state_of(request).keys[path.lower()])


async def new_key(request: Request) -> Response:
    """Replace one of the two keys."""
    state, path = state_of(request), request.scope["path"].rpartition("/")[0]
    endpoint = state.resources[path]
    which = str((await request.json())["keyType"]).lower()
    state.keys[path.lower()][f"{which}Key"] = uuid.uuid4().hex
    operation = state.operations.start(endpoint, _nothing_more)
    return Response(status_code=202, headers=state.operations.headers(operation))


async def list_deployments(request: Request) -> Response:
    """The deployments of an endpoint that exists."""
    state_of(request).resources.require(request.scope["path"].rpartition("/")[0])
    return await list_resources(request)


async def put_deployment(request: Request) -> Response:
    """Create or replace a deployment; it is ready when its container has loaded the flow."""
    state, path = state_of(request), request.scope["path"]
    endpoint = _ready_endpoint(state, path.rsplit("/", 2)[0])
    wanted: Json = await request.json()
    existing = state.resources.get(path)
    _check_deployment(state, endpoint, path, wanted, existing)
    deployment = describe(path, wanted.pop("properties"), **wanted)
    deployment["properties"].setdefault("scaleSettings", {"scaleType": "Default"})
    if existing is not None:
        deployment["systemData"]["createdAt"] = existing["systemData"]["createdAt"]
    state.resources[path] = deployment
    now = "Updating" if existing else "Creating"

    async def work() -> None:
        if state.settings.roles_first:
            _check_roles(state, endpoint)
        await serving.start(state, deployment)

    return _begin(state, deployment, now, work)


def _ready_endpoint(state: State, path: str) -> Json:
    """The endpoint, if it takes deployments (wording: azure-sdk-for-net issue 36961)."""
    if (endpoint := state.resources.get(path)) is None:
        raise not_found(path)
    name, now = endpoint["name"], endpoint["properties"]["provisioningState"]
    if now in BUSY:
        reason = f"because it is in {now} provisioning state."
        message = f"Cannot create a deployment in endpoint {name} {reason}"
        raise AzureError(409, "Conflict", message)
    if now == "Failed":
        message = f"Specified endpoint [{name}] has not been created successfully."
        raise invalid("", f"{message} Please recreate the endpoint.")
    return endpoint


def _check_deployment(
    state: State, endpoint: Json, path: str, wanted: Json, existing: Json | None
) -> None:
    name = path.rpartition("/")[2]
    rules.check_name("Deployment", name)
    if existing is not None:
        _check_idle(existing)
        _check_recoverable(state, existing)
    elif len(state.resources.children(path.rpartition("/")[0])) >= rules.MOST_DEPLOYMENTS:
        message = f"An endpoint has at most {rules.MOST_DEPLOYMENTS} deployments."
        raise invalid("", message)
    _check_references(state, wanted["properties"])
    if endpoint["kind"] == "Managed":
        rules.check_instances(wanted)
        _check_quota(state, path, wanted)
    else:
        rules.check_names_together(endpoint["name"], name)
        rules.check_resources(wanted, _cluster(state, endpoint))


def _check_references(state: State, properties: Json) -> None:
    """Model, environment and code must be registered."""
    code = (properties.get("codeConfiguration") or {}).get("codeId")
    references = {
        "Model": serving.model_of(properties),
        "Environment": properties.get("environmentId"),
        "Code": code,
    }
    for what, identity in references.items():
        if identity and state.resources.get(identity.removeprefix("azureml:")) is None:
            raise invalid(what, f"The {what.lower()} '{identity}' was not found.", 404)


def _check_quota(state: State, path: str, wanted: Json) -> None:
    others = [d for i, d in state.resources.of_type("deployments") if i != path.lower()]
    used = sum(rules.cores(deployment) for deployment in others)
    size = wanted["properties"]["instanceType"]
    rules.check_quota(size, used, rules.cores(wanted), state.settings.cores)


async def delete_deployment(request: Request) -> Response:
    """Remove a deployment that takes no live traffic (rollout)."""
    state, path = state_of(request), request.scope["path"]
    endpoint = state.resources[path.rsplit("/", 2)[0]]
    deployment = state.resources.get(path)
    if deployment is None:
        return Response(status_code=204)
    _check_idle(endpoint)
    _check_idle(deployment)
    name = deployment["name"]
    if (endpoint["properties"].get("traffic") or {}).get(name):
        message = f"Deployment '{name}' takes live traffic. Set its traffic to 0 first."
        raise invalid("", message)
    return _delete(state, deployment)


async def logs(request: Request) -> Response:
    """The last lines of a deployment's container."""
    state, path = state_of(request), request.scope["path"].rpartition("/")[0]
    state.resources.require(path)
    tail = int((await request.json()).get("tail") or 100)
    return JSONResponse({"content": "\n".join(serving.log(state, path)[-tail:])})


ENDPOINTS = f"{WORKSPACE}/onlineEndpoints"
ENDPOINT = f"{ENDPOINTS}/{{endpoint}}"
DEPLOYMENT = f"{ENDPOINT}/deployments/{{deployment}}"
ROUTES = [
    Route(ENDPOINTS, list_resources),
    Route(ENDPOINT, get_resource),
    Route(ENDPOINT, put_endpoint, methods=["PUT"]),
    Route(ENDPOINT, delete_endpoint, methods=["DELETE"]),
    Route(f"{ENDPOINT}/listKeys", keys, methods=["POST"]),
    Route(f"{ENDPOINT}/regenerateKeys", new_key, methods=["POST"]),
    Route(f"{ENDPOINT}/deployments", list_deployments),
    Route(DEPLOYMENT, get_resource),
    Route(DEPLOYMENT, put_deployment, methods=["PUT"]),
    Route(DEPLOYMENT, delete_deployment, methods=["DELETE"]),
    Route(f"{DEPLOYMENT}/getLogs", logs, methods=["POST"]),
]
