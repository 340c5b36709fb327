"""What an endpoint's identity is given: `llmops.azure.roles` in a child, on the emulated Azure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from loopback_azure import LoopbackAzure

CHILD = """
import json, sys
from llmops.azure import roles, workspace
from llmops.errors import UserError
given = json.loads(sys.argv[1])
where = workspace.Place(*given["place"])
roles.PAUSES_S = given["pauses"]
try:
    answer = eval(given["code"])
except UserError as error:
    sys.exit(str(error))
assert not any(name.startswith("azure.ai") for name in sys.modules)
print(json.dumps(answer, default=vars))
"""
WORKSPACE_ROLE = "ea01e6af-a1c1-4350-9563-ad00f8c72ec5"
VAULT_ROLE = "4633458b-17de-408a-b874-0445c86b69e6"
PULL_ROLE = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
BLOB_ROLE = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
METRICS_ROLE = "635dd51f-9968-44d3-b7fb-6d9a6bd613ae"

Json = dict[str, Any]


@dataclass
class Said:
    """What the child printed: the answer of its last line, all its lines, and its error."""

    answer: Any
    text: str
    error: str


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


@pytest.fixture(autouse=True)
def clean(azure: LoopbackAzure) -> Iterator[None]:
    azure.place(vault_of(azure), {"enableRbacAuthorization": None, "accessPolicies": []})
    yield
    azure.forget()
    azure.change(denied=[], replication_s=2.0)


@pytest.fixture
def run(azure: LoopbackAzure) -> Run:
    """run(code): what an expression over `roles` and `where` gives in a child."""
    settings = azure.settings
    names = [settings.subscription, settings.group, settings.workspace]

    def run(code: str, vault: str = "", pauses: tuple[float, ...] = (0.1, 0.1)) -> Said:
        given = {"place": [*names, vault], "code": code, "pauses": pauses}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(given)],
            env=os.environ | azure.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode:
            return Said(None, done.stdout, done.stderr)
        return Said(json.loads(done.stdout.splitlines()[-1]), done.stdout, "")

    return run


@pytest.fixture
def principal(azure: LoopbackAzure) -> str:
    """A fresh identity's principal."""
    made = str(uuid.uuid4())
    provider = "Microsoft.ManagedIdentity/userAssignedIdentities"
    identity = f"{azure.settings.group_id}/providers/{provider}/id-{made[:8]}"
    azure.place(identity, {"principalId": made, "clientId": str(uuid.uuid4())})
    return made


def vault_of(azure: LoopbackAzure) -> str:
    return f"{azure.settings.group_id}/providers/Microsoft.KeyVault/vaults/kv-llmops"


def given(azure: LoopbackAzure, principal: str) -> set[tuple[str, str]]:
    """The principal's roles: (the resource's name, the role's id)."""
    found = (r["properties"] for i, r in azure.state.items() if "/roleAssignments/" in i)
    return {
        (p["scope"].rpartition("/")[2], p["roleDefinitionId"].rpartition("/")[2])
        for p in found
        if p["principalId"] == principal
    }


def policies(azure: LoopbackAzure) -> list[Json]:
    found: list[Json] = azure.state[vault_of(azure)]["properties"]["accessPolicies"]
    return found


def puts(azure: LoopbackAzure) -> list[str]:
    return [entry["path"] for entry in azure.log if entry["method"] == "PUT"]


@pytest.mark.parametrize("mode", [None, False])
def test_a_vault_with_access_policies(
    azure: LoopbackAzure, run: Run, principal: str, mode: bool | None
) -> None:
    azure.place(vault_of(azure), {"enableRbacAuthorization": mode})
    code = f"roles.grant(where, {principal!r})"
    said = run(code)
    assert [(g["scope"].rpartition("/")[2], g["made"]) for g in said.answer] == [
        (azure.settings.workspace, True),
        ("kv-llmops", True),
    ]
    assert "granted: role 'Azure Machine Learning Workspace Connection Secrets" in said.text
    assert "granted: secrets get, list (access policy) on vaults/kv-llmops" in said.text
    assert "15 minutes" in said.text
    assert given(azure, principal) == {(azure.settings.workspace, WORKSPACE_ROLE)}
    (policy,) = policies(azure)
    assert policy["objectId"] == principal and policy["permissions"] == {"secrets": ["get", "list"]}
    if mode is None:
        second = run(code)
        assert [g["made"] for g in second.answer] == [False, False]
        assert "found: " in second.text and "15 minutes" not in second.text
        assert len(puts(azure)) == 2 and len(policies(azure)) == 1


