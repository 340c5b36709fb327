"""Build an index in Azure AI Search: one search index for each version of the content.

A version is made and filled before anything names it, so queries never see half of it; an upload
that was interrupted goes on, as the same chunks get the same keys. Older versions stay, because
deployments may answer from them; `prune` removes those that nothing names any more.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from llmops.azure import search_state, workspace
from llmops.azure.search_state import VERSION_DIGITS, Target
from llmops.errors import UserError

if TYPE_CHECKING:
    from azure.core.credentials import AzureKeyCredential, TokenCredential
    from azure.search.documents import SearchClient
    from azure.search.documents.indexes import SearchIndexClient
    from azure.search.documents.indexes.models import SearchIndex

MAKER, WRITER = "Search Service Contributor", "Search Index Data Contributor"
# A request may have 1000 documents and 16 MB; a number of a vector takes about 13 characters.
MOST_DOCUMENTS, REQUEST_BYTES, NUMBER_BYTES, TEXT_BYTES = 1000, 8_000_000, 13, 8_000
VECTOR = "Collection(Edm.Single)"
PAGE = 200
# The service counts what it was given some seconds later.
SETTLE_S, POLL_S = 120.0, 0.5
BUSY = (409, 422, 429, 503)
PAUSES_S = (1.0, 4.0, 15.0)


class Chunk(Protocol):
    """A piece of a document, as `llmops.indexing` makes them; `page` counts from 1."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def page(self) -> int | None: ...  # noqa: D102
    @property
    def heading(self) -> str: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102


def upload(
    target: Target, chunks: Sequence[Chunk], vectors: Any, names: Sequence[str] = ()
) -> None:
    """Make the search index of a version and fill it; returns when the service counts all of it.

    `vectors` has a row for each chunk, in their order: a list of lists or a numpy array. `names`
    are those of the chunks' embeddings, by which `known` finds them again.

    Raises:
        UserError: a name or a number of dimensions that the service does not take, a role that is
            missing, a service that does not answer, or chunks that it refuses.
    """
    search_state.check_name(target.index)
    names = names or [""] * len(chunks)
    dimensions = len(vectors[0]) if len(chunks) else 2
    with _explained(target):
        with _indexes(target.endpoint) as client:
            client.create_or_update_index(_definition(target, dimensions))
        with _documents(target) as client:
            size = REQUEST_BYTES // (NUMBER_BYTES * dimensions + TEXT_BYTES)
            for start in range(0, len(chunks), min(size, MOST_DOCUMENTS)):
                part = slice(start, start + min(size, MOST_DOCUMENTS))
                rows = zip(chunks[part], vectors[part], names[part], strict=True)
                _send(client, target, [_document(*row) for row in rows])
            _wait(client, target, len(chunks))


def known(endpoint: str, index: str, names: Sequence[str]) -> dict[str, list[float]]:
    """The vectors of these embeddings that some version of the index has, by name.

    Raises:
        UserError: a role that is missing, or a service that does not answer.
    """
    from azure.core.exceptions import ResourceNotFoundError

    found: dict[str, list[float]] = {}
    for version in reversed(versions(endpoint, index)):
        target = Target(endpoint, index, version.rpartition("-")[2])
        wanted = [name for name in names if name not in found]
        with _explained(target), _documents(target) as client:
            for start in range(0, len(wanted), PAGE):
                one_of = ",".join(wanted[start : start + PAGE])
                with suppress(ResourceNotFoundError):  # somebody removed it just now
                    for one in client.search(
                        "*",
                        filter=f"search.in(embedded, '{one_of}')",
                        select=["embedded", "vector"],
                        top=MOST_DOCUMENTS,
                    ):
                        found[one["embedded"]] = one["vector"]
    return found


def versions(endpoint: str, index: str) -> list[str]:
    """The search indexes that are versions of an index, by name.

    Raises:
        UserError: a role that is missing, or a service that does not answer.
    """
    own = re.compile(rf"{re.escape(index)}-[0-9a-f]{{{VERSION_DIGITS}}}")
    with _explained(Target(endpoint, index, "")), _indexes(endpoint) as client:
        return sorted(name for name in client.list_index_names() if own.fullmatch(name))


def old(endpoint: str, index: str, keep: Collection[str]) -> list[str]:
    """The versions of an index but those of `keep`, as `versions` names them, and raises."""
    kept = {Target(endpoint, index, version).name for version in keep}
    return [name for name in versions(endpoint, index) if name not in kept]


def prune(endpoint: str, index: str, keep: Collection[str]) -> list[str]:
    """Remove the `old` versions of an index; returns their names.

    Raises:
        UserError: a role that is missing, or a service that does not answer.
    """
    gone = old(endpoint, index, keep)
    with _explained(Target(endpoint, index, "")), _indexes(endpoint) as client:
        for name in gone:
            client.delete_index(name)
    return gone


