"""Where a version of an index stands in Azure AI Search, and whether it is there.

Each version of the content is a search index of its own, `<name>-<12 digits of the version>`, which
nobody changes once it is complete: a new version never touches what a deployment answers from.
Only plain requests here, so that tasks ask without the packages of group azure.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmops import connections
from llmops.azure import workspace
from llmops.errors import UserError

if TYPE_CHECKING:
    import httpx

ENDPOINT, KEY = "SEARCH_ENDPOINT", "SEARCH_API_KEY"
AUDIENCE = "https://search.azure.com/.default"
API = "2024-07-01"
VERSION_DIGITS = 12
TIMEOUT_S = 15.0
PAUSES_S = (0.5, 1.0, 2.0)
READER = "Search Index Data Reader"
# The name that is chosen: with a dash and the version it must fit into the service's 128.
NAME = re.compile(r"(?!.*(--|__))[a-z0-9][a-z0-9_-]{0,113}[a-z0-9]")
ADDRESS = re.compile(r"https://[a-z0-9-]{2,60}\.search\.windows\.net")


@dataclass(frozen=True)
class Target:
    """One version of an index: the service's address, the name that is chosen, the version."""

    endpoint: str
    index: str
    version: str

    @property
    def name(self) -> str:
        """What the search index is called."""
        return f"{self.index}-{self.version[:VERSION_DIGITS]}"

    @property
    def service(self) -> str:
        """The name of the search service."""
        return service_of(self.endpoint)


def endpoint(text: str, variables: Mapping[str, str]) -> str:
    """The service's address as experiment.yaml has it; `${endpoint}` is SEARCH_ENDPOINT.

    Raises:
        UserError: the variable is unset, or it is no address of a search service.
    """
    where = "experiment.yaml: index: search: endpoint"
    if text == "${endpoint}":
        text, where = variables.get(ENDPOINT, ""), ENDPOINT
        if not text.strip():
            raise UserError(
                f"{ENDPOINT}: unset. Set it to the address of the Azure AI Search service, as "
                "https://<name>.search.windows.net, or take `search` out of experiment.yaml."
            )
    found = text.strip().rstrip("/")
    if not ADDRESS.fullmatch(found):
        raise UserError(f"{where}: '{text}' (expected https://<name>.search.windows.net).")
    return found


def target(manifest: Mapping[str, Any], variables: Mapping[str, str]) -> Target | None:
    """Where the index of an index.json stands; null where its files hold all of it.

    SEARCH_ENDPOINT goes before the address that the index was built for.
    """
    if not (search := manifest.get("search")):
        return None
    address = endpoint(variables.get(ENDPOINT) or search["endpoint"], variables)
    return Target(address, search["index"], manifest["version"])


def check_name(index: str) -> None:
    """Raise UserError for a name that no search index can have."""
    if not NAME.fullmatch(index):
        raise UserError(
            f"experiment.yaml: index: search: index: '{index}' (expected 2 to 115 lowercase "
            "letters, digits, single dashes and underscores, a letter or digit first and last)."
        )


def service_of(address: str) -> str:
    """The name of the service at an address."""
    return (urlsplit(address).hostname or "").partition(".")[0]


def problem(where: Target, chunks: int) -> str:
    """Why nothing can be answered from this version, with what to do; empty if all of it is there.

    `chunks` is how many it must have.
    """
    try:
        found = count(where)
    except UserError as error:
        return str(error)
    if found is None:
        return f"{where.service} has no index '{where.name}'. Run `make index`."
    less = f"'{where.name}' of {where.service} has {found} of {chunks} chunks. Run `make index`."
    return less if found < chunks else ""


def count(where: Target) -> int | None:
    """How many chunks of a version the service has; null where it does not have the version.

    Raises:
        UserError: the service does not answer, or refuses to.
    """
    import httpx

    try:
        answer = _ask(f"{where.endpoint}/indexes/{where.name}/docs/$count")
    except httpx.HTTPError as error:
        why = type(error).__name__
        raise UserError(f"{where.service} does not answer ({why}). Check {ENDPOINT}.") from error
    if answer.status_code in (401, 403):
        raise UserError(refused(where.service, answer.status_code, READER))
    if answer.status_code not in (200, 404):
        raise UserError(f"{where.service} fails ({answer.status_code}). Run the task again.")
    return int(answer.text.lstrip("\ufeff")) if answer.status_code == 200 else None


def _ask(address: str) -> httpx.Response:
    """The answer to a question, asked again where the service is busy; raises httpx.HTTPError."""
    import httpx

    with httpx.Client(params={"api-version": API}, headers=headers(), timeout=TIMEOUT_S) as client:
        for pause in PAUSES_S:
            try:
                answer = client.get(address)
            except httpx.TransportError:
                time.sleep(pause)
                continue
            if answer.status_code not in (429, 500, 502, 503, 504):
                return answer
            time.sleep(pause)
        return client.get(address)


def refused(service: str, status: int, *needed: str) -> str:
    """What a 401 or 403 means, in words; `needed` are the roles for what was asked."""
    if key():
        return f"{service} refused {KEY} ({status}). Check the key, or unset it to use a role."
    wanted = " and ".join(f"'{role}'" for role in needed)
    return (
        f"{service} refused access ({status}). Who signs in needs {wanted} on the service "
        "(`make azure-setup` gives them to pipelines; a role can take 15 minutes to act), and the "
        "service must accept roles (its page Keys: 'Role-based access control' or 'Both')."
    )


def key() -> str:
    """SEARCH_API_KEY of the environment or .env, or nothing: then a role decides."""
    return connections.environment().get(KEY, "").strip()


def headers() -> dict[str, str]:
    """What signs a request in: the key where there is one, else a token.

    Raises:
        UserError: nobody is signed in.
    """
    if found := key():
        return {"api-key": found}
    with workspace.explained(workspace.Place("", "", "sign-in")):
        token = workspace.credential().get_token(AUDIENCE).token
    return {"Authorization": f"Bearer {token}"}
