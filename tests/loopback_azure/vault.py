"""Key Vault as a resource: its mode of access and its access policies, not its secrets.

Rules and their sources:
- `enableRbacAuthorization` true: roles decide and access policies are ignored; false or null: the
  policies decide: articles "Azure RBAC versus access policies" and "Prepare for Key Vault API
  version 2026-02-01", which also retires every earlier version on 2027-02-27
- accessPolicies/add, replace, remove, and what a permission may be: REST reference, Vaults - Update
  Access Policy; `add` puts permissions to those that the object has
- at most 1024 policies: article "Assign a Key Vault access policy"
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import directory
from .arm import get_resource, list_resources
from .errors import AzureError, Json
from .machine_learning import describe
from .state import Resources, Settings, state_of

NAME = "kv-llmops"
MOST_POLICIES = 1024
SECRETS = {"all", "get", "list", "set", "delete", "backup", "restore", "recover", "purge"}


def furnish(resources: Resources, settings: Settings) -> None:
    """The workspace's vault, as Azure ML makes it: with access policies."""
    identity = f"{settings.group_id}/providers/Microsoft.KeyVault/vaults/{NAME}"
    properties: Json = {
        "tenantId": settings.tenant,
        "sku": {"family": "A", "name": "standard"},
        "accessPolicies": [],
        "enableRbacAuthorization": None,
        "vaultUri": f"https://{NAME}.vault.azure.net/",
        "provisioningState": "Succeeded",
    }
    resources[identity] = describe(identity, properties, location=settings.region)


async def update_policies(request: Request) -> Response:
    """Add to, replace or remove from the access policies; a vault in RBAC mode ignores them."""
    kind = request.path_params["operation"]
    vault = state_of(request).resources[request.scope["path"].rsplit("/", 2)[0]]
    wanted: list[Json] = (await request.json())["properties"]["accessPolicies"]
    for policy in wanted:
        _check(policy, vault["properties"]["tenantId"])
    merge = {"add": _add, "replace": _replace, "remove": _remove}.get(kind)
    if merge is None:
        raise AzureError(400, "BadRequest", f"The operation '{kind}' is not supported.")
    there = {_key(policy): policy for policy in vault["properties"]["accessPolicies"]}
    for policy in wanted:
        merge(there, policy)
    if len(there) > MOST_POLICIES:
        raise AzureError(400, "BadRequest", f"A vault has at most {MOST_POLICIES} policies.")
    vault["properties"]["accessPolicies"] = list(there.values())
    identity = f"{vault['id']}/accessPolicies/"
    body = {"accessPolicies": vault["properties"]["accessPolicies"]}
    return JSONResponse({**describe(identity, body), "location": vault["location"]})


def _check(policy: Json, tenant: str) -> None:
    secrets = {str(p).lower() for p in policy["permissions"].get("secrets") or ()}
    if not directory.is_guid(policy.get("objectId")):
        raise AzureError(400, "BadRequest", "The objectId of an access policy must be a GUID.")
    if policy.get("tenantId") != tenant:
        raise AzureError(400, "BadRequest", "The tenantId of an access policy is not the vault's.")
    if unknown := sorted(secrets - SECRETS):
        raise AzureError(400, "BadRequest", f"'{unknown[0]}' is not a permission for secrets.")


def _key(policy: Json) -> tuple[str, str]:
    return policy["objectId"].lower(), str(policy.get("applicationId") or "").lower()


def _add(there: dict[tuple[str, str], Json], policy: Json) -> None:
    known = there.setdefault(_key(policy), {**policy, "permissions": {}})["permissions"]
    for kind, given in policy["permissions"].items():
        lowered = [str(p).lower() for p in (*(known.get(kind) or ()), *(given or ()))]
        known[kind] = list(dict.fromkeys(lowered))


def _replace(there: dict[tuple[str, str], Json], policy: Json) -> None:
    there[_key(policy)] = policy


def _remove(there: dict[tuple[str, str], Json], policy: Json) -> None:
    there.pop(_key(policy), None)


VAULTS = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.KeyVault/vaults"
VAULT = f"{VAULTS}/{{vault}}"
ROUTES = [
    Route(VAULTS, list_resources),
    Route(VAULT, get_resource),
    Route(f"{VAULT}/accessPolicies/{{operation}}", update_policies, methods=["PUT"]),
]
