"""Online endpoints and their deployments, managed and on Kubernetes, by Azure ML's own client."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llmops import image
from llmops.azure.workspace import Place, quiet
from llmops.deploying.rollout import Deployment, Found, Wanted
from llmops.errors import BusyError, UserError
from llmops.lines import moment

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import DataCollector, OnlineDeployment, OnlineEndpoint
    from azure.core.polling import LROPoller

BUSY = ("Creating", "Updating", "Deleting")
ABOVE = ("ParentResourceNotFound", "ResourceGroupNotFound", "SubscriptionNotFound")
POLL_S = 2.0
REMIND_S = 60
LOG_LINES = 15
NAMES_TAG = "llmops_variables"
SINCE_TAG = "traffic_since"
"""When the traffic was split, and how: where it is split otherwise now, nobody knows since when."""
PORT = 8080
ROUTES = {
    "liveness_route": {"port": PORT, "path": "/health"},
    "readiness_route": {"port": PORT, "path": "/ready"},
    "scoring_route": {"port": PORT, "path": "/score"},
}
HINTS = {
    "quota": "Choose a smaller DEPLOYMENT_VM_SIZE or fewer instances, delete a deployment that "
    "nobody needs, or ask for more quota.",
    "instance type": "Set DEPLOYMENT_VM_SIZE to a size that online endpoints support.",
    "already an endpoint": "The name is taken in this region. Take another ENDPOINT_NAME.",
    "ResourceNotReady": "The container did not start: look at its last lines.",
    "ImageBuild": "Look at environment/Dockerfile.",
    "identity": "Check USER_MANAGED_ID.",
    "recreate": "Run `make deploy` again: it deletes the endpoint and creates it anew.",
    "Delete and re-create": "Run `make deploy` again: it deletes it and creates it anew.",
}


class Online:
    """The online endpoints of a workspace; every method says what Azure refuses in words."""

    def __init__(self, where: Place, client: MLClient) -> None:
        self._where, self._ml = where, client
        logging.getLogger("msrest").setLevel(logging.ERROR)

    def settled(self, name: str, wait_s: float) -> Found | None:
        """The endpoint when nothing changes it any more, null where there is none.

        Raises:
            UserError: it is still changing after `wait_s` seconds.
        """
        end = time.monotonic() + wait_s
        while True:
            found = self.find(name)
            busy = _busy(found) if found else ""
            if not busy:
                return found
            if time.monotonic() > end:
                raise UserError(
                    f"endpoint '{name}': {busy}, for more than {wait_s:g} s. Somebody else changes "
                    "it, or a task was ended on the way. Run again later (WAIT sets the seconds)."
                )
            time.sleep(POLL_S)

    def find(self, name: str) -> Found | None:
        """The endpoint with its deployments as it is now, or null."""
        endpoint = _or_none(lambda: self._ml.online_endpoints.get(name))
        if endpoint is None:
            return None
        deployments = [_deployment(d) for d in self._ml.online_deployments.list(name)]
        return Found(
            name,
            str(endpoint.provisioning_state),
            endpoint.description or "",
            _identity(endpoint),
            str(getattr(endpoint.identity, "principal_id", "") or ""),
            str(getattr(endpoint, "compute", "") or "").rpartition("/")[2],
            str(endpoint.scoring_uri or ""),
            _shares(endpoint.traffic),
            _shares(endpoint.mirror_traffic),
            {d.name: d for d in deployments},
            _since(endpoint.tags, _shares(endpoint.traffic)),
        )

    def require_model(self, name: str, version: str) -> None:
        """UserError unless this version is registered in the workspace."""
        if _or_none(lambda: self._ml.models.get(name, version)) is None:
            raise UserError(
                f"model {name}:{version} is not registered in {self._where.workspace}. "
                "Run `make register`."
            )

    def require_compute(self, name: str) -> None:
        """UserError, with the choices, unless this is an attached Kubernetes compute."""
        computes = {str(c.name): str(c.type).lower() for c in self._ml.compute.list()}
        choices = [c for c, kind in computes.items() if kind == "kubernetes"]
        if name not in choices:
            raise UserError(
                f"COMPUTE_NAME: '{name}' is not an attached Kubernetes compute of "
                f"{self._where.workspace} (expected one of {', '.join(choices) or 'none'})."
            )

    def has_environment(self, reference: str) -> bool:
        """Whether the environment `name:version` is registered."""
        name, _, version = reference.rpartition(":")
        return _or_none(lambda: self._ml.environments.get(name, version)) is not None

    def create_environment(self, reference: str, context: dict[str, Path]) -> None:
        """Register an environment that Azure builds from these files."""
        from azure.ai.ml.entities import BuildContext, Environment

        name, _, version = reference.rpartition(":")
        with TemporaryDirectory() as folder, refusals(f"environment {reference}"), quiet():
            place = Path(folder) / "environment"  # the name that it has in the store
            image.collect(context, place)
            build = BuildContext(path=place, dockerfile_path="Dockerfile")
            environment = Environment(
                name=name, version=version, build=build, inference_config=ROUTES
            )
            self._ml.environments.create_or_update(environment)

    def create_endpoint(self, wanted: Wanted) -> None:
        """Create the endpoint and wait for it."""
        with refusals(f"endpoint '{wanted.entry.ENDPOINT_NAME}'"):
            _finish(self._ml.online_endpoints.begin_create_or_update(_endpoint(wanted)))

    def delete_endpoint(self, name: str) -> None:
        """Delete the endpoint with all its deployments and wait for it."""
        with refusals(f"endpoint '{name}'"):
            _finish(self._ml.online_endpoints.begin_delete(name))

    def update_endpoint(self, found: Found, description: str) -> None:
        """Set the description, and leave the traffic as it is; also brings one back from Failed."""
        self._put(found, found.traffic, found.mirror, description, {})

    def set_traffic(
        self, found: Found, traffic: Mapping[str, int], mirror: Mapping[str, int]
    ) -> None:
        """Split the traffic and wait for it; a tag tells when that was."""
        tags = {SINCE_TAG: f"{moment()} {_split(traffic)}"}
        self._put(found, traffic, mirror, found.description, tags)

    def _put(
        self,
        found: Found,
        traffic: Mapping[str, int],
        mirror: Mapping[str, int],
        description: str,
        tags: Mapping[str, str],
    ) -> None:
        with refusals(f"endpoint '{found.name}'"):
            endpoint = self._ml.online_endpoints.get(found.name)
            endpoint.traffic, endpoint.mirror_traffic = dict(traffic), dict(mirror)
            endpoint.description = description
            endpoint.tags = {**(endpoint.tags or {}), **tags}
            _finish(self._ml.online_endpoints.begin_create_or_update(endpoint))

    def put_deployment(self, wanted: Wanted) -> None:
        """Create or update the deployment and wait until it is healthy.

        Raises:
            UserError: Azure refuses it, or it does not become healthy: with its last lines.
        """
        endpoint, name = wanted.entry.ENDPOINT_NAME, wanted.deployment.name
        try:
            with refusals(f"deployment '{name}'"):
                deployment = _to_deployment(wanted)
                _finish(self._ml.online_deployments.begin_create_or_update(deployment))
        except UserError as error:
            lines = self.log(endpoint, name)
            raise UserError(f"{error}\n{lines}" if lines else str(error)) from error

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Delete the deployment and wait for it."""
        with refusals(f"deployment '{name}'"):
            _finish(self._ml.online_deployments.begin_delete(name, endpoint))

    def key(self, endpoint: str) -> str:
        """A key for the endpoint's address; never print it."""
        return str(self._ml.online_endpoints.get_keys(endpoint).primary_key)

    def log(self, endpoint: str, deployment: str) -> str:
        """The last lines that a deployment wrote, or nothing where there are none."""
        from azure.core.exceptions import AzureError

        try:
            text = self._ml.online_deployments.get_logs(deployment, endpoint, lines=LOG_LINES)
        except AzureError:
            return ""
        if not text.strip():
            return ""
        return f"Last lines of '{deployment}':\n  " + "\n  ".join(text.strip().splitlines())


