"""Roll out and check an Azure Web App: the unmodified scripts against the emulated Azure."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest
import test_deploy
from forks import Forks
from llmops import flows, package
from llmops.assets import Asset
from llmops.plan import Variant
from llmops.registration import Registration, save
from loopback_azure import LoopbackAzure
from test_deploy import SECRET, Said
from usecase import wait_until

pytestmark = pytest.mark.slow

READING = ("listKeys", "list", "checknameavailability")
FLOW = "import os\ndef run(text):\n    return {{'answer': '{} ' + text + ' ' + {}}}\n"
KEY_LENGTH = "str(len(os.environ['AOAI_API_KEY']))"


@pytest.fixture(scope="module")
def azure() -> Iterator[LoopbackAzure]:
    with LoopbackAzure() as azure:
        yield azure
        assert azure.refused == []


forks = test_deploy.forks  # most of a task's time would go into imports


class Case(test_deploy.Case):
    """A use case with one web app in dev, and its flow registered."""

    def __init__(self, place: Path, azure: LoopbackAzure, forks: Forks, name: str) -> None:
        super().__init__(place, azure, forks)
        self.name = name
        self.configure(connections=[{**self.blocks["connections"][0], "model": "small"}])
        self.entry = {
            "ENV_NAME": "dev",
            "CONNECTION_NAMES": ["aoai"],
            "REGISTRY_NAME": "crllmops",
            "REGISTRY_RG_NAME": "rg-llmops",
            "APP_PLAN_NAME": f"plan-{name}",
            "WEB_APP_NAME": name,
            "WEB_APP_RG_NAME": "rg-llmops",
            "WEB_APP_SKU": "B1",
            "USER_MANAGED_ID": f"id-{name}",
        }
        self.set_entry()
        self.flow("one")

    def set_entry(self, **keys: Any) -> None:
        """Change keys of the entry."""
        self.entry |= keys
        sections = {"webapp_endpoint": [self.entry]}
        self.write("configs/deployment_config.json", json.dumps(sections))

    def flow(self, word: str, more: str = KEY_LENGTH, first: str = "") -> None:
        """Change the flow, and register it."""
        self.write("flows/standard/flow.py", f"# {self.name}\n{first}\n{FLOW.format(word, more)}")
        with tempfile.TemporaryDirectory() as folder:
            flow = flows.describe("flows/standard", self.folder)
            packed = package.package(flow, Variant("default", {}, {}, {}), Path(folder))
            digest = package.flow_hash(packed)
        model = Asset(name="words", version="1", created=True, content_hash=digest)
        manifest = Registration(
            experiment="words", env="dev", model=model, data=(), flow="flow:run", variant="default",
            commit="", gate="pass", forced="", llm="replay", metrics={}, registered_at="now",
        )  # fmt: skip
        save(manifest, self.folder / "reports" / "registration.json")

    @property
    def environment(self) -> dict[str, str]:
        """What a task gets; PATH is empty, as this machine may have a Docker."""
        return {**super().environment, "KEY_VAULT_NAME": "kv-llmops", "PATH": str(self.home)}

    def must(self, code: int, *parts: str, task: str = "deploy", **variables: str) -> Said:
        """Run a task, and assert the exit code and that all these parts were said."""
        return self.task(task, **variables).must(code, *parts)

    def changes(self) -> list[str]:
        """The calls that change something, since the log was cleared."""
        found = []
        for e in self.azure.log:
            last = e["path"].rpartition("/")[2]
            asked = e["method"] in ("GET", "HEAD") or last in READING
            if not asked and "login" not in e["host"] and "/oauth2/" not in e["path"]:
                found.append(f"{e['method']} {last}")
        return found

    def resource(self, kind: str, name: str = "") -> Any:
        """The properties of a resource of the group, or null."""
        path = f"{self.azure.settings.group_id}/providers/{kind}/{name or self.name}"
        found = {i.lower(): r for i, r in self.azure.state.items()}.get(path.lower())
        return found["properties"] if found else None

    @property
    def settings(self) -> dict[str, str]:
        """The app settings."""
        found: dict[str, str] = self.resource(
            "Microsoft.Web/sites", f"{self.name}/config/appsettings"
        )
        return found

    @property
    def image(self) -> str:
        """The image of the web app."""
        config = self.resource("Microsoft.Web/sites", f"{self.name}/config/web")
        return str(config["linuxFxVersion"])

    def answer(self) -> str:
        """What the web app answers."""
        url = f"https://{self.name}.azurewebsites.net/score"
        headers = {"Content-Type": "application/json"}
        with self.azure.open(Request(url, b'{"text": "hello"}', headers)) as answer:
            return str(json.load(answer)["answer"])


@pytest.fixture
def case(
    azure: LoopbackAzure, forks: Forks, request: pytest.FixtureRequest, tmp_path: Path
) -> Case:
    azure.forget()
    azure.change(denied=[])
    name = f"web-{request.node.name[5:30].replace('_', '-').strip('-')}"
    return Case(tmp_path, azure, forks, name)


def test_the_way_it_goes(case: Case) -> None:
    case.must(0, "identity", "roles", "image", "secrets", "B1, 1 instance", "absent", PLAN="1")
    assert case.changes() == [] and case.resource("Microsoft.Web/sites") is None

    said = case.must(0, "granted: role 'AcrPull'", f"https://{case.name}.azurewebsites.net/score")
    assert "access policy" in said.text and case.answer() == f"one hello {len(SECRET)}"
    assert SECRET not in json.dumps(case.azure.state)
    key = case.settings["AOAI_API_KEY"]
    place = f"https://kv-llmops.vault.azure.net/secrets/{case.name}-AOAI-API-KEY/"
    assert key.startswith(f"@Microsoft.KeyVault(SecretUri={place}")
    encoded = case.settings["PROMPTFLOW_ENCODED_CONNECTIONS"]
    assert encoded.startswith("@Microsoft.KeyVault(")
    assert case.settings["AOAI_MODEL"] == "small" and case.settings["WEBSITES_PORT"] == "8080"
    site = case.resource("Microsoft.Web/sites")
    config = case.resource("Microsoft.Web/sites", f"{case.name}/config/web")
    assert site["httpsOnly"] and site["keyVaultReferenceIdentity"].endswith(f"id-{case.name}")
    assert config["healthCheckPath"] == "/health" and config["acrUseManagedIdentityCreds"]

    first, settings = case.image, case.settings
    case.azure.forget()
    case.must(0, "nothing changes; then test")
    assert case.changes() == ["POST score"]

    case.flow("two")
    case.azure.forget()
    case.must(0, "absent", "image: ", PLAN="1")
    assert case.changes() == []
    case.must(0)
    assert case.answer() == f"two hello {len(SECRET)}" and case.image != first
    assert case.changes().count("POST scheduleRun") == 1
    assert case.settings["AOAI_API_KEY"] == settings["AOAI_API_KEY"]

    case.flow("one")
    case.azure.forget()
    case.must(0)
    assert "POST scheduleRun" not in case.changes() and case.image == first

    case.must(0, case.name, "ok", task="check_endpoint", AOAI_API_KEY="")
    report = json.loads((case.folder / "reports" / "endpoint.json").read_text())
    assert (report["kind"], report["verdict"]) == ("webapp", "pass")


def test_a_broken_image_makes_way(case: Case) -> None:
    case.must(0)
    image, settings = case.image, case.settings
    case.flow("bad", "nothing.nowhere")
    case.must(2, "did not pass its test", "The previous image is back and healthy", image[-16:])
    assert case.image == image and case.settings == settings
    assert case.answer() == f"one hello {len(SECRET)}"
    case.flow("bad", "str(nowhere)", "import nowhere")
    case.must(2, "does not become healthy", "is back and healthy", WAIT="10")
    assert case.image == image and case.answer() == f"one hello {len(SECRET)}"
    case.azure.fail(500, path="/score$")
    case.must(2, "status 500", task="check_endpoint")
    case.azure.fail_operation("runs", message="no space left on device")
    case.flow("three")
    case.must(1, "ended as Failed", "no space left on device", "not touched")
    assert case.image == image
    case.must(0)
    assert case.answer() == f"three hello {len(SECRET)}"


def test_the_first_image_is_broken(case: Case) -> None:
    case.flow("bad", "str(nowhere)", "import nowhere")
    case.must(2, "does not become healthy", "no other image", WAIT="1")
    case.must(2, "start anew (/health answers with status 503)", "no other image", WAIT="1")
    case.flow("one")
    case.must(0)
    assert case.answer() == f"one hello {len(SECRET)}"


def test_a_new_secret_and_settings_of_others(case: Case) -> None:
    case.must(0)
    before = case.settings["AOAI_API_KEY"]
    path = f"{case.azure.settings.group_id}/providers/Microsoft.Web/sites/{case.name}"
    case.azure.place(f"{path}/config/appsettings", {"THEIRS": "kept"})
    case.must(0, "write", "setting AOAI_API_KEY", AOAI_API_KEY=f"{SECRET}-longer")
    assert case.answer() == f"one hello {len(SECRET) + 7}"
    assert case.settings["AOAI_API_KEY"] != before and case.settings["THEIRS"] == "kept"
    case.set_entry(CONNECTION_NAMES=[], WEB_APP_SKU="S1")
    case.flow("one", "str('AOAI_API_KEY' in os.environ)")
    case.must(0, "change to S1")
    assert case.answer() == "one hello False" and case.settings["THEIRS"] == "kept"
    assert not [name for name in case.settings if name.startswith("AOAI")]


def test_without_a_vault(case: Case) -> None:
    case.must(0, KEY_VAULT_NAME="")
    assert case.settings["AOAI_API_KEY"] == SECRET
    assert case.answer() == f"one hello {len(SECRET)}"
    case.must(0, "nothing changes", KEY_VAULT_NAME="")


def test_what_is_not_there(case: Case) -> None:
    case.set_entry(REGISTRY_NAME="crnowhere")
    case.must(1, "REGISTRY_NAME: 'crnowhere' does not exist", "az acr create")
    case.set_entry(REGISTRY_NAME="crllmops", WEB_APP_RG_NAME="rg-nowhere")
    case.must(1, "WEB_APP_RG_NAME: 'rg-nowhere' does not exist")
    case.set_entry(WEB_APP_RG_NAME="", CONNECTION_NAMES=["other"])
    case.must(1, "'other' is not a connection", "expected one of aoai")
    case.set_entry(CONNECTION_NAMES=["aoai"])
    case.must(1, "connection 'aoai' lacks AOAI_API_KEY", AOAI_API_KEY="")
    case.must(1, "KEY_VAULT_NAME: 'kv-nowhere' does not exist", KEY_VAULT_NAME="kv-nowhere")
    other = "/subscriptions/x/resourceGroups/y/providers/Microsoft.Web/sites"
    case.azure.place(f"{other}/{case.name}", {})
    case.must(1, "already exists", "take another one")
    case.azure.place(f"{other}/{case.name}", None)
    case.azure.fail(403, path="/oauth2/exchange")
    case.must(1, "REGISTRY_NAME: 'crllmops': access refused (403)", "AcrPull")
    case.azure.fail(403, path="/secrets/")
    case.must(1, "Key Vault Secrets Officer")
    case.set_entry(WEB_APP_SKU="Z9")
    case.write("flows/standard/flow.py", "def run(text):\n    return {}\n")
    case.must(1, "changed since words:1 was registered", "make experiment")
    assert case.changes() == []
    case.must(1, "WEB_APP_NAME", "does not exist", "make deploy", task="check_endpoint")
    case.must(1, "WEB_APP_NAME", "does not exist", task="rollback")
    case.must(1, "no entry", "ENV_NAME 'prod' (expected one of dev)", ENV="prod", KIND="webapp")
    case.flow("one")
    case.must(1, "invalid value: 'Z9'")
    case.set_entry(WEB_APP_SKU="B1")
    case.must(0)


def test_who_may_not_assign_roles_or_change_the_app(case: Case) -> None:
    case.azure.change(denied=["Microsoft.Authorization/roleAssignments/write"])
    case.must(1, "role 'AcrPull' on registries/crllmops: az role assignment create")
    assert case.resource("Microsoft.Web/sites") is None
    case.azure.change(denied=[])
    case.azure.fail(403, method="PUT", path="/sites/")
    case.must(1, "access refused", "'Contributor' on the web app's resource group")
    case.must(0)
    assert case.answer() == f"one hello {len(SECRET)}"


def test_the_way_back(case: Case) -> None:
    case.must(0)
    case.must(
        1, "has had no image before words:", "make experiment register deploy", task="rollback"
    )
    first = case.image
    case.flow("two")
    case.must(0)
    second = case.image
    case.azure.forget()
    case.must(0, "image: ", first[-16:], task="rollback", PLAN="1")
    assert case.changes() == [] and case.image == second
    case.azure.fail(500, path="/score$")
    case.must(2, "did not pass its test", "is back and healthy", task="rollback")
    assert case.image == second and case.answer() == f"two hello {len(SECRET)}"
    case.must(0, f"runs words:{first[-16:]}", task="rollback")
    assert case.image == first and case.answer() == f"one hello {len(SECRET)}"
    case.must(0, "nothing changes", task="rollback")
    assert case.image == first


def test_killed_on_the_way(case: Case) -> None:
    begun = case.begin("deploy")
    wait_until(lambda: "POST scheduleRun" in case.changes())
    begun.end(signal.SIGKILL)
    case.must(0)
    image = case.image
    case.flow("bad", "str(nowhere)", "import nowhere")
    begun = case.begin("deploy", WAIT="60")
    wait_until(lambda: case.image != image)
    os.kill(begun.pid, signal.SIGTERM)
    case.wait(begun).must(143, "The previous image is back and healthy")
    assert case.image == image
    begun = case.begin("deploy", WAIT="60")
    wait_until(lambda: case.image != image)
    begun.end(signal.SIGKILL)
    case.must(2, "does not become healthy", "is back and healthy", WAIT="10")
    assert case.image == image and case.answer() == f"one hello {len(SECRET)}"


DOCKER = """#!{python}
import io, json, os, pathlib, sys, tarfile, urllib.request
place, (command, *words) = pathlib.Path(__file__).parent, sys.argv[1:]
given = sys.stdin.buffer.read()
if command == "build":
    with tarfile.open(fileobj=io.BytesIO(given)) as context:
        context.extractall(place / "image", filter="data")
    given = b"context"
