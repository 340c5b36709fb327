"""What a web app shall be: put together before Azure is asked for anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmops import experiment, image, package
from llmops.azure import specification
from llmops.azure.site import READY
from llmops.azure.specification import ENCODED, FLOW, SERVING, CloudSubject
from llmops.deploying import deployment
from llmops.deploying.deployment import CONFIG, WebApp
from llmops.errors import UserError
from llmops.files import slug
from llmops.indexing import upkeep
from llmops.registration import REGISTRATION, Registration
from llmops.settings import Settings

NEEDED = ("WEB_APP_NAME", "APP_PLAN_NAME", "REGISTRY_NAME", "USER_MANAGED_ID")
MODEL = f"{image.PAYLOAD}/model"
"""The folder of the context, and of the image, that holds the flow."""

WARM_UP = {"WEBSITE_WARMUP_PATH": READY, "WEBSITE_WARMUP_STATUSES": "200,404"}
"""The container before answers until this one is ready; 404: a server that does not say it."""

Case = CloudSubject[WebApp]


def read(settings: Settings) -> Case:
    """The web app that ENV chooses; all that can be wrong without Azure is found here."""
    _, entry = deployment.choose(settings.env, "webapp")
    assert isinstance(entry, WebApp)
    if empty := [key for key in NEEDED if not getattr(entry, key)]:
        raise UserError(f"{CONFIG}: {', '.join(empty)}: empty. A web app needs it.")
    case = specification.subject(settings, "webapp", entry)
    if unknown := [name for name in entry.CONNECTION_NAMES if name not in case.connections]:
        raise UserError(
            f"{CONFIG}: CONNECTION_NAMES: '{unknown[0]}' is not a connection of experiment.yaml "
            f"(expected one of {', '.join(case.connections) or 'none'})."
        )
    return replace(case, connections={n: case.connections[n] for n in entry.CONNECTION_NAMES})


def context(
    case: Case, registered: Registration, settings: Settings, folder: Path
) -> dict[str, Path]:
    """The build context: `environment/`, the packages, and the flow as it was registered."""
    name = registered.variant
    at = replace(settings, env=registered.env)
    _, checked = experiment.load(at, (name.partition(" [")[0],))
    variant = next((cell.variant for cell in checked.cells if cell.variant.name == name), None)
    if variant is None:
        raise UserError(f"{REGISTRATION}: variant '{name}' is not there now. Register again.")
    place = folder / slug(case.experiment.name)
    upkeep.require(case.experiment, checked.flow or case.flow)
    packed = package.package(checked.flow or case.flow, variant, place)
    if package.flow_hash(packed) != registered.model.content_hash:
        raise UserError(
            f"{REGISTRATION}: {case.flow.folder} changed since {registered.model.name}:"
            f"{registered.model.version} was registered. Run `make experiment gate register` first."
        )
    own = [path for path in sorted(place.rglob("*")) if path.is_file()]
    inside = {f"{MODEL}/{path.relative_to(folder).as_posix()}": path for path in own}
    return image.files(image.locks(case.experiment, packed)) | inside


def variables(case: Case, registered: Registration) -> tuple[dict[str, str], dict[str, str]]:
    """The app settings: those that anybody may see, and the secrets.

    Raises:
        UserError: a connection lacks a variable.
    """
    found = {
        "WEBSITES_PORT": "8080",
        "WEBSITES_ENABLE_APP_SERVICE_STORAGE": "false",
        **WARM_UP,
        "AZUREML_MODEL_DIR": f"/{MODEL}",
        "PROMPTFLOW_RUN_MODE": "serving",
        SERVING: specification.serving(case, registered),
    }
    secret = set()
    for link in case.connections.values():
        if link.missing:
            raise UserError(
                f"connection '{link.name}' lacks {', '.join(link.missing)}. A web app has no "
                "workspace to take it from: set this in the environment or in .env."
            )
        found |= link.as_environment()
        secret |= link.secret_variables
    if case.connections:
        found[ENCODED] = specification.encoded(case.connections)
        secret.add(ENCODED)
    else:
        found["PROMPTFLOW_CONNECTION_PROVIDER"] = "local"
    if case.flow.kind == "python":
        found[FLOW] = registered.flow
    hidden = {name: text for name, text in found.items() if name in secret}
    return {name: text for name, text in found.items() if name not in secret}, hidden