def test_a_vault_with_roles(azure: LoopbackAzure, run: Run, principal: str) -> None:
    azure.place(vault_of(azure), {"enableRbacAuthorization": True})
    code = f"roles.grant(where, {principal!r})"
    assert [g["made"] for g in run(code, vault="KV-llmops").answer] == [True, True]
    wanted = {(azure.settings.workspace, WORKSPACE_ROLE), ("kv-llmops", VAULT_ROLE)}
    assert given(azure, principal) == wanted and not policies(azure)
    assert [g["made"] for g in run(code).answer] == [False, False]
    assert len(puts(azure)) == 2 and not any("accessPolicies" in path for path in puts(azure))


def test_a_user_assigned_identity_gets_what_azure_gives_the_others(
    azure: LoopbackAzure, run: Run, principal: str
) -> None:
    azure.place(vault_of(azure), {"enableRbacAuthorization": True})
    name = f"id-{principal[:8]}"
    assert run(f"roles.principal_of(where, {name!r})").answer == principal
    code = f"roles.missing(where, {principal!r}, roles.USER_ASSIGNED)"
    assert len(run(code).answer) == 5 and not puts(azure)
    run(f"roles.grant(where, {principal!r}, roles.USER_ASSIGNED)")
    assert given(azure, principal) == {
        (azure.settings.workspace, WORKSPACE_ROLE),
        (azure.settings.workspace, METRICS_ROLE),
        ("kv-llmops", VAULT_ROLE),
        ("crllmops", PULL_ROLE),
        ("stllmops", BLOB_ROLE),
    }
    assert run(code).answer == []
    assert "not found" in run("roles.principal_of(where, 'id-none')").error


def test_what_is_there_already_counts(azure: LoopbackAzure, run: Run, principal: str) -> None:
    settings, name = azure.settings, str(uuid.uuid4())
    role = f"/providers/Microsoft.Authorization/roleDefinitions/{WORKSPACE_ROLE.upper()}"
    properties = {
        "scope": settings.group_id.upper(),  # above the workspace, and in another letter case
        "principalId": principal,
        "roleDefinitionId": f"/subscriptions/{settings.subscription}{role}",
    }
    path = f"{settings.group_id}/providers/Microsoft.Authorization/roleAssignments/{name}"
    azure.place(path, properties)
    policy = {
        "tenantId": settings.tenant,
        "objectId": principal.upper(),
        "permissions": {"secrets": ["All"]},
    }
    azure.place(vault_of(azure), {"accessPolicies": [policy]})
    azure.change(denied=["*/write"])
    assert [g["made"] for g in run(f"roles.grant(where, {principal!r})").answer] == [False, False]
    assert not puts(azure)


def test_a_policy_keeps_what_it_allowed(azure: LoopbackAzure, run: Run, principal: str) -> None:
    others = {"secrets": ["set", "get"], "keys": ["sign"]}
    policy = {"tenantId": azure.settings.tenant, "objectId": principal, "permissions": others}
    azure.place(vault_of(azure), {"accessPolicies": [policy]})
    run(f"roles.grant(where, {principal!r})")
    (found,) = policies(azure)
    assert found["permissions"] == {"secrets": ["set", "get", "list"], "keys": ["sign"]}


def test_a_fresh_principal(azure: LoopbackAzure, run: Run, principal: str) -> None:
    """The kind of principal is said, so Azure takes one that it cannot look up yet."""
    azure.change(replication_s=3600)
    assert all(g["made"] for g in run(f"roles.grant(where, {principal!r})").answer)


