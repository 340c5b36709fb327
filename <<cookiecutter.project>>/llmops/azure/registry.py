"""Images in an Azure Container Registry: built there, or by Docker where that runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmops.azure.manager import Call, Json, send
from llmops.azure.site import pauses
from llmops.azure.workspace import credential
from llmops.errors import UserError
from llmops.image import zipped

TASKS = "2019-06-01-preview"
AUDIENCE = "https://containerregistry.azure.net"
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
NOBODY = "00000000-0000-0000-0000-000000000000"
"""The user name that a registry takes with a token."""
UNDER_WAY = ("Queued", "Started", "Running")
LONGEST_BUILD_S = 3600
LOG_LINES = 30


@dataclass(frozen=True)
class Registry:
    """A registry by its ARM id and its server, as crllmops.azurecr.io."""

    scope: str
    server: str
    call: Call

    @cached_property
    def docker(self) -> bool:
        """Whether a Docker runs here that can build."""
        return bool(shutil.which("docker")) and _docker("info").returncode == 0

    def has(self, image: str) -> bool:
        """Whether `repository:tag` is there; raises UserError where that may not be seen."""
        repository, _, tag = image.partition(":")
        token = self._token(
            "token",
            "access_token",
            grant_type="refresh_token",
            refresh_token=self._sign_in(),
            scope=f"repository:{repository}:pull",
        )
        headers = {"Authorization": f"Bearer {token}", "Accept": MANIFESTS}
        url = f"https://{self.server}/v2/{repository}/manifests/{tag}"
        status = send("HEAD", url, headers).status_code
        if status not in (200, 404):
            raise self._refused(status)
        return status == 200

    def build(self, image: str, context: Mapping[str, Path], wait_s: float) -> None:
        """Build `repository:tag` from the files and keep it in the registry.

        Raises:
            UserError: it failed (the end of its log is in the message), or the registry takes
                longer than `wait_s` seconds.
        """
        if self.docker:
            self._build_here(f"{self.server}/{image}", context)
        else:
            self._build_there(image, context, wait_s)

    def _build_here(self, image: str, context: Mapping[str, Path]) -> None:
        self._must("build", "--platform", "linux/amd64", "--tag", image, "-", given=zipped(context))
        user = ("--username", NOBODY, "--password-stdin")
        self._must("login", *user, self.server, given=self._sign_in().encode())
        try:
            self._must("push", image)
        finally:
            _docker("logout", self.server)  # the token shall not stay in Docker's settings

    def _must(self, command: str, *words: str, given: bytes = b"") -> None:
        done = _docker(command, *words, given=given)
        if done.returncode:
            raise self._failed(f"docker {command} failed", done.stdout.decode(errors="replace"))

    def _build_there(self, image: str, context: Mapping[str, Path], wait_s: float) -> None:
        place = self.call("POST", f"{self.scope}/listBuildSourceUploadUrl", TASKS)
        kind = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        status = send("PUT", place["uploadUrl"], kind, content=zipped(context)).status_code
        if status >= 300:
            raise UserError(f"{self._name}: the build context was refused ({status}). Run again.")
        body: Json = {
            "type": "DockerBuildRequest",
            "imageNames": [image],
            "isPushEnabled": True,
            "dockerFilePath": "Dockerfile",
            "platform": {"os": "Linux", "architecture": "amd64"},
            "sourceLocation": place["relativePath"],
            "timeout": LONGEST_BUILD_S,
        }
        run = self.call("POST", f"{self.scope}/scheduleRun", TASKS, body)["properties"]["runId"]
        path = f"{self.scope}/runs/{run}"
        for _ in pauses(wait_s):
            status = self.call("GET", path, TASKS)["properties"]["status"]
            if status == "Succeeded":
                return
            if status not in UNDER_WAY:
                log = send("GET", self.call("POST", f"{path}/listLogSasUrl", TASKS)["logLink"])
                raise self._failed(f"build {run} ended as {status}", log.text())
        raise UserError(
            f"{self._name}: build {run} still runs after {wait_s:g} s. Wait for it (or set WAIT "
            "higher), then run again: a finished image is not built twice."
        )

    def _failed(self, what: str, log: str) -> UserError:
        lines = "\n".join(f"  {line}" for line in log.splitlines()[-LOG_LINES:])
        return UserError(
            f"{self._name}: {what}. The web app was not touched. Mend environment/ or the flow's "
            f"requirements, and run again.\n{lines}".strip()
        )

    def _sign_in(self) -> str:
        """What the sign-in to Azure is worth here: a token that stands for a password."""
        own = credential().get_token(f"{AUDIENCE}/.default").token
        return self._token("exchange", "refresh_token", grant_type="access_token", access_token=own)

    def _token(self, door: str, wanted: str, **form: str) -> str:
        url = f"https://{self.server}/oauth2/{door}"
        answer = send("POST", url, data={**form, "service": self.server})
        if answer.status_code != 200:
            raise self._refused(answer.status_code)
        return str(answer.json()[wanted])

    def _refused(self, status: int) -> UserError:
        return UserError(
            f"{self._name}: access refused ({status}). Who runs this task needs 'AcrPull' and, to "
            "build, 'Contributor' ('AcrPush' with Docker) on the registry, and a way through its "
            "firewall."
        )

    @property
    def _name(self) -> str:
        return f"REGISTRY_NAME: '{self.scope.rpartition('/')[2]}'"


def _docker(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run Docker; a secret is given to its standard input, never among its arguments."""
    said = subprocess.PIPE
    command = ("docker", *words)
    return subprocess.run(command, input=given, stdout=said, stderr=subprocess.STDOUT, check=False)
