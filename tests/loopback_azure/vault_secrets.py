"""Key Vault's own door: secrets and their versions.

Rules and their sources:
- names of 1 to 127 letters, digits and hyphens, a value of at most 25 kB, every write is a new
  version: article "About Azure Key Vault secrets"
- SecretNotFound, the id https://<vault>.vault.azure.net/secrets/<name>/<version>: REST reference,
  Get Secret and Set Secret, 7.4
What the caller may do is not looked at; a fault on the path does for a refusal. Values stand in no
resource, so that a test can look through all of them for a secret.
"""

from __future__ import annotations

import re
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .errors import AzureError, Json
from .login import claims

AUDIENCE = "https://vault.azure.net"
LONGEST = 25_000
_REFERENCE = re.compile(
    r"@Microsoft\.KeyVault\(SecretUri=https://([\w-]+)\.[^/]+/secrets/([^)]+)\)"
)
_SECRETS: dict[tuple[str, str], dict[str, str]] = {}


async def put(request: Request) -> Response:
    """A new version of a secret."""
    place, body = _place(request), await request.json()
    value = body.get("value")
    if not re.fullmatch(r"[0-9a-zA-Z-]{1,127}", place[1]):
        raise AzureError(400, "BadParameter", f"The secret name '{place[1]}' is invalid.")
    if not isinstance(value, str) or len(value) > LONGEST:
        raise AzureError(400, "BadParameter", "The value is missing or too long.")
    version = uuid.uuid4().hex
    _SECRETS.setdefault(place, {})[version] = value
    return JSONResponse(_shown(place, version))


async def get(request: Request) -> Response:
    """The newest version of a secret."""
    place = _place(request)
    if place not in _SECRETS:
        message = f"A secret with (name/id) {place[1]} was not found in this key vault."
        raise AzureError(404, "SecretNotFound", message)
    return JSONResponse(_shown(place, list(_SECRETS[place])[-1]))


def _place(request: Request) -> tuple[str, str]:
    claims(request, AUDIENCE, f"{AUDIENCE}/")
    if not request.query_params.get("api-version"):
        raise AzureError(400, "BadParameter", "api-version must be specified")
    return request.headers["host"].split(".")[0], request.path_params["name"]


def _shown(place: tuple[str, str], version: str) -> Json:
    vault, name = place
    address = f"https://{vault}.vault.azure.net/secrets/{name}/{version}"
    return {"value": _SECRETS[place][version], "id": address, "attributes": {"enabled": True}}


def resolve(text: str) -> tuple[str, str] | None:
    """The vault and the value of the secret that a setting refers to; null if it is no reference.

    Raises:
        LookupError: there is no such secret.
    """
    if (found := _REFERENCE.fullmatch(text)) is None:
        return None
    name, _, version = found[2].partition("/")
    versions = _SECRETS.get((found[1], name), {})
    if not versions or (version and version not in versions):
        raise LookupError(f"no secret {found[2]}")
    return found[1], versions[version] if version else list(versions.values())[-1]


DOOR = [
    Route("/secrets/{name}", get),
    Route("/secrets/{name}/", get),
    Route("/secrets/{name}", put, methods=["PUT"]),
]
