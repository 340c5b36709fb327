"""Sign-in: what Microsoft Entra ID answers at login.microsoftonline.com.

Codes AADSTS90002, 700016, 7000215 and 700213 as the reference of Entra's error codes names them.
"""

from __future__ import annotations

import time
import uuid
from typing import Any
from urllib.parse import parse_qs

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .errors import AzureError
from .state import Settings, State, state_of

HOST = "https://login.microsoftonline.com"
LIFETIME_S = 3600
FEDERATED_AUDIENCE = "api://AzureADTokenExchange"


async def instance(request: Request) -> Response:
    """Which hosts speak for the cloud; asked for when a sign-in was refused."""
    names = ["login.microsoftonline.com", "login.windows.net"]
    known = {"preferred_network": names[0], "preferred_cache": names[1], "aliases": names}
    tenant = f"{HOST}/common/v2.0/.well-known/openid-configuration"
    return JSONResponse({"tenant_discovery_endpoint": tenant, "metadata": [known]})


async def openid(request: Request) -> Response:
    """A tenant's metadata."""
    settings = state_of(request).settings
    tenant = _tenant(request, settings)
    return JSONResponse(
        {
            "issuer": f"{HOST}/{tenant}/v2.0",
            "authorization_endpoint": f"{HOST}/{tenant}/oauth2/v2.0/authorize",
            "token_endpoint": f"{HOST}/{tenant}/oauth2/v2.0/token",
            "jwks_uri": f"{HOST}/{tenant}/discovery/v2.0/keys",
            "tenant_region_scope": "EU",
        }
    )


async def token(request: Request) -> Response:
    """An access token for a client that shows its secret or an assertion of a trusted issuer."""
    state = state_of(request)
    _tenant(request, state.settings)
    form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
    _check_client(form, state.settings)
    audience = form.get("scope", "").split(" ")[0].removesuffix(".default").rstrip("/")
    return JSONResponse(
        {
            "token_type": "Bearer",
            "expires_in": LIFETIME_S,
            "ext_expires_in": LIFETIME_S,
            "access_token": issue(state, audience),
        }
    )


def issue(state: State, audience: str, principal: str = "") -> str:
    """A token of the service principal, or of another principal, for a service."""
    settings, now = state.settings, int(time.time())
    claims = {
        "aud": audience,
        "iss": f"https://sts.windows.net/{settings.tenant}/",
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME_S,
        "appid": settings.client_id,
        "oid": principal or settings.object_id,
        "tid": settings.tenant,
        "idtyp": "app",
    }
    return jwt.encode(claims, state.signing_key, "HS256")


def claims(request: Request, *audiences: str) -> dict[str, Any]:
    """What the caller's token says; AzureError 401 without a valid one for one of the services."""
    state = state_of(request)
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    challenge = f'Bearer authorization_uri="{HOST}/{state.settings.tenant}", error="invalid_token"'
    headers = {"WWW-Authenticate": challenge}
    if kind.lower() != "bearer":
        message = "Authentication failed. The 'Authorization' header is missing or invalid."
        raise AzureError(401, "AuthenticationFailed", message, (), headers)
    try:
        found: dict[str, Any] = jwt.decode(
            text, state.signing_key, ["HS256"], audience=audiences, leeway=5
        )
    except jwt.PyJWTError as error:
        message = f"The access token is invalid: {error}."
        raise AzureError(401, "InvalidAuthenticationToken", message, (), headers) from error
    return found


def _tenant(request: Request, settings: Settings) -> str:
    tenant = str(request.path_params["tenant"])
    if tenant != settings.tenant:
        message = f"AADSTS90002: Tenant '{tenant}' not found. Check that the tenant ID is correct."
        raise _refusal(400, "invalid_tenant", message)
    return tenant


def _check_client(form: dict[str, str], settings: Settings) -> None:
    client = form.get("client_id", "")
    if client != settings.client_id:
        text = f"Application with identifier '{client}' was not found in the directory."
        raise _refusal(400, "unauthorized_client", f"AADSTS700016: {text}")
    if "client_assertion" in form:
        _check_assertion(form["client_assertion"], settings)
    elif form.get("client_secret") != settings.client_secret:
        text = f"Invalid client secret provided for app '{client}'."
        raise _refusal(401, "invalid_client", f"AADSTS7000215: {text}")


def _check_assertion(assertion: str, settings: Settings) -> None:
    try:
        shown = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        text = f"Client assertion is not a valid token: {error}"
        raise _refusal(401, "invalid_client", f"AADSTS50027: {text}") from error
    trusted = [(f["issuer"], f["subject"], FEDERATED_AUDIENCE) for f in settings.federated]
    if (shown.get("iss"), shown.get("sub"), shown.get("aud")) not in trusted:
        text = f"No matching federated identity record found for subject '{shown.get('sub')}'."
        raise _refusal(401, "invalid_client", f"AADSTS700213: {text}")


def _refusal(status: int, code: str, message: str) -> AzureError:
    return AzureError(status, code, f"{message} Trace ID: {uuid.uuid4()}")


ROUTES = [
    Route("/common/discovery/instance", instance),
    Route("/{tenant}/v2.0/.well-known/openid-configuration", openid),
    Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
]
