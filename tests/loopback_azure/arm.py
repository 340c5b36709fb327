"""Azure Resource Manager: who may call, whether the scope exists, and long operations.

Codes SubscriptionNotFound, ResourceGroupNotFound, ResourceNotFound and ParentResourceNotFound as in
Azure's article on common deployment errors.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .errors import AzureError, Json
from .faults import FailedOperation
from .login import claims
from .state import PROVIDER, Resources, Settings, state_of

AUDIENCES = (
    "https://management.azure.com",
    "https://management.core.windows.net",
)
HOST = "https://management.azure.com"

Work = Callable[[], Awaitable[None]]


@dataclass
class Operation:
    """A long operation: `status` is InProgress, Succeeded or Failed."""

    name: str
    status: str = "InProgress"
    error: Json | None = None


class Operations:
    """Long operations under way and ended.

    `failures` are those that a test wants to fail; `unrecoverable` holds the ids of resources that
    failed when they were made, and were not deleted since; `spans` are the times of all.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures: list[FailedOperation] = []
        self.unrecoverable: set[str] = set()
        self.spans: list[tuple[float, float]] = []

    def __getitem__(self, name: str) -> Operation:
        if name not in self._known:
            raise AzureError(404, "NotFound", f"The operation '{name}' was not found.")
        return self._known[name]

    def start(self, resource: Json, work: Work) -> Operation:
        """Do `work` after the operation's time; the resource's state tells how it went."""
        operation = Operation(str(uuid.uuid4()))
        self._known[operation.name] = operation
        task = asyncio.create_task(self._run(operation, resource, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    async def _run(self, operation: Operation, resource: Json, work: Work) -> None:
        began = time.monotonic()
        await asyncio.sleep(self._settings.operation_s)
        try:
            self._fail_if_told(resource["id"].split("/")[-2])
            await work()
        except AzureError as error:
            operation.error = error.body
            if resource["properties"]["provisioningState"] == "Creating":
                self.unrecoverable.add(resource["id"].lower())
        # The resource first: who sees the operation ended must find the resource settled.
        status = "Failed" if operation.error else "Succeeded"
        resource["properties"]["provisioningState"] = status
        operation.status = status
        self.spans.append((began, time.monotonic()))

    def _fail_if_told(self, kind: str) -> None:
        for failure in self.failures:
            if failure.kind == kind and failure.times:
                failure.times -= 1
                raise AzureError(500, failure.code, failure.message)

    def headers(self, operation: Operation, provider: str = PROVIDER) -> dict[str, str]:
        """What leads the client to the operation."""
        place = f"{HOST}/subscriptions/{self._settings.subscription}/providers/{provider}"
        place = f"{place}/locations/{self._settings.region}"
        query = "?api-version=2024-10-01"
        return {
            "Azure-AsyncOperation": f"{place}/mfeOperationsStatus/{operation.name}{query}",
            "Location": f"{place}/mfeOperationResults/{operation.name}{query}",
            "x-ms-retry-after-ms": str(self._settings.retry_after_ms),
        }


async def operation_status(request: Request) -> Response:
    """How far a long operation is."""
    state = state_of(request)
    operation = state.operations[request.path_params["operation"]]
    body: Json = {"name": operation.name, "status": operation.status}
    if operation.error:
        body["error"] = operation.error
    return JSONResponse(body, headers={"x-ms-retry-after-ms": str(state.settings.retry_after_ms)})


async def operation_result(request: Request) -> Response:
    """202 as long as it lasts, then nothing."""
    state = state_of(request)
    operation = state.operations[request.path_params["operation"]]
    headers = state.operations.headers(operation) if operation.status == "InProgress" else {}
    return Response(status_code=202 if headers else 204, headers=headers)


def authorize(request: Request) -> None:
    """Refuse a caller without a token for Resource Manager or the action, and a missing scope."""
    claims(request, *AUDIENCES, *(f"{audience}/" for audience in AUDIENCES))
    state, path = state_of(request), request.scope["path"]
    _check_action(state.settings, request.method, path)
    _check_scope(state.resources, state.settings.subscription, path)


def _check_action(settings: Settings, method: str, path: str) -> None:
    """What the caller's roles allow; wording as in the article "Troubleshoot Azure RBAC"."""
    wanted = action(method, path)
    if any(fnmatchcase(wanted.lower(), pattern.lower()) for pattern in settings.denied):
        who = f"The client '{settings.client_id}' with object id '{settings.object_id}'"
        message = (
            f"{who} does not have authorization to perform action '{wanted}' over scope '{path}' "
            "or the scope is invalid. If access was recently granted, please refresh your "
            "credentials."
        )
        raise AzureError(403, "AuthorizationFailed", message)


def action(method: str, path: str) -> str:
    """The action that a request is, such as Microsoft.KeyVault/vaults/read."""
    provider, *parts = path.rpartition("/providers/")[2].strip("/").split("/")
    verbs = {"GET": "read", "HEAD": "read", "DELETE": "delete", "POST": "action"}
    return "/".join((provider, *parts[::2], verbs.get(method, "write")))


def _check_scope(resources: Resources, subscription: str, path: str) -> None:
    parts = path.strip("/").split("/")
    names = dict(zip(map(str.lower, parts[::2]), parts[1::2], strict=False))
    if (given := names.get("subscriptions")) and given.lower() != subscription:
        raise AzureError(
            404, "SubscriptionNotFound", f"The subscription '{given}' could not be found."
        )
    group = "/" + "/".join(parts[:4])
    if len(parts) > 4 and parts[2].lower() == "resourcegroups" and not resources.get(group):
        message = f"Resource group '{parts[3]}' could not be found."
        raise AzureError(404, "ResourceGroupNotFound", message)
    parent = "/" + "/".join(parts[:8])
    if names.get("workspaces") and not resources.get(parent):
        kind = f"{PROVIDER}/workspaces/{names['workspaces']}"
        if len(parts) == 8:
            message = f"The Resource '{kind}' under resource group '{parts[3]}' was not found."
            raise AzureError(404, "ResourceNotFound", message)
        message = f"The parent resource '{kind}' could not be found."
        raise AzureError(404, "ParentResourceNotFound", message)


async def get_resource(request: Request) -> Response:
    """A resource as it is; its id is the path."""
    return JSONResponse(state_of(request).resources[request.scope["path"]])


async def list_resources(request: Request) -> Response:
    """The resources of a collection, on one page."""
    return JSONResponse({"value": state_of(request).resources.children(request.scope["path"])})


OPERATIONS = "/subscriptions/{subscription}/providers/{provider}/locations/{region}"
ROUTES = [
    Route(f"{OPERATIONS}/mfeOperationsStatus/{{operation}}", operation_status),
    Route(f"{OPERATIONS}/mfeOperationResults/{{operation}}", operation_result),
    Route("/subscriptions/{subscription}/resourceGroups/{group}", get_resource),
]
