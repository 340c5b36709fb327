"""The index in Azure AI Search, where `index.search` names one; only then is Azure's part asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmops import connections
from llmops.errors import UserError
from llmops.indexing.chunks import Chunk, Vectors
from llmops.indexing.manifest import Manifest, Place, Search


def target(place: Place) -> Search | None:
    """The service and the name of the index, `${endpoint}` replaced by SEARCH_ENDPOINT.

    Raises:
        UserError: the variable is unset, it is no address of such a service, or no index in it can
            have the name.
    """
    if (wanted := place.block.search) is None:
        return None
    from llmops.azure import search_state

    search_state.check_name(wanted.index)
    variables = connections.environment(place.root)
    return Search(endpoint=search_state.endpoint(wanted.endpoint, variables), index=wanted.index)


def upload(made: Manifest, chunks: Sequence[Chunk], vectors: Vectors, names: Sequence[str]) -> None:
    """Bring passages and vectors, (passages, dimensions), into the service as a new version.

    `names` are those of the embeddings, see `kept.name`.

    Raises:
        UserError: the service does not take it, with the reason.
    """
    from llmops.azure import search

    where: Any = _where(made)
    search.upload(where, chunks, vectors, names)


def known(place: Place, names: Sequence[str]) -> dict[str, Vectors]:
    """The vectors of these embeddings that some version in the service has, by name."""
    if (where := target(place)) is None or not names:
        return {}
    import numpy

    from llmops.azure import search

    found = search.known(where.endpoint, where.index, names)
    return {name: numpy.asarray(vector, dtype=numpy.float16) for name, vector in found.items()}


def prune(place: Place, made: Manifest, model: str, *, sure: bool) -> Iterator[str]:
    """Remove the versions that neither `made` nor a registered version of the model is.

    Without being `sure` it only says which. Yields lines for people.

    Raises:
        UserError: the index is in no service, the workspace of the models is not named or does not
            answer, or the service does not.
    """
    if (where := target(place)) is None:
        raise UserError(
            "PRUNE: only an index in Azure AI Search (`search` below `index`) has more."
        )
    from llmops.azure import assets, search, workspace

    at = workspace.place(connections.environment(place.root))
    with workspace.explained(at):
        named = assets.tagged(workspace.client(at), model, "index_version")
    keep = {made.version, *named}
    found = (search.prune if sure else search.old)(where.endpoint, where.index, keep)
    yield from (f"{'removed' if sure else 'old'}: {name}" for name in found)
    yield f"{len(found)} old: of no version of model '{model}' in {at.workspace}, nor built here."
    if found and not sure:
        yield "Does no other workspace deploy one of them? YES=1 removes them."


def problem(made: Manifest) -> str:
    """Why the service does not hold this version, in words; empty where it does."""
    from llmops.azure import search_state

    where: Any = _where(made)
    told: str = search_state.problem(where, made.chunks)
    return told


def _where(made: Manifest) -> object:
    from llmops.azure import search_state

    return search_state.target(made.model_dump(), connections.environment())
