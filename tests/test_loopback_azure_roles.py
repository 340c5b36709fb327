"""The emulated Azure's rules for roles, managed identities and vaults, by plain requests."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request

import pytest
from loopback_azure import LoopbackAzure

AUTHORIZATION = "/providers/Microsoft.Authorization"
READER = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
Json = dict[str, Any]
Send = Callable[..., tuple[int, Json]]


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    yield
    azure.change(denied=[], replication_s=2.0)


@pytest.fixture(scope="module")
def send(azure: LoopbackAzure) -> Send:
    """send(method, path, body, **query): status and JSON of Resource Manager's answer."""
    settings = azure.settings
    form = {
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "scope": "https://management.azure.com/.default",
    }
    sign_in = f"https://login.microsoftonline.com/{settings.tenant}/oauth2/v2.0/token"
    with azure.open(Request(sign_in, urllib.parse.urlencode(form).encode())) as answer:
        headers = {"Authorization": f"Bearer {json.load(answer)['access_token']}"}

    def send(method: str, path: str, body: Json | None = None, **query: str) -> tuple[int, Json]:
        text = urllib.parse.urlencode({"api-version": "2022-04-01", **query})
        data = None if body is None else json.dumps(body).encode()
        url = f"https://management.azure.com{path}?{text}"
        try:
            with azure.open(Request(url, data, headers, method=method)) as answer:
                read = answer.read()
                return answer.status, json.loads(read) if read else {}
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]

    return send


@pytest.fixture
def principal(azure: LoopbackAzure, send: Send) -> str:
    """The principal of a new identity."""
    status, made = send("PUT", identity(azure, f"id-{uuid.uuid4()}"), {"location": "westeurope"})
    assert status == 201
    return str(made["properties"]["principalId"])


def identity(azure: LoopbackAzure, name: str) -> str:
    provider = "Microsoft.ManagedIdentity/userAssignedIdentities"
    return f"{azure.settings.group_id}/providers/{provider}/{name}"


def vault_of(azure: LoopbackAzure) -> str:
    return f"{azure.settings.group_id}/providers/Microsoft.KeyVault/vaults/kv-llmops"


def wish(principal: str, role: str = READER, kind: str | None = "ServicePrincipal") -> Json:
    definition = f"{AUTHORIZATION}/roleDefinitions/{role}"
    properties = {"principalId": principal, "roleDefinitionId": definition, "principalType": kind}
    return {"properties": {key: value for key, value in properties.items() if value}}


def assignment(scope: str, name: object = None) -> str:
    return f"{scope}{AUTHORIZATION}/roleAssignments/{name or uuid.uuid4()}"


def test_the_same_again_and_the_same_by_another_name(
    azure: LoopbackAzure, send: Send, principal: str
) -> None:
    path = assignment(azure.settings.workspace_id)
    assert send("PUT", path, wish(principal))[0] == 201
    assert send("PUT", path, wish(principal))[0] == 200
    assert send("GET", path)[1]["properties"]["scope"] == azure.settings.workspace_id
    status, error = send("PUT", assignment(azure.settings.workspace_id), wish(principal))
    assert (status, error["code"]) == (409, "RoleAssignmentExists")
    name = path.rpartition("/")[2]
    for other, body in (
        (assignment(azure.settings.group_id, name), wish(principal)),
        (path, wish(principal, PULL)),
    ):
        status, error = send("PUT", other, body)
        assert (status, error["code"]) == (400, "RoleAssignmentUpdateNotPermitted")
    assert [send("DELETE", path)[0] for _ in range(2)] == [200, 204]
    assert send("GET", path)[1]["code"] == "RoleAssignmentNotFound"


def test_a_new_principal(azure: LoopbackAzure, send: Send, principal: str) -> None:
    path = assignment(azure.settings.workspace_id)
    azure.change(replication_s=3600)
    status, error = send("PUT", path, wish(principal, kind=None))
    assert (status, error["code"]) == (400, "PrincipalNotFound")
    assert "replication delay" in error["message"]
    azure.change(replication_s=0)
    assert send("PUT", path, wish(principal, kind=None))[0] == 201
    status, error = send("PUT", assignment(azure.settings.group_id), wish(principal, kind="User"))
    assert (status, error["code"]) == (400, "UnmatchedPrincipalType")
    azure.change(replication_s=3600)
    assert send("PUT", assignment(azure.settings.group_id), wish(principal))[0] == 201
    nobody = wish(str(uuid.uuid4()), kind=None)
    assert (
        send("PUT", assignment(azure.settings.group_id), nobody)[1]["code"] == "PrincipalNotFound"
    )


def test_what_does_not_exist_or_has_no_form(
    azure: LoopbackAzure, send: Send, principal: str
) -> None:
    here, none = azure.settings.workspace_id, str(uuid.uuid4())
    for path, body, code in (
        (assignment(here, "first"), wish(principal), "InvalidRoleAssignmentId"),
        (assignment(here), wish("me"), "InvalidPrincipalId"),
        (assignment(here), wish(principal, "AcrPull"), "InvalidRoleDefinitionId"),
        (assignment(here), wish(principal, none), "RoleDefinitionDoesNotExist"),
        (assignment(f"{vault_of(azure)}-none"), wish(principal), "ResourceNotFound"),
        (assignment(f"{here}-none"), wish(principal), "ParentResourceNotFound"),
        (assignment(f"{azure.settings.group_id}-none"), wish(principal), "ResourceGroupNotFound"),
        (assignment(f"/subscriptions/{none}"), wish(principal), "SubscriptionNotFound"),
    ):
        assert send("PUT", path, body)[1]["code"] == code


