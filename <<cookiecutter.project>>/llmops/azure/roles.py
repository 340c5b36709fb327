"""What an endpoint's identity may do: the roles and the vault access that it needs, and no more.

Which these are, Microsoft says in "Deploy a flow as a managed online endpoint" and "Authentication
and authorization for online endpoints". They are given at the narrowest scope that has them: the
workspace, its vault, its container registry and its storage account.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmops.azure.manager import Call, Json, code_of, manager
from llmops.azure.workspace import Place, explained
from llmops.errors import UserError

Resource = Literal["workspace", "keyVault", "containerRegistry", "storageAccount"]

WORKSPACES, AUTHORIZATION = "2024-10-01", "2022-04-01"
IDENTITIES, VAULTS = "2024-11-30", "2026-02-01"  # earlier versions for vaults end in February 2027
# How long to wait for a principal to be known everywhere, try by try; two minutes together.
PAUSES_S: Sequence[float] = (1, 2, 4, 8, 15, 30, 60)
LONGEST_PAUSE_S = 60.0
SECRETS = ("get", "list")
# How Azure ML, the registry, the storage and the vault say that a role is missing or not there yet.
REFUSAL = re.compile(
    r"authorization ?(error|failed|permission)|have authorization|not authorized|"
    r"unauthorized: authentication",
    re.IGNORECASE,
)
NOT_YET = (
    "The roles were granted just now, which can take 15 minutes to act. Run `make deploy` again "
    "then, or let it wait for longer"
)


@dataclass(frozen=True)
class Role:
    """A built-in role. Its id is the same in every tenant and stays when the role is renamed."""

    name: str
    id: str


@dataclass(frozen=True)
class Need:
    """A role that an identity needs on a resource of the workspace, or on one by its ARM id.

    On a vault with access policies it stands for the permission to get and list secrets.
    """

    role: Role
    on: Resource | str


CONNECTIONS = Role(
    "Azure Machine Learning Workspace Connection Secrets Reader",
    "ea01e6af-a1c1-4350-9563-ad00f8c72ec5",
)
METRICS = Role("AzureML Metrics Writer (preview)", "635dd51f-9968-44d3-b7fb-6d9a6bd613ae")
VAULT_SECRETS = Role("Key Vault Secrets User", "4633458b-17de-408a-b874-0445c86b69e6")
PULL = Role("AcrPull", "7f951dda-4ed3-4680-a7ca-43fe172d538d")
BLOBS = Role("Storage Blob Data Reader", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1")

# Azure ML itself gives a system-assigned identity the three that only the other list has.
SYSTEM_ASSIGNED = (Need(CONNECTIONS, "workspace"), Need(VAULT_SECRETS, "keyVault"))
USER_ASSIGNED = (
    *SYSTEM_ASSIGNED,
    Need(METRICS, "workspace"),
    Need(PULL, "containerRegistry"),
    Need(BLOBS, "storageAccount"),
)


@dataclass(frozen=True)
class Grant:
    """An access that the identity has on the resource `scope`; `made` by this call or before."""

    what: str
    scope: str
    made: bool

    def __str__(self) -> str:
        return f"{'granted' if self.made else 'found'}: {self.what} on {_short(self.scope)}"


def grant(
    where: Place, principal_id: str, needs: Sequence[Need] = SYSTEM_ASSIGNED
) -> tuple[Grant, ...]:
    """Give an endpoint's identity what it needs, print what was given or found, and return it.

    A second call gives nothing. `principal_id` is the object id of the endpoint's identity, which
    may be seconds old. A grant takes up to 15 minutes to take effect.

    Raises:
        UserError: the caller may not give it (all that is missing is named, with who must give it),
            the workspace lacks a resource, or the identity is still unknown after two minutes.
    """
    from azure.core.exceptions import HttpResponseError

    done: list[Grant] = []
    refused: list[_Access] = []
    with explained(where), manager() as call:
        for access in _accesses(call, where, principal_id, needs):
            try:
                done.append(_give(call, access))
                print(done[-1])
            except HttpResponseError as error:
                if error.status_code != 403:
                    raise
                refused.append(access)
    if refused:
        raise UserError(_who_must(where, principal_id, refused))
    if any(one.made for one in done):
        print("What was granted can take up to 15 minutes to take effect.")
    return tuple(done)


def missing(
    where: Place, principal_id: str, needs: Sequence[Need] = SYSTEM_ASSIGNED
) -> tuple[str, ...]:
    """What `grant` would give, in words; changes nothing.

    Raises:
        UserError: the workspace, its vault or its assignments cannot be read.
    """
    with explained(where), manager() as call:
        accesses = _accesses(call, where, principal_id, needs)
        return tuple(f"{a.what} on {_short(a.scope)}" for a in accesses if not a.found(call))


def pauses() -> Iterator[float]:
    """Seconds from one try to the next until a role acts: 2, 4, 8, … and then a minute each."""
    pause = 2.0
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


def principal_of(where: Place, identity: str) -> str:
    """The object id of a user-assigned identity: its name in the resource group, or its ARM id.

    Raises:
        UserError: there is no such identity, or it cannot be read.
    """
    return _identity(where, identity, "principalId")


def client_of(where: Place, identity: str) -> str:
    """The client id of a user-assigned identity; named, and raises, as `principal_of`."""
    return _identity(where, identity, "clientId")


def _identity(where: Place, identity: str, key: str) -> str:
    kind = "Microsoft.ManagedIdentity/userAssignedIdentities"
    path = identity if identity.startswith("/") else where.id(kind, identity)
    with explained(where), manager() as call:
        return str(call("GET", path, IDENTITIES)["properties"][key])


@dataclass(frozen=True)
class _Assignment:
    """A role on a scope."""

    role: Role
    scope: str
    principal: str

    @property
    def what(self) -> str:
        return f"role '{self.role.name}'"

    @property
    def command(self) -> str:
        return (
            f"az role assignment create --role {self.role.id} --assignee-object-id "
            f"{self.principal} --assignee-principal-type ServicePrincipal --scope {self.scope}"
        )

    @property
    def _path(self) -> str:
        return f"{self.scope}/providers/Microsoft.Authorization/roleAssignments"

    def found(self, call: Call) -> bool:
        """Whether the role is assigned there or above; the list also tells what is below."""
        wanted = f"principalId eq '{self.principal}'"
        listed = call("GET", self._path, AUTHORIZATION, **{"$filter": wanted})["value"]
        return any(self._covered_by(one["properties"]) for one in listed)

    def _covered_by(self, given: Json) -> bool:
        role = str(given["roleDefinitionId"]).rpartition("/")[2].lower()
        above = f"{str(given['scope']).rstrip('/')}/".lower()
        return role == self.role.id and f"{self.scope}/".lower().startswith(above)

    def give(self, call: Call) -> bool:
        """Assign the role; false where somebody else did so meanwhile."""
        from azure.core.exceptions import HttpResponseError

        # The same name for the same thing: two deploys at once make one assignment.
        name = uuid.uuid5(
            uuid.NAMESPACE_URL, f"{self.scope}|{self.role.id}|{self.principal}".lower()
        )
        subscription = "/".join(self.scope.split("/")[:3])
        definitions = f"{subscription}/providers/Microsoft.Authorization/roleDefinitions"
        properties = {
            "roleDefinitionId": f"{definitions}/{self.role.id}",
            "principalId": self.principal,
            # Said, so that Azure need not look up a principal that is not known everywhere yet.
            "principalType": "ServicePrincipal",
        }
        path = f"{self._path}/{name}"
        try:
            _patiently(lambda: call("PUT", path, AUTHORIZATION, {"properties": properties}))
        except HttpResponseError as error:
            if code_of(error) != "RoleAssignmentExists":
                raise
            return False
        return True


@dataclass(frozen=True)
class _Policy:
    """Secrets of a vault that has access policies."""

    vault: Json
    principal: str

    what = f"secrets {', '.join(SECRETS)} (access policy)"

    @property
    def scope(self) -> str:
        return str(self.vault["id"])

    @property
    def command(self) -> str:
        name = self.scope.rpartition("/")[2]
        allowed = " ".join(SECRETS)
        return (
            f"az keyvault set-policy --name {name} --object-id {self.principal} "
            f"--secret-permissions {allowed}"
        )

    def found(self, call: Call) -> bool:
        """Whether the vault's policies, read before, allow it."""
        allowed = {
            str(permission).lower()
            for policy in self.vault["properties"].get("accessPolicies") or ()
            if str(policy["objectId"]).lower() == self.principal.lower()
            for permission in policy["permissions"].get("secrets") or ()
        }
        return "all" in allowed or allowed.issuperset(SECRETS)

    def give(self, call: Call) -> bool:
        """Add the permissions to those that the identity has."""
        policy = {
            "tenantId": self.vault["properties"]["tenantId"],
            "objectId": self.principal,
            "permissions": {"secrets": list(SECRETS)},
        }
        body = {"properties": {"accessPolicies": [policy]}}
        call("PUT", f"{self.scope}/accessPolicies/add", VAULTS, body)
        return True


