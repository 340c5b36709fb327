"""Azure Machine Learning below a workspace, without online endpoints: computes, stores, assets.

Rules and their sources:
- names of assets, `[a-zA-Z0-9][a-zA-Z0-9-_]{0,254}`: REST API specification of the provider
- a model's version is a whole number: azureml-examples issue 2725; that of data has at most 30
  characters: azureml-assets issue 295
- an existing version keeps its path and type; tags and description may change: the service's own
  refusal, which azure-ai-ml knows as ASSET_PATH_ERROR; of a model's properties new ones may be
  added: azureml-assets pull request 1174
"""

from __future__ import annotations

import datetime
import re
import uuid

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .arm import get_resource, list_resources
from .errors import AzureError, Json, not_found
from .state import PROVIDER, Resources, Settings, State, state_of

WORKSPACE = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    f"/providers/{PROVIDER}/workspaces/{{workspace}}"
)
ACCOUNT = "stllmops"
CONTAINER = "azureml-blobstore-5f1d"
SAS = "sv=2024-11-04&ss=b&srt=sco&sp=rwlacx&sig=loopback"
FIXED = {
    "data": ("dataUri", "dataType"),
    "models": ("modelUri", "modelType"),
    "environments": ("image", "build", "condaFile", "osType"),
    "codes": ("codeUri",),
}


def describe(identity: str, properties: Json, /, **more: object) -> Json:
    """A resource in Resource Manager's form."""
    parts = identity.split("/providers/")[-1].split("/")
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return {
        "id": identity,
        "name": parts[-1],
        "type": "/".join((parts[0], *parts[1::2])),
        "properties": properties,
        "systemData": {"createdAt": now, "createdBy": "loopback", "lastModifiedAt": now},
        **more,
    }


def furnish(resources: Resources, settings: Settings) -> None:
    """A workspace as a team finds it: stores, a compute instance, an attached cluster."""
    group, workspace, region = settings.group_id, settings.workspace_id, settings.region
    beside = f"{group}/providers/Microsoft"
    properties = {
        "friendlyName": settings.workspace,
        "workspaceId": str(uuid.uuid4()),
        "storageAccount": f"{beside}.Storage/storageAccounts/{ACCOUNT}",
        "keyVault": f"{beside}.KeyVault/vaults/kv-llmops",
        "containerRegistry": f"{beside}.ContainerRegistry/registries/crllmops",
        "discoveryUrl": f"https://{region}.api.azureml.ms/discovery",
        "mlFlowTrackingUri": f"azureml://{region}.api.azureml.ms/mlflow/v1.0{workspace}",
        "provisioningState": "Succeeded",
    }
    identity = {"type": "SystemAssigned", "principalId": str(uuid.uuid4())}
    found = [
        {"id": group, "name": settings.group, "location": region, "properties": {}},
        describe(workspace, properties, location=region, kind="Default", identity=identity),
        describe(properties["storageAccount"], {}, location=region),
        describe(properties["containerRegistry"], {}, location=region),
        _compute(f"{workspace}/computes/aks-llmops", "Kubernetes", region),
        _compute(f"{workspace}/computes/ci-llmops", "ComputeInstance", region),
        *(_store(f"{workspace}/datastores/{n}", n == "workspaceblobstore") for n in _STORES),
    ]
    for resource in found:
        resources[resource["id"]] = resource


_STORES = ("workspaceblobstore", "workspaceartifactstore")


def _compute(identity: str, kind: str, region: str) -> Json:
    limits = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}}
    types = {"defaultinstancetype": {"resources": limits}}
    inner: Json = {"namespace": "azureml", "instanceTypes": types} if kind == "Kubernetes" else {}
    properties = {"computeType": kind, "properties": inner, "provisioningState": "Succeeded"}
    return describe(identity, properties, location=region)


def _store(identity: str, default: bool) -> Json:
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": ACCOUNT,
        "containerName": CONTAINER,
        "endpoint": "core.windows.net",
        "protocol": "https",
        "credentials": {"credentialsType": "Sas"},
        "isDefault": default,
    }
    return describe(identity, properties)


async def list_stores(request: Request) -> Response:
    """The data stores, or only the default one."""
    stores = state_of(request).resources.children(request.scope["path"])
    wanted = request.query_params.get("isDefault", "").lower() == "true"
    found = [s for s in stores if s["properties"]["isDefault"] or not wanted]
    return JSONResponse({"value": found})


async def store_secrets(request: Request) -> Response:
    """The signature that lets a client read and write the store."""
    path = request.scope["path"].rpartition("/")[0]
    state_of(request).resources.require(path)
    return JSONResponse({"secretsType": "Sas", "sasToken": SAS})


def _versions(state: State, path: str) -> list[Json]:
    """An asset's versions, the oldest first."""
    found = state.resources.children(f"{path}/versions")
    if not found:
        raise not_found(path)
    return found


async def list_assets(request: Request) -> Response:
    """The assets of a kind, each with its latest and its next version."""
    state, path = state_of(request), request.scope["path"]
    versions = (i for i, _ in state.resources.of_type("versions") if i.startswith(path.lower()))
    found = dict.fromkeys(identity.rsplit("/", 2)[0] for identity in versions)
    return JSONResponse({"value": [_asset(state, identity) for identity in found]})


async def get_asset(request: Request) -> Response:
    """An asset without its versions."""
    return JSONResponse(_asset(state_of(request), request.scope["path"]))


