"""What a deployment shall be: put together before Azure is asked for anything."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass

from llmops.azure import workspace
from llmops.azure.workspace import Place
from llmops.connections import Connection, environment
from llmops.deploying import deployment
from llmops.deploying import subject as subjects
from llmops.deploying.deployment import Endpoint, Kind
from llmops.deploying.rollout import Deployment, Wanted
from llmops.deploying.subject import Entry, Subject
from llmops.files import slug
from llmops.registration import Registration
from llmops.serving.bundle import Bundle
from llmops.settings import Settings

IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"
FLOW, SERVING = "LLMOPS_FLOW", "LLMOPS_SERVING"
"""What the container is told: how the flow is served; FLOW is what earlier images read of it."""
ENCODED = "PROMPTFLOW_ENCODED_CONNECTIONS"


@dataclass(frozen=True)
class CloudSubject(Subject[Entry]):
    """A subject with the workspace that it goes to."""

    where: Place

    @property
    def workspace_connections(self) -> bool:
        """Whether a connection lacks a variable, so that the workspace's own is used."""
        return any(link.missing for link in self.connections.values())


Case = CloudSubject[Endpoint]


def read(settings: Settings) -> Case:
    """The endpoint that ENV and KIND choose; all that can be wrong without Azure is found here.

    Raises:
        UserError: a file, the entry, a variable or the sample request is not as it must be.
    """
    kind, entry = deployment.choose(settings.env, settings.kind)
    assert isinstance(entry, Endpoint)
    return subject(settings, kind, entry)


def subject(settings: Settings, kind: Kind, entry: Entry) -> CloudSubject[Entry]:
    """All that belongs to an entry of deployment_config.json; raises as `read` does."""
    found = subjects.read(settings, kind, entry)
    return CloudSubject(**vars(found), where=workspace.place(environment()))


def wanted(case: Case, registered: Registration, digest: str) -> Wanted:
    """What the entry, the registration and the image (by its `digest`) ask for."""
    entry, model = case.entry, registered.model
    variables, secret = _variables(case)
    variables = {SERVING: serving(case, registered), **variables}
    if case.flow.kind == "python":
        variables[FLOW] = registered.flow  # its folder alone does not say which function it is
    one = Deployment(
        entry.CURRENT_DEPLOYMENT_NAME,
        f"{model.name}:{model.version}",
        f"{slug(case.experiment.name)}-serving:{digest}",
        entry.DEPLOYMENT_VM_SIZE,
        entry.DEPLOYMENT_INSTANCE_COUNT,
        entry.CPU_ALLOCATION,
        entry.MEMORY_ALLOCATION,
        entry.DEPLOYMENT_DESC,
        variables,
        secret,
        collects=entry.DATA_COLLECTION,
    )
    return Wanted(case.kind, entry, one, identity(entry.USER_MANAGED_ID, case.where))


def serving(case: Subject[Entry], registered: Registration) -> str:
    """The manifest of the bundle that the container makes of the flow it finds; no secret.

    It names no commit: a deployment changes only where what it serves does.
    """
    module, _, function = registered.flow.partition(":")
    entries = [link for link in case.experiment.connections if link.name in case.connections]
    return Bundle(
        name=case.experiment.name,
        variant=registered.variant,
        flow=f"{module.replace('.', '/')}.py:{function}" if function else registered.flow,
        flow_hash=registered.model.content_hash,
        connections=tuple(entries),
        timeout_s=case.experiment.limits.timeout_s,
        retries=case.experiment.limits.retries,
    ).model_dump_json(exclude_none=True)


def identity(name: str, where: Place, group: str = "") -> str:
    """The id of a user-assigned identity; by its name alone it is one of the resource group."""
    return name if not name or name.startswith("/") else where.id(IDENTITY, name, group)


def _variables(case: Case) -> tuple[dict[str, str], frozenset[str]]:
    """The deployment's variables, and the names of those that are secrets.

    A connection that lacks a variable is left to the workspace's connection of the same name.
    """
    entry, where = case.entry, case.where
    found: dict[str, str] = {}
    secret: set[str] = set()
    for link in case.connections.values():
        if not link.missing:
            found |= link.as_environment()
            secret |= link.secret_variables
    if case.connections and not case.workspace_connections:
        found[ENCODED] = encoded(case.connections)
        secret.add(ENCODED)
    place = {
        "subscription_id": where.subscription,
        "resource_group": where.resource_group,
        "workspace_name": where.workspace,
        "endpoint_name": entry.ENDPOINT_NAME,
        "deployment_name": entry.CURRENT_DEPLOYMENT_NAME,
    }
    override = ",".join(f"deployment.{key}={text}" for key, text in place.items())
    serving = {"PROMPTFLOW_RUN_MODE": "serving", "PRT_CONFIG_OVERRIDE": override}
    return {**found, **serving, **entry.ENVIRONMENT_VARIABLES}, frozenset(secret)


def encoded(links: Mapping[str, Connection]) -> str:
    """The connections as prompt flow's own server takes them, which earlier images run."""
    text = json.dumps({name: link.as_promptflow() for name, link in links.items()})
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