def _definition(target: Target, dimensions: int) -> SearchIndex:
    from azure.search.documents.indexes import models

    text, number = models.SearchFieldDataType.STRING, models.SearchFieldDataType.INT32
    plain = {"searchable": False, "sortable": False, "facetable": False, "retrievable": True}
    words = {**plain, "filterable": False, "searchable": True, "analyzer_name": "en.lucene"}
    fields = [
        models.SearchField(name="key", type=text, key=True, filterable=False, **plain),
        models.SearchField(name="id", type=text, filterable=True, **plain),
        models.SearchField(name="source", type=text, filterable=True, **plain),
        models.SearchField(name="embedded", type=text, filterable=True, **plain),
        models.SearchField(name="page", type=number, filterable=False, **plain),
        models.SearchField(name="heading", type=text, **words),
        models.SearchField(name="text", type=text, **words),
        models.SearchField(
            name="vector",
            type=VECTOR,
            searchable=True,
            retrievable=True,
            vector_search_dimensions=dimensions,
            vector_search_profile_name="nearest",
        ),
    ]
    search = models.VectorSearch(
        algorithms=[
            models.HnswAlgorithmConfiguration(
                name="hnsw", parameters=models.HnswParameters(metric="cosine")
            )
        ],
        profiles=[models.VectorSearchProfile(name="nearest", algorithm_configuration_name="hnsw")],
    )
    return models.SearchIndex(name=target.name, fields=fields, vector_search=search)


def _document(chunk: Chunk, vector: Sequence[float], name: str) -> dict[str, Any]:
    return {
        # What a key may hold, a path may not.
        "key": hashlib.sha256(chunk.id.encode()).hexdigest(),
        "id": chunk.id,
        "embedded": name,
        "source": chunk.source,
        "page": chunk.page,
        "heading": chunk.heading,
        "text": chunk.text,
        "vector": [float(number) for number in vector],
    }


def _send(client: SearchClient, target: Target, documents: list[dict[str, Any]]) -> None:
    """Upload documents; again those that the service was too busy for."""
    for pause in (*PAUSES_S, None):
        answers = client.upload_documents(documents)
        failed = {answer.key: answer for answer in answers if not answer.succeeded}
        if not failed:
            return
        documents = [one for one in documents if one["key"] in failed]
        if pause is None or any(one.status_code not in BUSY for one in failed.values()):
            break
        time.sleep(pause)
    reason = next(iter(failed.values()))
    raise UserError(
        f"{target.service}: refused {len(failed)} chunks of '{target.name}', first "
        f"'{documents[0]['id']}' ({reason.status_code}: {reason.error_message}). Run `make index` "
        "again: it goes on from there."
    )


def _wait(client: SearchClient, target: Target, wanted: int) -> None:
    end = time.monotonic() + SETTLE_S
    while (found := client.get_document_count()) < wanted:
        if time.monotonic() > end:
            raise UserError(
                f"{target.service}: counts {found} of {wanted} chunks in '{target.name}' after "
                f"{SETTLE_S:g} s. Run `make index` again."
            )
        time.sleep(POLL_S)


def _credential() -> AzureKeyCredential | TokenCredential:
    from azure.core.credentials import AzureKeyCredential

    logging.getLogger("azure").setLevel(logging.ERROR)
    return AzureKeyCredential(key) if (key := search_state.key()) else workspace.credential()


def _indexes(endpoint: str) -> SearchIndexClient:
    from azure.search.documents.indexes import SearchIndexClient

    return SearchIndexClient(endpoint, _credential())


def _documents(target: Target) -> SearchClient:
    from azure.search.documents import SearchClient

    return SearchClient(target.endpoint, target.name, _credential())


@contextmanager
def _explained(target: Target) -> Iterator[None]:
    """Turn what the client raises into a UserError that says what to do."""
    try:
        from azure.core import exceptions
        from azure.search import documents  # noqa: F401
    except ImportError as error:
        raise UserError(
            "azure-search-documents is not installed, and `search` in experiment.yaml needs it. "
            "Run `make index`, which installs the group azure."
        ) from error
    service = target.service
    try:
        with workspace.explained(workspace.Place("", "", service)):
            try:
                yield
            except exceptions.HttpResponseError as error:
                if (text := _explain(error, target)) is None:
                    raise
                raise UserError(text) from error
    except UserError as error:
        if "Azure did not answer" not in str(error):
            raise
        raise UserError(
            f"{service} does not answer. Check {search_state.ENDPOINT} and the way through the "
            "service's firewall; nothing uses what was uploaded so far. Run the task again."
        ) from error


def _explain(error: Any, target: Target) -> str | None:
    """What a refusal of the service means; null where it is none, or a general one."""
    if error.response is None or "search" not in str(error.response.request.url):
        return None  # a sign-in that failed
    text = " ".join(str(error.message).split())[:300]
    if error.status_code in (401, 403):
        return search_state.refused(target.service, error.status_code, MAKER, WRITER)
    if error.status_code == 404:
        return f"{target.service} has no index '{target.name}'. Run `make index`."
    if "quota" in text.lower():
        return f"{target.service}: {text} Remove versions that nothing uses, or take a larger tier."
    return f"{target.service}: '{target.name}': {text} ({error.status_code})."