def _asset(state: State, path: str) -> Json:
    newest = _versions(state, path)[-1]
    latest, identity = newest["name"], newest["id"].rsplit("/", 2)[0]
    following = str(int(latest) + 1) if latest.isdecimal() else ""
    properties = {"latestVersion": latest, "nextVersion": following, "isArchived": False}
    return describe(identity, properties)


async def list_versions(request: Request) -> Response:
    """Versions, the newest first, as many as asked for; of code those with a hash, of any name."""
    state = state_of(request)
    if wanted := request.query_params.get("hash"):
        return JSONResponse({"value": _with_hash(state, wanted)})
    found = _versions(state, request.scope["path"].rpartition("/")[0])[::-1]
    top = int(request.query_params.get("$top", len(found)))
    return JSONResponse({"value": found[:top]})


def _with_hash(state: State, wanted: str) -> list[Json]:
    codes = (r for i, r in state.resources.of_type("versions") if "/codes/" in i)
    return [r for r in codes if wanted in (r["properties"].get("properties") or {}).values()]


async def put_version(request: Request) -> Response:
    """Register a version, or change what may change of an existing one."""
    resources, path = state_of(request).resources, request.scope["path"]
    kind, version = request.path_params["kind"], request.path_params["version"]
    _check_name(kind, request.path_params["name"], version)
    properties = (await request.json())["properties"]
    existing = resources.get(path)
    if existing is not None:
        _update(kind, existing["properties"], properties)
        return JSONResponse(existing)
    properties = {"flavors": {}, **properties} if kind == "models" else properties
    properties["provisioningState"] = "Succeeded"
    resources[path] = describe(path, properties)
    return JSONResponse(resources[path], 201)


def _check_name(kind: str, name: str, version: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9][\w-]{0,254}", name, re.ASCII):
        raise AzureError(400, "UserError", f"The name '{name}' is not valid for an asset.")
    if kind == "models" and not re.fullmatch(r"[1-9]\d*", version):
        raise AzureError(400, "UserError", f"The version '{version}' must be a positive integer.")
    if kind == "data" and len(version) > 30:
        message = "Argument 'version' exceeded maximum length of 30."
        raise AzureError(400, "UserError", message)


def _update(kind: str, existing: Json, wanted: Json) -> None:
    if any(existing.get(key) != wanted.get(key) for key in FIXED[kind]):
        message = "Asset paths cannot be updated."
        if kind == "data":
            message = "A data version with this name and version already exists."
        raise AzureError(400, "UserError", message)
    own = {**(wanted.get("properties") or {}), **(existing.get("properties") or {})}
    for key in ("tags", "description", "isArchived"):
        existing[key] = wanted.get(key)
    existing["properties"] = own


async def pending_upload(request: Request) -> Response:
    """Where the files of code may be put before its version is registered."""
    place = f"https://{ACCOUNT}.blob.core.windows.net/code-{uuid.uuid4().hex[:12]}"
    reference = {
        "blobUri": place,
        "credential": {"credentialType": "SAS", "sasUri": f"{place}?{SAS}"},
        "storageAccountArmId": "",
    }
    return JSONResponse(
        {"blobReferenceForConsumption": reference, "pendingUploadType": "TemporaryBlobReference"}
    )


async def connection_secrets(request: Request) -> Response:
    """A connection with its key, as prompt flow's own client reads it."""
    known = {str(one["name"]): one for one in state_of(request).settings.connections}
    if (found := known.get(request.path_params["connection"])) is None:
        raise AzureError(404, "NotFound", "The connection was not found.")
    metadata = {"ApiType": "azure", "ApiVersion": found.get("api_version", "2024-02-01")}
    properties = {
        "category": "AzureOpenAI",
        "authType": "ApiKey",
        "target": found["api_base"],
        "credentials": {"key": found["api_key"]},
        "metadata": metadata,
    }
    return JSONResponse({"name": found["name"], "properties": properties})


class AssetKind(Convertor[str]):
    """The part of a path that says what kind of asset it is about."""

    regex = "|".join(FIXED)

    def convert(self, value: str) -> str:
        """As it stands in the path."""
        return value

    def to_string(self, value: str) -> str:
        """As it stands in the path."""
        return value


register_url_convertor("asset", AssetKind())
ASSETS = f"{WORKSPACE}/{{kind:asset}}"
VERSION = f"{ASSETS}/{{name}}/versions/{{version}}"
SMALL = WORKSPACE.replace("resourceGroups", "resourcegroups")  # as prompt flow writes it
CONNECTION = f"{SMALL}/connections/{{connection}}/listsecrets"
ROUTES = [
    Route(WORKSPACE, get_resource),
    Route(f"{WORKSPACE}/computes", list_resources),
    Route(f"{WORKSPACE}/computes/{{compute}}", get_resource),
    Route(f"{WORKSPACE}/datastores", list_stores),
    Route(f"{WORKSPACE}/datastores/{{store}}", get_resource),
    Route(f"{WORKSPACE}/datastores/{{store}}/listSecrets", store_secrets, methods=["POST"]),
    Route(CONNECTION, connection_secrets, methods=["POST"]),
    Route(CONNECTION.replace(SMALL, WORKSPACE), connection_secrets, methods=["POST"]),
    Route(ASSETS, list_assets),
    Route(f"{ASSETS}/{{name}}", get_asset),
    Route(f"{ASSETS}/{{name}}/versions", list_versions),
    Route(VERSION, get_resource),
    Route(VERSION, put_version, methods=["PUT"]),
    Route(f"{VERSION}/startPendingUpload", pending_upload, methods=["POST"]),
]
