"""What stands in for the actions that our workflows use, when tests/github_actions.py runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from github_actions import Job

Json = dict[str, Any]


class StepError(Exception):
    """A step fails, as the action would."""


def checkout(job: Job, given: Json) -> None:
    """actions/checkout: a clone, shallow unless fetch-depth is 0, without credentials."""
    assert job.permissions.get("contents") == "read" and given["persist-credentials"] == "False"
    depth = () if given.get("fetch-depth") == "0" else ("--depth=1",)
    origin = f"file://{job.hub.repo}"
    command = ("clone", "--quiet", *depth, f"--branch={job.event.ref}", origin, ".")
    git(job.workspace, *command)


def setup_python(job: Job, given: Json) -> None:
    """actions/setup-python, and what `make` would install: the packages that are prepared."""
    folder = (job.workspace / given["python-version-file"]).parent
    assert re.fullmatch(r"3\.1\d\n", (folder / ".python-version").read_text())
    (folder / ".venv").symlink_to(job.hub.venv)
    os.utime(job.hub.venv / "bin" / "nox")


def cache(job: Job, given: Json) -> None:
    """actions/cache: the key must come from the locks; nothing is stored."""
    assert re.fullmatch(r"uv-[0-9a-f]{64}", given["key"]), given["key"]


def upload(job: Job, given: Json) -> None:
    """actions/upload-artifact: from the deepest folder that holds all paths, no hidden files."""
    lines = [line for line in given["path"].split("\n") if line]
    paths = [job.workspace / line.partition("/*")[0] for line in lines]
    found = [path for line in lines for path in job.workspace.glob(line)]
    if not found:
        if given.get("if-no-files-found") != "ignore":
            raise StepError("no files were found")
        return
    root = Path(os.path.commonpath(paths))
    target = Path(tempfile.mkdtemp(dir=job.hub.store))
    for path in found:
        destination = target / path.relative_to(root)
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(path, destination, dirs_exist_ok=True, ignore=hidden)
    job.hub.artefacts[str(job.scope.done.id), given["name"]] = target


def download(job: Job, given: Json) -> None:
    """actions/download-artifact: of this run, or with a token of another."""
    if "run-id" in given:
        assert job.permissions.get("actions") == "read" and given["github-token"] == job.hub.token
    key = given.get("run-id", str(job.scope.done.id)), given["name"]
    if key not in job.hub.artefacts:
        raise StepError(f"run {key[0]} has no artefact {key[1]}")
    shutil.copytree(job.hub.artefacts[key], job.workspace / given["path"], dirs_exist_ok=True)


def azure_login(job: Job, given: Json) -> None:
    """azure/login: federated if there is a client id, else with the JSON of the secret."""
    if given["client-id"]:
        assert job.permissions.get("id-token") == "write"
        if not (given["tenant-id"] and given["subscription-id"]):
            raise StepError("a tenant and a subscription are needed")
    elif not given["creds"]:
        raise StepError("neither client-id nor creds")
    else:
        secret = json.loads(given["creds"])
        assert {"clientId", "clientSecret", "tenantId", "subscriptionId"} <= set(secret)
    job.extra |= job.hub.signed_in


ACTIONS: dict[str, Callable[[Job, Json], None]] = {
    "actions/checkout": checkout,
    "actions/setup-python": setup_python,
    "actions/cache": cache,
    "actions/upload-artifact": upload,
    "actions/download-artifact": download,
    "azure/login": azure_login,
}


def git(folder: Path, *command: str) -> str:
    """Run git; what it says."""
    done = subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout
