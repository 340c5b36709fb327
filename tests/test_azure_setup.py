"""`make azure-setup`: its script, with stand-ins for az and gh that remember and keep a log.

What az answers to the script's queries is what the real one is documented to answer; that the
queries are right, only a real tenant can prove.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import llmops
import pytest
from llmops.azure import roles, search_access

SCRIPT = Path(llmops.__file__).parents[1] / "scripts" / "azure_setup.sh"
SECRET = "Q~a-secret-that-nobody-may-see"
SUBSCRIPTION = "44444444-4444-4444-4444-444444444444"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-llmops"
WORKSPACE = f"{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/mlw-llmops"
VAULT = f"{GROUP}/providers/Microsoft.KeyVault/vaults/kv-llmops"
REGISTRY = f"{GROUP}/providers/Microsoft.ContainerRegistry/registries/crllmops"
STORAGE = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/stllmops"
SEARCH = f"{GROUP}/providers/Microsoft.Search/searchServices/srch-llmops"
DATA_SCIENTIST = "f6c7c914-8db3-469d-8ca1-694a8f32e121"
ADMINISTRATOR = "f58310d9-a9f6-439a-9e8d-f62e7b41a168"
CONTRIBUTOR = "f25e0fa2-a7c8-4377-a976-54943a77e395"
OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
Json = dict[str, Any]

# It knows what was made, by the words that make it found again, and notes every call.
AZ = """
import json, os, pathlib, sys
home = pathlib.Path(os.environ["STANDIN"])
words = sys.argv[1:]
name = pathlib.Path(sys.argv[0]).name
with (home / "log").open("a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
known = json.loads((home / "known").read_text())
options = {w: words[i + 1] for i, w in enumerate(words[:-1]) if w.startswith("--")}
command = " ".join([w for w in words if not w.startswith("-")][:4])


def has(start):
    return command.startswith(start)


def made(key, value):
    known["made"][key] = value
    (home / "known").write_text(json.dumps(known))
    return value


def found(key):
    return known["made"].get(key, "")


def role(id):
    whose = options.get("--assignee") or options.get("--assignee-object-id")
    return f"role {id} {whose} {options['--scope']}"


def answer():
    if name == "gh":
        if has("api"):
            return known["subject"]
        if has("secret list"):
            return found("stored")
        made("stored", "AZURE_CREDENTIALS")
        (home / "stored").write_text(sys.stdin.read())
        return ""
    if has("account show"):
        return known["tenant"]
    if has("resource list"):
        return "\\n".join(i for i in known["search"] if i.endswith("/" + options["--name"]))
    if has("resource show"):
        return "|".join(known["workspace"])
    if has("keyvault show"):
        if "enableRbac" in options["--query"]:
            return known["vault_roles"]
        return found("policy")
    if has("keyvault set-policy"):
        return made("policy", "Get\\nList")
    if has("ad app list"):
        return found("app")
    if has("ad app create"):
        return made("app", "the-app")
    if has("ad sp list"):
        return found("sp")
    if has("ad sp create"):
        if known["late"]:
            known["late"] -= 1
            (home / "known").write_text(json.dumps(known))
            sys.exit("The appId does not reference a valid application object.")
        return made("sp", "the-principal")
    if has("ad app federated-credential list"):
        one = json.loads(found("federated") or "{}")
        asked = options["--query"]
        return "there" if one and all(f"'{one[k]}'" in asked for k in ("issuer", "subject")) else ""
    if has("ad app federated-credential create"):
        return made("federated", options["--parameters"])
    if has("ad app credential list"):
        return found("password")
    if has("ad app credential reset"):
        made("password", "key")
        return known["secret"]
    if has("identity list"):
        return found("identity")
    if has("identity create"):
        return made("identity", "the-identity")
    if has("role assignment list"):
        return found(role(options["--query"].split("'")[1]))
    if has("role assignment create"):
        if options["--role"] in known["refused"]:
            sys.exit("(AuthorizationFailed) The client may not do that.")
        return made(role(options["--role"]), "there")
    if has("extension list"):
        return "ml"
    if has("ml compute list"):
        return found("compute")
    if has("ml compute create"):
        return made("compute", "there")
    sys.exit(f"not known: {words}")


print(answer())
"""


class Tenant:
    """Where the script runs, its environment, and what az and gh know and were asked."""

    def __init__(self, place: Path) -> None:
        self.folder, self.tools = place / "repo", place / "tools"
        for folder in (self.folder, self.tools):
            folder.mkdir()
        for tool in ("az", "gh"):
            (self.tools / tool).write_text(f"#!{sys.executable} -IS\n{AZ}")
            (self.tools / tool).chmod(0o755)
        for tool in (
            "bash",
            "sed",
            "tail",
            "cksum",
            "cut",
            "grep",
            "mktemp",
            "rm",
            "tr",
            "sort",
            "cat",
            "sleep",
            "git",
        ):
            found = shutil.which(tool)
            assert found
            (self.tools / tool).symlink_to(found)
        self.variables = {
            "SUBSCRIPTION_ID": SUBSCRIPTION,
            "RESOURCE_GROUP_NAME": "rg-llmops",
            "WORKSPACE_NAME": "mlw-llmops",
            "GITHUB_REPOSITORY": "octo/flows",
        }
        self.know(
            made={}, tenant="the-tenant", workspace=[VAULT, REGISTRY, STORAGE], vault_roles="true",
            subject="true repo:octo@1/flows@2", secret=SECRET, late=0, refused=[], search=[SEARCH],
        )  # fmt: skip

    def know(self, **facts: Any) -> None:
        """Set what az and gh answer."""
        path = self.tools / "known"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | facts))

    def run(self, answer: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script; with an answer, on a terminal where it is typed."""
        path = {"PATH": str(self.tools), "STANDIN": str(self.tools), "PAUSE_S": "0"}
        keyboard, terminal = pty.openpty()
        try:
            if answer is not None:
                os.write(keyboard, f"{answer}\n".encode())
            done = subprocess.run(
                [self.tools / "bash", str(SCRIPT)],
                cwd=self.folder,
                env=path | self.variables | variables,
                stdin=subprocess.DEVNULL if answer is None else terminal,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        assert SECRET not in done.stdout + done.stderr
        return done

    def done(self, **variables: str) -> str:
        """Run it with a yes; what it said."""
        outcome = self.run(YES="1", **variables)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    def refused(self, *parts: str, **variables: str) -> None:
        """It ends with 1 and a message, and nothing was changed."""
        outcome = self.run(YES="1", **variables)
        assert outcome.returncode == 1 and self.changes == [], outcome.stdout
        for part in parts:
            assert part in outcome.stderr, outcome.stderr

    @property
    def log(self) -> list[list[str]]:
        """Every call of az and gh."""
        path = self.tools / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def changes(self) -> list[list[str]]:
        """The calls that change something."""
        changing = {"create", "reset", "set", "set-policy"}
        return [call for call in self.log if changing & set(call[1:5])]

    @property
    def roles(self) -> dict[tuple[str, str], str]:
        """Who was given which role, by who and scope; several with a bar between."""
        found: dict[tuple[str, str], str] = {}
        for call in self.changes:
            if call[1:4] == ["role", "assignment", "create"]:
                assert option(call, "--assignee-principal-type") == "ServicePrincipal"
                key = (option(call, "--assignee-object-id"), option(call, "--scope"))
                found[key] = "|".join(filter(None, (found.get(key), option(call, "--role"))))
        return found


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    return Tenant(tmp_path)


def kinds(tenant: Tenant) -> list[str]:
    """What was changed, in order."""
    return [" ".join(w for w in call[1:5] if not w.startswith("-")) for call in tenant.changes]


def test_a_fresh_tenant_and_then_the_same_again(tenant: Tenant) -> None:
    said = tenant.done()
    assert kinds(tenant) == [
        "ad app create", "ad sp create", "ad app federated-credential create",
        *["role assignment create"] * 3,
    ]  # fmt: skip
    federated = json.loads(option(tenant.changes[2], "--parameters"))
    assert federated["issuer"] == "https://token.actions.githubusercontent.com"
    assert federated["subject"] == "repo:octo@1/flows@2:environment:dev"
    assert federated["audiences"] == ["api://AzureADTokenExchange"]
    assert tenant.roles == {
        ("the-principal", WORKSPACE): f"{DATA_SCIENTIST}|{ADMINISTRATOR}",
        ("the-principal", VAULT): ADMINISTRATOR,
    }
    for line in (
        "AZURE_CLIENT_ID=the-app",
        "AZURE_TENANT_ID=the-tenant",
        "KEY_VAULT_NAME=kv-llmops",
    ):
        assert f"  {line}\n" in said
    before = len(tenant.changes)
    again = tenant.done()
    assert "Nothing to do" in again and "  AZURE_CLIENT_ID=the-app\n" in again
    assert len(tenant.changes) == before


def test_who_may_give_roles_may_give_two_alone(tenant: Tenant) -> None:
    tenant.done()
    given = {
        option(call, "--scope"): option(call, "--condition")
        for call in tenant.changes
        if ADMINISTRATOR in call
    }
    assert set(given) == {WORKSPACE, VAULT}
    for scope, need in zip((WORKSPACE, VAULT), roles.SYSTEM_ASSIGNED, strict=True):
        assert given[scope].count(f"{{{need.role.id}}}") == 2
        assert len(set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]+){4}", given[scope]))) == 1
        assert given[scope].count("(") == given[scope].count(")")


def test_the_plan_shows_what_is_run_and_changes_nothing(tenant: Tenant) -> None:
    more = {"USER_MANAGED_ID": "id-flows", "COMPUTE_NAME": "ci", "AUTH": "secret"}
    outcome = tenant.run(PLAN="1", **more)
    assert outcome.returncode == 0 and tenant.changes == [], outcome.stderr
    planned = [line for line in outcome.stdout.splitlines() if line.startswith("az ")]
    said = tenant.done(**more)
    assert [line for line in said.splitlines() if line.startswith("az ")] == planned
    names = {"@app": "the-app", "@principal": "the-principal", "@identity": "the-identity"}
    for line, call in zip(planned, [c for c in tenant.changes if c[0] == "az"], strict=True):
        words = [names.get(word, word) for word in shlex.split(line)]
        assert call == [*words, "--output", "tsv", "--only-show-errors"]


@pytest.mark.parametrize("answer", ["", "n", "yess"])
def test_no_is_no(tenant: Tenant, answer: str) -> None:
    outcome = tenant.run(answer)
    assert outcome.returncode == 1 and "nothing was changed" in outcome.stderr
    assert tenant.changes == []


def test_a_yes_on_a_terminal(tenant: Tenant) -> None:
    outcome = tenant.run("y")
    assert outcome.returncode == 0, outcome.stderr
    assert len(tenant.changes) == 6


def test_nobody_to_ask(tenant: Tenant) -> None:
    outcome = tenant.run()
    assert outcome.returncode == 1 and "YES=1" in outcome.stderr and tenant.changes == []


def test_a_secret_goes_from_az_to_gh_and_nowhere_else(tenant: Tenant) -> None:
    tenant.done(AUTH="secret")
    stored = json.loads((tenant.tools / "stored").read_text())
    assert stored == {
        "clientId": "the-app",
        "clientSecret": SECRET,
        "subscriptionId": SUBSCRIPTION,
        "tenantId": "the-tenant",
    }
    assert ["gh", "secret", "set", "AZURE_CREDENTIALS", "--repo", "octo/flows"] in tenant.log
    assert SECRET not in json.dumps(tenant.log)
    assert "federated-credential" not in json.dumps(tenant.log)
    assert not any(SECRET in path.read_text() for path in tenant.folder.rglob("*"))
    before = len(tenant.changes)
    tenant.done(AUTH="secret")
    assert len(tenant.changes) == before


def test_never_owner_and_never_the_subscription(tenant: Tenant) -> None:
    for auth in ("github", "secret"):
        for identity in ("", "id-flows"):
            tenant.know(made={})
            tenant.done(AUTH=auth, USER_MANAGED_ID=identity, COMPUTE_NAME="ci")
    assert OWNER not in json.dumps(tenant.log) and '"Owner"' not in json.dumps(tenant.log)
    scopes = {option(call, "--scope") for call in tenant.log if "--scope" in call}
    assert scopes and all("/providers/" in scope for scope in scopes)
    assert OWNER not in SCRIPT.read_text()


def test_an_identity_for_endpoints_has_the_roles_that_deploy_looks_for(tenant: Tenant) -> None:
    tenant.done(USER_MANAGED_ID="id-flows")
    places = {
        "workspace": WORKSPACE,
        "keyVault": VAULT,
        "containerRegistry": REGISTRY,
        "storageAccount": STORAGE,
    }
    wanted = {(places[need.on], need.role.id) for need in roles.USER_ASSIGNED}
    given = {
        (scope, role)
        for (who, scope), ids in tenant.roles.items()
        if who == "the-identity"
        for role in ids.split("|")
    }
    assert given == wanted
    assert ADMINISTRATOR not in json.dumps(tenant.changes)  # a deploy has nothing to give then
    before = len(tenant.changes)
    assert "Nothing to do" in tenant.done(USER_MANAGED_ID="id-flows")
    assert len(tenant.changes) == before


MAKER, WRITER = "7ca78c08-252a-4471-8644-bb5ff32d4ba0", "8ebe5a00-799e-43f5-93ac-243d3dce84a7"


def test_a_search_service(tenant: Tenant) -> None:
    address = "https://srch-llmops.search.windows.net"
    said = tenant.done(SEARCH_ENDPOINT=address)
    assert f"  SEARCH_ENDPOINT={address}\n" in said
    assert tenant.roles["the-principal", SEARCH] == f"{MAKER}|{WRITER}|{ADMINISTRATOR}"
    (condition,) = (
        option(call, "--condition")
        for call in tenant.changes
        if ADMINISTRATOR in call and SEARCH in call
    )
    assert condition.count(f"{{{search_access.READ.id}}}") == 2
    assert "Nothing to do" in tenant.done(SEARCH_ENDPOINT=address)


def test_the_search_service_of_experiment_yaml(tenant: Tenant) -> None:
    document = tenant.folder / "experiment.yaml"
    document.write_text("index:\n  search:\n    endpoint: ${endpoint}\n    index: handbook\n")
    assert "note: experiment.yaml has a search service. Set SEARCH_ENDPOINT" in tenant.done()
    document.write_text(
        "index:\n  search: {endpoint: https://srch-llmops.search.windows.net, index: handbook}\n"
    )
    tenant.done(USER_MANAGED_ID="id-flows")
    assert tenant.roles["the-identity", SEARCH] == search_access.READ.id
    assert tenant.roles["the-principal", SEARCH] == f"{MAKER}|{WRITER}"


def test_a_search_service_that_is_not_there(tenant: Tenant) -> None:
    tenant.refused("'srch-other'", SEARCH_ENDPOINT="https://srch-other.search.windows.net")


def test_a_vault_with_access_policies(tenant: Tenant) -> None:
    tenant.know(vault_roles="false")
    tenant.done()
    assert tenant.roles["the-principal", VAULT] == CONTRIBUTOR
    tenant.know(made={})
    tenant.done(USER_MANAGED_ID="id-flows")
    (policy,) = [call for call in tenant.changes if call[2] == "set-policy"]
    assert policy[policy.index("--secret-permissions") + 1 :][:2] == list(roles.SECRETS)
    assert option(policy, "--object-id") == "the-identity"
    assert "Nothing to do" in tenant.done(USER_MANAGED_ID="id-flows")


@pytest.mark.parametrize(
    ("told", "variables", "subject"),
    [
        ("true repo:octo@1/flows@2", {"ENV": "prod"}, "repo:octo@1/flows@2:environment:prod"),
        ("true ", {}, "repo:octo/flows:environment:dev"),
        ("", {"BRANCH": "main"}, "repo:octo/flows:ref:refs/heads/main"),
        ("false ", {"OIDC_SUBJECT": "repository_id:7:x"}, "repository_id:7:x"),
        (
            "",
            {"AUTH": "devops", "OIDC_ISSUER": "https://i/v2.0", "OIDC_SUBJECT": "/eid1/c/a b"},
            "/eid1/c/a b",
        ),
    ],
)
def test_the_subject(tenant: Tenant, told: str, variables: dict[str, str], subject: str) -> None:
    tenant.know(subject=told)
    tenant.done(**variables)
    federated = json.loads(option(tenant.changes[2], "--parameters"))
    assert federated["subject"] == subject
    assert federated["issuer"] == variables.get("OIDC_ISSUER", federated["issuer"])


@pytest.mark.parametrize(
    "address", ["git@github.com:octo/flows.git", "https://github.com/octo/flows"]
)
def test_the_repository_is_that_of_the_remote(tenant: Tenant, address: str) -> None:
    for command in (["init", "-q"], ["remote", "add", "origin", address]):
        subprocess.run(["git", *command], cwd=tenant.folder, check=True)
    tenant.know(subject="")
    said = tenant.done(GITHUB_REPOSITORY="")
    assert "for repo:octo/flows:environment:dev alone" in said
    assert "note: gh did not tell the subject" in said


def test_names_from_the_env_file(tenant: Tenant) -> None:
    lines = "# names\nexport RESOURCE_GROUP_NAME = 'rg-llmops'\nWORKSPACE_NAME=\"other\"\r\n"
    (tenant.folder / ".env").write_text(f"SUBSCRIPTION_ID={SUBSCRIPTION}\n{lines}")
    tenant.variables = {"GITHUB_REPOSITORY": "octo/flows", "WORKSPACE_NAME": "mlw-llmops"}
    tenant.done()
    tenant.variables.pop("WORKSPACE_NAME")
    assert "workspace other" in tenant.run(PLAN="1").stdout


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"SUBSCRIPTION_ID": "", "WORKSPACE_NAME": ""}, ["SUBSCRIPTION_ID, WORKSPACE_NAME: unset"]),
        ({"GITHUB_REPOSITORY": ""}, ["GITHUB_REPOSITORY: unset", "owner/name"]),
        ({"AUTH": "password"}, ["AUTH: 'password' (expected one of github, devops, secret)"]),
        ({"AUTH": "devops"}, ["OIDC_ISSUER and OIDC_SUBJECT"]),
        ({"APP_NAME": "a' || 'b"}, ["APP_NAME: has a quote"]),
    ],
)
def test_bad_settings(tenant: Tenant, variables: dict[str, str], parts: list[str]) -> None:
    tenant.refused(*parts, **variables)
    assert tenant.log == []