with (place / "log").open("a") as log:
    log.write(json.dumps([command, words, given.decode()]) + chr(10))
if command == os.environ.get("DOCKER_FAILS"):
    sys.exit("no such thing")
if command == "push":
    tag = words[0].partition("/")[2].replace(":", "/tags/")
    properties = {{"folder": str(place / "image")}}
    body = {{"id": "{registry}/repositories/" + tag, "properties": properties}}
    urllib.request.urlopen("https://control.loopback-azure/resources", json.dumps(body).encode())
"""


def test_with_docker(case: Case) -> None:
    registry = f"{case.azure.settings.group_id}/providers/Microsoft.ContainerRegistry/registries"
    script = case.home / "bin" / "docker"
    script.parent.mkdir()
    script.write_text(DOCKER.format(python=sys.executable, registry=f"{registry}/crllmops"))
    script.chmod(0o755)
    path = str(script.parent)
    case.must(1, "docker push failed", "  no such thing", PATH=path, DOCKER_FAILS="push")
    assert case.resource("Microsoft.Web/sites") is None
    log = script.with_name("log")
    log.unlink()
    case.must(0, "build with Docker, push to crllmops.azurecr.io", PATH=path)
    assert case.answer() == f"one hello {len(SECRET)}"
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [command for command, _, _ in calls] == ["info", "build", "login", "push", "logout"]
    _, _, (_, words, token), _, _ = calls
    assert "--password-stdin" in words and words[-1] == "crllmops.azurecr.io"
    assert token.count(".") == 2 and not any(token in word for _, ws, _ in calls for word in ws)
    assert "POST scheduleRun" not in case.changes()
    case.flow("two")
    case.must(0, "build in crllmops.azurecr.io", PATH=path, DOCKER_FAILS="info")
    assert case.answer() == f"two hello {len(SECRET)}"
