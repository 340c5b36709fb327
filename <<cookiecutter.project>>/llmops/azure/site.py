"""A web app as App Service has it: its image, its settings, and whether it answers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from llmops.azure.manager import Call, Json, optional
from llmops.errors import UserError

WEB = "2024-04-01"
IMAGE, CONTAINER = "linuxFxVersion", "DOCKER|"
BUILD = "BUILD_INFO"
"""The server shows what stands in it: so the new container is told from the old one."""
OURS = "LLMOPS_SETTINGS"
"""Names the settings that a deploy made, so that the next one can take them away."""
PRIOR = "LLMOPS_PRIOR"
"""The image before, with the settings that go with it: the way back."""
NOTES = {BUILD, OURS, PRIOR}
HEALTH, READY, VERSION = "/health", "/ready", "/version"
ANSWER_S = 20.0


def config(image: str, client: str, loaded: bool) -> Json:
    """How App Service runs an image that the identity with this client id pulls."""
    return {
        IMAGE: f"{CONTAINER}{image}",
        "acrUseManagedIdentityCreds": True,
        "acrUserManagedIdentityID": client,
        "healthCheckPath": HEALTH,
        "alwaysOn": loaded,
        "minTlsVersion": "1.2",
        "ftpsState": "Disabled",
    }


@dataclass(frozen=True)
class App:
    """A web app as it is or shall be; `plan` and `identity` are ARM ids, `config` as above.

    No representation shows `settings`, as some are secrets.
    """

    region: str
    plan: str
    identity: str
    config: Mapping[str, Any]
    settings: Mapping[str, str] = field(repr=False)
    host: str = ""

    @property
    def url(self) -> str:
        """Where it answers requests."""
        return f"https://{self.host}/score"

    @property
    def image(self) -> str:
        """Its image, with the registry."""
        return str(self.config[IMAGE]).removeprefix(CONTAINER)

    @property
    def tag(self) -> str:
        """Its image, without the registry."""
        return self.image.rpartition("/")[2]

    @property
    def foreign(self) -> dict[str, str]:
        """The settings that somebody else made."""
        names = {*NOTES, *self.settings.get(OURS, "").split(",")}
        return {name: text for name, text in self.settings.items() if name not in names}

    def as_prior(self, *bound: str) -> dict[str, str]:
        """The setting that leads back here; `bound` are the settings that go with the image."""
        kept = {name: self.settings[name] for name in bound if name in self.settings}
        return {PRIOR: json.dumps({"image": self.image, "settings": kept})}

    @property
    def prior(self) -> App | None:
        """The app with the image that was there before, null where none is known."""
        if not (known := _json(self.settings.get(PRIOR, ""))):
            return None
        image = {IMAGE: f"{CONTAINER}{known['image']}"}
        settings = {**self.settings, **known["settings"]}
        return replace(self, config={**self.config, **image}, settings=settings)

    def anew(self) -> App:
        """The app with a name of its own for its next container."""
        build = f"{self.image.rpartition(':')[2]}-{uuid.uuid4().hex[:8]}"
        note = {BUILD: json.dumps({"build_number": build})}
        return replace(self, settings={**self.settings, **note})

    def changes(self, wanted: App) -> list[str]:
        """What the way to `wanted` changes; notes do not count."""
        before, after = self._facts, wanted._facts
        other = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        return [f"image: {self.tag} to {wanted.tag}" if k == IMAGE else k for k in other]

    @property
    def _facts(self) -> dict[str, Any]:
        settings = {f"setting {n}": t for n, t in self.settings.items() if n not in NOTES}
        ids = {"plan": self.plan.lower(), "identity": self.identity.lower()}
        return {**ids, **self.config, **settings}

    def problem(self, wait_s: float = 0) -> str:
        """What is wrong with it after `wait_s` seconds, or nothing once its own container answers.

        App Service lets the container before answer until the new one does.
        """
        problem = ""
        for _ in pauses(wait_s):
            if not (problem := self._problem_now()):
                return ""
        return f"{problem}, after {wait_s:g} s" if wait_s else problem

    def _problem_now(self) -> str:
        build = _json(self.settings.get(BUILD, "")).get("build_number")
        try:
            with httpx.Client(base_url=f"https://{self.host}", timeout=ANSWER_S) as client:
                health, ready, version = (client.get(p) for p in (HEALTH, READY, VERSION))
        except httpx.HTTPError as error:
            return f"{HEALTH} is not reachable ({type(error).__name__})"
        if health.status_code != 200:
            return f"{HEALTH} answers with status {health.status_code}"
        # A server of one's own need not say that it is ready, or its build.
        if ready.status_code not in (200, 404):
            return f"{READY} answers with status {ready.status_code}"
        if version.status_code != 404 and build and _json(version.text).get("version") != build:
            return "the container that answers is still another one"
        return ""


@dataclass(frozen=True)
class Site:
    """Reads and writes one web app by its ARM id."""

    call: Call
    scope: str

    @property
    def name(self) -> str:
        """The app's name."""
        return self.scope.rpartition("/")[2]

    def read(self) -> App | None:
        """The web app, or null; raises UserError where it runs no container."""
        if (found := optional(self.call, self.scope, WEB)) is None:
            return None
        runs = self.call("GET", f"{self.scope}/config/web", WEB)["properties"]
        if not str(runs.get(IMAGE)).startswith(CONTAINER):
            raise UserError(
                f"WEB_APP_NAME: '{self.name}' is there and runs no container. Take another name."
            )
        settings = self.call("POST", f"{self.scope}/config/appsettings/list", WEB)["properties"]
        return App(
            str(found["location"]),
            str(found["properties"]["serverFarmId"]),
            str(found["properties"].get("keyVaultReferenceIdentity") or ""),
            {key: runs.get(key) for key in config("", "", True)},
            settings,
            str(found["properties"]["defaultHostName"]),
        )

    def check_name(self) -> None:
        """Raises UserError where a web app that is not there yet cannot have its name."""
        scope = f"{'/'.join(self.scope.split('/')[:3])}/providers/Microsoft.Web"
        wanted = {"name": self.name, "type": "Microsoft.Web/sites"}
        answer = self.call("POST", f"{scope}/checknameavailability", WEB, wanted)
        if not answer["nameAvailable"]:
            raise UserError(
                f"WEB_APP_NAME: '{self.name}': {answer.get('message') or answer.get('reason')} "
                "Names are unique in all of Azure: take another one."
            )

    def put(self, app: App) -> App:
        """Image and settings in one request, so that no container has one without the other."""
        settings = [{"name": name, "value": text} for name, text in sorted(app.settings.items())]
        properties: Json = {
            "serverFarmId": app.plan,
            "reserved": True,
            "httpsOnly": True,
            "siteConfig": {**app.config, "appSettings": settings},
        }
        body: Json = {"location": app.region, "kind": "app,linux,container"}
        if "/" in app.identity:
            properties["keyVaultReferenceIdentity"] = app.identity
            own: Json = {app.identity: {}}
            body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": own}
        self.call("PUT", self.scope, WEB, {**body, "properties": properties})
        found = self.read()
        assert found
        return found


def pauses(wait_s: float) -> Iterator[None]:
    """Come again after longer and longer pauses, until the time is over."""
    end, pause = time.monotonic() + wait_s, 0.5
    yield
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 10.0)
        yield


def _json(text: str) -> Json:
    """A JSON object, empty where the text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}
