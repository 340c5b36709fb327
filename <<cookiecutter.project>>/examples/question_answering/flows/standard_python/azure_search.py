"""The passages that fit a question, from Azure AI Search: where experiment.yaml has `search`.

Each version of the index is a search index of its own: `<name>-<12 digits of the version>`. Access
is by a role, "Search Index Data Reader", of whoever signs in: the endpoint's identity, or
`az login`; SEARCH_API_KEY goes before it. SEARCH_ENDPOINT goes before the address in index.json.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from search import Passage

API = "2024-07-01"
SCOPE = "https://search.azure.com/.default"
FIELDS = "id,source,page,heading,text"
# Up to so many passages every vector is compared, as with an index on disk.
EXACT = 20_000
# How far a hybrid search looks down the list of vectors.
DEPTH = 50
TIMEOUT_S = 10.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE_S = 10.0
BUSY = (429, 500, 502, 503, 504)
EARLY_S = 300


class SearchServiceError(Exception):
    """The search service gives no answer; the message says why and what to do."""


def search(
    manifest: Mapping[str, Any],
    question: str,
    vector: Sequence[float] | None,
    *,
    mode: str,
    top_k: int,
) -> list[Passage]:
    """The `top_k` passages that fit best, best first; `manifest` is index.json.

    Scores are as with an index on disk: cosine similarity, BM25, or the sum of 1 / (60 + rank).

    Raises:
        SearchServiceError: the service or the index is not there, or may not be read.
    """
    service = os.environ.get("SEARCH_ENDPOINT") or manifest["search"]["endpoint"]
    index = f"{manifest['search']['index']}-{manifest['version'][:12]}"
    body: dict[str, Any] = {"select": FIELDS, "top": top_k}
    if mode != "vector":
        # Without the signs that would be operators.
        body["search"] = " ".join(re.findall(r"\w+", question))
        body |= {"searchFields": "heading,text", "searchMode": "any", "queryType": "simple"}
    if mode != "keyword":
        body["vectorQueries"] = [
            {
                "kind": "vector",
                "fields": "vector",
                "vector": [float(number) for number in vector or ()],
                "k": top_k if mode == "vector" else max(DEPTH, top_k),
                "exhaustive": manifest["chunks"] <= EXACT,
            }
        ]
    if mode == "keyword" and not body["search"]:
        return []
    found = _ask(f"{service.rstrip('/')}/indexes/{index}/docs/search", body)["value"]
    passages = [_passage(one, mode) for one in found]
    return sorted(passages, key=lambda passage: (-passage["score"], passage["id"]))


def _passage(found: Mapping[str, Any], mode: str) -> Passage:
    score = found["@search.score"]
    if mode == "vector":
        score = 2 - 1 / score  # the service gives 1 / (1 + distance)
    fields = {name: found[name] for name in FIELDS.split(",")}
    return {**fields, "score": round(score, 5)}  # type: ignore[return-value,typeddict-item]


def _ask(address: str, body: dict[str, Any]) -> dict[str, Any]:
    """The service's answer; a service that is busy or out of reach is asked again."""
    problem = ""
    for pause in (*PAUSES_S, None):
        wait = pause
        try:
            answer = _client().post(address, json=body, headers=_signed_in())
        except httpx.TransportError as error:
            problem = f"does not answer ({type(error).__name__})"
        else:
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code not in BUSY:
                raise SearchServiceError(_refusal(answer))
            problem = f"is busy or fails ({answer.status_code})"
            wait = _told(answer, pause)
        if pause is not None and wait is not None:
            time.sleep(min(wait, LONGEST_PAUSE_S))
    host = httpx.URL(address).host
    raise SearchServiceError(
        f"The search service {host} {problem}, after {len(PAUSES_S) + 1} tries. Check "
        "SEARCH_ENDPOINT and the service, then run again."
    )


def _told(answer: httpx.Response, pause: float | None) -> float | None:
    """How long the service asks to wait, else the usual pause."""
    try:
        return float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return pause


def _refusal(answer: httpx.Response) -> str:
    host, status = answer.request.url.host, answer.status_code
    index = answer.request.url.path.split("/")[2]
    if status in (401, 403):
        if _key():
            return f"The search service {host} refused SEARCH_API_KEY ({status}). Check the key."
        return (
            f"The search service {host} refused access ({status}). Who signs in needs the role "
            "'Search Index Data Reader' on it (`make deploy` gives it to an endpoint's identity; "
            "it can take 15 minutes to act), and the service must accept roles (its page Keys)."
        )
    if status == 404:
        return f"The search service {host} has no index '{index}'. Run `make index`."
    try:
        reason = str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        reason = answer.text[:300]
    return f"The search service {host} refused the query to '{index}' ({status}): {reason}"


@functools.cache
def _client() -> httpx.Client:
    """One for the process, whose connections stay open."""
    return httpx.Client(params={"api-version": API}, timeout=TIMEOUT_S)


_signing_in = threading.Lock()
_tokens: list[Any] = []


def _signed_in() -> dict[str, str]:
    """The key where there is one, else a token, asked for once and again before it ends."""
    if key := _key():
        return {"api-key": key}
    from azure.core.exceptions import ClientAuthenticationError

    with _signing_in:
        try:
            if not _tokens or _tokens[-1].expires_on < time.time() + EARLY_S:
                _tokens[:] = [_credential().get_token(SCOPE)]
        except ClientAuthenticationError as error:
            raise SearchServiceError(
                "The search service wants a sign-in to Azure, and there is none. Run `az login`, "
                "give the endpoint an identity, or set SEARCH_API_KEY."
            ) from error
        return {"Authorization": f"Bearer {_tokens[-1].token}"}


def _key() -> str:
    key = os.environ.get("SEARCH_API_KEY", "").strip()
    return "" if key.startswith("$(") else key  # which Azure Pipelines leaves of one that is unset


@functools.cache
def _credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()
