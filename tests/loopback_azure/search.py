"""Azure AI Search: the service as a resource, and its own door with indexes, documents and queries.

Rules and their sources:
- names of services, indexes and fields, characters of a key: REST reference, "Naming rules"
- at most 1000 documents and 16 MB a request: REST reference, "Add, Update or Delete Documents",
  and article "Service limits"
- 401 without a valid token, 403 with a wrong key, where keys alone are allowed, or without the
  role; a key goes before a token: articles "Enable or disable role-based access control" and
  "Connect to Azure AI Search using roles"
- a vector field has `dimensions` and a profile that leads to an algorithm; fields that exist do not
  change: REST reference, "Create or Update Index"; wording of a vector of another length as in
  pull request 156 of azure-ai-docs
- score of a cosine 1 / (1 + distance), of a hybrid query the sum of 1 / (60 + rank): articles
  "Vector relevance and ranking" and "Relevance scoring in hybrid search"
`search_lag_s` is how long an uploaded document is not found, as the service settles with time.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from . import authorization, search_queries
from .arm import get_resource
from .errors import AzureError, Json
from .login import claims
from .machine_learning import describe
from .search_queries import VECTOR, bad, check_length
from .state import Resources, Settings, State, state_of

NAME = "srch-llmops"
AUDIENCE = "https://search.azure.com"
ADMIN_KEY, QUERY_KEY = "admin-key-of-the-loopback-search", "query-key-of-the-loopback-search"
MAKE, WRITE = "Search Service Contributor", "Search Index Data Contributor"
LONG_AGO = "2025-01-01T00:00:00+00:00"
READERS = ("Search Index Data Reader", WRITE)
MOST_ACTIONS, MOST_BYTES = 1000, 16_000_000
DIMENSIONS = range(2, 4097)
_INDEX = re.compile(r"(?!.*(--|__))[a-z0-9][a-z0-9_-]{1,127}")
_FIELD = re.compile(r"(?!azureSearch)[A-Za-z]\w{0,127}", re.ASCII)
_KEY = re.compile(r"(?!_)[\w=-]{1,1024}", re.ASCII)


@dataclass
class Index:
    """An index: what was said of it, its documents by key, and when each was put there."""

    definition: Json
    documents: dict[str, Json] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Json]:
        """Its fields by name."""
        return {one["name"]: one for one in self.definition["fields"]}

    @property
    def key(self) -> str:
        """The name of the field that is the key."""
        return next(str(name) for name, one in self.fields.items() if one.get("key"))

    def seen(self, lag: float) -> list[Json]:
        """The documents that a query finds by now."""
        until = time.monotonic() - lag
        return [d for key, d in self.documents.items() if self.since[key] <= until]


_INDEXES: dict[tuple[str, str], Index] = {}


def furnish(resources: Resources, settings: Settings) -> None:
    """A service in the workspace's resource group that takes roles and keys."""
    identity = service_id(settings)
    properties: Json = {
        "status": "running",
        "provisioningState": "succeeded",
        "authOptions": {"aadOrApiKey": {"aadAuthFailureMode": "http401WithBearerChallenge"}},
        "disableLocalAuth": False,
    }
    more: Json = {"location": settings.region, "sku": {"name": "basic"}}
    resources[identity] = describe(identity, properties, **more)


def admit(state: State) -> None:
    """Give who calls the two roles that `make azure-setup` gives the pipelines."""
    for role in (MAKE, WRITE):
        given = authorization.give(
            state, service_id(state.settings), state.settings.object_id, role
        )
        given["systemData"]["createdAt"] = LONG_AGO  # it acts, whatever a test says of new ones


def service_id(settings: Settings) -> str:
    """The service's ARM id."""
    return f"{settings.group_id}/providers/Microsoft.Search/searchServices/{NAME}"


async def find_resources(request: Request) -> Response:
    """What of one type and name the subscription holds, for who may see it."""
    wanted = request.query_params.get("$filter", "")
    found = re.fullmatch(r"resourceType eq '([^']+)' and name eq '([^']+)'", wanted)
    if not found:
        raise AzureError(400, "BadRequest", f"The filter '{wanted}' is not supported.")
    kind, name = found[1].rpartition("/")[2], found[2].lower()
    same = [
        {key: one[key] for key in ("id", "name", "type")}
        for identity, one in state_of(request).resources.of_type(kind)
        if identity.endswith(f"/{name}") and str(one["type"]).lower() == found[1].lower()
    ]
    return JSONResponse({"value": same})


