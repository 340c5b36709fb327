"""What the image runs (`python -m llmops.serving.container`): finds the bundle, and serves it.

The image of `make image` holds its bundle in /srv/bundle. On Azure the flow lies in
AZUREML_MODEL_DIR, where the registered model is mounted or the web app's image has it, and
LLMOPS_SERVING is the bundle's manifest. Connections come from variables; in a deployment to Azure
ML those that lack some are the workspace's, and a variable comes before what is in them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from llmops import connections
from llmops.connections import Connection, variable
from llmops.errors import USER_ERROR, UserError
from llmops.serving import bundle
from llmops.serving.health import PORT

SERVER = "llmops.serving"
BUNDLE, GROUPS = Path("bundle"), Path("/sys/fs/cgroup")
MODEL, SERVING = "AZUREML_MODEL_DIR", "LLMOPS_SERVING"
PLACE = "PRT_CONFIG_OVERRIDE"


def main() -> None:
    """Prepare, then replace this process by the server, so that signals reach it."""
    try:
        folder = find(os.environ)
        provide(bundle.read(folder), os.environ)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(USER_ERROR)
    recorded = (folder / bundle.RECORDINGS).is_dir()
    os.environ.setdefault("LLM", "replay" if recorded else "live")
    os.environ.setdefault("WORKERS", str(processors()))
    os.execv(sys.executable, [sys.executable, "-m", SERVER, *arguments(folder, os.environ)])


def processors(groups: Path = GROUPS) -> int:
    """How many processors the container may use: its limit, rounded up, where it has one."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (groups / "cpu.max").read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores


def find(variables: Mapping[str, str]) -> Path:
    """The folder of the bundle: the image's own, or one made for the flow that is mounted.

    Raises:
        UserError: no flow is mounted, or nothing says how it is served.
    """
    if not (place := variables.get(MODEL)):
        return BUNDLE.resolve()
    if not (manifest := variables.get(SERVING)):
        raise UserError(f"{SERVING}: not set, though {MODEL} is. Deploy with `make deploy`.")
    folder = Path(tempfile.mkdtemp(prefix="bundle-"))
    (folder / bundle.MANIFEST).write_text(manifest, encoding="utf-8")
    (folder / bundle.FLOW).symlink_to(_flow(Path(place)), target_is_directory=True)
    return folder


def _flow(model: Path) -> Path:
    """The flow's folder: the only one in the model's, or that itself."""
    try:
        inner = sorted(model.iterdir())
    except OSError as error:
        raise UserError(f"{MODEL}: {model}: {error.strerror}. Nothing is mounted.") from error
    return inner[0].resolve() if len(inner) == 1 and inner[0].is_dir() else model.resolve()


def arguments(folder: Path, variables: Mapping[str, str]) -> Iterable[str]:
    """The server's arguments; a deployment's name is where Azure ML has put it."""
    name = _place(variables).get("deployment_name")
    return (
        *(str(folder), "--host", "0.0.0.0", "--port", variables.get("PORT", PORT)),
        *(("--name", name) if name else ()),
    )


def provide(made: bundle.Bundle, variables: MutableMapping[str, str]) -> None:
    """Add the workspace's connections in the place of those that lack a variable.

    Only a deployment to Azure ML has a workspace; elsewhere the server says what is missing.

    Raises:
        UserError: the workspace does not give a connection.
    """
    links = connections.load(made.connections, variables)
    place = _place(variables)
    for link in links.values():
        if link.missing and place.get("workspace_name"):
            for name, text in as_variables(link, _fetch(link.name, place)).items():
                variables.setdefault(name, text)


def as_variables(link: Connection, found: Mapping[str, Any]) -> dict[str, str]:
    """A connection of prompt flow's dictionary form as the variables that `connections` reads."""
    values = {key: str(value) for key, value in found["value"].items()}
    if link.served:
        given = {"connection_type": str(found["type"]), **values}
        return {variable(link.name, key): text for key, text in given.items()}
    hidden = found.get("secret_keys") or values
    parts = {
        "connection_type": found["type"],
        "secrets": {key: text for key, text in values.items() if key in hidden},
        "configs": {key: text for key, text in values.items() if key not in hidden},
    }
    return {link.name: json.dumps(parts)}


def _place(variables: Mapping[str, str]) -> dict[str, str]:
    """Where the deployment is: subscription_id, resource_group, workspace_name and the like."""
    words = (word.partition("=") for word in variables.get(PLACE, "").split(","))
    return {key.removeprefix("deployment."): text for key, _, text in words}


def _fetch(name: str, place: Mapping[str, str]) -> dict[str, Any]:
    """A connection of the workspace, with its secrets."""
    from llmops.azure import connection
    from llmops.azure.workspace import Place

    names = ("subscription_id", "resource_group", "workspace_name")
    try:
        return connection.fetch(name, Place(*(place[key] for key in names)))
    except UserError:
        raise
    except Exception as error:  # whatever the network, the sign-in or the workspace answers
        raise UserError(
            f"connection '{name}': the workspace '{place['workspace_name']}' does not give it: "
            f"{type(error).__name__}: {error}"
        ) from error


if __name__ == "__main__":
    main()