_Access = _Assignment | _Policy


def _accesses(call: Call, where: Place, principal: str, needs: Sequence[Need]) -> list[_Access]:
    workspace = call("GET", where.scope, WORKSPACES)["properties"]
    return [_access(call, where, workspace, principal, need) for need in needs]


def _access(call: Call, where: Place, workspace: Json, principal: str, need: Need) -> _Access:
    scope = _scope(where, workspace, need.on)
    if need.on == "keyVault":
        vault = _vault(call, scope)
        # True: roles decide, and policies are ignored. False or null: only the policies decide.
        if not vault["properties"].get("enableRbacAuthorization"):
            return _Policy(vault, principal)
    return _Assignment(need.role, scope, principal)


def _scope(where: Place, workspace: Json, on: Resource | str) -> str:
    if on.startswith("/"):
        return on
    if on == "workspace":
        return where.scope
    own = str(workspace.get(on) or "")
    if on == "keyVault" and where.key_vault:
        same = own.lower().endswith(f"/{where.key_vault.lower()}")
        return own if same else where.id("Microsoft.KeyVault/vaults", where.key_vault)
    if not own:
        raise UserError(
            f"{where.workspace}: has no {on} yet. An endpoint with a user-assigned identity needs "
            "it: attach one to the workspace, or use a system-assigned identity."
        )
    return own


