"""What a deployment needs so that its flow may ask the search service that holds its index."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from llmops import connections
from llmops.azure import roles, search_state
from llmops.azure.manager import manager
from llmops.azure.roles import Need, Role
from llmops.azure.search_state import ENDPOINT, Target
from llmops.azure.workspace import Place, explained
from llmops.config import Experiment
from llmops.deploying.probe import Verdict
from llmops.deploying.rollout import Wanted
from llmops.errors import UserError
from llmops.registration import Registration

RESOURCES = "2021-04-01"
TYPE = "Microsoft.Search/searchServices"
READ = Role(search_state.READER, "1407120a-92aa-4202-b7e9-c0e197c71c8f")


def target(experiment: Experiment, registered: Registration) -> Target | None:
    """Where the index of the registered flow stands; null where its files go along with it.

    Raises:
        UserError: SEARCH_ENDPOINT is unset, or is no address of a search service.
    """
    index = registered.index
    if index is None or index.search is None:
        return None
    block = experiment.index.search if experiment.index else None
    variables = connections.environment()
    address = search_state.endpoint(block.endpoint if block else "${endpoint}", variables)
    return Target(address, index.search, index.version)


def check(found: Target | None, registered: Registration) -> None:
    """Refuse a deployment that could answer nothing.

    Raises:
        UserError: the service does not hold the version of the index that was registered.
    """
    if found is None or registered.index is None:
        return
    if problem := search_state.problem(found, registered.index.chunks):
        model = f"{registered.model.name}:{registered.model.version}"
        raise UserError(
            f"model {model} answers from the search index '{found.name}': {problem} It must be "
            f"the index of the commit that was registered ({registered.commit[:10] or 'unknown'})."
        )


def needs(where: Place, found: Target | None) -> tuple[Need, ...]:
    """The role on the service that an endpoint's identity needs; none without a service.

    Raises:
        UserError: who runs this task cannot see the service in the workspace's subscription.
    """
    if found is None:
        return ()
    wanted = f"resourceType eq '{TYPE}' and name eq '{found.service}'"
    path = f"/subscriptions/{where.subscription}/resources"
    with explained(where), manager() as call:
        listed = call("GET", path, RESOURCES, **{"$filter": wanted})["value"]
    if not listed:
        raise UserError(
            f"{ENDPOINT}: who runs this task sees no search service '{found.service}' in the "
            f"subscription {where.subscription}. Check the name, or ask an Owner of the service "
            "to assign 'Reader' on it."
        )
    return (Need(READ, str(listed[0]["id"])),)


def variables(found: Target | None) -> Mapping[str, str]:
    """What the flow reads of the service from its environment; an identity needs no key."""
    return {ENDPOINT: found.endpoint} if found else {}


def prepared(where: Place, wanted: Wanted, found: Target | None) -> Wanted:
    """The deployment with what its flow must know of the service and of its identity.

    Raises:
        UserError: the user-assigned identity is not there, or cannot be read.
    """
    if found is None:
        return wanted
    own = {**variables(found)}
    if wanted.identity:
        # Without it, azure-identity asks for the system-assigned one, which there is not.
        own["AZURE_CLIENT_ID"] = roles.client_of(where, wanted.identity)
    deployment = replace(wanted.deployment, variables={**own, **wanted.deployment.variables})
    return replace(wanted, deployment=deployment)


def patiently(ask: Callable[[], Verdict], wait_s: float) -> Verdict:
    """The verdict, asked for again as long as the role on the service, just given, does not act."""
    began = time.monotonic()
    verdict = ask()
    for pause in roles.pauses():
        passed = time.monotonic() - began
        if READ.name not in verdict.problem or passed + pause > wait_s:
            break
        print(f"  ... {passed:.0f} s: a role does not act yet; again in {pause:g} s", flush=True)
        time.sleep(pause)
        verdict = ask()
    if READ.name in verdict.problem:
        note = f"{roles.NOT_YET} (WAIT={wait_s:g})"
        return replace(verdict, problem=f"{verdict.problem}\n{note}")
    return verdict
