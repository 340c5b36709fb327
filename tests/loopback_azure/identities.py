"""User-assigned managed identities (Microsoft.ManagedIdentity).

Names of 3 to 128 letters, digits, hyphens and underscores, a letter or digit first: article "Naming
rules and restrictions for Azure resources". InvalidResourceLocation as in Azure's article on common
deployment errors; a location is required by the REST reference.
"""

from __future__ import annotations

import re
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .arm import get_resource, list_resources
from .errors import AzureError, Json
from .machine_learning import describe
from .state import state_of


async def put_identity(request: Request) -> Response:
    """Create an identity, and with it a principal; an existing one only changes its tags."""
    state, path = state_of(request), request.scope["path"]
    wanted: Json = await request.json()
    if not wanted.get("location"):
        raise AzureError(400, "LocationRequired", "The location property is required.")
    if (existing := state.resources.get(path)) is not None:
        if existing["location"] != wanted["location"]:
            message = f"The resource already exists in location '{existing['location']}'."
            raise AzureError(409, "InvalidResourceLocation", message)
        existing["tags"] = wanted.get("tags") or {}
        return JSONResponse(existing)
    name = path.rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,127}", name):
        raise AzureError(400, "InvalidResourceName", f"The resource name '{name}' is invalid.")
    ids = {key: str(uuid.uuid4()) for key in ("principalId", "clientId")}
    more = {"location": wanted["location"], "tags": wanted.get("tags") or {}}
    properties = {"tenantId": state.settings.tenant, **ids}
    state.resources[path] = describe(path, properties, **more)
    return JSONResponse(state.resources[path], 201)


async def delete_identity(request: Request) -> Response:
    """Remove an identity; its role assignments stay, as those of an identity not found."""
    state, path = state_of(request), request.scope["path"]
    status = 204 if state.resources.get(path) is None else 200
    state.resources.remove(path)
    return Response(status_code=status)


IDENTITIES = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.ManagedIdentity/userAssignedIdentities"
)
IDENTITY = f"{IDENTITIES}/{{identity}}"
ROUTES = [
    Route(IDENTITIES, list_resources),
    Route(IDENTITY, get_resource),
    Route(IDENTITY, put_identity, methods=["PUT"]),
    Route(IDENTITY, delete_identity, methods=["DELETE"]),
]