def _vault(call: Call, scope: str) -> Json:
    from azure.core.exceptions import HttpResponseError

    try:
        return call("GET", scope, VAULTS)
    except HttpResponseError as error:
        if error.status_code != 403:
            raise
        raise UserError(
            f"{_short(scope)}: may not be read, so whether roles or access policies guard it is "
            "unknown. Ask an Owner of it to assign 'Reader' on it to who runs this task."
        ) from error


def _short(scope: str) -> str:
    """A resource's type and name, as in vaults/kv-llmops."""
    return "/".join(scope.split("/")[-2:])


def _give(call: Call, access: _Access) -> Grant:
    made = not access.found(call) and access.give(call)
    return Grant(access.what, access.scope, made)


def _who_must(where: Place, principal: str, refused: Sequence[_Access]) -> str:
    lines = [f"  {a.what} on {_short(a.scope)}: {a.command}" for a in refused]
    return "\n".join(
        (
            f"{where.workspace}: who runs this task may not give the identity "
            f"{principal} what it needs. An Owner or a Role Based Access Control Administrator of "
            "the resources (for an access policy: a Key Vault Contributor) must assign:",
            *lines,
            "Then run the task again.",
        )
    )


def _patiently(put: Callable[[], Json]) -> Json:
    """The answer, once Azure knows the principal everywhere."""
    from azure.core.exceptions import HttpResponseError

    for pause in (*PAUSES_S, None):
        try:
            return put()
        except HttpResponseError as error:
            if code_of(error) != "PrincipalNotFound":
                raise
        if pause is not None:
            print(f"The identity is not known everywhere yet; trying again in {pause:g} s.")
            time.sleep(pause)
    raise UserError(
        f"the identity is still unknown after {sum(PAUSES_S):g} s. Check that it is of "
        "this tenant, and run the task again: what was granted stays."
    )