def test_a_fresh_principal_that_azure_does_look_up(
    azure: LoopbackAzure, run: Run, principal: str
) -> None:
    fault: Json = {
        "status": 400,
        "code": "PrincipalNotFound",
        "method": "PUT",
        "path": "/roleAssign",
    }
    azure.fail(**fault, times=2)
    began = time.monotonic()
    said = run(f"roles.grant(where, {principal!r})", pauses=(0.5, 1.0))
    assert time.monotonic() - began > 1.5 and said.text.count("not known everywhere yet") == 2
    assert given(azure, principal) and [e["status"] for e in azure.log].count(400) == 2
    azure.fail(**fault, times=3)
    other = str(uuid.uuid4())
    said = run(f"roles.grant(where, {other!r})")
    assert "still unknown after 0.2 s" in said.error and not given(azure, other)


def test_a_caller_who_may_not_assign_roles(azure: LoopbackAzure, run: Run, principal: str) -> None:
    azure.change(denied=["Microsoft.Authorization/roleAssignments/write"])
    said = run(f"roles.grant(where, {principal!r}, roles.USER_ASSIGNED)")
    assert "Role Based Access Control Administrator" in said.error
    lines = [line for line in said.error.splitlines() if line.startswith("  ")]
    assert len(lines) == 4 and all("az role assignment create" in line for line in lines)
    assert f"--scope {azure.settings.workspace_id}" in lines[0] and principal in lines[0]
    assert "granted: secrets get, list" in said.text and policies(azure)  # what it may do, it does
    azure.change(denied=[])
    assert sum(g["made"] for g in run(f"roles.grant(where, {principal!r})").answer) == 1


def test_a_caller_who_may_not_change_or_see_the_vault(
    azure: LoopbackAzure, run: Run, principal: str
) -> None:
    code = f"roles.grant(where, {principal!r})"
    azure.change(denied=["Microsoft.KeyVault/vaults/accessPolicies/write"])
    said = run(code)
    assert "Key Vault Contributor" in said.error and "az keyvault set-policy" in said.error
    azure.change(denied=["Microsoft.KeyVault/vaults/read"])
    said = run(code)
    assert "vaults/kv-llmops: may not be read" in said.error and "'Reader'" in said.error


def test_a_role_that_somebody_else_assigns_meanwhile(
    azure: LoopbackAzure, run: Run, principal: str
) -> None:
    azure.fail(409, code="RoleAssignmentExists", method="PUT", path="/roleAssignments/")
    assert [g["made"] for g in run(f"roles.grant(where, {principal!r})").answer] == [False, True]
    azure.fail(409, code="ScopeLocked", method="PUT", path="/roleAssignments/")
    said = run(f"roles.grant(where, {str(uuid.uuid4())!r})")
    assert "ScopeLocked" in said.error


def test_a_vault_or_a_registry_that_is_not_there(
    azure: LoopbackAzure, run: Run, principal: str
) -> None:
    assert "KEY_VAULT_NAME" in run(f"roles.grant(where, {principal!r})", vault="kv-none").error
    registry = azure.state[azure.settings.workspace_id]["properties"]["containerRegistry"]
    azure.place(azure.settings.workspace_id, {"containerRegistry": None})
    said = run(f"roles.grant(where, {principal!r}, roles.USER_ASSIGNED)")
    azure.place(azure.settings.workspace_id, {"containerRegistry": registry})
    assert "has no containerRegistry yet" in said.error and not puts(azure)


def test_a_passing_fault_is_tried_again(azure: LoopbackAzure, run: Run, principal: str) -> None:
    azure.fail(429, retry_after=0.1, path="/vaults/")
    azure.fail(503, code="ServerBusy", method="PUT")
    assert all(g["made"] for g in run(f"roles.grant(where, {principal!r})").answer)


def test_the_requests_in_their_order(azure: LoopbackAzure, run: Run, principal: str) -> None:
    run(f"roles.grant(where, {principal!r})")
    calls = [
        (entry["method"], entry["path"].split("/")[-2])
        for entry in azure.log
        if entry["host"] == "management.azure.com"
    ]
    assert calls == [
        ("GET", "workspaces"),
        ("GET", "vaults"),
        ("GET", "Microsoft.Authorization"),
        ("PUT", "roleAssignments"),
        ("PUT", "accessPolicies"),
    ]
    assert {entry["status"] for entry in azure.log} <= {200, 201}