def _finish(operation: LROPoller[Any]) -> None:
    """Wait for a long operation and say every minute that it goes on; raises what it ends with."""
    screen, began = sys.stdout, time.monotonic()
    # Its own sign of life is a dot without a line.
    with contextlib.redirect_stdout(io.StringIO()):
        while not operation.done():
            operation.wait(REMIND_S)
            if not operation.done():
                print(f"  ... {time.monotonic() - began:.0f} s", file=screen, flush=True)
        operation.result()


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Say in words why Azure refused to change something, or did not finish it.

    Signing in, missing roles and limited requests are left to `workspace.explained`.

    Raises:
        UserError: with Azure's own reason and what to do.
    """
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    try:
        yield
    except ClientAuthenticationError:
        raise
    except HttpResponseError as error:
        if error.status_code in (401, 403, 429):
            raise
        reason = _reason(error)
        if error.status_code == 409:
            raise BusyError(
                f"{what}: somebody else is changing it just now: {reason}. Run again when that "
                "has ended."
            ) from error
        hint = next((hint for word, hint in HINTS.items() if word in reason), "Run again.")
        raise UserError(f"{what}: {reason}. {hint}") from error
    except MlException as error:
        raise UserError(f"{what}: {' '.join(str(error).split())[:500]}") from error


def _reason(error: Any) -> str:
    """The innermost messages of an error, which Azure ML nests in details and in JSON texts."""
    outer = error.error
    if outer is None:
        return " ".join(str(error.message).split())[:500].rstrip(".")
    inner = [_unfold(detail.message or "") for detail in outer.details or ()]
    texts = [text for text in inner if text] or [outer.message or ""]
    return f"{outer.code}: {' '.join(' '.join(texts).split())[:500]}".rstrip(".")


def _unfold(text: str) -> str:
    try:
        errors = json.loads(text)["errors"]
        return " ".join(message for messages in errors.values() for message in messages)
    except (ValueError, KeyError, TypeError, AttributeError):
        return text


def _or_none(get: Any) -> Any:
    """What `get` finds, or null; where something above it is missing, that is raised."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return get()
    except ResourceNotFoundError as error:
        if error.error is not None and error.error.code in ABOVE:
            raise
        return None


