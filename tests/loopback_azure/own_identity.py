"""What a container signs in with where it has an identity: the token endpoint beside it.

The requests are those of azure-identity's ManagedIdentityCredential for Azure ML (`secret`) and for
App Service (`X-IDENTITY-HEADER`), as in the articles "Access Azure resources from an online
endpoint" and "How to use managed identities for App Service": one that is assigned by the user is
named by its client id, else it is not found.
"""

from __future__ import annotations

import time
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .errors import AzureError, Json
from .login import LIFETIME_S, issue
from .proxy import CONTROL
from .state import State, state_of

ADDRESS = f"https://{CONTROL}/own-identity"


def variables(state: State, identity: Json, endpoint: str, secret: str) -> dict[str, str]:
    """A container's variables: the two of this name lead to its tokens, and the way out."""
    known = {"": identity["principalId"]} if identity.get("principalId") else {}
    for assigned in (identity.get("userAssignedIdentities") or {}).values():
        known[assigned["clientId"]] = assigned["principalId"]
    word = uuid.uuid4().hex
    state.own_identities[word] = known
    return {**state.way_out, endpoint: ADDRESS, secret: word}


async def token(request: Request) -> Response:
    """A token of the container's identity for a service."""
    state, query = state_of(request), request.query_params
    word = request.headers.get("secret") or request.headers.get("x-identity-header") or ""
    client = query.get("clientid") or query.get("client_id") or ""
    principal = state.own_identities.get(word, {}).get(client)
    if principal is None:
        raise AzureError(400, "BadRequest", "No managed identity was found for the request.")
    audience = query["resource"].rstrip("/")
    return JSONResponse(
        {
            "access_token": issue(state, audience, principal),
            "expires_on": str(int(time.time()) + LIFETIME_S),
            "resource": audience,
            "token_type": "Bearer",
        }
    )


ROUTES = [Route("/own-identity", token)]
