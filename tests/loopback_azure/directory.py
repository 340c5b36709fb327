"""Who can be given a role: the service principals of managed identities, and the caller's own.

A principal is there as long as the resource whose identity it is. For the first seconds it is not
found, because it is created in one region and looked up in another (article "Troubleshoot Azure
RBAC": assigning a role to a new principal sometimes fails).
"""

from __future__ import annotations

import datetime
import re

from .errors import Json
from .state import State

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_guid(text: object) -> bool:
    """Whether the text has the form of an object id."""
    return bool(_GUID.fullmatch(str(text)))


def found(state: State, principal: str) -> bool:
    """Whether a look-up finds the principal by now."""
    if principal.lower() == state.settings.object_id.lower():
        return True
    owner = owner_of(state, principal)
    return owner is not None and _age_s(owner) >= state.settings.replication_s


def owner_of(state: State, principal: str) -> Json | None:
    """The resource whose managed identity the principal is."""
    resources = state.resources.as_json().values()
    return next((r for r in resources if principal.lower() in _principals(r)), None)


def _principals(resource: Json) -> set[str]:
    blocks = (resource.get("identity") or {}, resource.get("properties") or {})
    is_identity = "/userassignedidentities/" in resource["id"].lower()
    given = [block.get("principalId") for block in blocks[: 2 if is_identity else 1]]
    return {str(principal).lower() for principal in given if principal}


def _age_s(resource: Json) -> float:
    made = datetime.datetime.fromisoformat(resource["systemData"]["createdAt"])
    return (datetime.datetime.now(datetime.UTC) - made).total_seconds()