def _busy(found: Found) -> str:
    states = {f"'{d.name}' is in state {d.state}": d.state for d in found.deployments.values()}
    states[f"it is in state {found.state}"] = found.state
    return next((text for text, state in states.items() if state in BUSY), "")


def _shares(traffic: Mapping[str, int] | None) -> dict[str, int]:
    return {name: int(share) for name, share in (traffic or {}).items() if int(share)}


def _split(traffic: Mapping[str, int]) -> str:
    return ",".join(f"{name}={share}" for name, share in sorted(traffic.items()) if share)


def _since(tags: Mapping[str, str] | None, traffic: Mapping[str, int]) -> str:
    since, _, split = str((tags or {}).get(SINCE_TAG, "")).partition(" ")
    return since if split == _split(traffic) else ""


def _identity(endpoint: OnlineEndpoint) -> str:
    assigned = getattr(endpoint.identity, "user_assigned_identities", None) or ()
    return next((str(one.resource_id) for one in assigned), "")


def _short(reference: Any) -> str:
    """`name:version` of an asset's id."""
    parts = str(reference or "").split("/")
    return f"{parts[-3]}:{parts[-1]}" if len(parts) > 3 else str(reference or "")


def _deployment(found: Any) -> Deployment:
    requests = getattr(getattr(found, "resources", None), "requests", None)
    return Deployment(
        str(found.name),
        _short(found.model),
        _short(found.environment),
        str(found.instance_type or ""),
        int(found.instance_count or 1),
        str(getattr(requests, "cpu", "") or ""),
        str(getattr(requests, "memory", "") or ""),
        str(found.description or ""),
        found.environment_variables or {},
        state=str(found.provisioning_state),
        names=str((found.tags or {}).get(NAMES_TAG, "")),
        collects=_collects(found.data_collector),
    )


def _collects(collector: DataCollector | None) -> int:
    """The percentage of requests that are kept."""
    if collector is None or not collector.collections:
        return 0
    # `enabled` does not count: the client writes it in one letter case and reads it in another.
    rate = collector.sampling_rate
    return 100 if rate is None else round(100 * rate)


def _collector(percent: int) -> DataCollector:
    """Keep what goes over the wire, for which the container needs no code of its own."""
    from azure.ai.ml.entities import DataCollector, DeploymentCollection

    collections = {name: DeploymentCollection(enabled="true") for name in ("request", "response")}
    return DataCollector(collections, sampling_rate=percent / 100)


def _endpoint(wanted: Wanted) -> OnlineEndpoint:
    from azure.ai.ml import entities

    entry = wanted.entry
    common: dict[str, Any] = {"name": entry.ENDPOINT_NAME, "auth_mode": "key"}
    common["description"] = entry.ENDPOINT_DESC
    if wanted.identity:
        one = entities.ManagedIdentityConfiguration(resource_id=wanted.identity)
        common["identity"] = entities.IdentityConfiguration(
            type="user_assigned", user_assigned_identities=[one]
        )
    if wanted.kind == "kubernetes":
        return entities.KubernetesOnlineEndpoint(compute=entry.COMPUTE_NAME, **common)
    return entities.ManagedOnlineEndpoint(**common)


def _to_deployment(wanted: Wanted) -> OnlineDeployment:
    from azure.ai.ml import entities

    one = wanted.deployment
    common: dict[str, Any] = {
        "name": one.name,
        "endpoint_name": wanted.entry.ENDPOINT_NAME,
        "description": one.description,
        "model": f"azureml:{one.model}",
        "environment": f"azureml:{one.environment}",
        "environment_variables": dict(one.variables),
        "instance_type": one.size or None,
        "instance_count": one.instances,
        "tags": {NAMES_TAG: one.digest},
    }
    if one.collects:
        common["data_collector"] = _collector(one.collects)
    if wanted.kind != "kubernetes":
        return entities.ManagedOnlineDeployment(**common)
    if one.cpu or one.memory:
        requests = entities.ResourceSettings(cpu=one.cpu or None, memory=one.memory or None)
        common["resources"] = entities.ResourceRequirementsSettings(requests=requests)
    return entities.KubernetesOnlineDeployment(**common)