def test_az_or_gh_is_missing(tenant: Tenant) -> None:
    (tenant.tools / "gh").unlink()
    tenant.refused("gh: not found", "AUTH=github", AUTH="secret")
    (tenant.tools / "az").unlink()
    tenant.refused("az: not found", "az login")


def test_a_subject_of_another_form_and_two_apps_of_one_name(tenant: Tenant) -> None:
    tenant.know(subject="false ")
    tenant.refused("OIDC_SUBJECT: unset")
    tenant.know(subject="true ", made={"app": "one\ntwo"})
    tenant.refused("several app registrations are named 'llmops-mlw-llmops'")


def test_a_new_principal_is_not_known_everywhere_at_once(tenant: Tenant) -> None:
    tenant.know(late=2)
    tenant.done()
    assert kinds(tenant).count("ad sp create") == 3


def test_stopped_half_way_and_run_again(tenant: Tenant) -> None:
    tenant.know(refused=[DATA_SCIENTIST])
    outcome = tenant.run(YES="1")
    assert outcome.returncode == 1 and "AuthorizationFailed" in outcome.stderr
    assert "What was made stays" in outcome.stderr and "AZURE_CLIENT_ID" not in outcome.stdout
    tenant.know(refused=[])
    tenant.done()
    assert kinds(tenant).count("ad app create") == 1
    assert tenant.roles["the-principal", VAULT] == ADMINISTRATOR


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
