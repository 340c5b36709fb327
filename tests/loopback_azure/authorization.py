"""Role definitions and role assignments (Microsoft.Authorization, 2022-04-01).

Rules and their sources:
- ids of built-in roles: article "Azure built-in roles"
- `atScope()` lists at and above the scope, `principalId eq` at, above and below it: REST reference,
  Role Assignments - List For Scope; `assignedTo()`: article "List Azure role assignments using the
  REST API"
- a role may take minutes to act: article "Troubleshoot Azure RBAC"
- a new principal is not found, unless `principalType` is given; a name is unique and what it
  stands for does not change; assignments go with their scope, not with their principal: article
  "Troubleshoot Azure RBAC", wording too
- the same role, principal and scope under another name: RoleAssignmentExists, as in
  terraform-provider-azurerm pull request 28694
- InvalidRoleDefinitionId: terraform-provider-azurerm issue 8547; RoleDefinitionDoesNotExist:
  terraform-azurerm-caf-enterprise-scale's guide to known errors; UnmatchedPrincipalType: azure-dev
  issue 3581; that names and principals are GUIDs: article "Assign Azure roles using the REST API"
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import directory
from .errors import AzureError, Json
from .machine_learning import describe
from .state import Resources, State, state_of

ROLES = {
    "Owner": "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
    "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "User Access Administrator": "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
    "Role Based Access Control Administrator": "f58310d9-a9f6-439a-9e8d-f62e7b41a168",
    "AzureML Data Scientist": "f6c7c914-8db3-469d-8ca1-694a8f32e121",
    "AzureML Metrics Writer (preview)": "635dd51f-9968-44d3-b7fb-6d9a6bd613ae",
    "Azure Machine Learning Workspace Connection Secrets Reader": (
        "ea01e6af-a1c1-4350-9563-ad00f8c72ec5"
    ),
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "AcrPush": "8311e382-0749-4cb8-b61a-304f252e45ec",
    "Storage Blob Data Reader": "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "Key Vault Secrets User": "4633458b-17de-408a-b874-0445c86b69e6",
    "Search Index Data Reader": "1407120a-92aa-4202-b7e9-c0e197c71c8f",
    "Search Index Data Contributor": "8ebe5a00-799e-43f5-93ac-243d3dce84a7",
    "Search Service Contributor": "7ca78c08-252a-4471-8644-bb5ff32d4ba0",
}
PROVIDER = "/providers/Microsoft.Authorization"
_DEFINITION = re.compile(
    r"(?:/.+)?/providers/Microsoft\.Authorization/roleDefinitions/([^/]+)", re.I
)

Test = Callable[[Json], bool]


async def list_definitions(request: Request) -> Response:
    """The built-in roles, or the one with a name."""
    wanted = request.query_params.get("$filter", "")
    name = re.fullmatch(r"roleName eq '(.+)'", wanted)
    if wanted and not name:
        raise AzureError(400, "BadRequest", f"The filter '{wanted}' is not supported.")
    names = [name[1]] if name else list(ROLES)
    subscription = state_of(request).settings.subscription
    known = {key.lower(): key for key in ROLES}
    found = [known[n.lower()] for n in names if n.lower() in known]
    return JSONResponse({"value": [_definition(subscription, n) for n in found]})


def _definition(subscription: str, name: str) -> Json:
    identity = f"/subscriptions/{subscription}{PROVIDER}/roleDefinitions/{ROLES[name]}"
    return describe(identity, {"roleName": name, "type": "BuiltInRole", "assignableScopes": ["/"]})


async def get_definition(request: Request) -> Response:
    """A built-in role by its id."""
    wanted = request.path_params["role"].lower()
    name = next((n for n, identity in ROLES.items() if identity == wanted), None)
    if name is None:
        raise AzureError(404, "RoleDefinitionDoesNotExist", _missing(wanted))
    return JSONResponse(_definition(state_of(request).settings.subscription, name))


def _missing(role: str) -> str:
    return f"The specified role definition with ID '{role}' does not exist."


async def list_assignments(request: Request) -> Response:
    """The assignments that the filter lets through."""
    state, scope = state_of(request), _scope(request)
    tests = _tests(request.query_params.get("$filter", ""), scope)
    known = (assignment for _, assignment in state.resources.of_type("roleAssignments"))
    found = [a for a in known if all(test(a["properties"]) for test in tests)]
    return JSONResponse({"value": found})


def _tests(wanted: str, scope: str) -> list[Test]:
    tests: list[Test] = [lambda p: _above(p["scope"], scope) or _above(scope, p["scope"])]
    for part in filter(None, wanted.split(" and ")):
        principal = re.fullmatch(r"principalId eq '?([^']+?)'?|assignedTo\('([^']+)'\)", part)
        if part == "atScope()":
            tests.append(lambda p: _above(p["scope"], scope))
        elif principal is None:
            raise AzureError(400, "BadRequest", f"The filter '{part}' is not supported.")
        else:
            wanted_id = (principal[1] or principal[2]).lower()
            tests.append(lambda p, i=wanted_id: p["principalId"].lower() == i)  # type: ignore[misc]
    return tests


def _above(upper: str, lower: str) -> bool:
    return f"{lower}/".lower().startswith(f"{upper}/".lower())


def _scope(request: Request) -> str:
    """The scope of the request; it must exist (a subscription does where the caller came in)."""
    scope = f"/{request.path_params['scope'].strip('/')}"
    if scope.count("/") > 2:
        _require(state_of(request).resources, scope)
    return scope


def _require(resources: Resources, scope: str) -> None:
    if resources.get(scope) is None:
        group = scope.split("/")[4]
        kind = scope.partition("/providers/")[2] or scope
        message = f"The Resource '{kind}' under resource group '{group}' was not found."
        raise AzureError(404, "ResourceNotFound", message)


async def get_assignment(request: Request) -> Response:
    """One assignment."""
    path = request.scope["path"]
    if (found := state_of(request).resources.get(path)) is None:
        message = f"The role assignment '{request.path_params['name']}' is not found."
        raise AzureError(404, "RoleAssignmentNotFound", message)
    return JSONResponse(found)


async def put_assignment(request: Request) -> Response:
    """Assign a role: 201, or 200 where the very same assignment is there."""
    state, name, scope = state_of(request), request.path_params["name"], _scope(request)
    wanted: Json = (await request.json())["properties"]
    role = _check_form(name, wanted)
    same = {"scope": scope, "principalId": wanted["principalId"], "roleDefinitionId": role}
    if existing := _check_unique(state, name, same):
        return JSONResponse(existing)
    _check_principal(state, wanted)
    return JSONResponse(_assign(state, name, same), 201)


def give(state: State, scope: str, principal: str, role: str) -> Json:
    """Assign a role by name, as a service of Azure does it by itself."""
    same = {"scope": scope, "principalId": principal, "roleDefinitionId": ROLES[role]}
    return _assign(state, str(uuid.uuid4()), same)


def has(state: State, scope: str, principal: str, role: str) -> bool:
    """Whether a principal has just this role, at the scope or above it, and it acts already."""
    now = datetime.datetime.now(datetime.UTC)
    acting = now - datetime.timedelta(seconds=state.settings.propagation_s)
    given = (
        a["properties"]
        for _, a in state.resources.of_type("roleAssignments")
        if datetime.datetime.fromisoformat(a["systemData"]["createdAt"]) <= acting
    )
    wanted = (principal.lower(), ROLES[role])
    return any(
        (p["principalId"].lower(), p["roleDefinitionId"].rpartition("/")[2]) == wanted
        and _above(p["scope"], scope)
        for p in given
    )


def _assign(state: State, name: str, same: Json) -> Json:
    role = f"{PROVIDER}/roleDefinitions/{same['roleDefinitionId']}"
    properties = {
        **same,
        "principalType": "ServicePrincipal",
        "roleDefinitionId": f"/subscriptions/{state.settings.subscription}{role}",
    }
    path = f"{same['scope']}{PROVIDER}/roleAssignments/{name}"
    state.resources[path] = describe(path, properties)
    return state.resources[path]


def _check_form(name: str, wanted: Json) -> str:
    """The id of the role, if everything has the right form and the role exists."""
    given = str(wanted.get("roleDefinitionId", ""))
    role = _DEFINITION.fullmatch(given)
    if not directory.is_guid(name):
        message = f"The role assignment ID '{name}' is not valid. It must be a GUID."
        raise AzureError(400, "InvalidRoleAssignmentId", message)
    if not directory.is_guid(wanted.get("principalId")):
        message = f"The principal ID '{wanted.get('principalId')}' is not valid. It must be a GUID."
        raise AzureError(400, "InvalidPrincipalId", message)
    if role is None or not directory.is_guid(role[1]):
        message = f"The role definition ID '{given}' is not valid."
        raise AzureError(400, "InvalidRoleDefinitionId", message)
    if role[1].lower() not in ROLES.values():
        raise AzureError(400, "RoleDefinitionDoesNotExist", _missing(role[1]))
    return role[1].lower()


def _check_unique(state: State, name: str, same: Json) -> Json | None:
    """The assignment of this name if it is the same; another one of it is in the way."""
    wanted = {key: value.lower() for key, value in same.items()}
    for _, assignment in state.resources.of_type("roleAssignments"):
        there = {key: assignment["properties"][key].lower() for key in wanted}
        there["roleDefinitionId"] = there["roleDefinitionId"].rpartition("/")[2]
        if assignment["name"].lower() == name.lower():
            if there == wanted:
                return assignment
            message = "Tenant ID, application ID, principal ID, and scope are not allowed to be"
            raise AzureError(400, "RoleAssignmentUpdateNotPermitted", f"{message} updated.")
        if there == wanted:
            raise AzureError(409, "RoleAssignmentExists", "The role assignment already exists.")
    return None


def _check_principal(state: State, wanted: Json) -> None:
    """The principal is looked up, unless the request says that it is a service principal."""
    principal, kind = wanted["principalId"], wanted.get("principalType")
    if kind == "ServicePrincipal":
        return
    if not directory.found(state, principal):
        message = (
            f"Principal {principal} does not exist in the directory {state.settings.tenant}. Check "
            "that you have the correct principal ID. If you are creating this principal and then "
            "immediately assigning a role, this error might be related to a replication delay. In "
            "this case, set the role assignment principalType property to a value, such as "
            "ServicePrincipal, User, or Group.  See https://aka.ms/docs-principaltype"
        )
        raise AzureError(400, "PrincipalNotFound", message)
    if kind:
        message = f"The PrincipalId '{principal}' has type 'ServicePrincipal', which is different"
        message = f"{message} from specified PrinciaplType '{kind}'."
        raise AzureError(400, "UnmatchedPrincipalType", message)


async def delete_assignment(request: Request) -> Response:
    """Take a role away; 204 where it was not given."""
    state, path = state_of(request), request.scope["path"]
    existing = state.resources.get(path)
    state.resources.remove(path)
    return JSONResponse(existing) if existing else Response(status_code=204)


SCOPE = f"{{scope:path}}{PROVIDER}"
ASSIGNMENT = f"/{SCOPE}/roleAssignments/{{name}}"
ROUTES = [
    Route(f"/{SCOPE}/roleDefinitions", list_definitions),
    Route(f"/{SCOPE}/roleDefinitions/{{role}}", get_definition),
    Route(f"/{SCOPE}/roleAssignments", list_assignments),
    Route(ASSIGNMENT, get_assignment),
    Route(ASSIGNMENT, put_assignment, methods=["PUT"]),
    Route(ASSIGNMENT, delete_assignment, methods=["DELETE"]),
]