# --- who may do what


def _service(request: Request, *needed: str) -> str:
    """The service at the host, for a caller with one of these roles or with a key."""
    if not request.query_params.get("api-version"):
        raise bad("The api-version query parameter is required.")
    state, name = state_of(request), request.headers["host"].split(".")[0].lower()
    found = next(
        (r for i, r in state.resources.of_type("searchServices") if i.endswith(f"/{name}")), None
    )
    if found is None:
        raise AzureError(404, "ServiceNotFound", f"There is no service '{name}'.")
    if (key := request.headers.get("api-key")) is not None:
        _check_key(found, key, needed)
    else:
        _check_token(request, state, found, needed)
    return name


def _check_key(service: Json, key: str, needed: tuple[str, ...]) -> None:
    allowed = {ADMIN_KEY, QUERY_KEY} if READERS[0] in needed else {ADMIN_KEY}
    if service["properties"]["disableLocalAuth"] or key not in allowed:
        raise AzureError(403, "Forbidden", "The api-key is not valid for this operation.")


def _check_token(request: Request, state: State, service: Json, needed: tuple[str, ...]) -> None:
    caller = claims(request, AUDIENCE, f"{AUDIENCE}/")
    if "aadOrApiKey" not in service["properties"]["authOptions"]:
        raise AzureError(403, "Forbidden", "This service takes no tokens: its keys alone count.")
    if not any(authorization.has(state, service["id"], caller["oid"], role) for role in needed):
        raise AzureError(403, "Forbidden", "Authorization failed for the caller.")


# --- indexes


async def indexes(request: Request) -> Response:
    """Every index of the service by name."""
    service = _service(request, MAKE)
    found = [index.definition for (at, _), index in _INDEXES.items() if at == service]
    return JSONResponse({"value": found})


async def one_index(request: Request) -> Response:
    """Read, make, update or delete an index."""
    place = (_service(request, MAKE), _name(request))
    if request.method == "PUT":
        return await _put_index(request, place)
    found = _found(place)
    if request.method == "DELETE":
        del _INDEXES[place]
        return Response(status_code=204)
    return JSONResponse(found.definition)


async def _put_index(request: Request, place: tuple[str, str]) -> Response:
    wanted: Json = await request.json()
    if wanted.get("name") != place[1] or not _INDEX.fullmatch(place[1]):
        raise bad(f"Index name '{place[1]}' is invalid: lowercase letters, digits and dashes.")
    _check_fields(wanted)
    if (existing := _INDEXES.get(place)) is None:
        _INDEXES[place] = Index(wanted)
        return JSONResponse(wanted, 201)
    now = {one["name"]: one for one in wanted["fields"]}
    for name, one in existing.fields.items():
        if now.get(name) != one:
            message = f"Existing field '{name}' cannot be changed."
            raise bad(message, "OperationNotAllowed")
    existing.definition = wanted
    return JSONResponse(wanted)


def _check_fields(wanted: Json) -> None:
    keys = [one["name"] for one in wanted["fields"] if one.get("key")]
    if len(keys) != 1:
        raise bad("There must be exactly one key field in the index.")
    profiles = {p["name"]: p for p in (wanted.get("vectorSearch") or {}).get("profiles", ())}
    algorithms = {a["name"] for a in (wanted.get("vectorSearch") or {}).get("algorithms", ())}
    for one in wanted["fields"]:
        name = one["name"]
        if not _FIELD.fullmatch(name):
            raise bad(f"Field name '{name}' is invalid.", "InvalidName")
        if one["type"] != VECTOR:
            continue
        profile = profiles.get(one.get("vectorSearchProfile") or "")
        if one.get("dimensions") not in DIMENSIONS:
            raise bad(f"The vector field '{name}' must have the property 'dimensions' set.")
        if profile is None or profile["algorithm"] not in algorithms:
            raise bad(f"The field '{name}' uses a vector search profile that is not defined.")