def test_lists_at_above_and_below(azure: LoopbackAzure, send: Send, principal: str) -> None:
    settings = azure.settings
    subscription = f"/subscriptions/{settings.subscription}"
    scopes = (subscription, settings.group_id, settings.workspace_id, vault_of(azure))
    for scope in scopes:
        assert send("PUT", assignment(scope), wish(principal))[0] == 201

    def seen(scope: str, wanted: str) -> set[str]:
        path = f"{scope}{AUTHORIZATION}/roleAssignments"
        status, found = send("GET", path, **{"$filter": wanted})
        assert status == 200
        return {one["properties"]["scope"] for one in found["value"]}

    assert seen(settings.group_id, f"principalId eq '{principal}'") == set(scopes)
    assert seen(settings.workspace_id, f"principalId eq '{principal}'") == set(scopes[:3])
    mine = f"atScope() and assignedTo('{principal}')"
    assert seen(settings.group_id, mine) == set(scopes[:2])
    assert seen(settings.group_id, f"principalId eq '{uuid.uuid4()}'") == set()


def test_roles_by_name_and_id(azure: LoopbackAzure, send: Send) -> None:
    path = f"{azure.settings.workspace_id}{AUTHORIZATION}/roleDefinitions"
    _, found = send("GET", path, **{"$filter": "roleName eq 'AcrPull'"})
    assert [role["name"] for role in found["value"]] == [PULL]
    assert send("GET", path, **{"$filter": "roleName eq 'None'"})[1] == {"value": []}
    assert send("GET", f"{path}/{PULL}")[1]["properties"]["roleName"] == "AcrPull"
    assert send("GET", f"{path}/{uuid.uuid4()}")[0] == 404


def test_identities(azure: LoopbackAzure, send: Send) -> None:
    path = identity(azure, "id-one")
    assert send("PUT", path, {})[1]["code"] == "LocationRequired"
    status, made = send("PUT", path, {"location": "westeurope"})
    assert status == 201 and made["properties"]["tenantId"] == azure.settings.tenant
    status, again = send("PUT", path, {"location": "westeurope", "tags": {"by": "test"}})
    assert status == 200 and again["properties"] == made["properties"] and again["tags"]
    assert send("PUT", path, {"location": "eastus"})[1]["code"] == "InvalidResourceLocation"
    bad = send("PUT", identity(azure, "-"), {"location": "westeurope"})
    assert bad[1]["code"] == "InvalidResourceName"
    assert [send("DELETE", path)[0] for _ in range(2)] == [200, 204]
    assert send("GET", path)[0] == 404


def test_access_policies(azure: LoopbackAzure, send: Send, principal: str) -> None:
    def put(kind: str, permissions: list[str], tenant: str = "", who: str = "") -> Any:
        policy = {
            "tenantId": tenant or azure.settings.tenant,
            "objectId": who or principal,
            "permissions": {"secrets": permissions},
        }
        body = {"properties": {"accessPolicies": [policy]}}
        return send("PUT", f"{vault_of(azure)}/accessPolicies/{kind}", body)

    def allowed() -> list[list[str]]:
        policies = send("GET", vault_of(azure))[1]["properties"]["accessPolicies"]
        return [policy["permissions"]["secrets"] for policy in policies]

    assert put("add", ["Get"])[0] == 200 and put("add", ["list"])[0] == 200
    assert allowed() == [["get", "list"]]
    put("replace", ["set"])
    assert allowed() == [["set"]]
    put("remove", ["set"])
    assert allowed() == []
    assert [
        put("add", ["look"])[0],
        put("add", ["get"], tenant=str(uuid.uuid4()))[0],
        put("add", ["get"], who="me")[0],
        put("change", ["get"])[0],
    ] == [400] * 4


def test_what_the_caller_may_not_do(azure: LoopbackAzure, send: Send, principal: str) -> None:
    azure.change(denied=["Microsoft.Authorization/roleAssignments/write", "*/listKeys/action"])
    status, error = send("PUT", assignment(azure.settings.group_id), wish(principal))
    assert (status, error["code"]) == (403, "AuthorizationFailed")
    assert "perform action 'Microsoft.Authorization/roleAssignments/write'" in error["message"]
    status, error = send("POST", azure.id("onlineEndpoints/none/listKeys"), {})
    assert status == 403 and "/workspaces/onlineEndpoints/listKeys/action'" in error["message"]
    path = f"{azure.settings.group_id}{AUTHORIZATION}/roleAssignments"
    assert send("GET", path)[0] == 200


def test_a_system_assigned_identity_has_its_roles_at_once(azure: LoopbackAzure, send: Send) -> None:
    body = {"location": "westeurope", "properties": {"authMode": "Key"}}
    _, endpoint = send("PUT", azure.id("onlineEndpoints/of-its-own"), body)
    wanted = f"principalId eq '{endpoint['identity']['principalId']}'"
    path = f"{azure.settings.group_id}{AUTHORIZATION}/roleAssignments"
    found = send("GET", path, **{"$filter": wanted})[1]["value"]
    assert sorted(one["properties"]["scope"].rpartition("/")[2] for one in found) == [
        "crllmops",
        azure.settings.workspace,
        "stllmops",
    ]