def _name(request: Request) -> str:
    return unquote(str(request.path_params["index"]))


def _found(place: tuple[str, str]) -> Index:
    if place not in _INDEXES:
        message = f"No index with the name '{place[1]}' was found in the service '{place[0]}'."
        raise AzureError(404, "IndexNotFound", message)
    return _INDEXES[place]


# --- documents


async def put_documents(request: Request) -> Response:
    """Upload, merge or delete documents: each has its own status."""
    index = _found((_service(request, WRITE), _name(request)))
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise AzureError(413, "RequestEntityTooLarge", "The request is larger than 16 MB.")
    actions: list[Json] = (await request.json())["value"]
    if not 0 < len(actions) <= MOST_ACTIONS:
        raise bad(f"{len(actions)} actions: between 1 and {MOST_ACTIONS} are allowed.")
    for action in actions:
        _check_document(index, action)
    results = [_apply(index, action) for action in actions]
    status = 200 if all(one["status"] for one in results) else 207
    return JSONResponse({"value": results}, status)


def _check_document(index: Index, action: Json) -> None:
    kind = action.get("@search.action", "upload")
    if kind not in ("upload", "merge", "mergeOrUpload", "delete"):
        raise bad(f"'{kind}' is not an action.")
    if not _KEY.fullmatch(str(action.get(index.key, ""))):
        raise bad(f"Invalid document key: '{action.get(index.key)}'.", "InvalidDocumentKey")
    for name, value in action.items():
        if name == "@search.action":
            continue
        if (known := index.fields.get(name)) is None:
            raise bad(f"The property '{name}' does not exist on type 'search.documentFields'.")
        _check_value(name, known, value)


def _check_value(name: str, known: Json, value: Any) -> None:
    kinds = {"Edm.String": str, "Edm.Int32": int, VECTOR: list}
    if value is not None and not isinstance(value, kinds[known["type"]]):
        raise bad(f"The value of '{name}' is not of type {known['type']}.")
    if known["type"] == VECTOR and value is not None:
        check_length(name, known["dimensions"], len(value))


def _apply(index: Index, action: Json) -> Json:
    kind, key = action.pop("@search.action", "upload"), str(action[index.key])
    there = index.documents.get(key)
    if kind == "merge" and there is None:
        return {"key": key, "status": False, "errorMessage": "Not found.", "statusCode": 404}
    if kind == "delete":
        index.documents.pop(key, None)
    else:
        empty = dict.fromkeys(index.fields)
        index.documents[key] = {**(there if there and kind != "upload" else empty), **action}
        index.since.setdefault(key, time.monotonic())
    status = 201 if there is None and kind != "delete" else 200
    return {"key": key, "status": True, "errorMessage": None, "statusCode": status}


async def count(request: Request) -> Response:
    """How many documents the index holds, as far as it has settled."""
    index = _found((_service(request, *READERS), _name(request)))
    found = index.seen(state_of(request).settings.search_lag_s)
    return PlainTextResponse(f"\ufeff{len(found)}")


async def query(request: Request) -> Response:
    """The documents that fit words, vectors or both, the best first."""
    index = _found((_service(request, *READERS), _name(request)))
    documents = index.seen(state_of(request).settings.search_lag_s)
    return JSONResponse(search_queries.answer(index.fields, documents, await request.json()))


GROUP = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Search"
ROUTES = [
    Route("/subscriptions/{subscription}/resources", find_resources),
    Route(f"{GROUP}/searchServices/{{service}}", get_resource),
]
# The documents' form of an address and the one that the SDK uses.
DOOR = [
    Route("/indexes", indexes),
    *(
        Route(f"{index}{tail}", endpoint, methods=methods)
        for index in ("/indexes('{index}')", "/indexes/{index}")
        for tail, endpoint, methods in (
            ("", one_index, ["GET", "PUT", "DELETE"]),
            ("/docs/$count", count, ["GET"]),
            ("/docs/search.index", put_documents, ["POST"]),
            ("/docs/index", put_documents, ["POST"]),
            ("/docs/search.post.search", query, ["POST"]),
            ("/docs/search", query, ["POST"]),
        )
    ),
]
